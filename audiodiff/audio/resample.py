"""Resampling by windowed-sinc interpolation (Smith and Gossett 1984), with one filter for every device.

torchaudio serves nearly everything: it runs where the tensor is, on batches, and has gradients. Its cost grows with the
reduced rates, though: 44100 to 22050 Hz is 2 to 1, but 44101 to 22050 Hz would need a filter of 4 GB. Such pairs go
through soxr (which librosa brings along), whose cost does not depend on the rates but which knows NumPy only.
"""

from __future__ import annotations

import importlib
import logging
import math
import sys
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.choices import SAMPLE_RATE, shown
from audiodiff.errors import AudioError

# Measured with sines: flat within 0.01 dB up to 0.94 of the lower Nyquist frequency, 120 dB down from there on.
_ZERO_CROSSINGS = 128
_ROLLOFF = 0.965
_KAISER_BETA = 11.0
_LARGEST_KERNEL = 2**20
"""Coefficients of the largest torchaudio filter; all usual rates from 8 to 192 kHz but one pair need less."""

_LOG = logging.getLogger(__name__)


def resample(audio: ArrayLike, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate of audio.

    The signal is taken to be zero before its start and after its end.

    Args:
        audio: Samples, shape `(..., time)`, floating point.
        from_rate: The sample rate of `audio`, in Hz.
        to_rate: The wanted sample rate, in Hz.

    Returns:
        Samples of shape `(..., ceil(time * to_rate / from_rate))`, on the device and in the dtype of `audio`; `audio`
        itself if the rates are equal.

    Raises:
        AudioError: If a rate is not positive, the audio is empty or of integers, or a gradient is asked for between
            rates with hardly a common divisor.
    """
    try:
        from_rate, to_rate = SAMPLE_RATE.parse(from_rate), SAMPLE_RATE.parse(to_rate)
    except ValueError as error:
        raise AudioError(f"cannot resample from {shown(from_rate)} Hz to {shown(to_rate)} Hz: {error}.") from error
    audio = as_tensor(audio, "audio", AudioError)
    if not audio.is_floating_point():
        raise AudioError(f"audio is {audio.dtype}; expected floating point in [-1, 1]. Divide by the full scale.")
    if audio.numel() == 0:
        raise AudioError(f"audio of shape {tuple(audio.shape)} is empty; expected at least one sample.")
    if from_rate == to_rate:
        return audio
    divisor = math.gcd(from_rate, to_rate)
    before, after = from_rate // divisor, to_rate // divisor
    n_samples = -(-audio.shape[-1] * after // before)
    # Zeros after the end, because neither library's own output length is exact; it is cut to the exact one.
    spare = 2 + before // after + audio.shape[-1] // 2**20
    padded = functional.pad(audio.reshape(-1, audio.shape[-1]), (0, spare))
    method = _with_torchaudio if _kernel_size(before, after) <= _LARGEST_KERNEL else _with_soxr
    return method(padded, before, after)[:, :n_samples].reshape(*audio.shape[:-1], n_samples)


def _kernel_size(before: int, after: int) -> int:
    """Return how many coefficients torchaudio's filter has: one row per output phase."""
    reach = math.ceil(_ZERO_CROSSINGS * before / (min(before, after) * _ROLLOFF))
    return after * (2 * reach + before)


def _with_torchaudio(audio: Tensor, before: int, after: int) -> Tensor:
    with torch.autocast(audio.device.type, enabled=False):  # bfloat16 would add noise at -56 dB
        result: Tensor = _resampler(before, after, audio.dtype, audio.device)(audio)
    return result


@lru_cache(maxsize=32)
def _resampler(before: int, after: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Build torchaudio's filter in float64 (its default is 17 dB noisier), then in the audio's dtype."""
    import_torchaudio()
    from torchaudio.transforms import Resample

    with torch.inference_mode(False):  # the filter outlives the caller's mode, and may serve a gradient next time
        module: nn.Module = Resample(
            before,
            after,
            resampling_method="sinc_interp_kaiser",
            lowpass_filter_width=_ZERO_CROSSINGS,
            rolloff=_ROLLOFF,
            beta=_KAISER_BETA,
            dtype=torch.float64,
        )
        return module.to(device=device, dtype=dtype)


def _with_soxr(audio: Tensor, before: int, after: int) -> Tensor:
    if audio.requires_grad and torch.is_grad_enabled():
        raise AudioError(
            f"resampling by {after}/{before} has no gradient. Choose rates with a larger common divisor, such as 22050 "
            "and 44100 Hz, or detach the audio."
        )
    import soxr  # type: ignore[import-untyped]

    samples = audio.detach().cpu().to(torch.promote_types(audio.dtype, torch.float32)).T.contiguous().numpy()
    result = soxr.resample(samples, before, after, quality="VHQ")
    return torch.from_numpy(result).T.to(device=audio.device, dtype=audio.dtype)


def low_pass(audio: Tensor, cutoff: float, sample_rate: int) -> Tensor:
    """Take away everything from a frequency on: an orthogonal projection of the whole signal.

    Args:
        audio: `(..., time)`.
        cutoff: In Hz.
        sample_rate: In Hz.

    Returns:
        Audio of the same shape.
    """
    spectrum = torch.fft.rfft(audio)
    frequency = torch.fft.rfftfreq(audio.shape[-1], 1 / sample_rate, device=audio.device)
    passed: Tensor = torch.fft.irfft(spectrum * (frequency < cutoff), n=audio.shape[-1])
    return passed


def import_torchaudio() -> ModuleType:
    """Import torchaudio, if need be without its compiled extension; the one place where it is imported.

    torchaudio's wheels bring libraries linked against one build of torch. Beside a torch for CPUs only, or another
    CUDA, they do not load and `import torchaudio` fails, although resampling, transforms, corpora and most effects are
    plain Python over torch. torchaudio is made to run without its libraries: it looks for them on import, and goes on
    if there are none. So where they are present but do not load, this hides them from that search and imports once
    more. What is then missing is forced alignment, the CUDA CTC decoder and the fast path of IIR filters; audiodiff
    uses none of them.

    Returns:
        The package `torchaudio`; plain imports of it find the same one from then on.

    Raises:
        ImportError: If torchaudio is not installed, or fails for another reason than its extension.
    """
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError) as error:  # a library that does not load; one for another CUDA
        _LOG.debug("torchaudio's compiled extension does not load (%s); going on without it", error)
    _hide_libraries()
    try:
        return importlib.import_module("torchaudio")
    except (OSError, RuntimeError, AttributeError) as error:
        raise ImportError(
            f"torchaudio does not load, with or without its compiled extension: {error}. "
            "Install the torchaudio that was built for the installed torch, from the same index."
        ) from error


def _hide_libraries() -> None:
    """Make torchaudio's search for its libraries find nothing."""
    # Up to torchaudio 2.9 it asks whether this module can be found; None is Python's way of saying no.
    sys.modules["torchaudio.lib._torchaudio"] = None  # type: ignore[assignment]
    # From 2.10 on it lists a folder. The failed import left the module that knows it, which the next import reuses.
    probe = sys.modules.get("torchaudio._extension.utils")
    if probe is not None and hasattr(probe, "_LIB_DIR"):
        vars(probe)["_LIB_DIR"] /= "absent"
