"""The result of an evaluation: scores by system and file, means with 95 % intervals, comparisons; JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from audiodiff import text
from audiodiff.audio.io import replacing
from audiodiff.errors import DataError
from audiodiff.evaluation.scoring import find_metric

FORMAT = 1
CONFIDENCE = 0.95
_N_RESAMPLES = 9999
"""Random sign flips where not all can be tried; p-values are then no lower than 0.0001."""
SEED = 0
"""Of the sign flips."""


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
        (differences,), np.mean, permutation_type="samples", n_resamples=_N_RESAMPLES, rng=np.random.default_rng(SEED)
    )
    return Difference(mean, low, high, n, float(test.pvalue))


def proportion(successes: int, n: int) -> tuple[float, float, float]:
    """Return the 95 % interval of a proportion (Wilson 1927), and the p-value against 1/2, one-sided (binomial)."""
    from scipy.stats import binomtest

    test = binomtest(successes, n, 0.5, alternative="greater")
    two_sided = binomtest(successes, n, 0.5).proportion_ci(CONFIDENCE, method="wilson")
    return float(two_sided.low), float(two_sided.high), float(test.pvalue)


class _Part(BaseModel):
    model_config = ConfigDict(populate_by_name=True, extra="forbid", allow_inf_nan=False)


class FileResult(_Part):
    """Scores of one recording.

    Attributes:
        name: What both files are called.
        generated: The generated file.
        reference: The original.
        seconds: Length that was compared.
        sample_rate: Rate that it was compared at, in Hz.
        notes: What was done to the recordings and what is odd about them.
        scores: By name.
        failures: Reasons for the scores it cannot have, by name.
        weights: What scores weigh in a mean, by name; 1 where nothing is stated.
    """

    name: str
    generated: str
    reference: str
    seconds: float
    sample_rate: int
    notes: list[str] = []
    scores: dict[str, float]
    failures: dict[str, str] = {}
    weights: dict[str, float] = {}


class Excluded(_Part):
    """A recording that was not scored at all, and why."""

    name: str
    reason: str


class SystemResult(_Part):
    """What one system reached.

    Attributes:
        name: Of the system.
        path: Where its recordings are.
        files: One per scored recording.
        excluded: Those that could not be compared.
        set_scores: Scores of the set as a whole, such as inception score, by name.
    """

    name: str
    path: str
    files: list[FileResult] = []
    excluded: list[Excluded] = []
    set_scores: dict[str, float] = Field({}, validation_alias=AliasChoices("set_scores", "whole"))

    def scores(self, metric: str) -> dict[str, float]:
        """Return the scores of a metric by the name of the recording."""
        return {file.name: file.scores[metric] for file in self.files if metric in file.scores}

    def contributions(self, metric: str, names: Collection[str] | None = None) -> list[float]:
        """Return numbers whose plain mean is that of the set, one per recording that has a score, in order of names.

        They are the scores themselves where all weigh alike. Else they are the mean m of the set, and how the recording
        moves it: m + w / mean(w) (x^p - m^p) / (p m^(p - 1)), so that intervals and tests follow (the delta method).

        Args:
            metric: Its name.
            names: Of the recordings that count; None for all.
        """
        files = sorted((file for file in self.files if metric in file.scores), key=lambda file: file.name)
        files = [file for file in files if names is None or file.name in names]
        scores = np.array([file.scores[metric] for file in files])
        weights = np.array([file.weights.get(metric, 1.0) for file in files])
        power = find_metric(metric).power
        if not files or (power == 1 and (weights == weights[0]).all()):
            return list(scores)
        mean = float(np.average(scores**power, weights=weights)) ** (1 / power)
        slope = power * mean ** (power - 1)
        if not slope:
            return list(scores)
        moves = weights / weights.mean() * (scores**power - mean**power) / slope
        return list(mean + moves)

    def summary(self, metric: str) -> Estimate | None:
        """Return mean, interval and number of scores; None if there is no score."""
        values = self.contributions(metric)
        return estimate(values) if values else None

    def n_failed(self, metric: str) -> int:
        """Return how many recordings have no score of a metric."""
        return len(self.files) + len(self.excluded) - len(self.scores(metric))


class Evaluation(_Part):
    """The document.

    Attributes:
        audiodiff_evaluation: Version of the format.
        created: When, in ISO 8601.
        reference: Where the originals are.
        metrics: Names of what was measured, in order.
        settings: Options that decide the values, and versions of packages.
        systems: What was evaluated.
    """

    audiodiff_evaluation: int = FORMAT
    created: str
    reference: str
    metrics: list[str]
    settings: dict[str, Any]
    systems: list[SystemResult]

    def comparison(self, metric: str, first: int, second: int) -> Difference | None:
        """Compare two systems by their numbers on the recordings that both have scores of; None if there is none."""
        one, other = (self.systems[number] for number in (first, second))
        common = one.scores(metric).keys() & other.scores(metric).keys()
        return compare(one.contributions(metric, common), other.contributions(metric, common)) if common else None

    @property
    def problems(self) -> list[str]:
        """Every recording that was not compared and every score that could not be had, one line each."""
        lines = []
        for system in self.systems:
            lines += [f"{system.name}, {item.name}: {item.reason}" for item in system.excluded]
            for file in system.files:
                reasons: dict[str, list[str]] = {}
                for metric, reason in file.failures.items():
                    reasons.setdefault(reason, []).append(metric)
                lines += [f"{system.name}, {file.name}: no {', '.join(names)}: {why}" for why, names in reasons.items()]
        return lines


def write_json(path: Path, evaluation: Evaluation) -> None:
    """Write the document, with means, intervals and comparisons worked out for other programs to read."""
    document = evaluation.model_dump(mode="json")
    for system, part in zip(evaluation.systems, document["systems"], strict=True):
        part["summary"] = {
            metric: summary._asdict() | {"n_failed": system.n_failed(metric)}
            for metric in evaluation.metrics
            if (summary := system.summary(metric))
        }
    document["comparisons"] = [
        {"metric": metric, "first": evaluation.systems[0].name, "second": system.name} | difference._asdict()
        for metric in evaluation.metrics
        for number, system in enumerate(evaluation.systems[1:], 1)
        if (difference := evaluation.comparison(metric, 0, number))
    ]
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as part_path:
        part_path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Evaluation:
    """Read a document that `write_json` wrote; means and comparisons follow from the scores and are not read.

    Raises:
        DataError: If the file cannot be read or is no such document.
    """
    document = text.read_json(path)
    if not isinstance(document, dict) or document.get("audiodiff_evaluation") != FORMAT:
        raise DataError(
            f"{path} is no evaluation of format {FORMAT}. `audiodiff evaluate pairs --json` writes such files."
        )
    document.pop("comparisons", None)
    for system in document.get("systems", ()):
        system.pop("summary", None)
    try:
        return Evaluation.model_validate(document)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise DataError(f"{path} is damaged at {where}: {error.errors()[0]['msg']}. Evaluate again.") from error


def write_csv(path: Path, evaluation: Evaluation) -> None:
    """Write one line per system and recording; a score that could not be had is empty, its reason in `problems`."""
    columns = ["system", "name", "seconds", *evaluation.metrics, "notes", "problems"]
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for system in evaluation.systems:
            writer.writerows(_row(system, item, evaluation.metrics) for item in system.files)
            blank = [""] * (len(evaluation.metrics) + 2)
            writer.writerows([system.name, item.name, *blank, item.reason] for item in system.excluded)


def _row(system: SystemResult, item: FileResult, metrics: Sequence[str]) -> list[object]:
    problems = "; ".join(f"{name}: {reason}" for name, reason in item.failures.items())
    scores = [item.scores.get(metric, "") for metric in metrics]
    return [system.name, item.name, item.seconds, *scores, "; ".join(item.notes), problems]
