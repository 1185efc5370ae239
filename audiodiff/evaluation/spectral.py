"""Distances between two recordings on plain tensors, any device: multi-resolution STFT, log-mel, SNR, log-spectral.

The first two are differentiable and have one value per clip; the few-step loss trains with one of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import AudioError

RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""FFT length, hop and Hann window, in samples (Yamamoto et al. 2020, "Parallel WaveGAN", table 1)."""

_POWER_FLOOR = 1e-8
"""Smallest squared magnitude, so that silence has a logarithm (-80 dB) and its gradient is zero, not infinite."""

_LSD_N_FFT, _LSD_HOP = 1024, 256


def multi_resolution_stft_distance(
    generated: Tensor, reference: Tensor, *, sample_rate: int | None = None, bandwidth: Tensor | None = None
) -> Tensor:
    """Measure spectral convergence plus log-magnitude L1, averaged over three STFT resolutions.

    M-STFT of Yamamoto et al. 2020, Eq. 4-6, for every clip by itself. The convergence is relative to the reference, so
    the two must not be swapped, and against digital silence it becomes huge.

    Args:
        generated: Samples in [-1, 1] `(batch, time)`, more than 1024 of them.
        reference: The original samples `(batch, time)`.
        sample_rate: In Hz; wanted with `bandwidth` only.
        bandwidth: Where the recordings end, in Hz `(batch,)`: bins above are ignored. None compares all bins.

    Returns:
        Distances `(batch,)`, zero for equal clips.

    Raises:
        AudioError: If the shapes differ, the clips are too short, or `bandwidth` comes without `sample_rate`.
    """
    _check(generated, reference, shortest=max(n_fft for n_fft, _, _ in RESOLUTIONS) // 2 + 1)
    if bandwidth is not None and sample_rate is None:
        raise AudioError("bandwidth is in Hz, so it needs the sample_rate of the clips; give both.")
    total = generated.new_zeros(len(generated), dtype=torch.promote_types(generated.dtype, torch.float32))
    with torch.autocast(generated.device.type, enabled=False):  # bfloat16 knows no FFT, and would not resolve 1e-8
        for n_fft, hop_length, win_length in RESOLUTIONS:
            mask = generated.new_ones(len(generated), n_fft // 2 + 1, 1, dtype=total.dtype)
            if bandwidth is not None and sample_rate is not None:
                frequency = torch.arange(n_fft // 2 + 1, device=generated.device) * (sample_rate / n_fft)
                mask = (frequency <= bandwidth.to(generated.device).unsqueeze(1)).to(total.dtype).unsqueeze(2)
            magnitudes = [
                _magnitude(audio.to(total.dtype), n_fft, hop_length, win_length) for audio in (generated, reference)
            ]
            total = total + _stft_distance(magnitudes[0], magnitudes[1], mask)
    return total / len(RESOLUTIONS)


def _magnitude(audio: Tensor, n_fft: int, hop_length: int, win_length: int) -> Tensor:
    """Return STFT magnitudes, floored, `(batch, n_fft // 2 + 1, frames)`, of audio `(batch, time)`."""
    window = torch.hann_window(win_length, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(audio, n_fft, hop_length, win_length, window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=_POWER_FLOOR).sqrt()


def _stft_distance(generated: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return the distance `(batch,)` at one resolution, of the bins that `mask` `(batch, bins, 1)` has a 1 for."""
    error = torch.linalg.vector_norm((generated - reference) * mask, dim=(1, 2))
    convergence = error / torch.linalg.vector_norm(reference * mask, dim=(1, 2))
    log_error = (generated.log() - reference.log()).abs() * mask
    distance: Tensor = convergence + log_error.sum((1, 2)) / (mask.sum((1, 2)) * reference.shape[2])
    return distance


def log_mel_distance(generated: Tensor, reference: Tensor, *, sample_rate: int) -> Tensor:
    """Measure the mean absolute difference of natural-log mel spectrograms, for every clip by itself.

    The mels are those of `hifigan-22k` whatever the model, at the clips' own rate: 80 bins up to 8 kHz, values below
    1e-5 counted as 1e-5. One unit is 8.7 dB. It compares vocoders on the same recordings at the same rate; it says
    nothing of phase, of harmonics between the bins' edges, or of anything above 8 kHz, its value at one rate does not
    compare with another's, and a model that was trained on this mel (or on this distance) is flattered by it.

    Args:
        generated: Samples in [-1, 1] `(batch, time)`.
        reference: The original samples `(batch, time)`.
        sample_rate: In Hz.

    Returns:
        Distances `(batch,)`, zero for equal clips; differentiable.

    Raises:
        AudioError: If the shapes differ or the clips are too short.
    """
    _check(generated, reference, shortest=1)
    spectrogram = MelSpectrogram(_measuring_mel(sample_rate)).to(generated.device)
    difference: Tensor = spectrogram(generated) - spectrogram(reference)
    return difference.abs().mean((1, 2))


def _measuring_mel(sample_rate: int) -> MelConfig:
    mel = MEL_CONVENTIONS["hifigan-22k"]
    return mel.model_copy(update={"sample_rate": sample_rate, "f_max": min(mel.f_max, sample_rate / 2)})


def _check(generated: Tensor, reference: Tensor, shortest: int) -> None:
    if generated.ndim != 2 or generated.shape != reference.shape:
        raise AudioError(
            f"clips have shapes {tuple(generated.shape)} and {tuple(reference.shape)}; expected the same, (batch, "
            "time). Cut both to the shorter one."
        )
    if generated.shape[1] < shortest:
        raise AudioError(f"clips have {generated.shape[1]} samples; comparing them needs at least {shortest}.")


def snr_db(generated: Tensor, reference: Tensor, mask: Tensor) -> float:
    """Return the power of the reference over that of the difference, in dB, over some samples.

    Args:
        generated: `(channels, time)`.
        reference: Of the same shape.
        mask: True for the samples that count `(time,)`.

    Returns:
        The ratio in dB: 0 for silence, infinite for the reference itself; NaN where no sample counts.
    """
    signal = reference[:, mask].double().square().sum()
    error = (generated - reference)[:, mask].double().square().sum()
    return math.nan if not bool(mask.any()) else float(10 * torch.log10(signal / error))


def log_spectral_distance(generated: Tensor, reference: Tensor, mask: Tensor) -> float:
    """Return the log-spectral distance in dB, over frames that hold such samples (Gray and Markel 1976).

    The root mean square over frequencies of the difference of power spectra in dB, averaged over frames of 1,024
    samples every 256 (Hann). Unlike the SNR it does not ask for the same phases.

    Args:
        generated: `(channels, time)`.
        reference: Of the same shape.
        mask: True for the samples that count `(time,)`.

    Returns:
        The distance, 0 or more; NaN where no sample counts.
    """
    decibels = [20 * _magnitude(audio, _LSD_N_FFT, _LSD_HOP, _LSD_N_FFT).log10() for audio in (generated, reference)]
    distance = (decibels[0] - decibels[1]).square().mean(-2).sqrt()
    inside = functional.max_pool1d(mask.float().view(1, 1, -1), _LSD_N_FFT, _LSD_HOP, _LSD_N_FFT // 2)[0, 0] > 0
    return float(distance[:, : len(inside)][:, inside[: distance.shape[-1]]].mean())
