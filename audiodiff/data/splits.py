"""Dividing recordings into those to train on, to watch training with, and to keep for the end; always the same way."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple

from audiodiff.audio.io import AUDIO_EXTENSIONS
from audiodiff.data.manifest import FOREIGN_EXTENSIONS, Recording
from audiodiff.errors import DataError

SPEAKERS_TO_SPLIT_BY = 10
"""With fewer speakers than this, holding one out would cost over a tenth of the data: files are held out instead."""

_NAMED = 3
"""How many names a message repeats before it only counts."""

Part = Literal["train", "valid", "test"]


class Split(NamedTuple):
    """Recordings to train on, to watch training with, and to keep for the end."""

    train: list[Recording]
    valid: list[Recording]
    test: list[Recording]

    @property
    def counts(self) -> dict[Part, int]:
        """How many recordings each part has."""
        return {"train": len(self.train), "valid": len(self.valid), "test": len(self.test)}


def split(
    recordings: Sequence[Recording],
    valid_fraction: float,
    test_fraction: float = 0.0,
    seed: int = 0,
    *,
    root: str | Path | None = None,
) -> Split:
    """Divide recordings by a hash of their path, so that files added later do not move the others.

    Where at least `SPEAKERS_TO_SPLIT_BY` speakers are known, all recordings of a speaker go the same way. A part with a
    fraction gets at least one recording, or speaker, even of a corpus that is too small for it.

    Args:
        recordings: What is to be divided.
        valid_fraction: Fraction of the validation part, 0 to 1.
        test_fraction: Fraction of the test part, 0 to 1.
        seed: Another seed is another division.
        root: The folder that paths are taken relative to, so that moving a corpus does not change its division.

    Returns:
        The parts, each in the order of `recordings`.

    Raises:
        DataError: If the fractions are impossible.
    """
    keys = split_keys([r.audio for r in recordings], [r.speaker for r in recordings], root)
    parts = Split([], [], [])
    for recording, part in zip(recordings, assign_parts(keys, valid_fraction, test_fraction, seed), strict=True):
        getattr(parts, part).append(recording)
    return parts


def split_keys(paths: Sequence[Path], groups: Sequence[str | None], root: str | Path | None = None) -> list[str]:
    """Name what must not be divided: the group of a file where there are enough groups, else the file.

    Args:
        paths: The audio files.
        groups: Of each file what a split keeps together, such as its speaker or piece; None keeps nothing together.
        root: The folder that paths are taken relative to.

    Returns:
        A key for each file.
    """
    by_group = len(set(groups) - {None}) >= SPEAKERS_TO_SPLIT_BY
    return [
        f"speaker {group}" if by_group and group is not None else f"file {_under(path, root).as_posix()}"
        for path, group in zip(paths, groups, strict=True)
    ]


def _under(path: Path, root: str | Path | None) -> Path:
    return path if root is None else Path(os.path.relpath(path, root))


def assign_parts(keys: Sequence[str], valid_fraction: float, test_fraction: float, seed: int = 0) -> list[Part]:
    """Put every key into a part by its hash alone, so that keys added later do not move the others.

    Args:
        keys: What to divide; equal keys go the same way.
        valid_fraction: Fraction of the validation part, 0 to 1.
        test_fraction: Fraction of the test part, 0 to 1.
        seed: Another seed is another division.

    Returns:
        The part of each key. A part with a fraction gets at least one key, and so does training if there are enough.

    Raises:
        DataError: If the fractions are impossible.
    """
    if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction >= 1:
        raise DataError(
            f"cannot hold out fractions of {valid_fraction} and {test_fraction}; each is at least 0, their sum below 1."
        )
    place = {
        key: int.from_bytes(blake2b(f"{seed} {key}".encode(), digest_size=8).digest(), "big") / 2**64 for key in keys
    }
    order = sorted(place, key=lambda key: (place[key], key))
    n_test = max(sum(place[key] < test_fraction for key in order), test_fraction > 0)
    n_held_out = max(sum(place[key] < test_fraction + valid_fraction for key in order), n_test + (valid_fraction > 0))
    if len(order) > (test_fraction > 0) + (valid_fraction > 0):  # enough for all parts, so training gets some
        n_held_out = min(n_held_out, len(order) - 1)
        n_test = min(n_test, n_held_out - (valid_fraction > 0))
    part_of: dict[str, Part] = dict.fromkeys(order, "train")
    part_of |= dict.fromkeys(order[:n_held_out], "valid")
    part_of |= dict.fromkeys(order[:n_test], "test")
    return [part_of[key] for key in keys]


def refuse_empty_training(counts: Mapping[Part, int], source: str | Path) -> None:
    """Refuse a division that leaves nothing to train on.

    Args:
        counts: How many recordings are in each part.
        source: Where they are from, for the message.

    Raises:
        DataError: If so, with the options that leave some.
    """
    n_recordings = sum(counts.values())
    if not counts["train"]:
        options = "--test-fraction 0" if n_recordings > 1 else "--valid-fraction 0 --test-fraction 0"
        raise DataError(
            f"{source} has {n_recordings} recording{'s' * (n_recordings > 1)}, too few for three parts: "
            f"{counts['valid']} would be for validation, {counts['test']} for tests, and none to train on. "
            f"Give more, cut long ones into several files, or use {options}."
        )


def split_by_names(recordings: Sequence[Recording], valid: Iterable[str], test: Iterable[str] = ()) -> Split:
    """Divide recordings by lists of file names, as of published splits; the rest is for training.

    Args:
        recordings: What is to be divided.
        valid: Names of the validation part, with or without extension, and with as many folders as tell them apart.
        test: Names of the test part, likewise.

    Returns:
        The parts, each in the order of `recordings`.

    Raises:
        DataError: If a name is in both lists, or belongs to no recording, or none is left to train on.
    """
    listed = {"valid": {_bare(name): name for name in valid}, "test": {_bare(name): name for name in test}}
    if both := set(listed["valid"]) & set(listed["test"]):
        raise DataError(f"{sorted(both)[0]!r} is in the validation list and in the test list. Leave it in one.")
    parts = Split([], [], [])
    unknown = listed["valid"] | listed["test"]
    for recording in recordings:
        *folders, name = _bare(recording.audio.as_posix()).split("/")
        ends = ["/".join([*folders[i:], name]) for i in range(len(folders), -1, -1)]
        part = next((part for part, names in listed.items() if any(end in names for end in ends)), "train")
        getattr(parts, part).append(recording)
        for end in ends:
            unknown.pop(end, None)
    if unknown:
        examples = ", ".join(sorted(repr(name) for name in unknown.values())[:_NAMED])
        raise DataError(
            f"{len(unknown)} of the names listed belong to no recording, such as {examples}. "
            f"List names that are there, one per line, such as {recordings[0].audio.stem if recordings else 'a'!r}."
        )
    if not parts.train:
        raise DataError(f"the lists name all {len(recordings)} recordings; none is left to train on. Shorten a list.")
    return parts


def _bare(name: str) -> str:
    """Return a name without the extension of an audio file, and without blanks around it."""
    stem, dot, extension = name.strip().rpartition(".")
    return stem if stem and f"{dot}{extension}".lower() in (*AUDIO_EXTENSIONS, *FOREIGN_EXTENSIONS) else name.strip()
