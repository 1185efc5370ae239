"""Means with 95 % intervals, and whether two systems differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 9999
"""Sign flips drawn where not all can be tried; p-values are then no lower than 0.0001."""


class Estimate(NamedTuple):
    """A mean and the 95 % interval of Student's t distribution around it.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; None for a single value.
        high: Upper end.
        n: Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


class Difference(NamedTuple):
    """How a system differs from another on the same recordings.

    Attributes:
        mean: Mean of (second minus first).
        low: Lower end of the 95 % interval of the mean; None for a single recording.
        high: Upper end.
        n: Number of recordings that both were scored on.
        p_value: Of the sign-flip permutation test (Fisher 1935), two-sided; None for a single recording.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    p_value: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean of values and its 95 % interval.

    Args:
        values: At least one, finite.

    Example:
        >>> mean, low, high, n = estimate([1.0, 2.0, 3.0])
        >>> mean, round(low, 3), round(high, 3), n
        (2.0, -0.484, 4.484, 3)
    """
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Estimate(mean, None, None, n)
    from scipy.stats import t  # here, because it takes a second

    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare two systems on the same recordings.

    Args:
        first: Scores of one system.
        second: Scores of the other, in the same order.

    Returns:
        The mean difference, second minus first, and its p-value: how often a difference this large comes about when it
        is random which score is whose. Not corrected for the number of metrics that are looked at.
    """
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    mean, low, high, n = estimate(differences.tolist())
    if n < 2:
        return Difference(mean, low, high, n, None)
    from scipy.stats import permutation_test

    test = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=np.random.default_rng(0)
    )
    return Difference(mean, low, high, n, float(test.pvalue))


def proportion(successes: int, n: int) -> tuple[float, float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927), and the p-value against 1/2, one-sided (binomial)."""
    from scipy.stats import binomtest

    test = binomtest(successes, n, 0.5, alternative="greater")
    two_sided = binomtest(successes, n, 0.5).proportion_ci(CONFIDENCE, method="wilson")
    return float(two_sided.low), float(two_sided.high), float(test.pvalue)
