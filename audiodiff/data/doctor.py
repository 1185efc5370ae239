"""Checks on training data, per file and across files."""

from __future__ import annotations

import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiodiff.audio.io import LARGE_DC
from audiodiff.data.crops import FULL_BAND
from audiodiff.data.manifest import Recording
from audiodiff.data.measure import Measurement, measure
from audiodiff.data.mels import unfit_mels
from audiodiff.data.parallel import parallel_map
from audiodiff.data.splits import SPEAKERS_TO_SPLIT_BY
from audiodiff.errors import AudioError, NotFiniteError

CLIPPED_FRACTION = 1e-4
"""Fraction of samples in flat tops from which a recording counts as clipped: a few in every second."""
LONG_SILENCE = 1.0
"""Seconds of silence at either end that are too long."""
FAR_LEVEL = 12.0
"""dB from the median level that are far, unless levels vary that much anyway."""
INTEGER_SCALE = 8.0
"""Peak from which samples were never divided by the full scale of integers, which is far above any mistake in gain."""
QUIET = -55.0
"""dB of full scale under which a recording is too quiet: speech is usually recorded at -40 to -15 dB."""


@dataclass(frozen=True)
class Source:
    """A manifest or a folder.

    Attributes:
        part: What it is for, such as train or test: the manifest's name.
        recordings: What it lists.
        unreadable: Files whose header cannot be read, with the reason.
    """

    part: str
    recordings: Sequence[Recording]
    unreadable: Sequence[tuple[Path, str]] = ()


@dataclass(frozen=True)
class Finding:
    """Something to know before training.

    Attributes:
        check: Which check found it.
        is_error: Whether training would fail or mean nothing; else it is for the user to judge.
        found: What was found.
        advice: What to do.
        files: Where.
    """

    check: str
    is_error: bool
    found: str
    advice: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examined:
    """One recording of a part, as listed and as measured."""

    part: str
    recording: Recording
    measured: Measurement

    @property
    def name(self) -> str:
        """The path of the audio file."""
        return str(self.recording.audio)


@dataclass(frozen=True)
class Report:
    """What is there, and what was found.

    Attributes:
        examined: All recordings that can be read.
        findings: Errors first.
    """

    examined: list[Examined]
    findings: list[Finding]

    @property
    def is_error(self) -> bool:
        """Whether anything must be fixed before training."""
        return any(finding.is_error for finding in self.findings)


def examine(
    sources: Sequence[Source],
    crop_seconds: float,
    workers: int = 1,
    on_file: Callable[[], object] = lambda: None,
) -> Report:
    """Measure all recordings and check them.

    Args:
        sources: Manifests and folders; a file in several is measured once.
        crop_seconds: Length of a training crop.
        workers: Files measured at once.
        on_file: Called after each file, mels too.

    Returns:
        The report.
    """
    paths = list(dict.fromkeys(recording.audio for source in sources for recording in source.recordings))
    measured: dict[Path, Measurement] = {}
    broken = [pair for source in sources for pair in source.unreadable]
    not_finite: list[tuple[Path, str]] = []
    for path, result in zip(paths, parallel_map(_measure, paths, workers), strict=True):
        if isinstance(result, Measurement):
            measured[path] = result
        else:
            (not_finite if isinstance(result, NotFiniteError) else broken).append((path, str(result)))
        on_file()
    examined = [
        Examined(source.part, recording, measured[recording.audio])
        for source in sources
        for recording in source.recordings
        if recording.audio in measured
    ]
    findings = [
        *_unreadable(broken, not_finite),
        *_mels([recording for source in sources for recording in source.recordings], workers, on_file),
        *_per_part(examined),
        *_per_recording(examined, crop_seconds),
        *_as_a_whole(examined),
    ]
    return Report(examined, sorted(findings, key=lambda finding: not finding.is_error))


def _measure(path: Path) -> Measurement | AudioError:
    try:
        return measure(path)
    except AudioError as error:
        return error


