"""Audio files in and out, through soundfile: whole or in part, and never quietly changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiodiff.audio.encoding import checked, count_not_finite, encode
from audiodiff.audio.reading import opened, read_part
from audiodiff.audio.replacing import replacing
from audiodiff.audio.resample import resample
from audiodiff.errors import AudioError

AUDIO_EXTENSIONS = (
    *(".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga"),
    *(".ogg", ".opus", ".rf64", ".snd", ".sph", ".w64", ".wav", ".wave"),
)
"""What `find_audio` takes for audio, in lower case."""

_WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}
_WRITE_BLOCK = 2**16
"""Samples written at a time: libsndfile's Vorbis encoder overflows the stack on long blocks."""


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
    with opened(Path(path)) as file:
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
    with opened(Path(path)) as file:
        samples = read_part(file, start, file.frames - start if n_samples is None else n_samples)
        own_rate = file.samplerate
    audio = torch.from_numpy(np.ascontiguousarray(samples.T))
    if n_bad := count_not_finite(audio):
        raise AudioError(f"{path} has {n_bad} samples that are NaN or infinite; expected none. Repair or remove it.")
    if mono:
        audio = audio.mean(0, keepdim=True)
    return audio if sample_rate is None else resample(audio, own_rate, sample_rate)


def save_audio(path: str | Path, audio: Tensor, sample_rate: int, subtype: str | None = None) -> None:
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
    samples = checked(audio, subtype, str(path))
    how = {"samplerate": sample_rate, "channels": len(samples), "subtype": subtype, "format": kind}
    try:
        with replacing(path) as part, soundfile.SoundFile(part, "w", **how) as file:
            for block in samples.split(_WRITE_BLOCK, dim=1):
                file.write(encode(block, subtype))
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path} cannot be written with {how}: {error}") from error


def find_audio(folder: str | Path) -> list[Path]:
    """List the audio files of a folder and its subfolders.

    Args:
        folder: The folder.

    Returns:
        Paths in sorted order, told by extension (`AUDIO_EXTENSIONS`); files whose name starts with a dot are left out.

    Raises:
        AudioError: If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AudioError(f"{folder} is no folder; expected one with audio files. Check the path.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in AUDIO_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )
