"""A study file: what a search tried and what came of it, one JSON line each, so that a killed search goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from audiodiff.errors import ConfigError


class Study:
    """The trials of a search, kept in a file from the moment they are done.

    The first line says what the trials belong to. A line is appended in one piece and flushed to the disk; what a kill
    left of a last one is cut off.

    Args:
        path: The file; made if it is not there.
        fingerprint: What the results depend on, as plain values; a file that belongs to something else is refused.

    Raises:
        ConfigError: If the file cannot be read, or belongs to another search.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self._path = path
        self._trials: list[dict[str, Any]] = []
        plain = json.loads(json.dumps(dict(fingerprint)))
        if not path.is_file() or not path.stat().st_size:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(plain)
            return
        first, *self._trials = self._read()
        differing = sorted(name for name in plain.keys() | first.keys() if plain.get(name) != first.get(name))
        if differing:
            what = "; ".join(f"{name} is {first.get(name)!r} there and {plain.get(name)!r} here" for name in differing)
            raise ConfigError(f"{path} belongs to another search: {what}. Choose another --study file.")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go through the trials, oldest first."""
        return iter(self._trials)

    def add(self, trial: Mapping[str, Any]) -> None:
        """Keep a trial, given as plain values."""
        self._append(trial)
        self._trials.append(dict(trial))

    def _append(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self) -> list[dict[str, Any]]:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if not lines or not all(isinstance(line, dict) for line in lines):
                raise ValueError("its lines are no JSON objects")
        except ValueError as error:
            raise ConfigError(
                f"{self._path} is no study of audiodiff: {error}. Choose another --study file."
            ) from error
        return lines
