"""Search for the noise levels of few steps, by what a vocoder makes of validation recordings with them.

A method of search is a generator that yields the levels to try next and is sent their score, the lower the better. All
begin with the schedules that they are given, so no search ends worse than those; sent the same scores again, they yield
the same levels again, so that a search can go on from its study file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import numpy as np

from audiodiff.checkpoint import WEIGHTS, copy_model, load_config
from audiodiff.config import SearchedLevels
from audiodiff.errors import DataError, ModelError
from audiodiff.search.study import Levels, Scorer, Study

Proposals = Generator[Levels, float, None]
Method = Literal["grid", "random", "coordinate"]

MIN_STEP = 0.05
"""Shortest step by which a level is moved, in log-SNR."""
_DECIMALS = 3
_WARPS = (0.0, -1.0, 1.0)
"""Of the schedules of a grid: level n of N is (n / N) ** (2 ** warp) of the way."""


@dataclass(frozen=True)
class SearchConfig:
    """What is searched.

    Attributes:
        steps: Number of levels.
        method: How.
        trials: How many levels the method may ask for; those that a study holds already are not scored again.
        seed: Of what the method draws.
    """

    steps: int
    method: Method
    trials: int
    seed: int = 0


class Trial(NamedTuple):
    """Levels and their score; None where they have none."""

    levels: Levels
    score: float | None


@dataclass(frozen=True)
class SearchResult:
    """What a search of one number of steps came to.

    Attributes:
        best: The best levels.
        uniform: Evenly spaced between the ends that the model states.
        trained: Evenly spaced over the levels that the model was trained on.
        n_trials: How many of as many steps are in the study.
    """

    best: Trial
    uniform: Trial
    trained: Trial
    n_trials: int


def search_levels(
    scorer: Scorer,
    search: SearchConfig,
    study: Study,
    more: Sequence[Levels] = (),
    on_trial: Callable[[], object] = lambda: None,
) -> SearchResult:
    """Search the noise levels of one number of steps.

    Args:
        scorer: Scores them.
        search: Steps, method and trials.
        study: Where trials are kept, and looked up before they are made.
        more: Further levels to begin with, such as what was found for another number of steps.
        on_trial: Called after every trial.

    Returns:
        The best levels of all that the study holds, and the evenly spaced ones that the search began with.

    Raises:
        DataError: If evenly spaced levels have no score.
    """
    settings, diffusion = scorer.settings(search.steps), scorer.vocoder.config.diffusion
    uniform_levels = spaced_levels(search.steps, settings.start_log_snr, settings.end_log_snr)
    trained_levels = spaced_levels(search.steps, diffusion.log_snr_min, diffusion.log_snr_max)
    first = tuple(dict.fromkeys((uniform_levels, trained_levels)))
    space = Space(search.steps, diffusion.log_snr_min, diffusion.log_snr_max, first)
    space = space._replace(first=(*first, *(levels for levels in more if levels not in first and fits(levels, space))))
    known = {tuple(trial["levels"]): trial["score"] for trial in study}
    scores: dict[Levels, float | None] = {}
    proposals = METHODS[search.method](space, search.trials, Random(search.seed))
    levels = next(proposals, None)
    while levels is not None and (levels in scores or len(scores) < search.trials):
        if levels not in scores:
            scores[levels] = known[levels] if levels in known else _try(scorer, levels, study, first)
            on_trial()
        try:
            levels = proposals.send(_rank(scorer, scores[levels]))
        except StopIteration:
            break
    every = {levels: score for levels, score in known.items() if len(levels) == search.steps} | scores
    winner = min(every, key=lambda levels: _rank(scorer, every[levels]))
    best, uniform, trained = (Trial(each, every.get(each)) for each in (winner, uniform_levels, trained_levels))
    return SearchResult(best, uniform, trained, len(every))


def _rank(scorer: Scorer, score: float | None) -> float:
    return math.inf if score is None else scorer.sign * score


def _try(scorer: Scorer, levels: Levels, study: Study, first: Sequence[Levels]) -> float | None:
    score, reason = scorer(levels)
    if score is None and levels == first[0]:
        raise DataError(f"{reason} Leave that recording out, or choose another metric.")
    study.add({"steps": len(levels), "levels": list(levels), "score": score, **({"reason": reason} if reason else {})})
    return score


def as_searched(found: SearchResult, scorer: Scorer, data: str) -> SearchedLevels:
    """Return what was found as a model's configuration holds it; `data` says in words what it was searched on."""
    settings = scorer.settings(len(found.best.levels))
    return SearchedLevels.model_validate(
        {
            "log_snrs": found.best.levels,
            "start": settings.start,
            "sampler": settings.sampler,
            "metric": scorer.metric,
            "score": found.best.score,
            "uniform_score": found.uniform.score,
            "data": data,
        }
    )


