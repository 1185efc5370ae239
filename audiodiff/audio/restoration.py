"""Restoration without a model: the baselines that a model has to beat, and that it starts from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_Array = NDArray[np.float64]

AR_ORDER = 96
"""Order of the linear prediction: at 22,050 Hz three periods of the highest voices, one of a low one."""
_CONTEXT_PER_ORDER = 20
"""Samples on either side of a gap that the prediction is fitted to, per order."""
_SMOOTHING = 0.98
"""Weight of the frame before in the a-priori SNR (Ephraim and Malah 1984)."""
_SILENCE = 1e-12
"""Energy below which there is nothing to predict from."""
_LOWEST_GAIN = 0.03
"""Of a bin, -30 dB: what is left of noise, so that it does not warble."""


def fill_gap(samples: _Array, start: int, stop: int, order: int = AR_ORDER) -> _Array:
    """Fill a gap with what linear prediction from both sides expects (Janssen, Veldhuis and Vries 1986).

    The prediction is fitted to both sides at once; the missing samples are those of least squared prediction error.

    Args:
        samples: One channel `(time,)`; what is within the gap is not looked at.
        start: First missing sample.
        stop: First sample after the gap.
        order: Order of the prediction, lowered where there is little context.

    Returns:
        The missing samples `(stop - start,)`.
    """
    from scipy.linalg import solve_toeplitz

    reach = _CONTEXT_PER_ORDER * order
    sides = [samples[max(0, start - reach) : start], samples[stop : stop + reach]]
    order = min(order, max(map(len, sides)) // 2)
    correlation = _autocorrelation(sides[0], order) + _autocorrelation(sides[1], order)
    if order < 1 or correlation[0] < _SILENCE:
        return np.zeros(stop - start)
    correlation[0] *= 1 + 1e-7  # keeps the equations solvable for pure tones
    errors = np.concatenate([[1.0], -solve_toeplitz(correlation[:-1], correlation[1:])])
    weights = np.correlate(errors, errors, "full")[order:]  # of a product of two samples, by their distance
    known = samples[max(0, start - order) : stop + order].copy()
    first = min(start, order)
    known[first : first + stop - start] = 0
    pull = np.convolve(known, np.concatenate([weights[:0:-1], weights]))[order:]
    column = np.zeros(stop - start)
    column[: order + 1] = weights[: stop - start]
    filled: _Array = solve_toeplitz(column, -pull[first : first + stop - start])
    return filled


def _autocorrelation(samples: _Array, order: int) -> _Array:
    """Return the autocorrelation of windowed samples at lags 0 to `order`."""
    windowed = samples * np.hanning(len(samples) + 2)[1:-1]
    n_fft = 2 * len(samples) + order + 2
    correlation: _Array = np.fft.irfft(np.abs(np.fft.rfft(windowed, n_fft)) ** 2, n_fft)[: order + 1]
    return correlation


def cubic_spline(samples: _Array, known: NDArray[np.bool_]) -> _Array:
    """Lay a cubic spline through the known samples of one channel `(time,)` and return it everywhere."""
    from scipy.interpolate import CubicSpline

    places = np.flatnonzero(known)
    return np.asarray(CubicSpline(places, samples[places])(np.arange(len(samples))))


def wiener(audio: Tensor, deviation: float, n_fft: int = 512) -> Tensor:
    """Remove white noise by a Wiener filter with a decision-directed SNR (Scalart and Filho 1996).

    Args:
        audio: `(channels, time)`.
        deviation: Standard deviation of the noise.
        n_fft: Window, in samples.

    Returns:
        Audio of the same shape.
    """
    window = torch.hann_window(n_fft, dtype=audio.dtype, device=audio.device)
    spectrum = torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True)
    noise = deviation**2 * float(window.square().sum())
    posterior_snr = spectrum.abs().square() / max(noise, 1e-20)
    gains, before = [], posterior_snr[..., 0].clamp_min(1) - 1
    for frame in posterior_snr.unbind(-1):
        prior_snr = _SMOOTHING * before + (1 - _SMOOTHING) * (frame - 1).clamp_min(0)
        gain = (prior_snr / (1 + prior_snr)).clamp_min(_LOWEST_GAIN)
        before = gain.square() * frame
        gains.append(gain)
    filtered = spectrum * torch.stack(gains, -1)
    return torch.istft(filtered, n_fft, n_fft // 4, window=window, length=audio.shape[-1])


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
