"""Metrics of level, time and periodicity that need no package beyond the core's."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair, Samples
from audiodiff.evaluation.spectral import log_mel_distance, multi_resolution_stft_distance

SILENCE = 1e-5
"""RMS that counts as silence (-100 dB of full scale), so that a ratio of levels stays finite."""

SPEECH_RATE = 16000
"""Hz at which speech is compared."""

LAG_STEP_SECONDS = 0.001
"""Resolution of the lag."""
_MAX_LAG_SECONDS = 0.5
_SMOOTHING_STEPS = 20
"""Steps that the envelope is smoothed over, so that the periods of a voice do not count."""
_ENVELOPE_FLOOR = 1e-3
"""Power relative to the loudest (-30 dB) that is added to the envelope."""
_PERIODICITY_FRAME, _PERIODICITY_HOP = 1024, 160
"""Samples at 16 kHz: 64 ms, long enough for three periods of 50 Hz, every 10 ms."""
_F0_RANGE = (60.0, 500.0)
"""Hz."""
_QUIET = 1e-4
"""Power relative to the loudest frame (-40 dB) below which frames do not count."""


def m_stft(pair: Pair) -> float:
    """Return the multi-resolution STFT distance (Yamamoto et al. 2020, Eq. 4-6), with the resolutions of auraloss.

    It flatters models trained on it. Its log part weighs near silence like speech, so an empty band costs much. See
    `audiodiff.evaluation.spectral`.
    """
    return float(multi_resolution_stft_distance(pair.generated, pair.reference).mean())


def log_mel(pair: Pair) -> float:
    """Return the mean absolute difference of the hifigan-22k mel, up to 8 kHz, in nepers.

    It compares within one model family only: it ranks Griffin-Lim above GAN vocoders and diffusion. See
    `audiodiff.evaluation.spectral`.
    """
    return float(log_mel_distance(pair.generated, pair.reference, sample_rate=pair.sample_rate).mean())


def rms_ratio_db(pair: Pair) -> float:
    """Return the RMS level of the generated over that of the reference, in dB.

    It shows a wrong gain and says nothing of quality.
    """
    return 20 * math.log10(_rms(pair.generated) / _rms(pair.reference))


def _rms(audio: Tensor) -> float:
    return float(audio.square().mean().sqrt().clamp(min=SILENCE))


def peak(pair: Pair) -> float:
    """Return the largest absolute sample of the generated; full scale is 1, beyond it are only files in floating point.

    It says nothing of quality; a 1.000 is probably clipped.
    """
    return float(pair.generated.abs().max())


def lag_ms(pair: Pair) -> float:
    """Return how much later the generated comes, in ms: where the envelopes of both correlate best.

    The envelope is the level in dB, because phases are free and waveforms need not correlate. Lags up to half a second
    are looked at; digital zeros at an end can cost a millisecond.

    It says nothing of quality; a lag lowers M-STFT, MCD, PESQ and STOI, which compare by time.

    Raises:
        AudioError: If a recording is silent, so that nothing can be told.
    """
    if min(_rms(pair.generated), _rms(pair.reference)) <= SILENCE:
        raise AudioError("one of the recordings is silent.")
    step = max(1, round(LAG_STEP_SECONDS * pair.sample_rate))
    step = min(step, pair.reference.shape[-1])
    generated, reference = (_envelope(audio, step) for audio in (pair.generated, pair.reference))
    n_fft = 2 ** math.ceil(math.log2(2 * len(reference)))
    spectrum = np.fft.rfft(generated, n_fft) * np.fft.rfft(reference, n_fft).conj()
    correlation = np.fft.irfft(spectrum, n_fft)
    max_lag = min(len(reference) - 1, round(_MAX_LAG_SECONDS / LAG_STEP_SECONDS))
    lags = np.arange(-max_lag, max_lag + 1)
    return float(1000 * lags[np.argmax(correlation[lags])] * step / pair.sample_rate)


def _envelope(audio: Tensor, step: int) -> Samples:
    """Return the logarithm of the smoothed power of every step, its mean taken off `(steps,)`."""
    samples = audio.double().numpy()
    whole = samples[:, : samples.shape[1] // step * step]
    power = np.square(whole).reshape(-1, step).mean(1).reshape(len(samples), -1).mean(0)
    window = np.hanning(_SMOOTHING_STEPS + 2)[1:-1]
    if len(power) > len(window):
        power = np.convolve(power, window / window.sum(), "same")
    envelope = np.log(power + _ENVELOPE_FLOOR * power.max())
    centred: Samples = envelope - envelope.mean()
    return centred


def real_time_factor(_pair: Pair) -> float:
    """Return the seconds of synthesis per second of audio, as `audiodiff vocode` printed them.

    It belongs to one machine, its load and the length of the clips. A recording does not tell it, so this function only
    refuses; `evaluate` replaces it.

    Raises:
        AudioError: Always.
    """
    raise AudioError("synthesis time unknown; pass `--timings`, which takes what `audiodiff vocode` printed.")


def periodicity_rmse(pair: Pair) -> float:
    """Return the root mean square difference of periodicity, over frames where the reference is not quiet.

    Periodicity is the highest normalised autocorrelation between 60 and 500 Hz, divided by that of the window (Boersma
    1993): 1 for a steady tone, near 0 for noise. The idea is that of Morrison et al. 2022 (CARGAN), who take it from a
    network instead; values do not compare with theirs.

    Frames 40 dB below the loudest do not count.

    Raises:
        AudioError: If the recordings are shorter than a frame.
    """
    return pair.mean_over_channels(SPEECH_RATE, _periodicity_difference)


def _periodicity_difference(generated: Samples, reference: Samples) -> float:
    difference = periodicity(generated) - periodicity(reference)
    power = np.square(_frames(reference)).mean(1)
    loud = power > _QUIET * power.max()
    return float(np.sqrt(np.square(difference)[loud].mean()))


def periodicity(samples: Samples) -> Samples:
    """Return the periodicity of every frame of 64 ms, a frame each 10 ms.

    Args:
        samples: One channel at 16 kHz `(time,)`.

    Returns:
        Values from 0 to about 1 `(frames,)`.

    Raises:
        AudioError: If there is no whole frame.
    """
    window = np.hanning(_PERIODICITY_FRAME)
    frames = _frames(samples)
    frames = (frames - frames.mean(1, keepdims=True)) * window
    min_period, max_period = (round(SPEECH_RATE / hertz) for hertz in reversed(_F0_RANGE))
    correlation = _autocorrelation(frames)[:, : max_period + 1]
    of_window = _autocorrelation(window[np.newaxis])[:, : max_period + 1]
    energy = np.maximum(correlation[:, :1], 1e-12)
    normalised = correlation / energy / (of_window / of_window[:, :1])
    best: Samples = normalised[:, min_period:].max(1).clip(0, 1)
    return best


def _frames(samples: Samples) -> Samples:
    if len(samples) < _PERIODICITY_FRAME:
        raise AudioError(f"{len(samples) / SPEECH_RATE:.3f} s is too short; periodicity needs 0.064 s.")
    return np.lib.stride_tricks.sliding_window_view(samples, _PERIODICITY_FRAME)[::_PERIODICITY_HOP]


def _autocorrelation(frames: Samples) -> Samples:
    spectrum = np.fft.rfft(frames, 2 * frames.shape[1])
    result: Samples = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)
    return result
