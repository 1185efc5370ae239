"""Archives of a corpus on the web: downloads that resume and are checked, and safe extraction."""

from __future__ import annotations

import errno
import hashlib
import http.client
import logging
import lzma
import os
import shutil
import struct
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from tarfile import EOFHeaderError, HeaderError, ReadError  # type: ignore[attr-defined]
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from audiodiff.audio.io import make_folder, replacing
from audiodiff.errors import DataError, OutputError

if TYPE_CHECKING:
    from typing_extensions import Self

_BLOCK = 2**20
_TIMEOUT = 60.0
"""Seconds without a byte after which a connection counts as lost."""
_ATTEMPTS = 5
"""Connections in a row that may bring nothing new."""

LARGEST_RATIO = 100
"""Times its own size that an archive may unpack to; audio is compressed to a tenth at best."""
ALWAYS_ALLOWED = 2**28
"""Bytes that any archive may unpack to."""
_TOO_MUCH = f"unpacks to more than {LARGEST_RATIO} times its size, as no corpus does"
MOST_FILES = 5_000_000
"""Files that an archive may hold."""
LONGEST_HEADER = 2**24
"""Bytes of a header of a tar, which tarfile holds in memory."""
KEPT_FREE = 0.02
"""Fraction of the disk's free space that is left."""

_DAMAGED = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, LookupError, OverflowError),
)
"""What the readers of archives raise for damaged or encrypted ones, and unknown methods of compression."""
_ZSTD = b"\x28\xb5\x2f\xfd"

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

    Links and devices are left out with a warning; so are files that come again under the same name. Each file gets its
    name when it is complete. Nothing is unpacked beyond the free space of the disk, beyond `LARGEST_RATIO` times the
    size of the archive (of those above `ALWAYS_ALLOWED` bytes), or beyond `MOST_FILES` files.

    Args:
        archive: A .zip, or a .tar, plain or compressed by gzip, bzip2, xz, or zstd where Python has it (3.14).
        folder: Where to; made if it is not there.

    Raises:
        DataError: If the archive is damaged, encrypted, empty or beyond these limits, or holds a path that leads out of
            the folder; files that came before that in the archive are there by then, unless it is damaged.
        OutputError: If a file cannot be written.
    """
    make_folder(folder)
    limits, name = _Limits(archive, folder), ""
    try:
        members = _zip_members(archive, limits) if _head(archive)[:2] == b"PK" else _tar_members(archive, limits)
        for name, size, content in members:
            _write(folder / limits.checked(name), size, content, limits)
    except OutputError as error:
        if error.errno not in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, None):
            raise
        reason = error.strerror or "a folder has its name"
        raise DataError(f"{archive} holds {name!r}, which cannot be written ({reason}). Unpack it by hand.") from error
    except _DAMAGED as error:
        for path in limits.made:  # many archives have one checksum for everything, at the end
            path.unlink(missing_ok=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = "Unpack it by hand." if "encrypted" in reason else "Delete it and download it again."
        raise DataError(f"{archive} cannot be unpacked ({reason}). {remedy}") from error
    if not limits.names:
        raise DataError(f"{archive} holds no files. Delete it and download it again.")


class _Limits:
    """Counts what comes out of an archive, and stops what is too much."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive = archive
        self.names: set[Path] = set()
        self.made: list[Path] = []
        self._unpacked, self._written, self._headers = 0, 0, 0
        self._free = shutil.disk_usage(folder).free
        self._allowed = max(ALWAYS_ALLOWED, LARGEST_RATIO * archive.stat().st_size)

    def checked(self, name: str) -> Path:
        """Return the path of a member within the folder, once it is known to stay there."""
        path = PurePosixPath(name)
        if not path.parts:
            raise self._refusal(f"holds a file called {name!r}, which is no name")
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]:
            raise self._refusal(f"holds {name!r}, which leads out of its folder, if not here then on Windows")
        if len(self.names) == MOST_FILES:
            raise self._refusal(f"holds more than {MOST_FILES:,} files")
        return Path(*path.parts)

    def unpacked(self, n_bytes: int) -> None:
        """Count bytes out of the decompressor; those of headers have to fit into memory."""
        self._unpacked += n_bytes
        self._headers += n_bytes
        if self._unpacked > self._allowed:
            raise self._refusal(_TOO_MUCH)
        if self._headers > LONGEST_HEADER:
            raise self._refusal(f"has a header of more than {LONGEST_HEADER / 2**20:.0f} MB")

    def of_a_file(self, _n_bytes: int) -> None:
        """Note that what was unpacked last is not of a header."""
        self._headers = 0

    def written(self, n_bytes: int) -> None:
        """Count bytes that go to the disk, among them those of holes in sparse files."""
        self._written += n_bytes
        if self._written > self._allowed:
            raise self._refusal(_TOO_MUCH)
        if self._written > self._free * (1 - KEPT_FREE):
            raise DataError(
                f"{self.archive} does not fit on the disk, which had {self._free / 1e9:.1f} GB free. Make room, and "
                "rerun the same command to resume."
            )

    def _refusal(self, what: str) -> DataError:
        return DataError(f"{self.archive} {what}; it is not unpacked any further. Get the corpus by hand.")