def store(folder: Path, target: Path, found: SearchedLevels) -> None:
    """Put what was found into the configuration of a model folder, in place of what was known of as many steps.

    Args:
        folder: Where the weights are.
        target: Where to write; where this model is already, what was found before stays in it.
        found: The levels.

    Raises:
        ModelError: If there is another model.
    """
    there = (target / WEIGHTS).is_file()
    if there and (target / WEIGHTS).read_bytes() != (folder / WEIGHTS).read_bytes():
        raise ModelError(f"{target} holds a model with other weights than {folder}. Choose another --output.")
    config = load_config(target if there else folder)
    same = (found.steps, found.start, found.sampler)
    others = [known for known in config.synthesis.searched if (known.steps, known.start, known.sampler) != same]
    searched = tuple(sorted([*others, found], key=lambda each: (each.start, each.sampler, each.steps)))
    synthesis = config.synthesis.model_copy(update={"searched": searched})
    copy_model(folder, target, config.model_copy(update={"synthesis": synthesis}))


# --- methods ----------------------------------------------------------------------------------------------------------


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


def spaced_levels(steps: int, low: float, high: float, warp: float = 0.0) -> Levels:
    """Return levels between two ends, evenly spaced for a warp of 0; a single one is at the lower end."""
    return round_levels(low + (high - low) * np.linspace(0, 1, steps) ** 2.0**warp)


def round_levels(levels: Iterable[float]) -> Levels:
    """Round levels to what a study file can tell apart."""
    return tuple(round(float(level), _DECIMALS) for level in levels)


def fits(levels: Levels, space: Space) -> bool:
    """Tell whether levels rise and stay within the space."""
    inside = space.low <= levels[0] and levels[-1] <= space.high
    return inside and all(low < high for low, high in pairwise(levels))


def grid_search(space: Space, trials: int, source: Random) -> Proposals:
    """Try every pair of ends on a grid, with even and with warped spacing: as fine as the trials allow."""
    for levels in (*space.first, *_grid(space, trials - len(space.first))):
        _ = yield levels


def random_search(space: Space, trials: int, source: Random) -> Proposals:
    """Try levels drawn evenly from the space and put in order, without end."""
    for levels in space.first:
        _ = yield levels
    while True:
        levels = round_levels(sorted(source.uniform(space.low, space.high) for _ in range(space.steps)))
        if fits(levels, space):
            yield levels


def coordinate_search(space: Space, trials: int, source: Random) -> Proposals:
    """Search the ends on a coarse grid, then move one level at a time while that helps, by ever smaller steps.

    The levels take turns in a random order. When none can be moved for the better, the step is halved; the search ends
    where it is shorter than `MIN_STEP`.
    """
    best, best_score = space.first[0], float("inf")
    for levels in (*space.first, *_grid(space, trials // 3 - len(space.first))):
        score = yield levels
        if score < best_score:
            best, best_score = levels, score
    step = (space.high - space.low) / 8
    while step >= MIN_STEP:
        moved = False
        for place, sign in source.sample(list(product(range(space.steps), (-1, 1))), 2 * space.steps):
            levels = round_levels(level + sign * step * (n == place) for n, level in enumerate(best))
            if not fits(levels, space):
                continue
            score = yield levels
            if score < best_score:
                best, best_score, moved = levels, score, True
        step = step if moved else step / 2


def _grid(space: Space, budget: int) -> list[Levels]:
    """Return at most so many schedules, of ends on a grid that is as fine as that allows."""
    found: list[Levels] = []
    warps = _WARPS if space.steps > 2 else _WARPS[:1]
    for n_points in range(2, 200):
        points = np.linspace(space.low, space.high, n_points)
        ends = [(a, b) for a, b in product(points, points) if a < b] if space.steps > 1 else [(a, a) for a in points]
        finer = [spaced_levels(space.steps, a, b, warp) for warp in warps for a, b in ends]
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
