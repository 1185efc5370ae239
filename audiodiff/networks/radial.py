"""What radial basis functions share: widths that stay positive, and centres where their arguments are found."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

SPREAD_FLOOR = 1e-2
"""Smallest width that training can reach."""

_MOST_ROUNDS = 300


def raw_spread(spread: float) -> float:
    """Return the parameter whose `positive_spread` is a width."""
    return math.log(math.expm1(max(spread - SPREAD_FLOOR, 1e-6)))


def positive_spread(raw: Tensor) -> Tensor:
    """Return widths of the shape of their parameter: its softplus, plus the floor."""
    return functional.softplus(raw) + SPREAD_FLOOR


def k_means(draws: Tensor, count: int) -> Tensor:
    """Place centres where draws on a line are, by Lloyd's rounds until nothing moves (MacQueen 1967, Lloyd 1982).

    They begin at the draws' quantiles, so the same draws give the same centres. Between even spacing and equal shares:
    their density follows the cube root of that of the draws (Panter and Dite 1951).

    Args:
        draws: `(n,)`, more than `count` different ones.
        count: Number of centres.

    Returns:
        Centres `(count,)`, rising; each the mean of the draws that are nearest to it.
    """
    ordered = draws.double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    centres = torch.quantile(ordered, shares)
    for _ in range(_MOST_ROUNDS):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        moved = sums[edges].diff() / edges.diff().clamp_min(1)
        moved = torch.where(edges.diff() > 0, moved, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.to(draws.dtype)
