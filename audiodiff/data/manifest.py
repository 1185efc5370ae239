"""Manifests: what recordings there are, one JSON object per line, and how they are found in a folder and split."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from audiodiff.audio.io import audio_info, find_audio
from audiodiff.audio.replacing import replacing
from audiodiff.errors import AudioError, DataError

SPEAKERS_TO_SPLIT_BY = 10
"""With fewer speakers than this, holding one out would cost over a tenth of the data: files are held out instead."""


class Recording(BaseModel):
    """One line of a manifest.

    In the file, `audio` and `mel` are relative to the manifest's folder; in memory they can be opened as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    audio: Path = Field(description="the audio file")
    seconds: float = Field(gt=0)
    sample_rate: int = Field(gt=0, description="of the file, in Hz")
    n_samples: int | None = Field(None, gt=0, description="at the file's own rate")
    channels: int | None = Field(None, gt=0)
    speaker: str | None = None
    label: str | None = Field(None, description="class name, for models with labels")
    text: str | None = None
    mel: Path | None = Field(None, description="a precomputed mel of this recording; training computes its own")
    bandwidth: float | None = Field(
        None, gt=0, description="Hz above which there is nothing, as in speech upsampled from 16 kHz (8000)"
    )


class Scan(NamedTuple):
    """What a folder holds: recordings, and the files that cannot be read with the reason."""

    recordings: list[Recording]
    unreadable: list[tuple[Path, str]]


class Split(NamedTuple):
    """Recordings to train on, to watch training with, and to keep for the end."""

    train: list[Recording]
    valid: list[Recording]
    test: list[Recording]


def read_manifest(path: str | Path) -> list[Recording]:
    """Read a manifest.

    Args:
        path: The .jsonl file.

    Returns:
        Its recordings in order, with paths that no longer depend on the manifest's folder.

    Raises:
        DataError: If the file cannot be read, or a line is no recording; the message names the line.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest: {error}. `audiodiff prepare` writes manifests."
        ) from error
    recordings = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            recording = _parse(line, f"{path}:{number}")
            paths = {name: path.parent / value for name, value in _paths(recording).items()}
            recordings.append(recording.model_copy(update=paths))
    return recordings


def _parse(line: str, where: str) -> Recording:
    try:
        return Recording.model_validate_json(line)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc'])) or 'line'}: {item['msg']}" for item in error.errors())
        raise DataError(f"{where} is no recording: {problems}. Write manifests with `audiodiff prepare`.") from error


def _paths(recording: Recording) -> dict[str, Path]:
    return {name: value for name in ("audio", "mel") if (value := getattr(recording, name)) is not None}


def write_manifest(path: str | Path, recordings: Iterable[Recording]) -> None:
    """Write a manifest, whole or not at all; its folder is made if it is not there.

    Args:
        path: The .jsonl file.
        recordings: What goes in; paths are stored relative to the manifest's folder wherever that is possible.

    Raises:
        DataError: If a recording is invalid, or two are of the same file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: dict[str, str] = {}
    for recording in recordings:
        paths = {name: _relative(value, path.parent) for name, value in _paths(recording).items()}
        line = json.dumps(recording.model_dump(exclude_none=True) | paths, ensure_ascii=False)
        if paths["audio"] in lines:
            raise DataError(f"{recording.audio} is twice in what was to become {path}. Remove one of them.")
        lines[paths["audio"]] = line
        _parse(line, f"the entry for {recording.audio}")
    with replacing(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines.values()), encoding="utf-8")


def _relative(path: Path, folder: Path) -> str:
    """Return a path relative to a folder, or absolute where no such path exists (on another drive)."""
    absolute = (
        Path(os.path.realpath(path.parent)) / path.name
    )  # links among folders would mislead "..", links to files not
    try:
        return Path(os.path.relpath(absolute, os.path.realpath(folder))).as_posix()
    except ValueError:
        return absolute.as_posix()