def _unreadable(broken: Sequence[tuple[Path, str]], not_finite: Sequence[tuple[Path, str]]) -> Iterator[Finding]:
    for check, found, words in (
        ("unreadable", broken, "cannot be read"),
        ("not finite", not_finite, "have samples that are NaN or infinite"),
    ):
        if found:
            yield Finding(
                check,
                True,
                f"{len(found)} files {words}; the first: {found[0][1]}",
                "Repair or remove them, and write the manifests again.",
                tuple(str(path) for path, _ in found),
            )


def _mels(recordings: Sequence[Recording], workers: int, on_file: Callable[[], object]) -> Iterator[Finding]:
    """Check the mels that manifests name."""
    if unfit := unfit_mels(recordings, None, workers, on_file):
        yield Finding(
            "mels",
            True,
            f"{len(unfit)} mels do not fit their recording or convention; the first: {unfit[0][1]}",
            "Write them again, or leave them out of the manifest.",
            tuple(os.path.relpath(recording.mel or recording.audio) for recording, _ in unfit),
        )
    without = [recording for recording in recordings if recording.mel is None]
    if 0 < len(without) < len(recordings):
        yield Finding(
            "some mels",
            False,
            f"{len(without)} of {len(recordings)} recordings have no mel, unlike the others",
            "Training computes the mels of these. Is that intended?",
            tuple(os.path.relpath(recording.audio) for recording in without),
        )


def _per_recording(examined: Sequence[Examined], crop_seconds: float) -> Iterator[Finding]:
    """Check each recording by itself."""
    short: _Check = (
        "short",
        False,
        lambda one: one.measured.seconds < crop_seconds,
        f"are shorter than a crop of {crop_seconds:g} s, and will be padded with zeros",
        "Set data.crop_seconds lower, or join them. For a generator of short clips this is as it should be.",
    )
    for check, is_error, concerns, words, advice in (*_CHECKS, short):
        if found := [one for one in examined if concerns(one)]:
            yield Finding(check, is_error, _count(found, examined, words), advice, _names(found))


def _differs_from_manifest(one: Examined) -> bool:
    stated, found = one.recording, one.measured
    return stated.sample_rate != found.sample_rate or (stated.n_samples or found.n_samples) != found.n_samples


def _hides_its_band(one: Examined) -> bool:
    band = one.measured.bandwidth
    return (
        band is not None
        and band < 2 * FULL_BAND * one.measured.sample_rate / 2
        and (one.recording.bandwidth is None or one.recording.bandwidth > 1.1 * band)
    )


_Check = tuple[str, bool, Callable[[Examined], bool], str, str]
"""A name, whether it must be mended, what it concerns, what is found in words, and advice."""

_CHECKS: tuple[_Check, ...] = (
    (
        "changed",
        True,
        _differs_from_manifest,
        "have another length or rate than their manifest says",
        "Write the manifest again: `audiodiff prepare`, or the corpus' recipe.",
    ),
    (
        "silent",
        True,
        lambda one: one.measured.silent,
        "hold nothing above -60 dB of full scale",
        "Remove them: a model learns to be silent from them.",
    ),
    (
        "scale",
        True,
        lambda one: one.measured.peak >= INTEGER_SCALE,
        "hold whole numbers as floating point, far beyond ±1",
        "Divide them by their full scale (32768 for 16 bits), and write them again.",
    ),
    (
        "header",
        False,
        lambda one: bool(one.measured.notes),
        "have a header that was never finished or is wrong; what is there is read",
        "Write them again, for example with `ffmpeg -i in.wav out.wav`; other programs may read less of them.",
    ),
    (
        "beyond full scale",
        False,
        lambda one: 1 < one.measured.peak < INTEGER_SCALE,
        "go beyond ±1",
        "Make them quieter: what is made will go beyond it too, and is clipped when it is written.",
    ),
    (
        "quiet",
        False,
        lambda one: one.measured.level is not None and one.measured.level < QUIET,
        f"are quieter than {QUIET:g} dB of full scale",
        "Make them louder if their noise allows it, or remove them.",
    ),
    (
        "clipped",
        False,
        lambda one: one.measured.clipped_fraction > CLIPPED_FRACTION,
        "have cut-off peaks",
        "Take them from a quieter source, or remove them: what is made will crackle like them.",
    ),
    (
        "offset",
        False,
        lambda one: abs(one.measured.dc) > LARGE_DC * max(1.0, one.measured.peak),
        "have a DC offset above 1 % of full scale",
        "High-pass them at 20 Hz: augmentation by polarity makes two kinds of recordings of one.",
    ),
    (
        "silent ends",
        False,
        lambda one: not one.measured.silent and max(one.measured.lead, one.measured.tail) > LONG_SILENCE,
        f"begin or end with more than {LONG_SILENCE:g} s of silence",
        "Trim them, or accept that some crops are silent.",
    ),
    (
        "band",
        False,
        _hides_its_band,
        "end well below half their sample rate, and no manifest says so",
        "Note it by --bandwidth of `audiodiff prepare` or the recipe; otherwise the model learns silence there.",
    ),
)


