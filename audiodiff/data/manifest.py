"""Manifests: what recordings there are, one JSON object per line, and how they are found in a folder."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from audiodiff.audio.io import AUDIO_EXTENSIONS, audio_info, replacing
from audiodiff.config.base import problems
from audiodiff.data.parallel import parallel_map
from audiodiff.errors import AudioError, DataError
from audiodiff.text import parse_json, read_lines

FOREIGN_EXTENSIONS = (
    *(".3g2", ".3gp", ".aa", ".aac", ".aax", ".ac3", ".adts", ".amr", ".ape", ".asf", ".avi", ".dff", ".dsf", ".dts"),
    *(".eac3", ".f4a", ".f4v", ".flv", ".gsm", ".m2ts", ".m4a", ".m4b", ".m4p", ".m4r", ".m4v", ".mka", ".mkv", ".mov"),
    *(".mp2", ".mp4", ".mpc", ".mpeg", ".mpg", ".mts", ".oma", ".ogv", ".qt", ".ra", ".rm", ".shn", ".spx", ".tak"),
    *(".tta", ".vob", ".voc", ".webm", ".wma", ".wmv", ".wv"),
)
"""Audio, and video with sound, that is left out unless ffmpeg converts it; in lower case."""
_HEADS = (b"RIFF", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b".snd", b"\x1aE\xdf\xa3", b"#!AMR", b"wvpk")
_TOLERANCE = 0.1
"""Seconds by which the length of a recording may differ from that of its samples: other programs round it."""
_NAMED = 3
"""How many names a message repeats before it only counts."""
_LOG = logging.getLogger(__name__)


class Synthesis(BaseModel):
    """How a clip was made that no one recorded."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="the model's folder, as it was given")
    sha256: str = Field(description="of its weights and configuration")
    seed: int
    nearest: str | None = Field(None, description="the training clip that it is most like")
    similarity: float | None = Field(None, description="how alike they are: 1 is a copy (`evaluation/memorisation.py`)")