def scan_folder(folder: str | Path) -> Scan:
    """Read the headers of all audio files of a folder and its subfolders.

    Args:
        folder: The folder.

    Returns:
        The recordings in order of their paths, and the unreadable files with the reason for each.

    Raises:
        DataError: If there is no such folder.
    """
    try:
        paths = find_audio(folder)
    except AudioError as error:
        raise DataError(str(error)) from error
    scan = Scan([], [])
    for path in paths:
        try:
            str(path).encode()
            info = audio_info(path)
        except UnicodeEncodeError:
            scan.unreadable.append((path, f"{str(path)!a} is no UTF-8, so no manifest can hold it. Rename the file."))
        except AudioError as error:
            scan.unreadable.append((path, str(error)))
        else:
            scan.recordings.append(
                Recording(
                    audio=path,
                    seconds=info.seconds,
                    sample_rate=info.sample_rate,
                    n_samples=info.n_samples,
                    channels=info.channels,
                )
            )
    return scan


def split(
    recordings: Sequence[Recording],
    valid_share: float,
    test_share: float = 0.0,
    seed: int = 0,
    *,
    root: str | Path | None = None,
) -> Split:
    """Divide recordings by a hash of their path, so that files added later do not move the others.

    Where at least `SPEAKERS_TO_SPLIT_BY` speakers are known, all recordings of a speaker go the same way. A part with a
    share gets at least one recording, or speaker, even of a corpus that is too small for it.

    Args:
        recordings: What is to be divided.
        valid_share: Share of the validation part, 0 to 1.
        test_share: Share of the test part, 0 to 1.
        seed: Another seed is another division.
        root: The folder that paths are taken relative to, so that moving a corpus does not change its division.

    Returns:
        The parts, each in the order of `recordings`.

    Raises:
        DataError: If the shares are impossible.
    """
    if min(valid_share, test_share) < 0 or valid_share + test_share >= 1:
        raise DataError(
            f"cannot hold out shares of {valid_share} and {test_share}; each is at least 0, their sum below 1."
        )
    by_speaker = len({recording.speaker for recording in recordings} - {None}) >= SPEAKERS_TO_SPLIT_BY
    keys = [_split_key(recording, by_speaker, root) for recording in recordings]
    place = {
        key: int.from_bytes(blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "big") / 2**64 for key in keys
    }
    order = sorted(place, key=lambda key: (place[key], key))
    n_test = max(sum(place[key] < test_share for key in order), test_share > 0)
    n_held_out = max(sum(place[key] < test_share + valid_share for key in order), n_test + (valid_share > 0))
    part_of = dict.fromkeys(order, 0) | dict.fromkeys(order[:n_held_out], 1) | dict.fromkeys(order[:n_test], 2)
    parts = Split([], [], [])
    for recording, key in zip(recordings, keys, strict=True):
        parts[part_of[key]].append(recording)
    return parts


def _split_key(recording: Recording, by_speaker: bool, root: str | Path | None) -> str:
    if by_speaker and recording.speaker is not None:
        return f"speaker {recording.speaker}"
    path = recording.audio if root is None else Path(os.path.relpath(recording.audio, root))
    return f"file {path.as_posix()}"


def split_by_names(recordings: Sequence[Recording], valid: Iterable[str], test: Iterable[str] = ()) -> Split:
    """Divide recordings by lists of file names without extension, as of published splits; the rest is for training.

    Args:
        recordings: What is to be divided.
        valid: Names of the validation part.
        test: Names of the test part.

    Returns:
        The parts, each in the order of `recordings`.

    Raises:
        DataError: If a name is in both lists, or belongs to no recording.
    """
    names = {"valid": set(valid), "test": set(test)}
    if both := names["valid"] & names["test"]:
        raise DataError(f"{sorted(both)[0]} is in the validation list and in the test list. Leave it in one.")
    stems = {recording.audio.stem for recording in recordings}
    if unknown := (names["valid"] | names["test"]) - stems:
        raise DataError(
            f"{len(unknown)} names of the lists belong to no recording, such as {sorted(unknown)[0]}. "
            "List file names without folder and extension, one per line."
        )
    parts = Split([], [], [])
    for recording in recordings:
        part = next((part for part, listed in names.items() if recording.audio.stem in listed), "train")
        getattr(parts, part).append(recording)
    return parts
