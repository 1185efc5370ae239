"""Audio as a stream of bytes: 16-bit samples, and the header of a WAV whose length nobody knows yet."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiodiff.errors import AudioError

UNKNOWN_SIZE = 0xFFFFFFFF
"""Stands in a header for the length of a stream, as ffmpeg and sox write it."""

_EXTENSIBLE = 0xFFFE
_CHUNK_LIMIT = 2**20
"""Bytes of a chunk before the audio that is no audio."""


def s16le(audio: NDArray[Any]) -> bytes:
    """Encode samples in [-1, 1] `(time,)` as 16 bits, little-endian, as `save_audio` does; beyond that they clip."""
    return np.clip(np.rint(audio * 32768.0), -32768, 32767).astype("<i2").tobytes()


def wav_header(sample_rate: int, n_samples: int | None = None) -> bytes:
    """Return the header of a WAV with one channel of 16 bits.

    Args:
        sample_rate: In Hz.
        n_samples: How many follow; None where that is not known yet.
    """
    size = UNKNOWN_SIZE if n_samples is None else 2 * n_samples
    riff = UNKNOWN_SIZE if n_samples is None else 36 + size
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + form + struct.pack("<4sI", b"data", size)


@dataclass(frozen=True)
class PcmFormat:
    """How the samples of a stream are encoded.

    Attributes:
        sample_rate: In Hz.
        channels: How many.
        bits: Of a sample.
        floating: Whether samples are floating-point numbers.
        n_bytes: Length of the audio; None where it lasts as long as the stream.
    """

    sample_rate: int
    channels: int = 1
    bits: int = 16
    floating: bool = False
    n_bytes: int | None = None

    @property
    def width(self) -> int:
        """Bytes of one sample of all channels."""
        return self.channels * self.bits // 8

    def decode(self, data: bytes) -> NDArray[np.float32]:
        """Return whole samples as `(channels, time)` in [-1, 1)."""
        if self.floating:
            samples: NDArray[Any] = np.frombuffer(data, f"<f{self.bits // 8}")
        elif self.bits == 24:
            padded = np.zeros((len(data) // 3, 4), np.uint8)
            padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            samples = padded.view("<i4")[:, 0] / 2.0**31
        elif self.bits == 8:
            samples = (np.frombuffer(data, np.uint8) - 128.0) / 128
        else:
            samples = np.frombuffer(data, f"<i{self.bits // 8}") / 2.0 ** (self.bits - 1)
        return np.ascontiguousarray(samples.reshape(-1, self.channels).T, np.float32)


def read_wav_header(read: Callable[[int], bytes], name: str) -> PcmFormat:
    """Read a WAV up to its first sample, without seeking.

    Args:
        read: Returns so many bytes, or fewer at the end.
        name: What is read, for messages.

    Raises:
        AudioError: If it is no WAV, ends before the audio, or has an encoding that is not read here.
    """
    head = read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        raise AudioError(f"{name} is no WAV: it begins with {head[:12]!r}.")
    form: PcmFormat | None = None
    while len(chunk := read(8)) == 8:
        kind, size = struct.unpack("<4sI", chunk)
        if kind == b"data" and form is not None:
            endless = size in (0, UNKNOWN_SIZE) or size >= 0x7FFFF000  # 0 is what a header says that was never finished
            return PcmFormat(form.sample_rate, form.channels, form.bits, form.floating, None if endless else size)
        if size > _CHUNK_LIMIT:
            break
        content = read(size + size % 2)
        if kind == b"fmt ":
            form = _pcm_format(content, name)
    raise AudioError(f"{name} is a WAV without audio: it ends, or is damaged, before its data.")


def _pcm_format(content: bytes, name: str) -> PcmFormat:
    if len(content) < 16:
        raise AudioError(f"{name} is a damaged WAV: its format has {len(content)} bytes; expected at least 16.")
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == _EXTENSIBLE and len(content) >= 26:
        (tag,) = struct.unpack("<H", content[24:26])
    if (tag, bits) not in {(1, 8), (1, 16), (1, 24), (1, 32), (3, 32), (3, 64)} or not channels or not rate:
        raise AudioError(
            f"{name} is a WAV of {channels} channels, {rate} Hz, {bits} bits and format {tag}; expected PCM or "
            "floating point. `ffmpeg -i IN -f wav -` converts it."
        )
    return PcmFormat(rate, channels, bits, tag == 3)
