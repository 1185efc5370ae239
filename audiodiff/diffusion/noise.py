"""Gaussian noise indexed by position: (seed, step, channel, sample index) alone decides a value.

A clip is therefore the same whatever the batch it is made in, the chunk it is computed in, or the device.
The generator is the counter-based Philox-2x32-10 of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from audiodiff.diffusion import noise_kernel

_MULTIPLIER = 0xD256D193
_KEY_INCREMENT = 0x9E3779B9
_WORD = 0xFFFFFFFF


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
    if device.type == "cuda" and noise_kernel.AVAILABLE:
        return noise_kernel.draw(keys, step, n_samples=n_samples, channels=channels, start=start)
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
