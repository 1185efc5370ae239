"""Scores of a generated recording against its original.

A score that is undefined for a recording comes with the reason, never as a number.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

from audiodiff.errors import AudioError, ConfigError
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.registry import METRICS, TITLES

_LOG = logging.getLogger(__name__)

VOCODER_SCORES = ("pesq_wb", "estoi", "distillmos", "m_stft", "log_mel", "rms_ratio_db", "peak")
"""The default of `score`: those that tell vocoders apart, and two that reveal a wrong level."""


class Scores(NamedTuple):
    """Scores of one pair, and the reasons for those that are undefined."""

    values: dict[str, float]
    failures: dict[str, str]


def resolve_metrics(sets_or_names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Resolve names of metrics and sets, such as `["default", "mcd"]`.

    Returns:
        The names of metrics in the order of `METRICS`, and one line per extra that is not installed, whose metrics are
        then left out.

    Raises:
        ConfigError: If a name is unknown, or a metric requested for by its own name is not installed.
    """
    requested = list(sets_or_names)
    sets = dict.fromkeys(metric.belongs_to for metric in METRICS.values())
    unknown = [name for name in requested if name not in METRICS and name not in sets]
    if unknown:
        raise ConfigError(f"no metric {unknown[0]!r}; choose from the sets {', '.join(sets)}, or {', '.join(METRICS)}.")
    for name in requested:
        if name in METRICS and not METRICS[name].installed:
            raise ConfigError(f"{METRICS[name].title} needs `pip install 'audiodiff[{METRICS[name].belongs_to}]'`.")
    selected = [name for name, metric in METRICS.items() if name in requested or metric.belongs_to in requested]
    chosen = [name for name in selected if METRICS[name].installed]
    missing = [name for name in selected if name not in chosen]
    notes = []
    for extra in dict.fromkeys(METRICS[name].belongs_to for name in missing):
        titles = ", ".join(TITLES[name] for name in missing if METRICS[name].belongs_to == extra)
        notes.append(f"{titles} left out: `pip install 'audiodiff[{extra}]'` brings what is missing.")
    return chosen, notes


def score_pair(pair: Pair, names: Iterable[str], **options: Callable[[Pair], float]) -> Scores:
    """Score a pair.

    Args:
        pair: The recordings.
        names: Of `METRICS`.
        **options: By the name of a metric, a function to use in place of its own, such as MCD with another alignment.

    Returns:
        The scores, and the reasons for those that are undefined on this pair.
    """
    values, failures = {}, {}
    for name in names:
        metric = METRICS[name]
        try:
            if metric.needs_sound and pair.silent:
                raise AudioError("there is nothing but silence.")
            value = options.get(name, metric.measure)(pair)
        # In this order: too short; PESQ finds no speech; packages stumble over odd input; pystoi finds too little.
        except (AudioError, RuntimeError, ValueError, RuntimeWarning) as error:
            failures[name] = " ".join(str(error).removeprefix("b'").rstrip("'").split())
            continue
        if math.isfinite(value):
            values[name] = value
        else:
            failures[name] = f"it is {value}."
    return Scores(values, failures)


def score(
    generated: Tensor, reference: Tensor, sample_rate: int, names: Iterable[str] = VOCODER_SCORES
) -> dict[str, float]:
    """Score a recording against its original; several channels are scored one by one and averaged.

    Args:
        generated: Samples in [-1, 1] `(channels, time)`.
        reference: The original, of the same shape.
        sample_rate: In Hz.
        names: Of `METRICS`; those whose package is not installed are left out.

    Returns:
        The scores by name. An undefined one is NaN, and its reason is logged.

    Raises:
        AudioError: If the shapes differ or are not `(channels, time)`.
    """
    names = [name for name in names if METRICS[name].installed]
    scores = score_pair(Pair(generated, reference, sample_rate), names)
    reasons: dict[str, list[str]] = {}
    for name, reason in scores.failures.items():
        reasons.setdefault(reason, []).append(TITLES[name])
    for reason, titles in reasons.items():
        _LOG.warning("no %s: %s", ", ".join(titles), reason)
    return {name: scores.values.get(name, math.nan) for name in names}
