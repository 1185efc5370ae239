"""Which noise levels to try next: generators that yield levels and are sent their score, the lower the better.

All begin with the schedules that are given to them, so no search ends worse than those. They depend on nothing but
their arguments and the scores they are sent: sent the same scores again, they ask the same questions again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import pairwise, product
from random import Random
from typing import Literal, NamedTuple

import numpy as np

Levels = tuple[float, ...]
Proposals = Generator[Levels, float, None]
Method = Literal["grid", "random", "coordinate"]

SHORTEST = 0.05
"""Shortest step by which a level is moved, in log-SNR."""
_DECIMALS = 3
_BENDS = (0.0, -1.0, 1.0)
"""Of the schedules of a grid: position n of N is (n / N) to the power 2 ** bend."""


class Space(NamedTuple):
    """Where to look.

    Attributes:
        steps: Number of levels.
        low: Lowest level that may be tried.
        high: Highest.
        first: Schedules to begin with, each of as many levels.
    """

    steps: int
    low: float
    high: float
    first: tuple[Levels, ...]


def spaced(steps: int, low: float, high: float, bend: float = 0.0) -> Levels:
    """Return levels between two ends, evenly spaced for a bend of 0; a single one is at the lower end."""
    place = np.linspace(0, 1, steps) ** 2.0**bend
    return rounded(low + (high - low) * place)


def rounded(levels: Iterable[float]) -> Levels:
    """Round levels to what a study file can tell apart."""
    return tuple(round(float(level), _DECIMALS) for level in levels)


def fits(levels: Levels, space: Space) -> bool:
    """Tell whether levels rise and stay within the space."""
    inside = space.low <= levels[0] and levels[-1] <= space.high
    return inside and all(low < high for low, high in pairwise(levels))


def grid_search(space: Space, trials: int, source: Random) -> Proposals:
    """Try every pair of ends on a grid, with even and with bent spacing: as fine as the trials allow."""
    for levels in (*space.first, *_grid(space, trials - len(space.first))):
        _ = yield levels


def random_search(space: Space, trials: int, source: Random) -> Proposals:
    """Try levels drawn evenly from the space and put in order, without end."""
    for levels in space.first:
        _ = yield levels
    while True:
        levels = rounded(sorted(source.uniform(space.low, space.high) for _ in range(space.steps)))
        if fits(levels, space):
            yield levels


def coordinate_search(space: Space, trials: int, source: Random) -> Proposals:
    """Search the ends on a coarse grid, then move one level at a time while that helps, by ever smaller steps.

    The levels take turns in a random order. When none can be moved for the better, the step is halved; the search ends
    where it is shorter than `SHORTEST`.
    """
    best, best_score = space.first[0], float("inf")
    for levels in (*space.first, *_grid(space, trials // 3 - len(space.first))):
        score = yield levels
        if score < best_score:
            best, best_score = levels, score
    step = (space.high - space.low) / 8
    while step >= SHORTEST:
        moved = False
        for place, sign in source.sample(list(product(range(space.steps), (-1, 1))), 2 * space.steps):
            levels = rounded(level + sign * step * (n == place) for n, level in enumerate(best))
            if not fits(levels, space):
                continue
            score = yield levels
            if score < best_score:
                best, best_score, moved = levels, score, True
        step = step if moved else step / 2


def _grid(space: Space, budget: int) -> list[Levels]:
    """Return at most so many schedules, of ends on a grid that is as fine as that allows."""
    found: list[Levels] = []
    bends = _BENDS if space.steps > 2 else _BENDS[:1]
    for n_points in range(2, 200):
        points = np.linspace(space.low, space.high, n_points)
        ends = [(a, b) for a, b in product(points, points) if a < b] if space.steps > 1 else [(a, a) for a in points]
        finer = [spaced(space.steps, a, b, bend) for bend in bends for a, b in ends]
        finer = [levels for levels in dict.fromkeys(finer) if fits(levels, space)]
        if len(finer) > budget:
            break
        found = finer
    return found


METHODS: dict[Method, Callable[[Space, int, Random], Proposals]] = {
    "grid": grid_search,
    "random": random_search,
    "coordinate": coordinate_search,
}
