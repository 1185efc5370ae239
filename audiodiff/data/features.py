"""Files made of recordings ahead of training: mel spectrograms of a named convention, and waveforms at another rate."""

from __future__ import annotations

import logging
import math
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np
import torch

from audiodiff.audio.io import audio_info, load_audio, make_folder, replacing, save_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import mel_convention
from audiodiff.data.manifest import Recording
from audiodiff.errors import AudioError, DataError

MelPrecision = Literal["float16", "float32"]

_LOG = logging.getLogger(__name__)


def check_convention(name: str) -> None:
    """Refuse a name that is no mel convention.

    Raises:
        DataError: With the names there are.
    """
    _spectrogram(name)


@lru_cache(maxsize=4)
def _spectrogram(name: str) -> MelSpectrogram:
    try:
        return MelSpectrogram(mel_convention(name))
    except ValueError as error:
        raise DataError(f"{error}.") from error


@torch.inference_mode()
def add_mel(recording: Recording, target: Path, convention: str, precision: MelPrecision = "float16") -> Recording:
    """Write the mel spectrogram of a recording, unless it is there already.

    Channels are averaged, and a recording at another rate is resampled to the convention's.

    Args:
        recording: What to make a mel of.
        target: The .npy file to write, an array `(n_mels, frames)`.
        convention: A name as of `audiodiff.config.mel_convention`.
        precision: Of the file. Half precision is off by at most 0.004 at values of natural logarithms down to -8.

    Returns:
        The recording with the mel and its convention noted.

    Raises:
        AudioError: If the recording cannot be read, or is too short for a mel.
        DataError: If there is no such convention.
    """
    spectrogram = _spectrogram(convention)
    noted = recording.model_copy(update={"mel": target, "mel_convention": convention})
    if not _up_to_date(target, recording.audio) or not _holds_mel(target, spectrogram, recording, precision):
        mel = spectrogram(load_audio(recording.audio, spectrogram.config.sample_rate))[0]
        with replacing(target) as part, part.open("wb") as file:
            np.save(file, mel.numpy().astype(precision))
    return noted


def _up_to_date(target: Path, source: Path) -> bool:
    return target.is_file() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def _holds_mel(path: Path, spectrogram: MelSpectrogram, recording: Recording, precision: str) -> bool:
    """Tell whether a file is the mel that would be written, as far as its shape and type show it."""
    rate, to_rate = recording.sample_rate, spectrogram.config.sample_rate
    n_samples = recording.n_samples or round(recording.seconds * rate)
    try:
        mel = np.load(path, mmap_mode="r", allow_pickle=False)
        n_frames = spectrogram.n_frames(-(-n_samples * to_rate // rate))
    except (ValueError, EOFError, OSError, SyntaxError, TokenError, AudioError):
        return False
    if not isinstance(mel, np.ndarray):
        return False
    return bool(mel.shape == (spectrogram.config.n_mels, n_frames) and mel.dtype == np.dtype(precision))


def at_rate(recording: Recording, target: Path, sample_rate: int) -> Recording:
    """Write a recording at another rate, one channel, 16 bits, unless it is there already.

    Args:
        recording: What to resample.
        target: The .flac or .wav file to write.
        sample_rate: The wanted rate, in Hz.

    Returns:
        The new recording, with the band it had before noted where the new rate would allow for more. Should it become
        louder than full scale, it is made quieter and the log says so.

    Raises:
        AudioError: If the recording cannot be read or written.
    """
    if not (_up_to_date(target, recording.audio) and _is_at_rate(target, sample_rate)):
        audio = load_audio(recording.audio, sample_rate)
        peak = float(audio.abs().max())
        if peak > 1:  # a recording at full scale exceeds it between its samples, and would be clipped
            _LOG.warning(
                "%s is made %.1f dB quieter, so that %s is not clipped", recording.audio, 20 * math.log10(peak), target
            )
            audio = audio / peak
        make_folder(target.parent)
        save_audio(target, audio, sample_rate)
    info = audio_info(target)
    band = min(recording.bandwidth or recording.sample_rate / 2, recording.sample_rate / 2)
    return recording.model_copy(
        update={
            "audio": target,
            "seconds": info.seconds,
            "sample_rate": info.sample_rate,
            "n_samples": info.n_samples,
            "channels": info.channels,
            "bandwidth": band if band < sample_rate / 2 else None,
        }
    )


def decode_with_ffmpeg(source: Path, target: Path) -> Path:
    """Write the sound of a file that only ffmpeg reads as FLAC, unless it is there already.

    Args:
        source: Audio or video.
        target: The .flac file to write.

    Returns:
        The target.

    Raises:
        AudioError: If ffmpeg is not installed, or cannot read the file.
    """
    if _up_to_date(target, source):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    options = ("-nostdin", "-v", "error", "-y", "-i", os.path.abspath(source), "-vn", "-f", "flac")
    with replacing(target) as part:
        try:
            run = subprocess.run(["ffmpeg", *options, os.path.abspath(part)], capture_output=True)
        except OSError as error:
            raise AudioError(f"ffmpeg cannot be started ({error.strerror}). Install it, or do without it.") from error
        if run.returncode:
            reason = run.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit {run.returncode}"
            raise AudioError(f"{source} cannot be read by ffmpeg ({reason}). Remove or replace it.")
    return target


def _is_at_rate(path: Path, sample_rate: int) -> bool:
    try:
        return audio_info(path).sample_rate == sample_rate
    except AudioError:
        return False
