"""Archives of a corpus on the web: downloads that resume and are checked, and safe extraction."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from audiodiff.errors import DataError

_BLOCK = 2**20
_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""
_ATTEMPTS = 5
"""Connections in a row that may bring nothing new."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """A file of a corpus on the web.

    Attributes:
        url: Where it is.
        sha256: Its SHA-256 in hexadecimal.
        name: How users ask for it, where a corpus has several parts; empty where it has one.
        default: Whether it is fetched when no part is asked for.
    """

    url: str
    sha256: str
    name: str = ""
    default: bool = True

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rsplit("/", 1)[-1]


def download(archive: Archive, folder: Path) -> Path:
    """Fetch an archive, going on with what an earlier attempt has left.

    Args:
        archive: What to fetch.
        folder: Where to; made if it is not there.

    Returns:
        The file, whose checksum is right.

    Raises:
        DataError: If the server cannot be reached or breaks off again and again, or the checksum is wrong.
    """
    target = folder / archive.file_name
    if target.is_file():
        _check(target, archive)
        return target
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    _fetch_all(archive.url, part)
    try:
        _check(part, archive)
    except DataError:
        part.unlink()
        raise
    os.replace(part, target)
    return target


def _fetch_all(url: str, part: Path) -> None:
    """Connect until everything is there."""
    failures = 0
    while failures < _ATTEMPTS:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _fetch(url, part, before)
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise DataError(f"{url} answers {error.code} {error.reason}. Get the corpus by hand.") from error
            reason: Exception = error
        except (OSError, http.client.HTTPException) as error:
            reason = error
        grown = part.is_file() and part.stat().st_size > before
        failures = 0 if grown else failures + 1
    raise DataError(
        f"{url} cannot be fetched ({type(reason).__name__}: {reason}). Rerun the same command to resume, "
        "or get the corpus by hand."
    )


def _fetch(url: str, part: Path, start: int) -> None:
    """Append what is missing from byte `start` on; raise `IncompleteRead` if the connection ends early."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # there is nothing after the last byte
            return
        raise
    with response:
        if response.status != 206:  # the server knows no ranges and sends everything again
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        done = start
        bar = tqdm(
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=part.stem,
            disable=not sys.stderr.isatty(),
            delay=2,
        )
        with part.open("ab" if start else "wb") as file, bar:
            while block := response.read(_BLOCK):
                file.write(block)
                done += len(block)
                bar.update(len(block))
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)


def _check(path: Path, archive: Archive) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != archive.sha256:
        raise DataError(
            f"{path} has SHA-256 {digest.hexdigest()}, expected {archive.sha256}: it is damaged, or {archive.url} "
            "has changed. Delete it and try again."
        )


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive; what is unpacked already stays, so that an interrupted extraction resumes.

    Links and devices are left out with a warning. Each file gets its name when it is complete.

    Args:
        archive: A .zip, or a .tar of any compression.
        folder: Where to; made if it is not there.

    Raises:
        DataError: If the archive is damaged, or holds a path that leads out of the folder; files that came before that
            in the archive are there by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        members = _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)
        for name, size, content in members:
            _write(folder / _safe(name, archive), size, content)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}). Delete it and download it again.") from error


def _safe(name: str, archive: Path) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
        raise DataError(f"{archive} holds {name!r}, which leads out of its folder; it is not unpacked any further.")
    return Path(*path.parts)


def _zip_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = member.external_attr >> 28  # the file type of st_mode; 0 where the writer knew none
            if kind not in (0, 0o10, 0o04):
                _leave_out(member.filename, archive)
                continue
            if not member.is_dir():
                with opened.open(member) as content:
                    yield member.filename, member.file_size, content


def _tar_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(archive, "r|*") as opened:
        for member in opened:
            if not member.isfile():
                if not member.isdir():
                    _leave_out(member.name, archive)
                continue
            content = opened.extractfile(member)
            if content is not None:
                yield member.name, member.size, content


def _leave_out(name: str, archive: Path) -> None:
    _LOG.warning("%s: %s is a link or a device, and left out", archive, name)


def _write(target: Path, size: int, content: IO[bytes]) -> None:
    if target.is_file() and target.stat().st_size == size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            shutil.copyfileobj(content, file, 2**20)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
