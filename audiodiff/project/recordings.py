"""The recordings of a project: which can be used, what kind of sound they are, their labels, and what is held out."""

from __future__ import annotations

import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch

from audiodiff.audio.io import load_audio, make_folder, save_audio
from audiodiff.choices import ProjectKind
from audiodiff.data.doctor import Examined, Finding, Source, examine
from audiodiff.data.features import decode_with_ffmpeg
from audiodiff.data.manifest import FOREIGN_EXTENSIONS, Recording, Scan, probe, scan_folder
from audiodiff.data.measure import Measurement
from audiodiff.errors import AudioError, DataError

LONG = 20.0
"""Seconds from which a recording is cut into pieces, so that parts of it can be held out and listened to."""
_PIECE = (6.0, 12.0)
"""Shortest and longest piece, in seconds."""
_ONE_SHOT = 1.6
"""Median seconds up to which recordings are taken for one-shots."""
PEAK = 10 ** (-1 / 20)
"""Of the one-shots that are trained on and scored, as data.peak_db of their training."""
_SHORTEST = 0.05
"""Seconds under which nothing can be heard of a sound."""
_STEADY = 0.82
"""Median likeness of spectra 0.1 s apart from which recordings are taken for notes of an instrument."""
_LEAST = 3
"""Recordings that make a project: one to train on, one to watch training with, one to score."""
_ALONE = 40.0
"""Seconds from which one recording is cut into so many pieces at least."""
_NOTED = {"clipped", "beyond full scale", "quiet", "offset", "silent ends"}
"""Findings of the doctor that are worth a line here; others are dealt with, or do not matter."""


class Look(NamedTuple):
    """What is in a folder of recordings.

    Attributes:
        usable: What was examined and can be trained on.
        left_out: Why the others cannot, one sentence each.
        notes: What is amiss with the usable ones.
    """

    usable: list[Examined]
    left_out: list[str]
    notes: list[Finding]


def look(
    sources: Sequence[Path], project: Path, workers: int, on_file: Callable[[int, int], None] = lambda done, total: None
) -> Look:
    """Read and examine all recordings.

    Args:
        sources: Folders and files. Formats that only ffmpeg reads are converted if it is installed.
        project: The folder of the project, in which nothing is looked for.
        workers: Files at a time.
        on_file: Called after each file with how many are done, and how many there are.

    Returns:
        What can be used, and what cannot.
    """
    scan = Scan([], [])
    for source in sources:
        found = _scan(source, project, workers)
        scan.recordings.extend(found.recordings)
        scan.unreadable.extend(found.unreadable)
    total = len(scan.recordings)
    done = iter(range(1, total + 1))
    report = examine([Source("recordings", scan.recordings)], _SHORTEST, workers, lambda: on_file(next(done), total))
    readable = {one.recording.audio for one in report.examined}
    left_out = [reason for _, reason in scan.unreadable]
    left_out += [f"{one.audio}: its samples cannot be read." for one in scan.recordings if one.audio not in readable]
    usable: list[Examined] = []
    first_of: dict[str, Path] = {}
    for one in report.examined:
        first = first_of.setdefault(one.measured.digest, one.recording.audio)
        reason = _unusable(one.measured)
        if not reason and first != one.recording.audio:
            reason = f"is a copy of {first}."
        if reason:
            left_out.append(f"{one.name} {reason}")
        else:
            usable.append(one)
    names = {one.name for one in usable}
    notes = [
        finding
        for finding in report.findings
        if finding.check in _NOTED and any(file in names for file in finding.files)
    ]
    return Look(usable, left_out, notes)


def _scan(source: Path, project: Path, workers: int) -> Scan:
    def convert(path: Path) -> Path:
        folder = Path(*path.absolute().parent.parts[1:])  # the whole path, and the extension: others have the same name
        return decode_with_ffmpeg(path, project / "converted" / folder / f"{path.name}.flac")

    if source.is_dir():
        return scan_folder(source, workers, convert=convert, without=project, decode=True)
    try:
        if source.suffix.lower() in FOREIGN_EXTENSIONS:
            source = convert(source)
        return Scan([probe(source, decode=True)], [])
    except AudioError as error:
        return Scan([], [(source, str(error))])


def _unusable(measured: Measurement) -> str | None:
    if measured.seconds < _SHORTEST:
        return f"is only {1000 * measured.seconds:.0f} ms long."
    if measured.silent:
        return "is silent."
    if measured.peak >= 8:
        return "holds whole numbers as floating point; divide them by their full scale, such as 32768."
    return None


