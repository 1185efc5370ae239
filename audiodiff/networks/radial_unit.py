"""Radial basis functions in place of the gate: every channel learns its own function of signal and gate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audiodiff.networks.radial import positive_spread, raw_spread

_RADIUS = 4.0
"""Of the disc that the centres cover at first; fresh layers give values around 1, trained ones up to some 3."""
_USUAL = 1.5
"""Standard deviation of the values at which the first weights are fitted."""


class RadialUnit(nn.Module):
    """y_c = sum_k w_ck exp(-|p_c - q_ck|^2 / (2 s_ck^2)) of the pairs p_c = (gate_c, signal_c), with K centres each.

    An RBF network of two inputs per channel (Broomhead and Lowe 1988). The gated unit, sigmoid(gate) * tanh(signal), is
    one function of such a pair: the centres begin all over a disc, with weights that come as near to the gated unit as
    they can, so that training starts where it does with the gate and goes its own way from there.

    Args:
        channels: C.
        centres: K, of each channel.
    """

    def __init__(self, channels: int, centres: int) -> None:
        super().__init__()
        places, spread, weight = _like_the_gate(centres)
        self.centres = nn.Parameter(places.float().unsqueeze(2).repeat(1, 1, channels))
        self.raw_spread = nn.Parameter(torch.full((centres, channels), raw_spread(spread)))
        self.weight = nn.Parameter(weight.float().unsqueeze(1).repeat(1, channels))

    def forward(self, pairs: Tensor) -> Tensor:
        """Map gates and signals `(..., 2 * channels)`, side by side, to `(..., channels)` of the same dtype.

        Where gradients are wanted only the pairs are kept; what each centre gives is computed again on the way back.
        """
        if not torch.is_grad_enabled():
            return self._sum(pairs)
        summed: Tensor = checkpoint(self._sum, pairs, use_reentrant=False, preserve_rng_state=False)
        return summed

    def _sum(self, pairs: Tensor) -> Tensor:
        gate, signal = pairs.chunk(2, dim=-1)
        factors = -0.5 / positive_spread(self.raw_spread).square()
        total = torch.zeros_like(gate, dtype=factors.dtype)
        for (at_gate, at_signal), factor, weight in zip(self.centres, factors, self.weight, strict=True):
            square = (gate - at_gate).square() + (signal - at_signal).square()
            total = torch.addcmul(total, weight, torch.exp(square * factor))
        return total.to(pairs.dtype)


def _like_the_gate(count: int) -> tuple[Tensor, float, Tensor]:
    """Return centres `(count, 2)` of gate and signal, their spread, and weights `(count,)` that act as the gated unit.

    The centres lie on a sunflower's spiral, which covers a disc evenly for any number of them (Vogel 1979); the spread
    is that of the square which each has to itself; the weights are a ridge regression.
    """
    index = torch.arange(count, dtype=torch.float64)
    radius, angle = _RADIUS * ((index + 0.5) / count).sqrt(), index * math.pi * (3 - math.sqrt(5))
    places = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1)
    spread = _RADIUS * math.sqrt(math.pi / count)
    grid = torch.linspace(-5, 5, 101, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    basis = torch.exp(-0.5 * torch.cdist(points, places).square() / spread**2)
    likely = torch.exp(-0.5 * (points / _USUAL).square().sum(1, keepdim=True))
    gated = (torch.sigmoid(points[:, :1]) * torch.tanh(points[:, 1:])) * likely
    normal = basis.T @ (basis * likely) + 1e-4 * likely.sum() * torch.eye(count, dtype=torch.float64)
    return places, spread, torch.linalg.solve(normal, basis.T @ gated)[:, 0]
