"""Which recordings belong together, and whether they can be compared at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from audiodiff.audio.io import audio_info, find_audio, load_audio
from audiodiff.audio.resample import resample
from audiodiff.data.manifest import read_manifest
from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.signal import SILENCE, lag_ms

LONGEST_DIFFERENCE_SECONDS = 0.1
"""By how much lengths may differ by default; several frames of any usual mel."""
LARGEST_LAG_MS = 50.0
"""By how much a recording may come early or late by default."""
_CLIPPED_SAMPLES = 3
"""So many samples in a row at full scale are called clipped."""


@dataclass(frozen=True)
class Limits:
    """What counts as comparable.

    Attributes:
        length_seconds: By how much lengths may differ; the longer is cut.
        lag_ms: How much earlier or later the generated may come.
        align: Whether a lag is undone before comparing, whatever its size.
    """

    length_seconds: float = LONGEST_DIFFERENCE_SECONDS
    lag_ms: float = LARGEST_LAG_MS
    align: bool = False


@dataclass(frozen=True)
class Match:
    """Two files of one name.

    Attributes:
        name: The path within both folders, without extension.
        generated: The generated file.
        reference: The original.
    """

    name: str
    generated: Path
    reference: Path


@dataclass(frozen=True)
class Comparable:
    """A pair that may be scored.

    Attributes:
        pair: The recordings.
        notes: What was done to them and what is odd about them, one line each.
    """

    pair: Pair
    notes: list[str]


def match_files(generated: Path, reference: Path) -> tuple[list[Match], list[tuple[str, str]]]:
    """Pair the recordings of two folders, manifests (.jsonl) or files by their names without extension.

    Where both are folders, subfolders count too: `a/1.wav` belongs to `a/1.flac`. Two single files always belong
    together.

    Returns:
        The pairs, sorted by name, and name and reason for every file that has no partner.

    Raises:
        DataError: If one of the two cannot be listed, holds no audio, or has two files of one name; or no file has a
            partner.
    """
    if generated.is_file() and reference.is_file() and ".jsonl" not in (generated.suffix, reference.suffix):
        return [Match(reference.stem, generated, reference)], []
    both_folders = generated.is_dir() and reference.is_dir()
    ours, theirs = (_by_name(path, with_folders=both_folders) for path in (generated, reference))
    alone = [(name, f"{theirs[name]} has no partner in {generated}.") for name in sorted(theirs.keys() - ours.keys())]
    alone += [(name, f"{ours[name]} has no partner in {reference}.") for name in sorted(ours.keys() - theirs.keys())]
    matches = [Match(name, ours[name], theirs[name]) for name in sorted(ours.keys() & theirs.keys())]
    if not matches:
        raise DataError(
            f"no file of {generated} ({_some(ours)}) has the name of one of {reference} ({_some(theirs)}). Files are "
            "paired by name without extension; rename one set."
        )
    return matches, alone


def _some(files: dict[str, Path]) -> str:
    return ", ".join(list(files)[:2]) + (" ..." if len(files) > 2 else "")


def _by_name(path: Path, *, with_folders: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in list_recordings(path):
        name = os.fspath(file.relative_to(path).with_suffix("")) if with_folders else file.stem
        if name in found:
            raise DataError(
                f"{found[name]} and {file} have one name, {name}; which one is meant? Rename or remove one."
            )
        found[name] = file
    return found


def list_recordings(path: Path) -> list[Path]:
    """List the recordings of a folder and its subfolders, a manifest or a file.

    Raises:
        DataError: If there is none.
    """
    if path.suffix == ".jsonl":
        found = [recording.audio for recording in read_manifest(path)]
    elif path.is_file():
        found = [path]
    elif path.is_dir():
        found = find_audio(path)
    else:
        raise DataError(f"{path} does not exist; expected a folder of audio, a manifest (.jsonl) or an audio file.")
    if not found:
        raise DataError(f"{path} holds no audio. Check the path.")
    return found


def load_pair(match: Match, limits: Limits) -> Comparable:
    """Read two files and bring them to the reference's rate and the shorter one's length.

    Args:
        match: The files.
        limits: What counts as comparable.

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
    if abs(excess) > limits.length_seconds * rate:
        raise AudioError(
            f"{match.generated} is {generated.shape[1] / rate:.2f} s, its reference {reference.shape[1] / rate:.2f} s; "
            f"more than {limits.length_seconds:g} s apart they are not compared. --max-length-difference allows more."
        )
    if excess:
        notes.append(f"{abs(excess)} samples of the {'generated' if excess > 0 else 'reference'} cut to equal length")
    n_samples = min(generated.shape[1], reference.shape[1])
    pair = Pair(generated[:, :n_samples], reference[:, :n_samples], rate)
    return _check_lag(pair, match, limits, notes)


def _check_lag(pair: Pair, match: Match, limits: Limits, notes: list[str]) -> Comparable:
    lag = lag_ms(pair)
    if limits.align and lag:
        shift = round(lag * pair.sample_rate / 1000)
        # Positive: the generated is late, so its beginning goes, and zeros take the place of what comes after its end.
        moved = functional.pad(pair.generated, (-shift, shift))
        notes.append(f"moved by {-lag:.1f} ms")
        return Comparable(Pair(moved, pair.reference, pair.sample_rate), notes)
    if abs(lag) > limits.lag_ms:
        raise AudioError(
            f"{match.generated} comes {lag:.0f} ms after its reference; beyond {limits.lag_ms:g} ms metrics compare "
            "other sounds. --align undoes the lag, --max-lag allows more."
        )
    return Comparable(pair, notes)


def _clipping(audio: Tensor) -> str:
    flat = audio.abs() >= 1 - 2**-15
    clipped = flat.shape[1] >= _CLIPPED_SAMPLES and bool(flat.unfold(1, _CLIPPED_SAMPLES, 1).all(2).any())
    return f"clipped: {int(flat.sum())} samples at full scale" if clipped else ""
