"""Unpacking archives from the web: what an archive holds stays in the folder it is unpacked to."""

from __future__ import annotations

import logging
import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from audiodiff.errors import DataError

_LOG = logging.getLogger(__name__)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar or zip archive; what is unpacked already stays, so that an interrupted extraction goes on.

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
