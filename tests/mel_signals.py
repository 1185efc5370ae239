"""Signals that mel spectrograms are compared on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def voice_like(sample_rate: int, seconds: float = 0.6, seed: int = 0) -> Tensor:
    """Harmonics that glide, noise, and a pause of digital silence: shape (1, time), peak below 1."""
    time = np.arange(int(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(120 + 60 * time) / sample_rate
    audio = sum(np.sin(k * phase) / k for k in range(1, 40)) + 0.1 * np.random.default_rng(seed).normal(size=time.size)
    audio[time.size // 2 : time.size * 3 // 4] = 0
    return torch.from_numpy(0.9 * audio / np.abs(audio).max()).float()[None]
