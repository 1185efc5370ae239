"""Gaussian noise indexed by position: (seed, step, channel, sample index) alone decides a value.

A clip is therefore the same whatever the batch it is made in, the chunk it is computed in, or the device.
The generator is the counter-based Philox-2x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

_MULTIPLIER = 0xD256D193
_KEY_INCREMENT = 0x9E3779B9
_WORD = 0xFFFFFFFF
_BLOCK = 1024  # samples per program of the kernel


@functools.cache
def has_triton() -> bool:
    """Tell whether Triton can be imported. Importing it takes 0.2 s, so ask only where there is a GPU."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def philox(counter: Tensor, stream: Tensor, key: int | Tensor, rounds: int = 10) -> tuple[Tensor, Tensor]:
    """Encrypt a 2 x 32 bit counter under a 32 bit key (Salmon et al. 2011, section 3.3).

    Args:
        counter: Low words, int64 holding 32 bits, any shape.
        stream: High words, int64 holding 32 bits, broadcastable with `counter`.
        key: The key, 32 bits; or keys, int64 holding 32 bits, broadcastable with `counter`.
        rounds: Number of rounds; 10 passes every known statistical test.

    Returns:
        Two int64 tensors of uniformly distributed 32 bit words.
    """
    low, high = counter, stream
    for _ in range(rounds):
        product = low * _MULTIPLIER  # wraps around in 64 bits, which keeps both words
        low, high = ((product >> 32) & _WORD) ^ key ^ high, product & _WORD
        key = (key + _KEY_INCREMENT) & _WORD
    return low, high


def position_noise(
    seeds: Sequence[int],
    step: int,
    *,
    n_samples: int,
    channels: int = 1,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal noise that depends on nothing but seed, step, channel and sample index.

    Args:
        seeds: One integer per clip of the batch.
        step: Which draw of the reverse process this is; 0 is the initial noise. Below 2^20 - 1.
        n_samples: How many consecutive samples to draw.
        channels: Number of channels.
        start: Index of the first sample, so that a chunk gets the noise of its place in the whole.
        device: Where the noise is made.

    Returns:
        Noise of shape `(batch, channels, n_samples)`, float32.
    """
    device = torch.device(device)
    keys = torch.tensor([_fold(seed) for seed in seeds], dtype=torch.int64).to(device, non_blocking=True)
    if device.type == "cuda" and has_triton():
        return draw_by_kernel(keys, step, n_samples=n_samples, channels=channels, start=start)
    index = torch.arange(start, start + n_samples, dtype=torch.int64, device=device) & _WORD
    stream = (step + (torch.arange(channels, dtype=torch.int64, device=device) << 20)).unsqueeze(1) & _WORD
    first, second = philox(index, stream, keys.view(-1, 1, 1))
    radius = torch.sqrt(-2.0 * torch.log((first.float() + 0.5) / 2.0**32))
    return radius.mul_(torch.cos(second.float() * (2.0 * math.pi / 2.0**32)))  # Box-Muller


def _fold(seed: int) -> int:
    """Turn a seed into a 32 bit key: one that fits is taken as it is; sign and higher words are mixed in."""
    key, rest = abs(seed) & _WORD, (abs(seed) >> 32) * 2 + (seed < 0)
    while rest:
        key = int(philox(torch.tensor(rest & _WORD), torch.tensor(key), 0)[0])
        rest >>= 32
    return key


def _draw(
    out: tl.tensor, keys: tl.tensor, step: tl.tensor, start: tl.tensor, n_samples: tl.tensor, channels: tl.tensor,
    turn: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    """Fill `block` samples of one row of `(batch * channels, n_samples)`; the kernel of `draw_by_kernel`."""
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


@functools.cache
def _kernel() -> Any:
    import triton
    import triton.language

    globals()["tl"] = triton.language  # where Triton looks up the names in a kernel
    return triton.jit(_draw, do_not_specialize=["step", "start", "n_samples"])


def draw_by_kernel(keys: Tensor, step: int, *, n_samples: int, channels: int, start: int) -> Tensor:
    """Draw noise as one Triton kernel: on a GPU, the plain formula is some seventy launches per draw.

    Args:
        keys: One 32 bit key per clip `(batch,)`, int64, on the device where the noise is made.
        step: As in `position_noise`, like the rest.
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
        _kernel()[grid](out, keys, step, start, n_samples, channels, turn=turn, block=_BLOCK)
    return out
