"""The files of shards, on a disk or a server: opened without a shell, and read one after the other."""

from __future__ import annotations

import http.client
import lzma
import re
import tarfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from audiodiff.errors import DataError

SCHEMES = ("http://", "https://")
"""How the address of an index that is not a file may begin."""
LARGEST = 2**31
"""Bytes that one recording may have, and one of a shard may claim to have."""
DAMAGED = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError, http.client.HTTPException),
    *(EOFError, OSError, ValueError, LookupError),
)
"""What reading a damaged tar, or one from a server, raises."""
_TIMEOUT = 60.0
"""Seconds without a byte after which a server is given up."""


def open_shard(place: str) -> Any:
    """Open a file, or an address of http; nothing else that webdataset knows, among it commands of a shell."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", place)  # not the letter of a drive
    if scheme is None:
        if not Path(place).is_file():
            raise DataError(f"{place} is no file; expected a shard, or an index of shards. Check the path.")
        return Path(place).open("rb")
    if not place.lower().startswith(SCHEMES):
        raise DataError(
            f"{place!r} is not opened: shards are files, or addresses that begin with {' or '.join(SCHEMES)}. "
            "Copy them to a folder, and give its index."
        )
    try:
        return urllib.request.urlopen(place, timeout=_TIMEOUT)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise DataError(f"{place} cannot be fetched: {error}. Check the address and the network.") from error


def members(file: Any, url: str) -> Iterator[dict[str, Any]]:
    """Yield the files of a tar as webdataset groups them; none that would fill the memory."""
    with tarfile.open(fileobj=file, mode="r|*") as tar:
        for member in tar:
            if member.size > LARGEST:
                raise DataError(
                    f"{url}: {member.name[:60]!r} has {member.size:,} bytes, beyond {LARGEST:,}: a shard's recordings "
                    "are held in memory. Cut it into shorter files, and write the shard again."
                )
            content = tar.extractfile(member)
            if content is not None and not re.match(r"__[^/]*__($|/)", member.name):  # which says something of the tar
                yield {"fname": member.name, "data": content.read(), "__url__": url}
            vars(tar)["members"].clear()  # or they fill the memory
