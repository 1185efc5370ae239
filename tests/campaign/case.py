"""A case of the campaign: a command or a library call, what it may do, and what its output must be."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

Check = Callable[["Result"], str | None]
"""Returns what is wrong with the output of a case that exits 0, or None."""


@dataclass
class Case:
    """What is run, in the folder of the case.

    Attributes:
        run: Arguments of `audiodiff`, or a function that raises where the library refuses.
        about: What makes the case special, for the report.
        expect: Whether it must work, must be refused, or may do either.
        names: Words one of which a refusal must name: the file or the option. None asks for nothing.
        check: What the output must be if the exit code is 0.
        keeps: Whether files may be written although the exit code is not 0: one of several inputs failed.
        seconds: The work that was asked for, beyond which there are 20 s.
        environment: Changes of the environment; None removes a variable.
        new_process: Whether it runs as `python -m audiodiff`, not in a fork of a process that has imported torch.
        prepare: Called in the new process before it becomes the command: limits, closed descriptors.
        stdin: What stdin holds; None is /dev/null.
        changes: Names of input files that may change.
        silent: Whether nothing is readable on stderr, because the case closed it.
        file_limit: Bytes after which writing a file fails, as on a full disk.
    """

    run: Sequence[str | bytes] | Callable[[], object]
    about: str
    expect: Literal["accept", "refuse", "either"] = "either"
    names: Sequence[str] = ()
    check: Check | None = None
    keeps: bool = False
    seconds: float = 0.0
    environment: Mapping[str, str | None] = field(default_factory=dict)
    new_process: bool = False
    prepare: Callable[[], None] | None = None
    changes: Sequence[str] = ()
    silent: bool = False
    file_limit: int | None = None

    def words(self) -> set[str | bytes]:
        """Return the words of the command; none of a call."""
        return set() if callable(self.run) else set(self.run)


@dataclass
class Result:
    """What came of a case."""

    folder: Path
    code: int
    out: str
    err: str
    seconds: float
    megabytes: float
    new_files: Sequence[Path] = ()
    changed: Sequence[str] = ()


class Draw(random.Random):
    """Random numbers of one case."""

    def __init__(self, kind: str, seed: int) -> None:
        super().__init__(f"{kind}:{seed}")
        self.numpy = np.random.default_rng(self.getrandbits(64))

    def bytes(self, n: int) -> bytes:
        return self.randbytes(n)


def damage(data: bytes, draw: Draw, head: int | None = None) -> tuple[bytes, str]:
    """Return bytes with one random mutation, and its name; `head` keeps flips within the first bytes."""
    what = draw.choice(
        ["cut", "cut tail", "flip", "flip", "zero", "insert", "delete", "append", "prepend", "double", "empty"]
    )
    n = len(data)
    where = draw.randrange(min(n, head or n)) if n else 0
    length = draw.choice([1, 2, 4, 16, 100, 1000])
    junk = draw.bytes(length)
    changes: dict[str, Callable[[], bytes]] = {
        "cut": lambda: data[:where],
        "cut tail": lambda: data[: max(0, n - length)],
        "flip": lambda: _flipped(data, draw, min(n, head or n)),
        "zero": lambda: data[:where] + bytes(min(length, n - where)) + data[where + length :],
        "insert": lambda: data[:where] + junk + data[where:],
        "delete": lambda: data[:where] + data[where + length :],
        "append": lambda: data + draw.choice([junk, bytes(length), b"\n", data[:where]]),
        "prepend": lambda: draw.choice([junk, bytes(length), b"\xef\xbb\xbf", b"\n"]) + data,
        "double": lambda: data + data,
        "empty": lambda: b"",
    }
    return changes[what](), f"{what} {length}" if what == "cut tail" else what


def _flipped(data: bytes, draw: Draw, end: int) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8]) if end else 0):
        changed[draw.randrange(end)] = draw.randrange(256)
    return bytes(changed)
