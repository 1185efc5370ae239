"""Position-indexed noise as one Triton kernel: on a GPU, the plain formula is some seventy launches per draw."""

# Triton compiles functions from their source: they see no constants of the module.
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain formula needs no Triton
    triton = tl = None

AVAILABLE = triton is not None
"""Whether Triton can be imported."""

_BLOCK = 1024


def _draw(
    out: tl.tensor, keys: tl.tensor, step: tl.tensor, start: tl.tensor, n_samples: tl.tensor, channels: tl.tensor,
    turn: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `block` samples of one row of `(batch * channels, n_samples)`; see `audiodiff.diffusion.noise`."""
    row = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0) * block + tl.arange(0, block)
    key = tl.load(keys + row // channels).to(tl.uint32)
    low = (start.to(tl.int64) + position).to(tl.uint32)
    high = (low * 0) + (step.to(tl.int64) + (row % channels << 20)).to(tl.uint32)
    for _ in tl.static_range(10):  # the rounds of Philox-2x32
        low, high, key = tl.umulhi(low, 0xD256D193) ^ key ^ high, low * 0xD256D193, key + 0x9E3779B9
    uniform = (low.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # over 2^32
    noise = tl.sqrt_rn(-2.0 * tl.log(uniform)) * tl.cos(high.to(tl.float32) * turn)
    tl.store(out + row * n_samples + position, noise, mask=position < n_samples)


_KERNEL: Any = None if triton is None else triton.jit(_draw, do_not_specialize=["step", "start", "n_samples"])


def draw(keys: Tensor, step: int, *, n_samples: int, channels: int, start: int) -> Tensor:
    """Draw noise.

    Args:
        keys: One 32 bit key per clip `(batch,)`, int64, on the device where the noise is made.
        step: As in `audiodiff.diffusion.noise.position_noise`, like the rest.
        n_samples: Samples per row.
        channels: Channels per clip.
        start: Index of the first sample.

    Returns:
        Noise `(batch, channels, n_samples)`, float32.
    """
    out = torch.empty(len(keys), channels, n_samples, device=keys.device)
    grid = (-(-n_samples // _BLOCK), len(keys) * channels)
    turn = 2.0 * math.pi / 2.0**32
    with torch.cuda.device_of(keys):
        _KERNEL[grid](out, keys, step, start, n_samples, channels, turn=turn, block=_BLOCK)
    return out