class _Counted:
    """A file whose bytes are counted as they are read."""

    def __init__(self, file: IO[bytes] | _Counted, count: Callable[[int], None]) -> None:
        self._file = file
        self._count = count

    def read(self, size: int = -1) -> bytes:
        """Read bytes."""
        block = self._file.read(size)
        self._count(len(block))
        return block


def _head(archive: Path) -> bytes:
    with archive.open("rb") as file:
        return file.read(6)


def _zip_members(archive: Path, limits: _Limits) -> Iterator[tuple[str, int, _Counted]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            if member.flag_bits & 1:
                raise RuntimeError(f"{member.filename} is encrypted")
            kind = member.external_attr >> 28  # the file type of st_mode; 0 where the writer knew none
            if kind not in (0, 0o10, 0o04):
                _leave_out(member.filename, "is a link or a device", archive)
                continue
            if not member.is_dir():
                with opened.open(member) as content:
                    yield (
                        member.filename,
                        member.file_size,
                        _Counted(_Counted(content, limits.unpacked), limits.of_a_file),
                    )


def _tar_members(archive: Path, limits: _Limits) -> Iterator[tuple[str, int, _Counted]]:
    with _decompressed(archive) as file:
        stream: Any = _Counted(file, limits.unpacked)
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as opened:
            while (member := opened.next()) is not None:
                vars(opened)["members"].clear()  # or they fill the memory
                if not member.isfile():
                    if not member.isdir():
                        _leave_out(member.name, "is a link or a device", archive)
                    continue
                content = opened.extractfile(member)
                if content is not None:
                    counted = _Counted(content, limits.of_a_file)
                    yield member.name, member.size, counted
                    while counted.read(_BLOCK):  # of a file that is left out; it counts as no header
                        pass
        while file.read(_BLOCK):  # up to the checksum of it all
            pass


def _decompressed(archive: Path) -> IO[bytes]:
    """Open a tar, whatever it is compressed by."""
    head = _head(archive)
    for magic, module in (b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "lzma"), (_ZSTD, "compression.zstd"):
        if head.startswith(magic):
            try:
                opened: IO[bytes] = import_module(module).open(archive, "rb")
            except ImportError as error:
                raise DataError(
                    f"{archive} needs zstd, which this Python lacks. Unpack it by hand: tar -xf."
                ) from error
            return opened
    return archive.open("rb")


class _Header(tarfile.TarInfo):
    """The header of a member; where none can be read tarfile takes that for the end, and the rest would be missing."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except EOFHeaderError:
            raise
        except HeaderError as error:
            raise ReadError(f"{error} at byte {tarfile.offset}") from error


def _leave_out(name: str, why: str, archive: Path) -> None:
    _LOG.warning("%s: %s %s, and left out", archive, name, why)


def _write(target: Path, size: int, content: _Counted, limits: _Limits) -> None:
    is_first = target not in limits.names
    limits.names.add(target)
    if not is_first:
        _leave_out(target.name, "comes again", limits.archive)
    elif not (os.path.isfile(target) and os.path.getsize(target) == size):
        with replacing(target) as part, part.open("wb") as file:
            shutil.copyfileobj(_Counted(content, limits.written), file, _BLOCK)
        limits.made.append(target)
