"""On which scale an embedding sees the noise level: log-SNR, amplitude of the signal, or rank in training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiodiff.config import DiffusionConfig

_PIECES = 1024
"""Straight pieces that stand for the distribution function."""


class LevelDomain(nn.Module):
    """Map log-SNR to the argument of an embedding; every domain is stretched to the trained range of log-SNR.

    So centres, spreads and their learning rate mean the same in each: `log-snr` is the level itself, `sqrt-abar` the
    amplitude of the signal, alpha = sqrt(sigmoid(log_snr)), and `step` the share of the training levels that are
    noisier, which is what the number of a discrete step says. The last two end where the range ends.

    Args:
        domain: Which.
        diffusion: Range and distribution of log-SNR in training.

    Attributes:
        low: Argument at the lowest trained level.
        width: How far the highest is above it.
    """

    quantiles: Tensor

    def __init__(self, domain: str, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.domain = domain
        self.low, self.width = diffusion.log_snr_min, diffusion.log_snr_max - diffusion.log_snr_min
        self._amplitudes = _amplitude(diffusion.log_snr_min), _amplitude(diffusion.log_snr_max)
        shares = [i / _PIECES for i in range(_PIECES + 1)] if domain == "step" else []
        quantiles = torch.tensor([diffusion.log_snr_at(share) for share in shares], dtype=torch.float64)
        self.register_buffer("quantiles", quantiles, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels to arguments of the same shape, in float32."""
        if self.domain == "log-snr":
            return log_snr.float()
        level = log_snr.double().clamp(self.low, self.low + self.width)
        share = self._rank(level) if self.domain == "step" else self._way(level)
        return (self.low + self.width * share).float()

    def _way(self, level: Tensor) -> Tensor:
        lowest, highest = self._amplitudes
        return (torch.sigmoid(level).sqrt() - lowest) / (highest - lowest)

    def _rank(self, level: Tensor) -> Tensor:
        """Return the share of training levels below a level, from the quantile function read backwards."""
        knots = self.quantiles.double()
        above = torch.searchsorted(knots, level.contiguous()).clamp(1, _PIECES)
        between = (level - knots[above - 1]) / (knots[above] - knots[above - 1])
        return (above - 1 + between.clamp(0, 1)) / _PIECES


def _amplitude(log_snr: float) -> float:
    return math.sqrt(1 / (1 + math.exp(-log_snr)))
