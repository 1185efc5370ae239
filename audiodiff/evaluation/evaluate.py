"""Evaluation of folders: pairs found, scored in parallel, and gathered into one document."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import torch

from audiodiff import __version__
from audiodiff.errors import AudiodiffError, DataError
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.pairing import Limits, Match, load_pair, match_files
from audiodiff.evaluation.registry import METRICS
from audiodiff.evaluation.results import Evaluation, Excluded, FileResult, SystemResult
from audiodiff.evaluation.scoring import measure
from audiodiff.evaluation.speech import McdAlignment, mcd

_PAIRS_PER_PROCESS = 8
"""With fewer pairs than this for each, starting another process costs more than it saves."""
_TIMING = re.compile(r"(?:.* -> )?(?P<path>.+?)  \d+\.\d\d s, (?:synthesised|made) in (?P<seconds>\d+\.\d+) s, ")


@dataclass(frozen=True)
class Task:
    """What is to be measured on one pair, in another process if need be.

    Attributes:
        match: The files.
        metrics: Names.
        limits: What counts as comparable.
        mcd_alignment: How frames are matched for MCD.
        synthesis_seconds: How long making the recording took, if that is known.
    """

    match: Match
    metrics: tuple[str, ...]
    limits: Limits
    mcd_alignment: McdAlignment = "none"
    synthesis_seconds: float | None = None


def evaluate(
    systems: Mapping[str, Path],
    reference: Path,
    metrics: Sequence[str],
    *,
    limits: Limits | None = None,
    mcd_alignment: McdAlignment = "none",
    timings: Mapping[str, float] | None = None,
    jobs: int | None = None,
    on_progress: Callable[[int], object] = lambda n_done: None,
) -> Evaluation:
    """Score the recordings of one or several systems against the same originals.

    Args:
        systems: Name of each system, and its recordings: a folder, a manifest (.jsonl) or a file.
        reference: The originals, likewise.
        metrics: Names of `audiodiff.evaluation.registry.METRICS`; see `choose_metrics`.
        limits: What counts as comparable; None takes the defaults.
        mcd_alignment: How frames are matched for MCD.
        timings: Path of a generated file to the seconds its synthesis took, for the real-time factor.
        jobs: Processes; None takes one per core, and fewer for a handful of files.
        on_progress: Called with 1 for every pair done.

    Returns:
        The document. What could not be compared or scored is in it with its reason, and in no mean.

    Raises:
        DataError: If there are no pairs at all.
    """
    limits = limits or Limits()
    results, tasks = [], []
    for number, (name, path) in enumerate(systems.items()):
        matches, alone = match_files(path, reference)
        excluded = [Excluded(name=item, reason=reason) for item, reason in alone]
        results.append(SystemResult(name=name, path=str(path), excluded=excluded))
        for match in matches:
            seconds = (timings or {}).get(os.path.abspath(match.generated))
            tasks.append((number, Task(match, tuple(metrics), limits, mcd_alignment, seconds)))
    for number, outcome in _run(tasks, jobs):
        on_progress(1)
        if isinstance(outcome, FileResult):
            results[number].files.append(outcome)
        else:
            results[number].excluded.append(outcome)
    for result in results:
        result.files.sort(key=lambda file: file.name)
        result.excluded.sort(key=lambda item: item.name)
    return Evaluation(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        reference=str(reference),
        metrics=list(metrics),
        settings={"limits": asdict(limits), "mcd_alignment": mcd_alignment, "versions": _versions(metrics)},
        systems=results,
    )


def _versions(metrics: Sequence[str]) -> dict[str, str]:
    found = {"audiodiff": __version__}
    for package in ("torch", "soxr", *(package for name in metrics for package in METRICS[name].packages)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - installed without metadata
            continue
    return found


def _run(tasks: Sequence[tuple[int, Task]], jobs: int | None) -> Iterator[tuple[int, FileResult | Excluded]]:
    """Yield the outcome of every task with its system's number, in any order."""
    wanted = min(jobs or os.cpu_count() or 1, -(-len(tasks) // (1 if jobs else _PAIRS_PER_PROCESS)))
    if wanted <= 1:
        yield from ((number, score_files(task)) for number, task in tasks)
        return
    # Spawned, because a fork of a process whose torch has started threads may hang.
    with ProcessPoolExecutor(wanted, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = {pool.submit(score_files, task): (number, task) for number, task in tasks}
        for future in as_completed(futures):
            number, task = futures[future]
            try:
                yield number, future.result()
            except BrokenProcessPool:
                reason = "a process died while this or another recording was measured. Run again with --jobs 1."
                yield number, Excluded(name=task.match.name, reason=reason)


def score_files(task: Task) -> FileResult | Excluded:
    """Read, check and score one pair."""
    try:
        comparable = load_pair(task.match, task.limits)
    except AudiodiffError as error:
        return Excluded(name=task.match.name, reason=str(error))
    pair = comparable.pair
    options: dict[str, Callable[[Pair], float]] = {"mcd": partial(mcd, alignment=task.mcd_alignment)}
    if task.synthesis_seconds is not None:
        options["real_time_factor"] = partial(_real_time_factor, seconds=task.synthesis_seconds)
    scores = measure(pair, task.metrics, **options)
    return FileResult(
        name=task.match.name,
        generated=str(task.match.generated),
        reference=str(task.match.reference),
        seconds=pair.seconds,
        sample_rate=pair.sample_rate,
        notes=comparable.notes,
        scores=scores.values,
        failures=scores.failures,
    )


def _real_time_factor(pair: Pair, seconds: float) -> float:
    return seconds / pair.seconds


def read_timings(path: Path) -> dict[str, float]:
    """Read how long syntheses took from what `audiodiff vocode` or `generate` printed.

    Args:
        path: A file with its standard output.

    Returns:
        Absolute path of each written file to the seconds its synthesis took.

    Raises:
        DataError: If the file cannot be read or has no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}. Give the saved output of `audiodiff vocode`.") from error
    found = {
        os.path.abspath(match["path"]): float(match["seconds"]) for line in lines if (match := _TIMING.match(line))
    }
    if not found:
        raise DataError(f"{path} has no line that tells a synthesis time. Give the saved output of `audiodiff vocode`.")
    return found
