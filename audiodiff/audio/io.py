"""Audio files in and out, whole or in part, and never quietly changed."""

from __future__ import annotations

import io
import os
import stat
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor, int32

from audiodiff.audio.decoding import FRAMED, Source, examine
from audiodiff.audio.resample import resample
from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.choices import SAMPLE_RATE
from audiodiff.errors import AudioError, NotFiniteError, OutputError

AUDIO_EXTENSIONS = (
    *(".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga"),
    *(".ogg", ".opus", ".rf64", ".snd", ".sph", ".w64", ".wav", ".wave"),
)
"""What libsndfile reads, in lower case."""
LARGE_DC = 0.01
"""Mean from which a recording has an offset: -40 dB of full scale."""

_WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_WRITE_BLOCK = 2**16
"""Samples written at a time: libsndfile's Vorbis encoder overflows the stack on long blocks."""

_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_FLOATING = ("FLOAT", "DOUBLE")
_KINDS = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
_INTEGER_SCALE = 8.0
"""Amplitude, where 1 is full scale, from which samples were surely never divided by the full scale of integers."""
_INTEGER_SCALE_ADVICE = (
    "These look like whole numbers that were stored as they are, and written as integers they become a square wave. "
    "Divide by their full scale, which for 16 bits is 32768."
)


@dataclass(frozen=True)
class AudioInfo:
    """What is in a file.

    Attributes:
        sample_rate: In Hz.
        n_samples: Length, per channel.
        channels: Number of channels.
        notes: What is amiss with the header, one sentence each.
        subtype: The encoding as libsndfile names it, such as PCM_16.
    """

    sample_rate: int
    n_samples: int
    channels: int
    notes: tuple[str, ...] = ()
    subtype: str = ""

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.n_samples / self.sample_rate


def audio_info(path: Source, *, decode: bool = False) -> AudioInfo:
    """Tell what is in an audio file, to the sample.

    Most headers can be trusted once they agree with the size of the file. What they do not tell is counted by decoding
    the whole file, which takes up to a second per hour of audio: MP3 without a Xing or Info header, block codecs such
    as ADPCM and GSM 06.10. It is done once per process and file.

    Args:
        path: The file, or a file object, in any format of libsndfile.
        decode: Whether all its samples are looked at, where they can be damaged or not finite; so the file is refused
            where `load_audio` would refuse any part of it.

    Returns:
        Its rate, length and channels, and what is amiss with its header.

    Raises:
        AudioError: If the file is missing, is no audio, is empty, or is cut off.
    """
    file = examine(path)
    if decode and (file.format in FRAMED or file.subtype not in _BITS):
        for block in file.blocks():
            if len(block):
                _check_finite(block, file.name)
    return AudioInfo(file.sample_rate, file.count(), file.channels, tuple(file.notes), file.subtype)