def _as_a_whole(examined: Sequence[Examined]) -> Iterator[Finding]:
    """Compare recordings with each other."""
    rates = Counter(one.measured.sample_rate for one in examined)
    if len(rates) > 1:
        usual = rates.most_common(1)[0][0]
        others = [one for one in examined if one.measured.sample_rate != usual]
        listed = ", ".join(f"{count} at {rate} Hz" for rate, count in rates.most_common())
        yield Finding(
            "mixed rates",
            False,
            f"there are several sample rates: {listed}",
            "Training resamples what it reads (data.resample) and leaves the band that a lower rate lacks out of the "
            "loss (data.mask_bandwidth); `--waves HZ` of a recipe resamples once and for all.",
            _names(others),
        )
    levels = {id(one): one.measured.level for one in examined if one.measured.level is not None}
    if len(levels) > 2:
        middle = statistics.median(levels.values())
        spread = 1.4826 * statistics.median(abs(level - middle) for level in levels.values())
        limit = max(FAR_LEVEL, 4 * spread)
        if far := [one for one in examined if abs(levels.get(id(one), middle) - middle) > limit]:
            yield Finding(
                "level",
                False,
                _count(far, examined, f"are over {limit:.0f} dB louder or quieter than the median of {middle:.0f} dB"),
                "Listen to them: they may be noise, or want another gain.",
                _names(far),
            )


def _per_part(examined: Sequence[Examined]) -> Iterator[Finding]:
    """Check what is in a part twice, and in two parts."""
    alike: dict[str, list[Examined]] = defaultdict(list)
    for one in examined:
        if not one.measured.silent:
            alike[one.measured.digest].append(one)
    groups = [group for group in alike.values() if len(group) > 1]
    if across := [one for group in groups if len({one.part for one in group}) > 1 for one in group]:
        parts = ", ".join(sorted({one.part for one in across}))
        yield Finding(
            "overlap",
            True,
            f"{len(across)} recordings with equal content are in more than one of {parts}",
            "Remove them from all but one: scores on what was trained on mean nothing.",
            _names(across),
        )
    if twice := [one for group in groups for one in group if sum(one.part == other.part for other in group) > 1]:
        yield Finding(
            "duplicates",
            False,
            _count(twice, examined, "are in a part more than once, by content"),
            "Remove the copies, unless they are to count more than once.",
            _names(twice),
        )
    yield from _shared_speakers(examined)


def _shared_speakers(examined: Sequence[Examined]) -> Iterator[Finding]:
    parts_of: dict[str, set[str]] = defaultdict(set)
    for one in examined:
        if one.recording.speaker is not None:
            parts_of[one.recording.speaker].add(one.part)
    shared = {speaker for speaker, parts in parts_of.items() if len(parts) > 1}
    if shared and len(parts_of) >= SPEAKERS_TO_SPLIT_BY:
        yield Finding(
            "speakers",
            False,
            f"{len(shared)} of {len(parts_of)} speakers are in more than one part, such as {min(shared)}",
            "Divide by speaker if the scores are to tell how new voices fare.",
            _names(one for one in examined if one.recording.speaker in shared),
        )


def _count(found: Sequence[Examined], examined: Sequence[Examined], words: str) -> str:
    return f"{len(found)} of {len(examined)} recordings {words}"


def _names(found: Iterable[Examined]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.relpath(one.name) for one in found))
