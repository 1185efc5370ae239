"""Manifests: what recordings there are, one JSON object per line, and how they are found in a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from audiodiff.audio.io import audio_info, find_audio, replacing
from audiodiff.config.base import problems
from audiodiff.data.parallel import parallel_map
from audiodiff.errors import AudioError, DataError
from audiodiff.text import read_lines


class Synthesis(BaseModel):
    """How a clip was made that no one recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="the model's folder, as it was given")
    sha256: str = Field(description="of its weights and configuration")
    seed: int
    nearest: str | None = Field(None, description="the training clip that it is most like")
    similarity: float | None = Field(None, description="how alike they are: 1 is a copy (`evaluation/nearest.py`)")


class Recording(BaseModel):
    """One line of a manifest.

    In the file, the paths of `audio`, `mel` and `vector` are relative to the manifest's folder; in memory they can be
    opened as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    audio: Path = Field(description="the audio file")
    seconds: float = Field(gt=0)
    sample_rate: int = Field(gt=0, description="of the file, in Hz")
    n_samples: int | None = Field(None, gt=0, description="at the file's own rate")
    channels: int | None = Field(None, gt=0)
    speaker: str | None = Field(None, description="who is heard, for models with speakers")
    label: str | None = Field(None, description="class name, for models with labels")
    vector: Path | tuple[float, ...] | None = Field(
        None, description="for models with vector_width: a .npy file of so many numbers, or the numbers themselves"
    )
    text: str | None = None
    mel: Path | None = Field(None, description="a precomputed mel of this recording; training computes its own")
    mel_convention: str | None = Field(
        None, description="what `mel` follows, as `audiodiff.config.mel_convention` names it"
    )
    bandwidth: float | None = Field(
        None, gt=0, description="Hz above which there is nothing, as in speech upsampled from 16 kHz (8000)"
    )
    synthesis: Synthesis | None = Field(None, description="how it was made, if a model made it")

    @field_validator("audio", "mel", "vector")
    @classmethod
    def _is_a_name(cls, value: object) -> object:
        if "\0" in str(value):
            raise ValueError(f"no file can have a NUL in its name, as {str(value)!r} has")
        return value


class Scan(NamedTuple):
    """What a folder holds: recordings, and the files that cannot be read with the reason."""

    recordings: list[Recording]
    unreadable: list[tuple[Path, str]]


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
    recordings = []
    for number, line in read_lines(path):
        recording = _parse(line, f"{path}:{number}")
        paths = {name: path.parent / value for name, value in _paths(recording).items()}
        recordings.append(recording.model_copy(update=paths))
    return recordings


def _parse(line: str, where: str) -> Recording:
    try:
        return Recording.model_validate_json(line)
    except ValidationError as error:
        found = "; ".join(problems(error)).replace("(top level)", "line")
        raise DataError(f"{where} is no recording: {found}. Write manifests with `audiodiff prepare`.") from error


def _paths(recording: Recording) -> dict[str, Path]:
    return {name: value for name in ("audio", "mel", "vector") if isinstance(value := getattr(recording, name), Path)}


def write_manifest(path: str | Path, recordings: Iterable[Recording]) -> None:
    """Write a manifest, whole or not at all; its folder is made if it is not there.

    Args:
        path: The .jsonl file.
        recordings: What goes in; paths are stored relative to the manifest's folder wherever that is possible.

    Raises:
        DataError: If a recording is invalid, or two are of the same file.
    """
    path = Path(path)
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


def scan_folder(folder: str | Path, workers: int = 1, on_file: Callable[[int, int], None] | None = None) -> Scan:
    """Read the headers of all audio files of a folder and its subfolders.

    Args:
        folder: The folder.
        workers: How many files are read at once.
        on_file: Called after each file with how many have been read, and how many there are.

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
    for number, (path, found) in enumerate(zip(paths, parallel_map(_probe_or_say_why, paths, workers), strict=True), 1):
        if isinstance(found, Recording):
            scan.recordings.append(found)
        else:
            scan.unreadable.append((path, found))
        if on_file:
            on_file(number, len(paths))
    return scan


def _probe_or_say_why(path: Path) -> Recording | str:
    try:
        return probe(path)
    except AudioError as error:
        return str(error)


def probe(path: Path) -> Recording:
    """Read the header of one audio file.

    Args:
        path: The file.

    Returns:
        The recording, with nothing known of it but its length, rate and channels.

    Raises:
        AudioError: If the file cannot be read, or no manifest could hold its name.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise AudioError(f"{str(path)!a} is no UTF-8, so no manifest can hold it. Rename the file.") from error
    info = audio_info(path)
    return Recording(
        audio=path,
        seconds=info.seconds,
        sample_rate=info.sample_rate,
        n_samples=info.n_samples,
        channels=info.channels,
    )
