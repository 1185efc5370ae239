"""Decoding of audio files by libsndfile: every sample that is there, from any place, as if the file were read whole.

Noticing that a length is a guess or a file cut off, reading on behind the first stream of several, and exact seeking in
lossy formats are what libsndfile leaves to its callers.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from audiodiff.audio.containers import find_streams
from audiodiff.audio.frames import Stream, cut_off
from audiodiff.choices import SAMPLE_RATE
from audiodiff.errors import AudioError, explain_os_error

Source = str | os.PathLike[str] | BinaryIO
"""A path, or a file object that is open in binary mode."""

_COUNTABLE = {f"PCM_{kind}" for kind in ("S8", "U8", "16", "24", "32")} | {"FLOAT", "DOUBLE", "ULAW", "ALAW"}
"""Encodings of single samples; their length follows from that of the file."""
_SOUGHT = ("WAV", "WAVEX", "AIFF", "AU", "CAF", "FLAC", "MP3", "NIST", "OGG", "RF64", "W64")
"""Formats that libsndfile finds any sample of; others are read from their beginning."""
FRAMED = ("FLAC", "OGG", "MP3")
"""Formats whose length `find_streams` has checked."""
_BLOCK = 2**18
"""Samples decoded at a time where it is not known how many there are."""
_CLAIMED = 64
"""How many times as long as it is an MP3 must seem, so that no guess of its length from its first frames is too low."""
_ID3V1 = 128
"""Bytes of a tag at the end of an MP3."""
_MP3_LEAD = 10 * 1152
"""Samples; an MP3 frame uses up to 511 bytes of the frames before it, which a seek does not decode."""
_OGG_TAIL = 2**18
"""Samples, more than a page holds; within the last page libvorbis seeks wrong by as much as was trimmed off the end."""
_AS_FLOAT: dict[str, Any] = {"dtype": "float32", "always_2d": True}
_REMEMBERED = 2**16
"""Files of which is known what is in them."""


@dataclass
class AudioFile:
    """A file that has been looked into.

    Attributes:
        source: A path, or a file object.
        name: What to call it in messages.
        streams: What it consists of.
        plain: Whether libsndfile can read it as it is.
        sample_rate: In Hz.
        channels: Number of channels.
        format: As libsndfile names it.
        subtype: The encoding, likewise.
        seekable: Whether libsndfile can seek in it, and does it right.
        notes: What is amiss with it but can be read.
        warned: Whether it was said that its samples are not within ±1.
    """

    source: Path | BinaryIO
    name: str
    streams: list[Stream]
    plain: bool
    sample_rate: int
    channels: int
    format: str
    subtype: str
    seekable: bool
    notes: list[str] = field(default_factory=list)
    warned: bool = False

    def count(self) -> int:
        """Return the length in samples, per channel; if need be by decoding what is not known."""
        for stream in self.streams:
            if stream.n_samples is None:
                for _ in self._blocks(stream):
                    pass
        total = sum(stream.n_samples or 0 for stream in self.streams)
        if total == 0:
            raise _empty(self.name)
        return total

    def read(self, start: int = 0, n_samples: int | None = None) -> NDArray[np.float32]:
        """Read a part such that it equals that part of the whole, or all.

        Args:
            start: First sample.
            n_samples: Number of samples, at least one; None reads to the end.

        Returns:
            Samples, shape `(n_samples, channels)`.

        Raises:
            AudioError: If the part lies outside the file, or the file is cut off or damaged.
        """
        if start == 0 and n_samples is None:
            whole = np.concatenate([self._whole(stream) for stream in self.streams])
            if not len(whole):
                raise _empty(self.name)
            return whole
        total = self.count()
        n_samples = total - start if n_samples is None else n_samples
        if start < 0 or n_samples < 1 or start + n_samples > total:
            raise AudioError(f"{self.name} has {total} samples; cannot read {n_samples} samples from {start} on.")
        parts, begin = [], 0
        for stream in self.streams:
            length = stream.n_samples or 0
            first, last = max(start - begin, 0), min(start + n_samples - begin, length)
            if first < last:
                parts.append(self._part(stream, first, last - first))
            begin += length
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """Decode everything, a block `(n_samples, channels)` at a time.

        Raises:
            AudioError: If the file is cut off or damaged.
        """
        for stream in self.streams:
            yield from self._blocks(stream)

    def _blocks(self, stream: Stream) -> Iterator[NDArray[np.float32]]:
        """Decode a stream, whose length is known by then."""
        found, known = 0, stream.n_samples
        with self._opened(stream) as file:
            promised = file.frames if stream.promised < 0 else stream.promised
            is_all = known == 0
            while not is_all:
                wanted = _BLOCK if known is None else min(_BLOCK, known - found)
                block = file.read(wanted, **_AS_FLOAT)
                found += len(block)
                yield block
                # Behind a page that is missing libvorbis goes on: what is short, although its length is known, is cut.
                is_all = not len(block) if known is None else len(block) < wanted or found == known
        promised = promised if known is None else known
        if found < promised:
            raise cut_off(self.name, f"its header promises {promised} samples, {found} are there")
        stream.n_samples = found

    def _whole(self, stream: Stream) -> NDArray[np.float32]:
        if stream.n_samples is not None:
            return self._part(stream, 0, stream.n_samples)
        blocks = list(self._blocks(stream))
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

    def _part(self, stream: Stream, start: int, n_samples: int) -> NDArray[np.float32]:
        with self._opened(stream) as file:
            first = start
            if not self.seekable:
                first = 0
            elif file.format == "MP3":
                first = max(0, start - _MP3_LEAD)
            elif file.format == "OGG":
                first = min(start, max(0, (stream.n_samples or 0) - _OGG_TAIL))
            if first:
                file.seek(first)
            count = start - first + n_samples
            samples: NDArray[np.float32] = file.read(count, **_AS_FLOAT)
        if len(samples) < count:
            raise cut_off(
                self.name, f"its header promises {stream.n_samples} samples, {first + len(samples)} are there"
            )
        return samples[start - first :]

    @contextmanager
    def _opened(self, stream: Stream) -> Iterator[soundfile.SoundFile]:
        try:
            if self.plain and isinstance(self.source, Path):
                with soundfile.SoundFile(os.fsencode(self.source)) as file:
                    yield file
            else:
                with _binary(self.source) as raw, soundfile.SoundFile(_Window(raw, stream)) as file:
                    yield file
        except soundfile.SoundFileError as error:
            reason = getattr(error, "error_string", str(error)).rstrip(". ")
            if "does not exist" in reason:  # which libsndfile says of MP3 that it finds no frame in
                reason = "no frame found"
            raise AudioError(
                f"{self.name} cannot be read ({reason}): it is no audio, damaged, or in a format "
                "unknown to libsndfile. Convert it to WAV or FLAC, for example with ffmpeg."
            ) from error


def examine(source: Source) -> AudioFile:
    """Find out what is in a file; remembered for as long as it does not change.

    Args:
        source: A path, or a file object.

    Returns:
        The file.

    Raises:
        AudioError: If there is no such file, it is no audio, empty or cut off, or the source is of another kind.
    """
    if not isinstance(source, str | os.PathLike):
        return _look_into(_file_object(source), _name(source))
    path = Path(source)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise AudioError(f"{path} {found}; expected an audio file. Check the path.")
    if path.suffix.lower() == ".raw":
        raise AudioError(f"{path} has no header that tells rate and encoding. Convert it to WAV, for example with sox.")
    status = path.stat()
    state = (status.st_ino, status.st_size, status.st_mtime_ns)
    known = _KNOWN.get(path)
    if known is None or known[0] != state:
        if len(_KNOWN) >= _REMEMBERED:
            _KNOWN.clear()
        known = _KNOWN[path] = state, _look_into(path, str(path))
    return known[1]


_KNOWN: dict[Path, tuple[tuple[int, ...], AudioFile]] = {}


def _look_into(source: Path | BinaryIO, name: str) -> AudioFile:
    with _binary(source) as raw:
        size = raw.seek(0, os.SEEK_END)
        streams, notes = find_streams(raw, name)
    plain = len(streams) == 1 and not streams[0].header and streams[0].stop == size and not streams[0].guessed
    found = AudioFile(source, name, streams, plain, 0, 0, "", "", False, notes)
    for stream in streams:
        with found._opened(stream) as file:
            seekable = file.seekable() and file.format in _SOUGHT
            if file.format == "RAW":  # what libsndfile takes any file for that is called .au or .snd
                raise AudioError(f"{name} has no header of an audio file. Copy or download it again, or convert it.")
            _check_rate(file.samplerate, name)
            kind = (file.samplerate, file.channels, file.format, file.subtype, seekable)
            trusted = file.subtype in _COUNTABLE or file.format in FRAMED
            if file.seekable() and trusted and not stream.must_decode:
                stream.n_samples = file.frames
        first = (found.sample_rate, found.channels, found.format, found.subtype, found.seekable)
        if first[0] and kind != first:
            raise AudioError(
                f"{name} joins streams of different kinds: {_kind(first)}, then {_kind(kind)}. Split it, or convert it "
                "to WAV, for example with ffmpeg."
            )
        found.sample_rate, found.channels, found.format, found.subtype, found.seekable = kind
    if all(stream.n_samples == 0 for stream in streams):
        raise _empty(name)
    for note in notes:
        warnings.warn(note, stacklevel=4)
    return found


def _check_rate(sample_rate: int, name: str) -> None:
    try:
        SAMPLE_RATE.parse(sample_rate)
    except ValueError as error:
        raise AudioError(f"{name}: its sample rate {error}. Its header is damaged; export it again.") from error


def _kind(kind: tuple[Any, ...]) -> str:
    return f"{kind[2]} {kind[3]} with {kind[1]} channels at {kind[0]} Hz"


def _empty(name: str) -> AudioError:
    return AudioError(f"{name} is empty: it has a header and 0 samples. Record or export it again.")


def _name(source: object) -> str:
    name = getattr(source, "name", None)
    return f"the file object of {name}" if isinstance(name, str) else "the file object"


def _file_object(source: object) -> BinaryIO:
    """Return a file object that can be sought in, or refuse what is none."""
    if isinstance(source, bytes | bytearray | memoryview):
        raise AudioError("expected a path or a file object, got bytes. Wrap the content of a file in io.BytesIO.")
    if not hasattr(source, "read") or isinstance(source, io.TextIOBase):
        kind = "a file in text mode" if hasattr(source, "read") else f"{type(source).__name__} {source!r:.60}"
        raise AudioError(f"expected a path, or a file object opened with 'rb'; got {kind}.")
    if getattr(source, "closed", False):
        raise AudioError(f"{_name(source)} is closed. Read from it before that.")
    file = cast(BinaryIO, source)
    if hasattr(file, "seekable") and file.seekable():
        return file
    return io.BytesIO(file.read())


@contextmanager
def _binary(source: Path | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(source, Path):
        try:
            file = source.open("rb")
        except OSError as error:
            raise AudioError(explain_os_error(error)) from error
        with file:
            yield file
    else:
        yield source


class _Window(io.RawIOBase):
    """A stream of a file, as a file for libsndfile: with its mended header, and if need be a greater apparent length.

    Args:
        file: The whole file.
        stream: Which part.
    """

    def __init__(self, file: BinaryIO, stream: Stream) -> None:
        self._file, self._stream, self._position = file, stream, 0
        self._size = stream.stop - stream.start
        self._apparent = self._size * (_CLAIMED if stream.guessed else 1)

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the stream."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in the stream."""
        self._position = offset + (0, self._position, self._apparent)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read from the mended header, and from the file behind it."""
        view = memoryview(buffer).cast("B")
        if self._position >= self._apparent - _ID3V1 and self._stream.guessed:
            view[:] = bytes(len(view))  # where libsndfile looks for a tag
            return len(view)
        count = max(0, min(len(view), self._size - self._position))
        n_header = max(0, min(count, len(self._stream.header) - self._position))
        view[:n_header] = self._stream.header[self._position : self._position + n_header]
        if count > n_header:
            self._file.seek(self._stream.start + self._position + n_header)
            content = self._file.read(count - n_header)
            count = n_header + len(content)
            view[n_header:count] = content
        self._position += count
        return count
