"""A learned distribution of training noise levels: a monotone network of the log-SNR that makes the loss vary little.

Its time, the share of the levels below a log-SNR, rises from 0 to 1: a mixture of logistic functions with positive
weights. Levels are drawn by turning it round, and every loss is divided by its density, so that the expected loss is
that of evenly spread levels whatever the map: only the variance depends on it (Kingma et al. 2021, "Variational
Diffusion Models", section 5.1 and App. I). They follow the levels through the loss; here the density at a given level
is followed, the likelihood-ratio form of the same gradient, which needs no derivative of the denoiser by its level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

N_QUANTILES = 65
"""Points at which the map is written down for synthesis."""

_INSIDE, _OUTSIDE = 32, 6
"""Logistic functions across the range, and beyond each end, so that equal weights are even up to the ends."""
_EVEN_SHARE = 0.1
"""Share of the weights that stays spread evenly, which keeps every density above, and every weight of a loss below."""
_HALVINGS = 32


class LearnedLevels(nn.Module):
    """The monotone network, at first the identity up to scale: evenly spread levels.

    Args:
        log_snr_min: Lowest level.
        log_snr_max: Highest level.
    """

    centres: Tensor

    def __init__(self, log_snr_min: float, log_snr_max: float) -> None:
        super().__init__()
        self.low, self.high = log_snr_min, log_snr_max
        self.width = (log_snr_max - log_snr_min) / _INSIDE
        number = torch.arange(-_OUTSIDE, _INSIDE + _OUTSIDE, dtype=torch.float64)
        self.register_buffer("centres", log_snr_min + self.width * (number + 0.5), persistent=False)
        self.logits = nn.Parameter(torch.zeros(len(number)))

    def _mixture(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the weights, and the mixture at both ends of the range."""
        weights = (1 - _EVEN_SHARE) * self.logits.double().softmax(0) + _EVEN_SHARE / len(self.logits)
        ends = torch.tensor([[self.low], [self.high]], dtype=torch.float64, device=weights.device)
        low, high = (torch.sigmoid((ends - self.centres) / self.width) * weights).sum(1)
        return weights, low, high

    def time(self, log_snr: Tensor) -> Tensor:
        """Return the share of the training levels below each log-SNR `(n,)`, float64, from 0 to 1."""
        weights, low, high = self._mixture()
        rising = torch.sigmoid((log_snr.double().unsqueeze(1) - self.centres) / self.width)
        return ((rising * weights).sum(1) - low) / (high - low)

    def density(self, log_snr: Tensor) -> Tensor:
        """Return the derivative of `time` `(n,)`, float64, in units of an even one: 1 everywhere before it learns."""
        weights, low, high = self._mixture()
        rising = torch.sigmoid((log_snr.double().unsqueeze(1) - self.centres) / self.width)
        slope = (rising * (1 - rising) * weights).sum(1) / self.width
        return slope / (high - low) * (self.high - self.low)

    @torch.no_grad()
    def log_snr(self, time: Tensor) -> Tensor:
        """Return the levels `(n,)`, float64, below which given shares of the training levels lie: `time`, inverted."""
        wanted = time.double()
        low, high = torch.full_like(wanted, self.low), torch.full_like(wanted, self.high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = self.time(middle) < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def quantiles(self) -> tuple[float, ...]:
        """Return the map as `audiodiff.config.DiffusionConfig.learned` holds it: levels at evenly spaced shares."""
        share = torch.linspace(0, 1, N_QUANTILES, dtype=torch.float64, device=self.logits.device)
        levels = self.log_snr(share).tolist()
        return (self.low, *(float(f"{level:.6g}") for level in levels[1:-1]), self.high)
