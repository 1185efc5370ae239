"""Vocoding from a stream of bytes into another: a mel or audio comes in, audio goes out while it comes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from audiodiff.audio.mel_candidates import clipped
from audiodiff.audio.pcm import PcmFormat, read_wav_header, s16le, wav_header
from audiodiff.choices import InputFormat, OutputFormat
from audiodiff.errors import AudioError, MelError
from audiodiff.pipelines.mel_chunks import judged
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder

_READ = 2**16
_LARGEST_NPY = 2**30
"""Bytes of one array."""
_NPY = b"\x93NUMPY"
_OTHERS = {b"fLaC": "FLAC", b"OggS": "Ogg", b"ID3": "MP3", b"RF64": "RF64", b"RIFX": "big-endian WAV", b"PK": "a ZIP"}
_LOG = logging.getLogger(__name__)


class ByteReader:
    """Bytes of a pipe: what has arrived, or exactly so many, or what comes next.

    Args:
        file: Where they come from; it need not seek.
        name: For messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file, self._ahead = file, b""

    def some(self, most: int = _READ) -> bytes:
        """Return what has arrived, at least one byte; nothing is the end."""
        if self._ahead:
            data, self._ahead = self._ahead[:most], self._ahead[most:]
            return data
        return self._file.read1(most) if hasattr(self._file, "read1") else self._file.read(most)

    def read(self, count: int = 0, /) -> bytes:
        """Return exactly so many bytes, or fewer at the end."""
        parts = []
        while count > 0 and (part := self.some(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without taking them, fewer at the end."""
        self._ahead = self.read(count) + self._ahead
        return self._ahead[:count]


def blocks(source: ByteReader, width: int, what: str, n_bytes: int | None = None) -> Iterator[bytes]:
    """Yield bytes as they arrive, in whole units of `width` bytes; the rest at the end is dropped with a warning."""
    left, rest = n_bytes, b""
    while (left is None or left > 0) and (data := source.some(_READ if left is None else min(left, _READ))):
        left = None if left is None else left - len(data)
        rest += data
        whole = len(rest) - len(rest) % width
        if whole:
            yield rest[:whole]
            rest = rest[whole:]
    if rest:
        _LOG.warning("%s ends with %d bytes, no whole %s of %d bytes; dropped", source.name, len(rest), what, width)


def npy_arrays(source: ByteReader) -> Iterator[NDArray[Any]]:
    """Yield .npy arrays that stand one after the other.

    Raises:
        MelError: If one is damaged, of Python objects, or too large.
    """
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    while source.peek(1):
        try:
            shape, by_columns, dtype = header[np.lib.format.read_magic(source)](source)
        except (ValueError, KeyError, SyntaxError, TypeError) as error:
            raise MelError(f"{source.name} holds a damaged .npy header ({error}). numpy.save writes one.") from error
        n_bytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if dtype.hasobject or n_bytes > _LARGEST_NPY or n_bytes < 0:
            raise MelError(f"{source.name} announces an array {shape} of {dtype}; expected a mel (n_mels, frames).")
        data = source.read(n_bytes)
        if len(data) < n_bytes:
            raise MelError(f"{source.name} ends after {len(data):,} of the {n_bytes:,} bytes of an array {shape}.")
        yield np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def raw_mels(source: ByteReader, n_mels: int) -> Iterator[NDArray[np.float32]]:
    """Yield pieces `(n_mels, frames)` of a mel that comes frame by frame as float32, little-endian."""
    for data in blocks(source, 4 * n_mels, f"frame of {n_mels} bins"):
        yield frames_of(data, n_mels)


def frames_of(data: bytes, n_mels: int) -> NDArray[np.float32]:
    """Return frames of float32, one after the other, as a mel `(n_mels, frames)`."""
    return np.ascontiguousarray(np.frombuffer(data, "<f4").reshape(-1, n_mels).T)


def samples(source: ByteReader, form: PcmFormat, sample_rate: int, *, resample: bool) -> Iterator[NDArray[np.float32]]:
    """Yield audio `(time,)` at the rate of a model as it arrives.

    Raises:
        AudioError: If it has several channels, or another rate and is not to be resampled.
    """
    if form.channels != 1:
        raise AudioError(f"{source.name} has {form.channels} channels; a stream has one. `ffmpeg -ac 1` mixes them.")
    if form.sample_rate != sample_rate and not resample:
        raise AudioError(f"{source.name} is {form.sample_rate} Hz; this model needs {sample_rate} Hz. Use --resample.")
    decoded = (form.decode(data)[0] for data in blocks(source, form.width, "sample", form.n_bytes))
    if form.sample_rate == sample_rate:
        yield from decoded
        return
    import soxr  # type: ignore[import-untyped]

    resampler = soxr.ResampleStream(form.sample_rate, sample_rate, 1, quality="VHQ")
    for piece in decoded:
        yield resampler.resample_chunk(piece)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def mels_of_audio(
    vocoder: Vocoder, audio: Iterable[NDArray[np.float32]], n_frames: int
) -> Iterator[NDArray[np.float32]]:
    """Yield the mel of audio that arrives in pieces: together what `Vocoder.mel` makes of the whole.

    Args:
        vocoder: The model.
        audio: Pieces `(time,)`.
        n_frames: How many frames are computed at a time.

    Yields:
        Pieces `(n_mels, frames)`.

    Raises:
        AudioError: If all of it is shorter than a frame.
    """
    hop, reach = vocoder.mel_config.hop_length, vocoder.mel_config.n_fft
    margin = 2 * -(-reach // hop)  # frames that are computed again, so that none sees the edge of an excerpt
    kept, first, done = np.zeros(0, np.float32), 0, 0  # `kept` begins with frame `first`; frames before `done` are out
    for piece in audio:
        kept = np.concatenate([kept, piece])
        complete = first + len(kept) // hop - margin
        if complete - done >= n_frames:
            yield vocoder.mel(kept[: len(kept) // hop * hop])[:, done - first : complete - first]
            done = complete
            start = max(0, done - margin)
            kept, first = kept[(start - first) * hop :], start
    if first or len(kept):
        yield vocoder.mel(kept)[:, done - first :]


def vocode_stream(
    vocoder: Vocoder,
    source: ByteReader,
    sink: BinaryIO,
    *,
    input_format: InputFormat = "auto",
    output_format: OutputFormat = "wav",
    seed: int = 0,
    chunk_seconds: float = 0.5,
    resample: bool = False,
    force: bool = False,
    **changes: Unpack[SynthesisChanges],
) -> int:
    """Vocode one stream into another, and flush every chunk as soon as it is made.

    Args:
        vocoder: The model.
        source: The mel or audio.
        sink: Where the audio goes, 16 bits, one channel; a WAV has a header without a length.
        input_format: See `InputFormat`; "auto" looks at the first bytes.
        output_format: What is written.
        seed: As in `Vocoder.stream`.
        chunk_seconds: As in `Vocoder.stream`.
        resample: Whether audio at another rate is resampled.
        force: Whether a mel is vocoded that looks like another convention; its values are brought into the range.
        **changes: As in `Vocoder.stream`.

    Returns:
        How many samples were written.

    Raises:
        MelError: If the mel does not fit the model.
        AudioError: If the audio cannot be read.
    """
    kind = detect(source) if input_format == "auto" else input_format
    limit: list[int] = []  # samples of the audio that came in, once all of it has
    if kind in ("npy", "mel"):
        config = vocoder.given.config
        mels = npy_arrays(source) if kind == "npy" else raw_mels(source, config.n_mels)
        mels = (clipped(mel, config) for mel in mels) if force else judged(mels, config)
    else:
        vocoder = vocoder.with_mel_convention(None)
        form = read_wav_header(source.read, source.name) if kind == "wav" else PcmFormat(vocoder.sample_rate)
        audio = _counted(samples(source, form, vocoder.sample_rate, resample=resample), limit)
        n_frames = max(1, round(chunk_seconds * vocoder.sample_rate / vocoder.mel_config.hop_length))
        mels = mels_of_audio(vocoder, audio, n_frames)
    n_written = n_clipped = 0
    for piece in vocoder.stream(mels, seed=seed, chunk_seconds=chunk_seconds, **changes):
        if n_written == 0 and output_format == "wav":
            sink.write(wav_header(vocoder.sample_rate))
        piece = piece[: limit[0] - n_written] if limit else piece
        sink.write(s16le(piece))
        sink.flush()
        n_written += len(piece)
        n_clipped += int((np.abs(piece) > 1).sum())
    if n_written == 0:
        raise MelError(f"{source.name} is empty; expected a mel or audio.")
    if n_clipped:
        _LOG.warning("%d of %d samples are beyond ±1 and are clipped", n_clipped, n_written)
    return n_written


def _counted(audio: Iterable[NDArray[np.float32]], total: list[int]) -> Iterator[NDArray[np.float32]]:
    count = 0
    for piece in audio:
        count += len(piece)
        yield piece
    total.append(count)


def detect(source: ByteReader) -> InputFormat:
    """Tell from its first bytes what a stream holds; what has no mark of its own is a raw mel.

    Raises:
        AudioError: If it is a format that cannot be read as a stream.
    """
    head = source.peek(12)
    for mark, name in _OTHERS.items():
        if head.startswith(mark):
            raise AudioError(f"{source.name} is {name}; a stream is WAV, .npy or raw. `ffmpeg -i - -f wav -` converts.")
    if head.startswith(_NPY):
        return "npy"
    return "wav" if head.startswith(b"RIFF") else "mel"
