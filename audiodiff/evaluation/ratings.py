"""What listeners said: CSV files of the listening page into means with intervals."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from audiodiff.errors import DataError
from audiodiff.evaluation.statistics import Estimate, estimate, proportion
from audiodiff.evaluation.tables import aligned

COLUMNS = ("test", "listener", "item", "system", "other", "x", "answer", "score", "seconds")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One answer of one listener.

    Attributes:
        test: "abx" or "mos".
        listener: Who.
        item: Which recording.
        systems: What was heard: one system (MOS) or two, sorted (ABX).
        score: 1 to 5 (MOS); 1 right, 0 wrong (ABX).
    """

    test: str
    listener: str
    item: str
    systems: tuple[str, ...]
    score: int


def read_ratings(paths: Iterable[Path]) -> list[Answer]:
    """Read the files that listeners downloaded; a file given twice under other names counts once.

    Raises:
        DataError: If a file cannot be read or a line is no answer; the message names the line.
    """
    answers: list[Answer] = []
    seen: set[tuple[str, ...]] = set()
    n_twice = 0
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {error}. Give the CSV files of a listening page.") from error
        fresh: set[tuple[str, ...]] = set()
        for number, row in enumerate(rows, 2):
            answer = _answer(row, f"{path}:{number}")
            key = tuple(row[column] for column in COLUMNS)  # the seconds tell two rounds of one listener apart
            if key in seen:
                n_twice += 1
                continue
            fresh.add(key)
            answers.append(answer)
        seen |= fresh
    if n_twice:
        _LOG.warning("%d answers are in more than one file and count once", n_twice)
    if not answers:
        raise DataError("the files hold no answers.")
    return answers


def _answer(row: dict[str, str], where: str) -> Answer:
    allowed = {"abx": {"0", "1"}, "mos": {"1", "2", "3", "4", "5"}}
    if set(row) != set(COLUMNS) or None in row.values():
        raise DataError(f"{where} has not the columns {', '.join(COLUMNS)}. Give the CSV files of a listening page.")
    if row["score"] not in allowed.get(row["test"], ()):
        raise DataError(
            f"{where}: test {row['test']!r} with score {row['score']!r}; expected abx with 0 or 1, or mos with 1 to 5."
        )
    systems = sorted(filter(None, (row["system"], row["other"])))
    return Answer(row["test"], row["listener"], row["item"], tuple(systems), int(row["score"]))


def opinion_scores(answers: Sequence[Answer]) -> dict[str, tuple[Estimate, int]]:
    """Return the mean opinion score of every system, and its number of ratings.

    With several listeners, the mean and its interval are those of the listeners' own means, because two ratings by one
    person are not independent. With one listener they are those of the ratings, and say nothing of other people.
    """
    found = {}
    for system in dict.fromkeys(answer.systems[0] for answer in answers if answer.test == "mos"):
        by_listener: dict[str, list[int]] = {}
        for answer in answers:
            if answer.test == "mos" and answer.systems[0] == system:
                by_listener.setdefault(answer.listener, []).append(answer.score)
        every = [score for scores in by_listener.values() for score in scores]
        means = [float(np.mean(scores)) for scores in by_listener.values()]
        found[system] = (estimate(means if len(means) > 1 else [float(score) for score in every]), len(every))
    return found


def rating_tables(answers: Sequence[Answer]) -> str:
    """Lay out what listeners said: mean opinion scores by system, and how often X was told in ABX."""
    parts = []
    listeners = len({answer.listener for answer in answers})
    opinions = opinion_scores(answers)
    if opinions:
        rows = [["", "MOS", "95 % interval", "ratings", "listeners"]]
        for system, (mos, n) in sorted(opinions.items(), key=lambda item: -item[1][0].mean):
            who = len({answer.listener for answer in answers if answer.test == "mos" and answer.systems[0] == system})
            interval = "n/a" if mos.low is None else f"{mos.low:.2f} to {mos.high:.2f}"
            rows.append([system, f"{mos.mean:.2f}", interval, str(n), str(who)])
        parts.append(aligned(rows))
    pairs = dict.fromkeys(answer.systems for answer in answers if answer.test == "abx")
    if pairs:
        rows = [["ABX", "right", "95 % interval", "p against guessing", "answers"]]
        for pair in pairs:
            scores = [answer.score for answer in answers if answer.test == "abx" and answer.systems == pair]
            low, high, p_value = proportion(sum(scores), len(scores))
            share = sum(scores) / len(scores)
            rows.append(
                [" - ".join(pair), f"{share:.2f}", f"{low:.2f} to {high:.2f}", f"{p_value:.4f}", str(len(scores))]
            )
        parts.append(aligned(rows))
    if listeners == 1:
        parts.append("One listener: the intervals say nothing of other people.")
    return "\n\n".join(parts)
