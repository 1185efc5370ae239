"""Audio files in and out, through soundfile: whole or in part, and never quietly changed.

Noticing that a file is cut off, and exact seeking in lossy formats, are what libsndfile leaves to its callers.
"""

from __future__ import annotations

import os
import re
import stat
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, int32

from audiodiff.audio.resample import resample
from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.errors import AudioError, OutputError

AUDIO_EXTENSIONS = (
    *(".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga"),
    *(".ogg", ".opus", ".rf64", ".snd", ".sph", ".w64", ".wav", ".wave"),
)
"""What libsndfile reads, in lower case."""

_WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_WRITE_BLOCK = 2**16
"""Samples written at a time: libsndfile's Vorbis encoder overflows the stack on long blocks."""

_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_FLOATING = ("FLOAT", "DOUBLE")
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}

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


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says.

    Attributes:
        sample_rate: In Hz.
        n_samples: Length, per channel.
        channels: Number of channels.
    """

    sample_rate: int
    n_samples: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def audio_info(path: str | Path) -> AudioInfo:
    """Read the header of an audio file.

    Args:
        path: The file, in any format of libsndfile.

    Returns:
        Its rate, length and channels.

    Raises:
        AudioError: If the file is missing, is no audio, is empty, or is cut off.
    """
    with _opened(Path(path)) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def load_audio(
    path: str | Path, sample_rate: int | None = None, mono: bool = True, *, start: int = 0, n_samples: int | None = None
) -> Tensor:
    """Read an audio file, or by seeking a part of it.

    Args:
        path: The file, in any format of libsndfile.
        sample_rate: The wanted rate in Hz, resampled to where it differs; None keeps the file's own (`audio_info`).
        mono: Whether channels are averaged into one.
        start: First sample to read, at the file's own rate.
        n_samples: How many samples to read, at the file's own rate; None reads to the end.

    Returns:
        Samples, shape `(channels, time)` (one channel if `mono`), float32; integer formats lie in [-1, 1).

    Raises:
        AudioError: If the file is missing, is no audio, is empty, is cut off, ends before the part that was asked for,
            or has samples that are not finite.
    """
    with _opened(Path(path)) as file:
        samples = _read_part(file, start, file.frames - start if n_samples is None else n_samples)
        own_rate = file.samplerate
    audio = torch.from_numpy(np.ascontiguousarray(samples.T))
    if n_bad := _count_not_finite(audio):
        raise AudioError(f"{path} has {n_bad} samples that are NaN or infinite; expected none. Repair or remove it.")
    if mono:
        audio = audio.mean(0, keepdim=True)
    return audio if sample_rate is None else resample(audio, own_rate, sample_rate)


def save_audio(path: str | Path, audio: ArrayLike, sample_rate: int, subtype: str | None = None) -> None:
    """Write an audio file, under a temporary name first, so that no half-written file ever has the wanted name.

    Args:
        path: The file; its extension decides the format: .wav, .flac, .ogg or .mp3.
        audio: Samples in [-1, 1], shape `(time,)` or `(channels, time)`, floating point. Beyond that range they are
            clipped with a warning, unless the subtype is a floating-point one.
        sample_rate: In Hz.
        subtype: The encoding as libsndfile names it, such as PCM_16, PCM_24 or FLOAT; None is 16 bits for WAV and FLAC,
            Vorbis for OGG and layer III for MP3.

    Raises:
        AudioError: If the format, encoding, rate or shape cannot be written, or a sample is not finite.
    """
    path = Path(path)
    kind = _WRITTEN.get(path.suffix.lower())
    if kind is None:
        raise AudioError(f"{path} has extension {path.suffix!r}; audio is written as {', '.join(_WRITTEN)}.")
    subtype = (subtype or soundfile.default_subtype(kind)).upper()
    if not soundfile.check_format(kind, subtype):
        known = ", ".join(soundfile.available_subtypes(kind))
        raise AudioError(f"{path} cannot hold subtype {subtype!r}; {kind} knows {known}.")
    if not path.parent.is_dir():
        raise AudioError(f"{path} cannot be written: there is no folder {path.parent}. Create it first.")
    samples = _checked(audio, subtype, str(path))
    how = {"samplerate": sample_rate, "channels": len(samples), "subtype": subtype, "format": kind}
    try:
        with replacing(path) as part, soundfile.SoundFile(part, "w", **how) as file:
            for block in samples.split(_WRITE_BLOCK, dim=1):
                file.write(_encode(block, subtype))
    except OutputError as error:
        raise AudioError(str(error)) from error
    except (soundfile.SoundFileError, OSError) as error:
        hint = " Is the disk full?" if "System error" in str(error) else ""
        raise AudioError(f"{path} cannot be written with {how}: {error}{hint}") from error


# --- reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
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


def _read_part(file: soundfile.SoundFile, start: int, n_samples: int) -> NDArray[np.float32]:
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


# --- writing ----------------------------------------------------------------------------------------------------------


def _checked(audio: ArrayLike, subtype: str, name: str) -> Tensor:
    """Refuse audio that cannot be written, and warn of samples that will be clipped.

    Args:
        audio: Samples in [-1, 1], shape `(time,)` or `(channels, time)`, floating point.
        subtype: The encoding as libsndfile names it, in upper case.
        name: What the audio is for, to be named in messages.

    Returns:
        The samples `(channels, time)` on the CPU.

    Raises:
        AudioError: If the shape or type is wrong, or a sample is not finite.
    """
    audio = as_tensor(audio, f"audio for {name}", AudioError)
    if audio.ndim not in (1, 2) or audio.numel() == 0 or not audio.is_floating_point():
        raise AudioError(
            f"audio for {name} has shape {tuple(audio.shape)} and type {audio.dtype}; expected at least one sample, "
            "(time,) or (channels, time), floating point. Save the clips of a batch one by one."
        )
    samples = audio.detach().cpu().reshape(-1, audio.shape[-1])
    if samples.shape[0] > samples.shape[1]:
        raise AudioError(f"audio for {name} has shape {tuple(audio.shape)}; expected (channels, time). Transpose it.")
    if n_bad := _count_not_finite(samples):
        raise AudioError(f"audio for {name} has {n_bad} samples that are NaN or infinite; nothing was written.")
    peak = max(abs(float(edge)) for edge in samples.aminmax())
    if peak > 1 and subtype not in _FLOATING:
        n_over = int((samples > 1).sum()) + int((samples < -1).sum())
        warnings.warn(
            f"{name}: {n_over} of {samples.numel()} samples are beyond ±1 (peak {peak:.3g}) and are clipped for "
            f"{subtype}. Scale the audio, or write a WAV with subtype='FLOAT'.",
            stacklevel=3,  # the caller of save_audio
        )
    return samples


def _count_not_finite(samples: Tensor) -> int:
    """Return how many samples are NaN or infinite; cheap where there are none."""
    low, high = samples.aminmax()
    if bool(low.isfinite()) and bool(high.isfinite()):
        return 0
    return int((~samples.isfinite()).sum())


def _encode(samples: Tensor, subtype: str) -> NDArray[Any]:
    """Turn checked samples into what soundfile writes without changing it any more.

    Whole numbers are not left to libsndfile, because it multiplies by 32767 on writing what it divides by 32768 on
    reading: every round trip would make a recording quieter. Here loading and saving again gives the same bits.

    Args:
        samples: A part of what `_checked` returned, `(channels, time)`; beyond ±1 it is clipped unless the encoding is
            a floating-point one.
        subtype: The encoding as libsndfile names it, in upper case.

    Returns:
        Samples, shape `(time, channels)`: for PCM whole numbers scaled to fill int32, else float64.
    """
    samples = samples.double()
    if subtype not in _FLOATING:
        samples = samples.clamp(-1, 1)
    if subtype in _BITS:
        full_scale = 2.0 ** (_BITS[subtype] - 1)
        whole = (samples * full_scale).round().clamp(-full_scale, full_scale - 1)
        samples = (whole * 2 ** (32 - _BITS[subtype])).to(int32)
    result: NDArray[Any] = samples.T.contiguous().numpy()
    return result


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Lend a temporary name beside a file, and rename it to the file at the end. Every file is written this way.

    On failure the old file stays. The folder is made. A symbolic link stays, and the file that it names is replaced.

    Yields:
        The name to write to.

    Raises:
        OutputError: If a device, a pipe, a folder or the like has that name, or the disk is full or read-only.
    """
    make_folder(path.parent)
    target = writable(path)
    part = target.with_name(f".{uuid.uuid4().hex}.part")  # of one length, so that names may have all 255 bytes
    try:
        yield part
        os.replace(part, target)
    except OSError as error:
        if isinstance(error, OutputError) or error.filename not in (None, str(part), part):  # of what was read
            raise
        raise OutputError.of(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def writable(path: Path) -> Path:
    """Follow links, and refuse what is no regular file: /dev/null, once renamed over, is gone for every program."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        raise OutputError.of(path, error) from error
    if kind != stat.S_IFREG:
        raise OutputError(f"{path} is a {_KINDS.get(kind, 'device')}; expected a file. Choose another name.")
    return Path(os.path.realpath(path))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they are there; an OutputError says why that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError.of(folder, error) from error


def flush_to_disk(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk before anything is built on it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
