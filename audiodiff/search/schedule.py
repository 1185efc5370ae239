"""Search for the noise levels of few steps, by what a vocoder makes of validation recordings with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from audiodiff.checkpoint import WEIGHTS, copy_model, load_config
from audiodiff.config import SearchedLevels
from audiodiff.errors import DataError, ModelError
from audiodiff.search.proposals import METHODS, Levels, Method, Space, fits, spaced
from audiodiff.search.scorer import Scorer
from audiodiff.search.study import Study


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
    uniform_levels = spaced(search.steps, settings.start_log_snr, settings.end_log_snr)
    trained_levels = spaced(search.steps, diffusion.log_snr_min, diffusion.log_snr_max)
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
            "levels": found.best.levels,
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
