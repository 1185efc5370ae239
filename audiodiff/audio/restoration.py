"""Restoration without a model: what a model has to beat, and starts from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from audiodiff.errors import AudioError

_Array = NDArray[np.float64]
AR_ORDERS = (96, 1200)
"""Orders of linear prediction, for noise-like sounds and voices, and for notes that ring on (54 ms at 22,050 Hz)."""
_CONTEXT = (2048, 4)
"""Samples on either side of a gap that the prediction is fitted to: at least so many, and so many per order."""
_LONGEST = 24_000
"""Samples of a gap that are predicted at once, which takes time by their square."""
_DITHER = 1e-3
"""Of the sides, -60 dB: a band without any sound would take all precision."""
_SILENCE = 1e-12
"""Mean square below which there is nothing to predict from."""
_SMOOTHING = 0.98
"""Weight of the frame before in the a-priori SNR (Ephraim and Malah 1984)."""
_LOWEST_GAIN = 0.03
"""Of a bin, -30 dB: what is left of noise, so that it does not warble."""
N_FFT = 512
"""Window of the noise filter, in samples."""
_HOP = N_FFT // 4
_NOISE_FRAMES = 8
"""Over which the power is averaged where noise is looked for: 46 ms at 22,050 Hz."""
_PROMINENT = 50.0
"""Power over the floor of its frequency at which a partial is as loud as can be."""
_NOISE_BIAS = 1.14
"""Mean power of white noise over that of its quietest moments, chosen so; measured on ten seconds."""
_DIGITAL_SILENCE = 1e-8
"""Power of a frame, below that of the rounding to 16 bits."""


def fill_gap(samples: _Array, start: int, stop: int, order: int = AR_ORDERS[0]) -> _Array:
    """Fill a gap with what linear prediction from both sides expects (Janssen, Veldhuis and Vries 1986).

    The prediction is fitted to both sides at once, most to what is nearest (Burg's method, weighted); the missing
    samples are those of least squared prediction error.

    Args:
        samples: One channel `(time,)`; what is within the gap is not looked at.
        start: First missing sample.
        stop: First sample after the gap.
        order: Order of the prediction, lowered where there is little context.

    Returns:
        The missing samples `(stop - start,)`; silence in the middle of a long gap, where any prediction has died away.
    """
    from scipy.linalg import solve_toeplitz

    reach = max(_CONTEXT[0], _CONTEXT[1] * order)
    sides = [samples[max(0, start - reach) : start], samples[stop : stop + reach][::-1]]
    order = min(order, max(map(len, sides)) // 2)
    power = float(np.mean(np.concatenate(sides) ** 2)) if order else 0.0
    if power < _SILENCE:
        return np.zeros(stop - start)
    noise = np.random.default_rng(0).standard_normal(2 * reach) * _DITHER * np.sqrt(power)
    errors = _burg([side + noise[: len(side)] for side in sides if len(side) > order], order)
    weights = np.correlate(errors, errors, "full")[order:]  # of a product of two samples, by their distance
    known = samples[max(0, start - order) : stop + order].copy()
    first = min(start, order)
    known[first : first + stop - start] = 0
    pull = np.convolve(known, np.concatenate([weights[:0:-1], weights]))[order:]
    pull, filled = pull[first : first + stop - start], np.zeros(stop - start)
    half = _LONGEST // 2
    for part in [slice(None)] if len(pull) <= _LONGEST else [slice(half), slice(-half, None)]:
        column = np.zeros(len(pull[part]))
        column[: order + 1] = weights[: len(column)]
        filled[part] = solve_toeplitz(column, -pull[part])
    return filled


def _burg(sides: list[_Array], order: int) -> _Array:
    """Return a prediction-error filter `(order + 1,)`, the same forwards and backwards (Burg 1975).

    Args:
        sides: Pieces that each end at the gap, so that a later sample counts more.
        order: Below the length of each.
    """
    forward, backward = list(sides), list(sides)
    weights = [np.sin(np.linspace(0, np.pi / 2, len(side))) ** 2 for side in sides]
    errors = np.ones(1)
    for _ in range(order):
        forward = [side[1:] for side in forward]
        backward = [side[:-1] for side in backward]
        weights = [weight[1:] for weight in weights]
        parts = list(zip(weights, forward, backward, strict=True))
        product = sum(float(np.dot(weight * ahead, behind)) for weight, ahead, behind in parts)
        total = sum(float(np.dot(weight, ahead**2 + behind**2)) for weight, ahead, behind in parts)
        reflection = -2 * product / total
        errors = np.append(errors, 0)
        errors = errors + reflection * errors[::-1]
        forward = [ahead + reflection * behind for _, ahead, behind in parts]
        backward = [behind + reflection * ahead for _, ahead, behind in parts]
    return errors


def choose_order(
    samples: _Array, start: int, stop: int, missing: NDArray[np.bool_], orders: Sequence[int] = AR_ORDERS
) -> tuple[int, float]:
    """Choose the order for a gap by filling gaps of the same length beside it, where the truth is known.

    Args:
        samples: One channel `(time,)`.
        start: First missing sample.
        stop: First sample after the gap.
        missing: Which samples are in this gap or another `(time,)`.
        orders: To choose from, the lowest first.

    Returns:
        The best order, and the signal-to-noise ratio in dB that it has there; the lowest and minus infinity where there
        is no room, or the gap is long.
    """
    length, errors = stop - start, dict[int, list[float]]((order, []) for order in orders)
    room = max(length, orders[-1])
    for part in (slice(start), slice(len(samples), stop - 1, -1)) if length <= _LONGEST else ():
        side, unknown = samples[part], missing[part]
        end = len(side) - room
        first = end - length
        if first < room or unknown[first:end].any():
            continue
        truth = side[first:end]
        for order in orders:
            error = float(np.mean((fill_gap(side, first, end, order) - truth) ** 2))
            errors[order].append(error / max(float(np.mean(truth**2)), _SILENCE))
    scores = {order: float(np.mean(each)) for order, each in errors.items() if each}
    if not scores:
        return orders[0], -math.inf
    order = min(scores, key=scores.__getitem__)
    return order, -10 * math.log10(max(scores[order], _SILENCE))


def cubic_spline(samples: _Array, known: NDArray[np.bool_]) -> _Array:
    """Lay a cubic spline through the known samples of one channel `(time,)` and return it everywhere."""
    from scipy.interpolate import CubicSpline

    places = np.flatnonzero(known)
    if len(places) < 2:
        raise AudioError(f"{len(places)} of {len(samples)} samples are below the level of clipping; give a higher one.")
    return np.asarray(CubicSpline(places, samples[places])(np.arange(len(samples))))


def estimate_noise(audio: Tensor) -> Tensor:
    """Estimate the spectrum of steady noise from the quietest 2 % of a recording, which in speech are its pauses.

    How quiet a moment is, all frequencies decide together, each against its own floor, so that coloured noise and hum
    count no more than white noise. A tone that never pauses is taken for noise.

    Args:
        audio: `(channels, time)`.

    Returns:
        Standard deviation that white noise would have to have to be as loud as this in each bin of `wiener`
        `(channels, N_FFT // 2 + 1)`.
    """
    power, window = _stft(audio)[0].abs().square(), torch.hann_window(N_FFT)
    silent = (power.sum(1, keepdim=True) < _DIGITAL_SILENCE).float()
    silent = functional.max_pool1d(silent, 2 * N_FFT // _HOP - 1, 1, N_FFT // _HOP - 1)  # and what reaches into it
    heard = silent.amin((1, 2)) == 0  # a channel that is never heard says nothing of the others
    power = power[..., (silent[heard] == 0).all(0).flatten() & heard.any()]
    n_frames = power.shape[-1]
    if n_frames < _NOISE_FRAMES:
        return power.new_zeros(power.shape[:-1])
    floor = power.kthvalue(1 + n_frames // 10, -1, keepdim=True).values.clamp_min(_DIGITAL_SILENCE / N_FFT)
    loudness = (power / floor).clamp_max(_PROMINENT).mean((0, 1)).view(1, 1, -1)
    loudness = functional.avg_pool1d(loudness, _NOISE_FRAMES, 1).flatten()
    quietest = loudness.topk(-(-n_frames // 50) if n_frames > 50 else 1, largest=False).indices
    mean = functional.avg_pool1d(power, _NOISE_FRAMES, 1)[..., quietest].mean(-1)
    return (mean * _NOISE_BIAS / float(window.square().sum())).sqrt()


def wiener(audio: Tensor, deviation: float | Tensor) -> Tensor:
    """Remove noise by a Wiener filter with a decision-directed SNR (Scalart and Filho 1996).

    Args:
        audio: `(channels, time)`, of any length; the result has its shape.
        deviation: Standard deviation of the noise, if it is white; else what `estimate_noise` returns.
    """
    spectrum, window = _stft(audio)
    noise = torch.as_tensor(deviation, device=audio.device) ** 2 * float(window.square().sum())
    posterior_snr = spectrum.abs().square() / noise.clamp_min(1e-20).unsqueeze(-1)
    gains, before = [], posterior_snr[..., 0].clamp_min(1) - 1
    for frame in posterior_snr.unbind(-1):
        prior_snr = _SMOOTHING * before + (1 - _SMOOTHING) * (frame - 1).clamp_min(0)
        gain = (prior_snr / (1 + prior_snr)).clamp_min(_LOWEST_GAIN)
        before = gain.square() * frame
        gains.append(gain)
    filtered = spectrum * torch.stack(gains, -1)
    return torch.istft(filtered, N_FFT, _HOP, window=window, length=audio.shape[-1])


def _stft(audio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spectrum of audio `(channels, time)`, and the window."""
    window = torch.hann_window(N_FFT, dtype=audio.dtype, device=audio.device)
    padded = functional.pad(audio, (0, max(0, N_FFT // 2 + 1 - audio.shape[-1])))
    return torch.stft(padded, N_FFT, _HOP, window=window, return_complex=True), window