class Recording(BaseModel):
    """One line of a manifest.

    In the file, the paths of `audio`, `mel` and `vector` are relative to the manifest's folder; in memory they can be
    opened as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    audio: Path = Field(description="the audio file")
    seconds: float = Field(gt=0)
    sample_rate: int = Field(gt=0, lt=2**63, description="of the file, in Hz")
    n_samples: int | None = Field(None, gt=0, lt=2**63, description="at the file's own rate")
    channels: int | None = Field(None, gt=0)
    speaker: str | None = Field(None, description="who is heard, for models with speakers")
    label: str | None = Field(None, description="class name, for models with labels")
    vector: Path | tuple[float, ...] | None = Field(
        None, description="for models with vector_width: a .npy file of so many numbers, or the numbers themselves"
    )
    text: str | None = None
    mel: Path | None = Field(
        None,
        description="a .npy or .pt file with a mel of this recording, such as a text-to-speech model predicted, which "
        "training and `audiodiff vocode` take instead of computing one",
    )
    mel_convention: str | None = Field(
        None, description="what `mel` follows, as `audiodiff.config.mel_convention` names it"
    )
    bandwidth: float | None = Field(
        None, gt=0, description="Hz above which there is nothing, as in speech upsampled from 16 kHz (8000)"
    )
    synthesis: Synthesis | None = Field(None, description="how it was made, if a model made it")

    @model_validator(mode="after")
    def _check_length(self) -> Recording:
        counted = self.n_samples and self.n_samples / self.sample_rate
        if counted and abs(counted - self.seconds) > _TOLERANCE:
            raise ValueError(f"{self.n_samples} samples are {counted:g} s, not {self.seconds:g}")
        return self

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
        recording = Recording.model_validate_json(line)
        if line.count('":') != len(recording.model_fields_set):  # which is quicker than to parse every line twice
            parse_json(line)
        return recording
    except ValueError as error:
        found = "; ".join(problems(error, Recording)) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{where} is no recording: {found}. Write manifests with `audiodiff prepare`.") from error


def _paths(recording: Recording) -> dict[str, Path]:
    return {name: value for name in ("audio", "mel", "vector") if isinstance(value := getattr(recording, name), Path)}


def amount(n_recordings: int, seconds: float) -> str:
    """Return a number of recordings and their length in words.

    Example:
        >>> amount(1, 9), amount(1, 90), amount(3, 7200)
        ('1 recording, 9.0 s', '1 recording, 1.5 minutes', '3 recordings, 2.00 hours')
    """
    minutes = f"{seconds / 60:.1f} minutes" if seconds < 360 else f"{seconds / 3600:.2f} hours"
    return f"{n_recordings} recording{'s'[n_recordings == 1 :]}, {f'{seconds:.1f} s' if seconds < 60 else minutes}"


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


# --- folders ----------------------------------------------------------------------------------------------------------


class Listing(NamedTuple):
    """What a folder and its subfolders hold.

    Attributes:
        files: The files with the wanted extensions.
        foreign: Audio and video in formats that are not read here, unless a wanted file of the same name is beside it.
        hidden: Wanted files whose name, or whose folder's name, begins with a dot.
        repeated: Folders that were not entered, because they were listed before under another name, or lead back.
        closed: Folders that cannot be listed, with the reason.
    """

    files: list[Path]
    foreign: list[Path]
    hidden: list[Path]
    repeated: list[Path]
    closed: list[tuple[Path, str]]


def list_folder(
    folder: str | Path, extensions: Collection[str] = AUDIO_EXTENSIONS, without: Path | None = None
) -> Listing:
    """List the files of a folder and its subfolders, through links too.

    Args:
        folder: The folder.
        extensions: Of the wanted files, in lower case.
        without: A folder whose files do not count, such as the results of an earlier run.

    Returns:
        What it holds, sorted.

    Raises:
        DataError: If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; expected one with audio files. Check the path.")
    found = Listing([], [], [], [], [])
    others: dict[str, list[Path]] = defaultdict(list)
    for path, is_hidden in _walk(folder, without, found):
        if path.suffix.lower() in extensions:
            (found.hidden if is_hidden else found.files).append(path)
        elif not is_hidden:
            others[path.suffix.lower() or path.name].append(path)
    converted = {path.with_suffix("") for path in found.files}
    for extension, paths in others.items():
        if extension in FOREIGN_EXTENSIONS or (extension not in AUDIO_EXTENSIONS and _looks_like_audio(paths[0])):
            found.foreign.extend(path for path in paths if path.with_suffix("") not in converted)
    for paths in (found.files, found.foreign, found.hidden):
        paths.sort()
    return found


def _walk(folder: Path, without: Path | None, found: Listing) -> Iterator[tuple[Path, bool]]:
    """Yield all files below a folder, and whether they are hidden; note the folders that are not entered."""
    root = os.path.realpath(folder)
    seen = set[str]()
    left_out = os.path.realpath(without) if without else None
    inside, linked = [(folder, False)], deque[Path]()
    while inside or linked:  # linked folders come last, so that what is within the folder goes by the name it has there
        here, is_hidden = inside.pop() if inside else (linked.popleft(), False)
        real = os.path.realpath(here)
        if real == left_out and real != root:
            continue
        if real in seen or (real != root and Path(root).is_relative_to(real)):
            found.repeated.append(here)
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(here))
        except OSError as error:
            found.closed.append((here, str(error.strerror)))
            continue
        for entry in entries:
            path, hides = here / entry.name, is_hidden or entry.name.startswith(".")
            if entry.is_dir(follow_symlinks=False):
                inside.append((path, hides))
            elif not entry.is_symlink() or not path.is_dir():
                yield path, hides
            elif not hides:
                linked.append(path)


def _looks_like_audio(path: Path) -> bool:
    """Tell whether a file begins as audio or video does, whatever its name is."""
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    return head.startswith(_HEADS) or head[4:8] == b"ftyp"


def find_audio(folder: str | Path, extensions: Collection[str] = AUDIO_EXTENSIONS) -> list[Path]:
    """List the audio files of a folder and its subfolders, and log what is left out; see `list_folder`."""
    listing = list_folder(folder, extensions)
    log_left_out(Path(folder), listing)
    return listing.files


