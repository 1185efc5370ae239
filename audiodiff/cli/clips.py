"""Reading what is to be vocoded: a recording or a mel spectrogram, checked against the model."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiodiff.audio.io import audio_info, load_audio
from audiodiff.audio.mel import check_mel
from audiodiff.cli.jobs import Job
from audiodiff.data.doctor import LARGE_DC
from audiodiff.errors import AudioError, MelError
from audiodiff.pipelines import Vocoder


@dataclass(frozen=True)
class Clip:
    """One input, ready to be vocoded.

    Attributes:
        job: Where it came from and goes.
        mel: `(channels, n_mels, frames)`.
        reference: The recording `(channels, time)` at the model's rate; None for an input that is a mel.
    """

    job: Job
    mel: Tensor
    reference: Tensor | None

    @property
    def n_frames(self) -> int:
        """Length of the mel."""
        return self.mel.shape[-1]


def read_clip(job: Job, vocoder: Vocoder, *, resample: bool) -> Clip:
    """Read one input.

    Args:
        job: The file.
        vocoder: The model that it is for.
        resample: Whether a recording at another rate is resampled; if not, it is refused.

    Returns:
        The clip, its channels apart.

    Raises:
        AudioError: If a recording cannot be read, is too short, or has another rate.
        MelError: If a mel cannot be read or does not fit the model.
    """
    if job.is_mel:
        mel = load_mel(job.source)
        check_mel(mel, vocoder.mel_config)
        return Clip(job, mel.unsqueeze(0), None)
    rate = audio_info(job.source).sample_rate
    if rate != vocoder.sample_rate and not resample:
        raise AudioError(f"{job.source} is {rate} Hz; this model needs {vocoder.sample_rate} Hz. Use --resample.")
    audio = load_audio(job.source, sample_rate=vocoder.sample_rate, mono=False)
    return Clip(job, vocoder.mel(_without_offset(audio, job.source)), audio)


def _without_offset(audio: Tensor, path: Path) -> Tensor:
    """Take a DC offset out of a recording; a mel cannot tell it from rumble, and rumble would be made of it."""
    offset = audio.mean(-1, keepdim=True)
    if float(offset.abs().max()) <= LARGE_DC:
        return audio
    warnings.warn(
        f"{path} has a DC offset of {float(offset.abs().max()):.3f}, which is taken out before its mel is computed.",
        stacklevel=2,
    )
    return audio - offset


def load_mel(path: Path) -> Tensor:
    """Read a mel spectrogram that NumPy or PyTorch saved; no code in the file is run.

    Args:
        path: A .npy file, or a .pt file that holds one tensor.

    Returns:
        The mel `(n_mels, frames)`, not checked against any convention.

    Raises:
        MelError: If the file cannot be read, or holds something else than one mel.
    """
    if not path.is_file():
        raise MelError(f"{path} does not exist; expected a mel. Check the path.")
    try:
        content = (
            torch.load(path, map_location="cpu", weights_only=True) if path.suffix.lower() == ".pt" else _npy(path)
        )
    except Exception as error:  # a damaged file makes both readers raise nearly anything
        raise MelError(
            f"{path} cannot be read as a mel ({type(error).__name__}): it is damaged, or no tensor saved with "
            f"{'torch.save' if path.suffix.lower() == '.pt' else 'numpy.save'}. Save it again."
        ) from error
    if not isinstance(content, Tensor):
        raise MelError(f"{path} holds a {type(content).__name__}; expected one tensor (n_mels, frames).")
    if content.ndim == 3 and content.shape[0] == 1:
        content = content[0]
    if content.ndim != 2:
        raise MelError(
            f"{path} has shape {tuple(content.shape)}; expected one mel, (n_mels, frames). Save one at a time."
        )
    return content.detach()


def _npy(path: Path) -> object:
    content = np.load(path, allow_pickle=False)
    if not isinstance(content, np.ndarray):
        return content
    return torch.from_numpy(content.astype(content.dtype.newbyteorder("=")))
