"""Evaluation of folders: pairs found, scored in parallel, and gathered into one document."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from audiodiff import __version__
from audiodiff.audio.io import audio_info, load_audio
from audiodiff.audio.resample import resample
from audiodiff.data.parallel import process_map
from audiodiff.errors import AudiodiffError, AudioError, ConfigError, DataError
from audiodiff.evaluation.listing import Match, match_files
from audiodiff.evaluation.pair import POCKETSPHINX, Pair
from audiodiff.evaluation.plugin import load_function
from audiodiff.evaluation.results import SEED, Evaluation, Excluded, FileResult, SystemResult
from audiodiff.evaluation.scoring import ERROR_RATES, find_metric, score_pair
from audiodiff.evaluation.signal import SILENCE, lag_ms
from audiodiff.evaluation.speech import McdAlignment, mcd
from audiodiff.text import read_lines

_CLIPPED_SAMPLES = 3
"""Samples in a row at full scale that count as clipping."""
_PAIRS_PER_PROCESS = 8
"""Fewer pairs than this per process do not pay for its start."""
_TIMING = re.compile(r"(?:.* -> )?(?P<path>.+?)  \d+\.\d\d s, (?:synthesised|made) in (?P<seconds>\d+\.\d+) s, ")


@dataclass(frozen=True)
class AlignmentOptions:
    """How far two recordings may be apart in length and time to be compared.

    Attributes:
        max_length_difference: In seconds; the longer is cut.
        max_lag_ms: How much earlier or later the generated may come.
        align: Whether a lag is undone before comparing, whatever its size.
    """

    max_length_difference: float = 0.1
    max_lag_ms: float = 50.0
    align: bool = False


@dataclass(frozen=True)
class Task:
    """What is to be measured on one pair, in another process if need be.

    Attributes:
        match: The files.
        metrics: Names.
        alignment: How far the two may be apart.
        mcd_alignment: How frames are matched for MCD.
        recogniser: What recognises speech for WER.
        synthesis_seconds: How long making the recording took, if that is known.
    """

    match: Match
    metrics: tuple[str, ...]
    alignment: AlignmentOptions
    mcd_alignment: McdAlignment = "none"
    recogniser: str = POCKETSPHINX
    synthesis_seconds: float | None = None


def evaluate(
    systems: Mapping[str, Path],
    reference: Path,
    metrics: Sequence[str],
    *,
    alignment: AlignmentOptions | None = None,
    mcd_alignment: McdAlignment = "none",
    recogniser: str | None = None,
    timings: Mapping[str, float] | None = None,
    jobs: int | None = None,
    on_progress: Callable[[int], object] = lambda n_done: None,
    match: Callable[[Path, Path], tuple[list[Match], list[tuple[str, str]]]] = match_files,
) -> Evaluation:
    """Score the recordings of one or several systems against the same originals.

    Args:
        systems: Name of each system, and its recordings: a folder, a manifest (.jsonl) or a file.
        reference: The originals, likewise.
        metrics: Names of `audiodiff.evaluation.scoring.METRICS`, or functions of your own; see `resolve_metrics`.
        alignment: How far two recordings may be apart; None takes the defaults.
        mcd_alignment: How frames are matched for MCD.
        recogniser: MODULE:FUNCTION of what recognises speech (`audiodiff.evaluation.plugin`); None takes PocketSphinx.
        timings: Path of a generated file to the seconds its synthesis took, for the real-time factor.
        jobs: Processes; None takes one per core, and fewer for a handful of files.
        on_progress: Called with 1 for every pair done.
        match: What pairs the recordings of a system with the originals: by name, or `match_nearest`.

    Returns:
        The document. What could not be compared or scored is in it with its reason, and in no mean.

    Raises:
        ConfigError: If there is no such recogniser, or nothing that needs one.
        DataError: If there are no pairs at all.
    """
    alignment = alignment or AlignmentOptions()
    recogniser = _choose_recogniser(recogniser, metrics)
    results, tasks = [], []
    for number, (name, path) in enumerate(systems.items()):
        matches, unmatched = match(path, reference)
        excluded = [Excluded(name=item, reason=reason) for item, reason in unmatched]
        results.append(SystemResult(name=name, path=str(path), excluded=excluded))
        for found in matches:
            seconds = (timings or {}).get(os.path.abspath(found.generated))
            tasks.append((number, Task(found, tuple(metrics), alignment, mcd_alignment, recogniser, seconds)))
    for number, result in _run(tasks, jobs):
        on_progress(1)
        if isinstance(result, FileResult):
            results[number].files.append(result)
        else:
            results[number].excluded.append(result)
    for system in results:
        system.files.sort(key=lambda file: file.name)
        system.excluded.sort(key=lambda item: item.name)
    return Evaluation(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        reference=str(reference),
        metrics=list(metrics),
        settings={"alignment": asdict(alignment), "mcd_alignment": mcd_alignment, **_settings(metrics, recogniser)},
        systems=results,
    )


def _choose_recogniser(requested: str | None, metrics: Sequence[str]) -> str:
    """Return the recogniser that was requested, or the default, once it can be imported and something needs it."""
    if requested and not ERROR_RATES & {*metrics}:
        raise ConfigError(
            f"a recogniser serves {', '.join(sorted(ERROR_RATES))}. Measure one of them, or leave it out."
        )
    load_function(requested or POCKETSPHINX)
    return requested or POCKETSPHINX


def _settings(metrics: Sequence[str], recogniser: str) -> dict[str, Any]:
    recognised = {"recogniser": recogniser} if ERROR_RATES & {*metrics} else {}
    return {"versions": _versions(metrics), "seed": SEED, **recognised}


def _versions(metrics: Sequence[str]) -> dict[str, str]:
    found = {"audiodiff": __version__}
    for package in ("torch", "soxr", *(package for name in metrics for package in find_metric(name).packages)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # pragma: no cover - installed without metadata
            continue
    return found


def _run(tasks: Sequence[tuple[int, Task]], jobs: int | None) -> Iterator[tuple[int, FileResult | Excluded]]:
    """Yield the result of every task with its system's number, in any order."""
    n_processes = min(jobs or os.cpu_count() or 1, -(-len(tasks) // (1 if jobs else _PAIRS_PER_PROCESS)))
    if n_processes <= 1:
        yield from ((number, score_files(task)) for number, task in tasks)
        return
    for (number, task), result in process_map(_score_numbered, tasks, n_processes):
        reason = "a process died while this or another recording was measured. Run again with --workers 1."
        yield number, result or Excluded(name=task.match.name, reason=reason)


def _score_numbered(task: tuple[int, Task]) -> FileResult | Excluded:
    return score_files(task[1])


def score_files(task: Task) -> FileResult | Excluded:
    """Read, check and score one pair."""
    try:
        loaded = load_pair(task.match, task.alignment, task.recogniser)
    except AudiodiffError as error:
        return Excluded(name=task.match.name, reason=str(error))
    pair = loaded.pair
    options: dict[str, Callable[[Pair], float]] = {"mcd": partial(mcd, alignment=task.mcd_alignment)}
    if task.synthesis_seconds is not None:
        options["real_time_factor"] = partial(_real_time_factor, seconds=task.synthesis_seconds)
    scores = score_pair(pair, task.metrics, **options)
    return FileResult(
        name=task.match.name,
        generated=str(task.match.generated),
        reference=str(task.match.reference),
        seconds=pair.seconds,
        sample_rate=pair.sample_rate,
        notes=loaded.notes,
        scores=scores.values,
        failures=scores.failures,
        weights=scores.weights,
    )


def _real_time_factor(pair: Pair, seconds: float) -> float:
    return seconds / pair.seconds


@dataclass(frozen=True)
class LoadedPair:
    """A pair that can be scored.

    Attributes:
        pair: The recordings.
        notes: What was done to them and what is odd about them, one line each.
    """

    pair: Pair
    notes: list[str]


def load_pair(match: Match, alignment: AlignmentOptions, recogniser: str = POCKETSPHINX) -> LoadedPair:
    """Read two files and bring them to the reference's rate and the shorter one's length.

    Args:
        match: The files.
        alignment: How far the two may be apart.
        recogniser: MODULE:FUNCTION of what recognises speech.

    Returns:
        The pair, and notes on what was changed and what is odd.

    Raises:
        AudioError: If a file cannot be read or is silent, or the two cannot be compared: other channels, other length,
            other timing.
    """
    reference, generated = (load_audio(path, mono=False) for path in (match.reference, match.generated))
    rate, own_rate = (audio_info(path).sample_rate for path in (match.reference, match.generated))
    notes: list[str] = []
    if own_rate != rate:
        notes.append(f"resampled from {own_rate} Hz to the reference's {rate} Hz")
        generated = resample(generated, own_rate, rate)
    if len(generated) != len(reference):
        raise AudioError(
            f"{match.generated} has {len(generated)} channels, its reference {len(reference)}. Mix one of them down."
        )
    for path, audio in ((match.generated, generated), (match.reference, reference)):
        if float(audio.square().mean().sqrt()) <= SILENCE:
            raise AudioError(f"{path} is silent (under -100 dB): there is nothing to compare.")
    notes += filter(None, [_clipping(generated)])
    excess = generated.shape[1] - reference.shape[1]
    if abs(excess) > alignment.max_length_difference * rate:
        raise AudioError(
            f"{match.generated} is {generated.shape[1] / rate:.2f} s, its reference {reference.shape[1] / rate:.2f} s; "
            f"more than {alignment.max_length_difference:g} s apart they are not compared. --max-length-difference "
            "allows more."
        )
    if excess:
        notes.append(f"{abs(excess)} samples of the {'generated' if excess > 0 else 'reference'} cut to equal length")
    n_samples = min(generated.shape[1], reference.shape[1])
    generated, reference = generated[:, :n_samples], reference[:, :n_samples]
    pair = Pair(generated, reference, rate, text=match.text, recogniser=recogniser)
    return _check_lag(pair, match, alignment, notes)


def _check_lag(pair: Pair, match: Match, alignment: AlignmentOptions, notes: list[str]) -> LoadedPair:
    lag = lag_ms(pair)
    if alignment.align and lag:
        shift = round(lag * pair.sample_rate / 1000)
        # Positive: the generated is late, so its beginning goes, and zeros take the place of what comes after its end.
        moved = functional.pad(pair.generated, (-shift, shift))
        notes.append(f"moved by {-lag:.1f} ms")
        pair = Pair(moved, pair.reference, pair.sample_rate, text=pair.text, recogniser=pair.recogniser)
        return LoadedPair(pair, notes)
    if abs(lag) > alignment.max_lag_ms:
        raise AudioError(
            f"{match.generated} comes {lag:.0f} ms after its reference; beyond {alignment.max_lag_ms:g} ms metrics "
            "compare other sounds. --align undoes the lag, --max-lag allows more."
        )
    return LoadedPair(pair, notes)


def _clipping(audio: Tensor) -> str:
    full_scale = audio.abs() >= 1 - 2**-15
    clipped = full_scale.shape[1] >= _CLIPPED_SAMPLES and bool(full_scale.unfold(1, _CLIPPED_SAMPLES, 1).all(2).any())
    return f"clipped: {int(full_scale.sum())} samples at full scale" if clipped else ""


def read_timings(path: Path) -> dict[str, float]:
    """Read how long syntheses took from what `audiodiff vocode` or `generate` printed.

    Args:
        path: A file with its standard output.

    Returns:
        Absolute path of each written file to the seconds its synthesis took.

    Raises:
        DataError: If the file cannot be read or has no such line.
    """
    lines = [line for _, line in read_lines(path)]
    found = {
        os.path.abspath(match["path"]): float(match["seconds"]) for line in lines if (match := _TIMING.match(line))
    }
    if not found:
        raise DataError(
            f"{path} has no line that states a synthesis time. Give the saved output of `audiodiff vocode`."
        )
    return found