def load_audio(
    path: Source, sample_rate: int | None = None, mono: bool = True, *, start: int = 0, n_samples: int | None = None
) -> Tensor:
    """Read an audio file, or by seeking a part of it.

    Streams that are joined end to end are read one after the other. What was written behind a header that was never
    finished is read with a warning.

    Args:
        path: The file, or a file object (it is read from its beginning), in any format of libsndfile.
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
    file = examine(path)
    try:
        start, n_samples = index(start), None if n_samples is None else index(n_samples)
    except TypeError:
        raise AudioError(f"{file.name}: start {start!r} or n_samples {n_samples!r} is no whole number.") from None
    audio = torch.from_numpy(np.ascontiguousarray(file.read(start, n_samples).T))
    _check_finite(audio, file.name)
    if file.subtype in _FLOATING and not file.warned and float(audio.abs().max()) > _INTEGER_SCALE:
        file.warned = True
        warnings.warn(f"{file.name} goes far beyond ±1. {_INTEGER_SCALE_ADVICE}", stacklevel=2)
    if mono:
        audio = audio.mean(0, keepdim=True)
    return audio if sample_rate is None else resample(audio, file.sample_rate, sample_rate)


def save_audio(
    path: Source, audio: ArrayLike, sample_rate: int, subtype: str | None = None, *, format: str = "wav"
) -> None:
    """Write an audio file, under a temporary name first, so that no half-written file ever has the wanted name.

    Args:
        path: The file; its extension decides the format: .wav, .flac, .ogg or .mp3. Or a file object that is open for
            writing in binary mode, which is written to only after the audio has been encoded.
        audio: Samples in [-1, 1], shape `(time,)` or `(channels, time)`, floating point, as a tensor or a NumPy array.
            Beyond that range they are clipped with a warning, unless the subtype is a floating-point one.
        sample_rate: In Hz.
        subtype: The encoding as libsndfile names it, such as PCM_16, PCM_24 or FLOAT; None is 16 bits for WAV and FLAC,
            Vorbis for OGG and layer III for MP3.
        format: What is written to a file object: wav, flac, ogg or mp3. A path has its extension.

    Raises:
        AudioError: If the format, encoding, rate or shape cannot be written, or a sample is not finite.
    """
    target = _target(path)
    name = str(target) if isinstance(target, Path) else f"the file object {getattr(target, 'name', '')}".rstrip()
    extension = target.suffix if isinstance(target, Path) else f".{format.lower().lstrip('.')}"
    kind = _WRITTEN.get(extension.lower())
    if kind is None:
        raise AudioError(f"{name} has extension {extension!r}; audio is written as {', '.join(_WRITTEN)}.")
    subtype = (subtype or soundfile.default_subtype(kind)).upper()
    if not soundfile.check_format(kind, subtype):
        known = ", ".join(soundfile.available_subtypes(kind))
        raise AudioError(f"{name} cannot hold subtype {subtype!r}; {kind} knows {known}.")
    if isinstance(target, Path) and not target.parent.is_dir():
        raise AudioError(f"{name} cannot be written: there is no folder {target.parent}. Create it first.")
    samples = _checked(audio, subtype, name)
    how = {
        "samplerate": _rate(sample_rate, len(samples), subtype, name),
        "channels": len(samples),
        "subtype": subtype,
        "format": kind,
    }
    try:
        _write(target, samples, how)
    except OutputError as error:
        raise AudioError(str(error)) from error
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise AudioError(f"{name} cannot be written with {how}: {getattr(error, 'error_string', error)}") from error


def _rate(sample_rate: int, n_channels: int, subtype: str, name: str) -> int:
    """Return a rate that can be written; of others, and of more channels, libvorbis crashes."""
    try:
        rate: int = SAMPLE_RATE.parse(sample_rate)
    except ValueError as error:
        raise AudioError(f"{name} cannot be written: its sample rate {error}.") from error
    if subtype == "VORBIS" and (rate > 200_000 or n_channels > 255):
        what = f"{n_channels} channels at {rate} Hz"
        raise AudioError(f"{name} cannot hold {what}: Vorbis ends at 255 channels and 200000 Hz. Write a WAV.")
    return rate


def _check_finite(samples: Tensor | NDArray[np.float32], name: str) -> None:
    if n_bad := _count_not_finite(torch.as_tensor(samples)):
        raise NotFiniteError(
            f"{name} has {n_bad} samples that are NaN or infinite; expected none. Repair or remove it."
        )


def _write(target: Path | BinaryIO, samples: Tensor, how: dict[str, Any]) -> None:
    """Encode checked samples `(channels, time)`; as `save_audio`, but errors are those of libsndfile and the system."""
    buffer = io.BytesIO()
    with replacing(target) if isinstance(target, Path) else nullcontext(buffer) as part:
        try:
            with soundfile.SoundFile(os.fsencode(part) if isinstance(part, Path) else part, "w", **how) as file:
                for block in samples.split(_WRITE_BLOCK, dim=1):
                    file.write(_encode(block, how["subtype"]))
        except soundfile.SoundFileError:
            if isinstance(part, Path):  # libsndfile does not tell what the system said, so it is asked again
                with part.open("ab") as rest:
                    rest.write(bytes(_WRITE_BLOCK))
            raise
    if not isinstance(target, Path):
        target.write(buffer.getbuffer())


def _target(path: object) -> Path | BinaryIO:
    if isinstance(path, str | os.PathLike):
        return Path(path)
    if hasattr(path, "write") and not isinstance(path, io.TextIOBase):
        return cast(BinaryIO, path)
    raise AudioError(f"audio cannot be written to {path!r:.80}; expected a path, or a file object opened with 'wb'.")


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
        advice = "Scale the audio, or write a WAV with subtype='FLOAT'."
        warnings.warn(
            f"{name}: {n_over} of {samples.numel()} samples are beyond ±1 (peak {peak:.3g}) and are clipped for "
            f"{subtype}. {_INTEGER_SCALE_ADVICE if peak > _INTEGER_SCALE else advice}",
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
    make_folder(target.parent)  # of a link to a folder that is not there
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