def log_left_out(folder: Path, listing: Listing) -> None:
    """Log which files of a folder are left out, why, and what to do."""
    if listing.closed:
        reasons = _some([f"{path}: {reason}" for path, reason in listing.closed])
        _log_once(logging.WARNING, f"{folder}: folders that cannot be listed are left out ({reasons})")
    if listing.foreign:
        kinds = Counter(path.suffix.lower() or "without extension" for path in listing.foreign)
        counts = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
        how = _how_to_convert(folder, [kind for kind in kinds if kind.startswith(".")], "without extension" in kinds)
        _log_once(logging.WARNING, f"{folder}: left out, in formats that are not read here: {counts}. {how}")
    if listing.hidden:
        names = _some([os.path.relpath(path, folder) for path in listing.hidden])
        _log_once(logging.INFO, f"{folder}: left out, being hidden: {len(listing.hidden)} audio files ({names})")
    if listing.repeated:
        names = _some([os.path.relpath(path, folder) for path in listing.repeated])
        _log_once(logging.INFO, f"{folder}: folders that lead back, or were listed before, are not entered ({names})")


@cache
def _log_once(level: int, message: str) -> None:
    """Log what several parts of a command find of the same folder."""
    _LOG.log(level, "%s", message)


def _how_to_convert(folder: Path, extensions: Sequence[str], some_without: bool) -> str:
    """Return the command line that converts the files of a folder to WAV beside them."""
    names = " -o ".join(f"-iname {shlex.quote(f'*{extension}')}" for extension in extensions)
    place = shlex.quote(f"./{folder}" if str(folder).startswith("-") else str(folder))
    loop = 'for f; do ffmpeg -nostdin -v error -n -i "$f" -vn "${f%.*}.wav"; done'
    command = f"find -L {place} -type f \\( {names} \\) -exec sh -c '{loop}' sh {{}} +"
    rename = "Give those without an extension their own, such as .wav." if some_without else ""
    return f"`audiodiff prepare --ffmpeg` converts them, or: {command}\n{rename}".strip() if extensions else rename


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def scan_folder(
    folder: str | Path,
    workers: int = 1,
    on_file: Callable[[int, int], None] | None = None,
    *,
    convert: Callable[[Path], Path] | None = None,
    without: Path | None = None,
    decode: bool = False,
) -> Scan:
    """Read the headers of all audio files of a folder and its subfolders, or all samples too.

    Args:
        folder: The folder.
        workers: How many files are read at once.
        on_file: Called after each file with how many have been read, and how many there are.
        convert: From a file in another format to the same in one that is read; None leaves such files out.
        without: A folder whose files do not count.
        decode: Whether samples are looked at, as `audio_info` does, so that damage within a file is found.

    Returns:
        The recordings in order of their paths, and the unreadable files with the reason for each.

    Raises:
        DataError: If there is no such folder.
    """
    listing = list_folder(folder, without=without)
    log_left_out(Path(folder), listing._replace(foreign=[]) if convert else listing)
    foreign = set(listing.foreign if convert else ())
    paths = sorted([*listing.files, *foreign])

    def read(path: Path) -> Recording | str:
        try:
            return probe(convert(path) if convert and path in foreign else path, decode=decode)
        except AudioError as error:
            return str(error)

    scan = Scan([], [])
    for number, (path, found) in enumerate(zip(paths, parallel_map(read, paths, workers), strict=True), 1):
        if isinstance(found, Recording):
            scan.recordings.append(found)
        else:
            scan.unreadable.append((path, found))
        if on_file:
            on_file(number, len(paths))
    return scan


def probe(path: Path, *, decode: bool = False) -> Recording:
    """Read the header of one audio file.

    Args:
        path: The file.
        decode: Whether its samples are looked at too.

    Returns:
        The recording, with nothing known of it but its length, rate and channels.

    Raises:
        AudioError: If the file cannot be read, or no manifest could hold its name.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise AudioError(f"{str(path)!a} is no UTF-8, so no manifest can hold it. Rename the file.") from error
    info = audio_info(path, decode=decode)
    return Recording(
        audio=path,
        seconds=info.seconds,
        sample_rate=info.sample_rate,
        n_samples=info.n_samples,
        channels=info.channels,
    )