def guess_kind(usable: Sequence[Examined]) -> tuple[ProjectKind, str]:
    """Guess what kind of sound recordings are: their length tells one-shots, steady spectra an instrument.

    Returns:
        The kind, and what tells it, as the end of a sentence.
    """
    length = statistics.median(one.measured.seconds for one in usable)
    if length <= _ONE_SHOT:
        return "one-shots", f"half of them are no longer than {length:.1f} s"
    every = max(1, len(usable) // 20)
    steadiness = statistics.median(_steadiness(one.recording.audio) for one in usable[::every])
    if steadiness >= _STEADY:
        return "instrument", "their spectra hold still, as those of notes do"
    return "voice", "their spectra move as those of speech do"


def _steadiness(path: Path) -> float:
    """Return the median cosine between magnitude spectra 0.1 s apart, of the loud frames of the first 20 s."""
    rate = 16000
    audio = load_audio(path, rate)[0, : 20 * rate]
    hop = rate // 10
    if len(audio) < 3 * hop:
        return 0.0
    frames = torch.stft(audio, 2048, hop, window=torch.hann_window(2048), return_complex=True).abs()
    level = frames.square().sum(0)
    loud = (level[1:] > 0.01 * level.max()) & (level[:-1] > 0.01 * level.max())
    likeness = torch.cosine_similarity(frames[:, 1:], frames[:, :-1], dim=0)[loud]
    return float(likeness.median()) if len(likeness) else 0.0


def cut(one: Examined, folder: Path, kind: ProjectKind, *, as_it_is: bool) -> list[Recording]:
    """Cut a long recording into pieces of 6 to 12 s, each at the quietest place.

    Args:
        one: The recording.
        folder: Where pieces and copies go, as FLAC of 24 bits.
        kind: What it is. A one-shot is not cut but copied, with a peak of -1 dBFS, at which generators make theirs.
        as_it_is: Whether a short recording may stay as it is; else it is copied, under a name of its own.

    Returns:
        The recording, its copy or its pieces, with what is known of its bandwidth.
    """
    band = one.measured.bandwidth
    noted = {"bandwidth": None if band is None else float(round(band))}
    is_long = one.measured.seconds >= LONG and kind != "one-shots"
    if as_it_is and not is_long and kind != "one-shots":
        return [one.recording.model_copy(update=noted)]
    rate = one.measured.sample_rate
    audio = load_audio(one.recording.audio)[0]
    peak = float(audio.abs().max())
    gain = PEAK / peak if kind == "one-shots" and peak else 1 / max(1.0, peak)
    name = blake2b(os.fsencode(one.recording.audio.absolute()), digest_size=3).hexdigest()  # of two folders' 01.wav
    make_folder(folder)
    pieces = []
    for number, (start, end) in enumerate(_pieces(audio, rate) if is_long else [(0, len(audio))], 1):
        path = folder / f"{one.recording.audio.stem}-{name}{f'-{number:03}' * is_long}.flac"
        save_audio(path, gain * audio[start:end], rate, "PCM_24")
        pieces.append(probe(path).model_copy(update=noted))
    return pieces


def _pieces(audio: torch.Tensor, rate: int) -> Iterator[tuple[int, int]]:
    """Yield where the pieces of `(time,)` begin and end."""
    shortest, longest = (round(seconds * rate) for seconds in _PIECE)
    frame = max(1, rate // 20)
    start = 0
    while len(audio) - start > 1.5 * longest:
        window = audio[start + shortest : start + longest]
        energy = window[: len(window) // frame * frame].reshape(-1, frame).square().sum(1)
        end = start + shortest + int(energy.argmin()) * frame + frame // 2
        yield start, end
        start = end
    yield start, len(audio)


def labels_of(paths: Sequence[Path], roots: Sequence[Path], known: Sequence[str]) -> list[str]:
    """Name each sound: by its folder below the roots, or else by a word of its file's name.

    Args:
        paths: The audio files.
        roots: The folders that were given.
        known: Labels of the bundled models, which count before other words of a name.

    Returns:
        A label each; one label for all, "sound", where names tell nothing.
    """
    folders = [path.parent.resolve() for path in paths]
    if len(set(folders)) > 1 and not {*folders} & {*roots}:
        labels = [re.sub(r"\W+", "-", folder.name.lower()).strip("-") or "sound" for folder in folders]
        if not all(_word(path.stem, known) in known for path in paths):  # folders may be drum machines
            return labels
    labels = [_word(path.stem, known) for path in paths]
    return labels if len(set(labels)) <= max(1, len(labels) // 2) else ["sound"] * len(labels)


def _word(name: str, known: Sequence[str]) -> str:
    words = [word for word in re.split(r"[\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()) if word]
    joined = ["".join(pair) for pair in pairwise(words)]  # hi hat
    return next((word for word in [*joined, *words] if word in known), words[0] if words else "sound")


def hold_out(recordings: Sequence[Recording], origins: Sequence[str], kind: ProjectKind) -> dict[str, list[Recording]]:
    """Divide recordings into train, valid and test: three in ten to score, up to 12, and one in ten to watch, up to 8.

    The order is a hash of the names, so the same folder is always divided alike. Pieces of one recording stay together
    where there are ten recordings or more. Of one-shots, no label loses its last recording to train on.

    Args:
        recordings: All of them.
        origins: What each is a piece of.
        kind: What they are.

    Returns:
        The recordings of each part.

    Raises:
        DataError: If there are too few.
    """
    if len(recordings) < _LEAST:
        raise DataError(
            f"{len(recordings)} usable recordings are too few: one is trained on, one watched, one scored. Give "
            f"{_LEAST} or more, or one of {_ALONE:g} s or more, which is cut into pieces. Twenty are a good beginning."
        )
    keys = list(origins) if len(set(origins)) >= 10 else [str(recording.audio.name) for recording in recordings]
    order = sorted(set(keys), key=lambda key: blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest())
    left = Counter(recording.label for recording in recordings)
    labels = dict(zip(keys, (recording.label for recording in recordings), strict=True))
    n_test = min(12, max(1, round(0.3 * len(order))))
    n_valid = min(8, max(1, round(0.1 * len(order))))
    part_of: dict[str, str] = {}
    for key in order:
        if kind == "one-shots" and left[labels[key]] < 2:
            continue
        if len(part_of) < n_test + n_valid:
            part_of[key] = "test" if len(part_of) < n_test else "valid"
            left[labels[key]] -= 1
    parts: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
    for key, recording in zip(keys, recordings, strict=True):
        parts[part_of.get(key, "train")].append(recording)
    if empty := [part for part, held in parts.items() if not held]:
        raise DataError(f"{len(recordings)} recordings leave none for {empty[0]}. Give two or more of a label.")
    return parts
