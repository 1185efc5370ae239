"""Which of two systems to use, by a rule that is stated with the answer."""

from __future__ import annotations

import math
from typing import NamedTuple

from audiodiff.evaluation.results import Difference, Evaluation, SystemResult
from audiodiff.evaluation.scoring import find_metric

_DECISIVE = ("m_stft", "log_mel", "pesq_wb")
"""What decides: the first of these that was measured. One score alone, since of many some differ by chance; M-STFT
first, since it hears the whole band and needs no extra."""
_LEAST = 0.01
"""Fraction of a score below which a difference, significant or not, does not matter."""
_RULE = (
    "The rule: use {new} if it is significantly better in {title} (the 95 % interval of the paired difference lies "
    "wholly on the better side) by 1 % or more, and in no other score significantly worse by as much."
)


class Verdict(NamedTuple):
    """What to use.

    Attributes:
        is_better: Whether the second system is.
        headline: What to use, in one sentence.
        reason: The differences that say so, and the rule.
    """

    is_better: bool
    headline: str
    reason: str


def judge(evaluation: Evaluation, first: int = 0, second: int = 1) -> Verdict | None:
    """Judge whether a system is better than another on the same recordings.

    Args:
        evaluation: What was measured.
        first: Number of the system that is used unless the other is better.
        second: Number of the other.

    Returns:
        The verdict, None where no score that decides was measured of both.
    """
    differences = {
        name: difference
        for name in evaluation.metrics
        if find_metric(name).better != "neither" and (difference := evaluation.comparison(name, first, second))
    }
    main = next((name for name in _DECISIVE if name in differences), None)
    if main is None:
        return None
    old, new = evaluation.systems[first], evaluation.systems[second].name
    gains = {name: _gain(name, difference, old) for name, difference in differences.items()}
    worse = [name for name, gain in gains.items() if gain <= -_LEAST]
    is_better = gains[main] >= _LEAST and not worse
    if is_better:
        headline = f"Use {new}: it is better than {old.name}."
    elif differences[main].low is None:
        headline = f"Stay with {old.name}: one recording does not tell whether {new} is better."
    elif gains[main] >= _LEAST:
        headline = f"Stay with {old.name}: {new} is better in {find_metric(main).title}, but worse in another score."
    elif gains[main] > 0:
        headline = f"Stay with {old.name}: {new} is better by less than 1 %."
    elif main in worse:
        headline = f"Stay with {old.name}: {new} is worse."
    else:
        headline = f"Stay with {old.name}: {new} is not significantly better."
    said = [_said(name, differences[name]) for name in dict.fromkeys([main, *worse])]
    return Verdict(is_better, headline, f"{'; '.join(said)}. {_RULE.format(new=new, title=find_metric(main).title)}")


def _gain(name: str, difference: Difference, system: SystemResult) -> float:
    """Return a significant difference as a fraction of a system's mean score, above 0 for the better; else 0."""
    summary = system.summary(name)
    if difference.low is None or difference.high is None or summary is None or difference.low <= 0 <= difference.high:
        return 0.0
    gain = difference.mean if find_metric(name).better == "higher" else -difference.mean
    return gain / abs(summary.mean) if summary.mean else math.copysign(math.inf, gain)


def _said(name: str, difference: Difference) -> str:
    title, decimals = find_metric(name).title, find_metric(name).decimals
    text = f"{title} {difference.mean:+.{decimals}f}"
    if difference.low is None or difference.high is None:
        return f"{text} on one recording"
    low, high = f"{difference.low:+.{decimals}f}", f"{difference.high:+.{decimals}f}"
    return f"{text} ({find_metric(name).better} is better; 95 % interval {low} to {high}, {difference.n} recordings)"
