"""Samples as the encodings of audio files hold them: checked, clipped with a warning, rounded once."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, int32

from audiodiff.errors import AudioError

_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_FLOATING = ("FLOAT", "DOUBLE")


def encode(audio: Tensor, subtype: str, name: str) -> NDArray[Any]:
    """Turn audio into what soundfile writes without changing it any more.

    Whole numbers are not left to libsndfile, because it multiplies by 32767 on writing what it divides by 32768 on
    reading: every round trip would make a recording quieter. Here loading and saving again gives the same bits.

    Args:
        audio: Samples in [-1, 1], shape `(time,)` or `(channels, time)`, floating point.
        subtype: The encoding as libsndfile names it, in upper case.
        name: What the audio is for, to be named in messages.

    Returns:
        Samples, shape `(time, channels)`: for PCM whole numbers scaled to fill int32, else float64.

    Raises:
        AudioError: If the shape or type is wrong, or a sample is not finite.
    """
    if audio.ndim not in (1, 2) or audio.numel() == 0 or not audio.is_floating_point():
        raise AudioError(
            f"audio for {name} has shape {tuple(audio.shape)} and type {audio.dtype}; expected at least one sample, "
            "(time,) or (channels, time), floating point. Save the clips of a batch one by one."
        )
    samples = audio.detach().cpu().double().reshape(-1, audio.shape[-1])
    if samples.shape[0] > samples.shape[1]:
        raise AudioError(f"audio for {name} has shape {tuple(audio.shape)}; expected (channels, time). Transpose it.")
    if n_bad := int((~samples.isfinite()).sum()):
        raise AudioError(f"audio for {name} has {n_bad} samples that are NaN or infinite; nothing was written.")
    if subtype not in _FLOATING:
        samples = _clipped(samples, subtype, name)
    if subtype in _BITS:
        full_scale = 2.0 ** (_BITS[subtype] - 1)
        whole = (samples * full_scale).round().clamp(-full_scale, full_scale - 1)
        samples = (whole * 2 ** (32 - _BITS[subtype])).to(int32)
    result: NDArray[Any] = samples.T.contiguous().numpy()
    return result


def _clipped(samples: Tensor, subtype: str, name: str) -> Tensor:
    n_over = int((samples.abs() > 1).sum())
    if n_over == 0:
        return samples
    warnings.warn(
        f"{name}: {n_over} of {samples.numel()} samples are beyond ±1 (peak {float(samples.abs().max()):.3g}) and are "
        f"clipped for {subtype}. Scale the audio, or write a WAV with subtype='FLOAT'.",
        stacklevel=4,  # the caller of save_audio
    )
    return samples.clamp(-1, 1)
