"""Samples as the encodings of audio files hold them: checked, clipped with a warning, rounded once."""

from __future__ import annotations

import warnings
from typing import Any

from numpy.typing import NDArray
from torch import Tensor, int32

from audiodiff.errors import AudioError

_BITS = {"PCM_U8": 8, "PCM_S8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_FLOATING = ("FLOAT", "DOUBLE")


def checked(audio: Tensor, subtype: str, name: str) -> Tensor:
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
    if audio.ndim not in (1, 2) or audio.numel() == 0 or not audio.is_floating_point():
        raise AudioError(
            f"audio for {name} has shape {tuple(audio.shape)} and type {audio.dtype}; expected at least one sample, "
            "(time,) or (channels, time), floating point. Save the clips of a batch one by one."
        )
    samples = audio.detach().cpu().reshape(-1, audio.shape[-1])
    if samples.shape[0] > samples.shape[1]:
        raise AudioError(f"audio for {name} has shape {tuple(audio.shape)}; expected (channels, time). Transpose it.")
    if n_bad := count_not_finite(samples):
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


def count_not_finite(samples: Tensor) -> int:
    """Return how many samples are NaN or infinite; cheap where there are none."""
    low, high = samples.aminmax()
    if bool(low.isfinite()) and bool(high.isfinite()):
        return 0
    return int((~samples.isfinite()).sum())


def encode(samples: Tensor, subtype: str) -> NDArray[Any]:
    """Turn checked samples into what soundfile writes without changing it any more.

    Whole numbers are not left to libsndfile, because it multiplies by 32767 on writing what it divides by 32768 on
    reading: every round trip would make a recording quieter. Here loading and saving again gives the same bits.

    Args:
        samples: A part of what `checked` returned, `(channels, time)`; beyond ±1 it is clipped unless the encoding is
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
