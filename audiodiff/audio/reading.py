"""What libsndfile leaves to its callers: noticing that a file is cut off, and exact seeking in lossy formats."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiodiff.errors import AudioError

# libsndfile reads what there is of a cut-off file, and says only in its log what the header had promised.
_SHORT_CHUNK = re.compile(r"^\s*(?:data|SSND|Data Size|riff)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_LENGTH = 0x7FFF0000
"""Bytes; from here up a header means "unknown", having been written to a pipe."""
_OGG_PAGE = 27 + 255 + 255 * 255
"""Bytes of the longest page of an Ogg file (RFC 3533, section 6)."""
_MP3_LEAD = 10 * 1152
"""Samples; an MP3 frame uses up to 511 bytes of the frames before it, which a seek does not decode."""
_VORBIS_TAIL = 2**18
"""Samples, more than a page holds; within the last page libvorbis seeks wrong by as much as was trimmed off the end."""


@contextmanager
def opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open an audio file for reading.

    Args:
        path: The file, in any format of libsndfile.

    Yields:
        The open file, of a known length of at least one sample.

    Raises:
        AudioError: If the file is missing, is no audio, is empty, or is cut off, or if reading it fails later on.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise AudioError(f"{path} {found}; expected an audio file. Check the path.")
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{path} has no header that tells rate and encoding. Convert it to WAV, for example with sox.")
    try:
        with soundfile.SoundFile(path) as file:
            _check_length(path, file)
            yield file
    except soundfile.SoundFileError as error:
        raise AudioError(
            f"{path} cannot be read ({str(error).rstrip('.')}): it is no audio, damaged, or in a format unknown to "
            "libsndfile. Convert it to WAV or FLAC, for example with ffmpeg."
        ) from error


def _check_length(path: Path, file: soundfile.SoundFile) -> None:
    if file.frames == 0:
        raise AudioError(f"{path} is empty: it has a header and 0 samples. Record or export it again.")
    if file.frames > 2**48:  # what libsndfile makes of a FLAC that was written to a pipe
        raise AudioError(f"{path} does not say how long it is. Decode and encode it again, with flac or ffmpeg.")
    for promised, there in _SHORT_CHUNK.findall(file.extra_info):
        if int(there) < int(promised) < _UNKNOWN_LENGTH:
            raise _cut_off(path, f"its header promises {promised} bytes of audio, {there} are there")
    if file.format == "OGG" and not _ogg_ends(path):
        raise _cut_off(path, "its last page has no mark of the end")


def _cut_off(path: Path, evidence: str) -> AudioError:
    return AudioError(f"{path} is cut off: {evidence}. Copy or download it again, or convert what is left with ffmpeg.")


def _ogg_ends(path: Path) -> bool:
    """Tell whether the last page is whole and marked as the end of its stream."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _OGG_PAGE))
        tail = file.read()
    page = tail[max(0, tail.rfind(b"OggS")) :]
    n_segments = page[26] if len(page) > 26 else 255
    return len(page) >= 27 + n_segments + sum(page[27 : 27 + n_segments]) and bool(page[5] & 4)


def read_part(file: soundfile.SoundFile, start: int, n_samples: int) -> NDArray[np.float32]:
    """Read a part of an open file such that it equals that part of the whole.

    Args:
        file: The open file.
        start: First sample.
        n_samples: Number of samples, at least one.

    Returns:
        Samples, shape `(n_samples, channels)`.

    Raises:
        AudioError: If the part lies outside the file, or less is there than the header promises.
    """
    path = Path(file.name)
    if start < 0 or n_samples < 1 or start + n_samples > file.frames:
        raise AudioError(f"{path} has {file.frames} samples; cannot read {n_samples} samples from {start} on.")
    first = start
    if file.format == "MP3":
        first = max(0, start - _MP3_LEAD)
    elif file.subtype == "VORBIS":
        first = min(start, max(0, file.frames - _VORBIS_TAIL))
    file.seek(first)
    samples: NDArray[np.float32] = file.read(start - first + n_samples, dtype="float32", always_2d=True)
    if len(samples) < start - first + n_samples:
        raise _cut_off(path, f"its header promises {file.frames} samples, {first + len(samples)} are there")
    return samples[start - first :]
