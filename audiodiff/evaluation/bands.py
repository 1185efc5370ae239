"""Metrics by frequency band: levels, log-spectral distance, buzz at the frame rate, harmonic-to-noise ratio.

All compare a synthesis with its recording and are 0 for the recording itself; none needs a package beyond the core's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair, Samples

HIGH_BAND = 8000.0
"""Hz above which most mel conventions say nothing."""
FRAME_RATE = 22050 / 256
"""Frames per second of the usual mel, 86.13 Hz."""
_FRAME_SECONDS = 0.046
_POWER_FLOOR = 1e-10
"""Power of a band below which nothing is told apart (-100 dB of full scale)."""
_BIN_FLOOR = 1e-12
"""Likewise of one frequency bin (-120 dB); the quantisation noise of 16 bits is at -132 dB."""
_QUIET = 1e-4
"""Power relative to the loudest passage of the reference (-40 dB) below which others do not count."""
_MODULATION_SECONDS, _MODULATION_HOP_SECONDS = 1.0, 0.25
_N_MULTIPLES = 4
_PEAK_HZ, _NEIGHBOUR_HZ = 2.5, (5.0, 20.0)
"""Distance from a multiple of the frame rate that belongs to its peak, and to its neighbourhood."""
_F0_RANGE = (70.0, 400.0)
_VOICED = 0.7
"""Normalised autocorrelation of the reference above which a frame counts as voiced."""
_UPSAMPLING = 4
"""Autocorrelations are interpolated by this factor, because a lag of whole samples misses the peaks of high bands."""
_MIN_HARMONIC, _MAX_HARMONIC = 1e-2, 1 - 1e-4
"""Fractions of harmonic power between which a harmonic-to-noise ratio is kept (-20 to 40 dB)."""


def band_levels(audio: Tensor, sample_rate: int, edges: Sequence[float]) -> Samples:
    """Return the level of each band in dB of full scale, averaged over time and channels.

    The power spectra of Hann-windowed frames of about 46 ms are summed over the bins of a band and averaged over
    frames, so loud passages decide. Levels below -100 dB are returned as -100 dB.

    Args:
        audio: Samples in [-1, 1] `(channels, time)`.
        sample_rate: In Hz.
        edges: Frequencies in Hz between which the bands lie, ascending; a sine of full scale has -3 dB.

    Returns:
        `(len(edges) - 1,)`.

    Example:
        >>> tone = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000).unsqueeze(0)
        >>> band_levels(tone, 16000, [0, 500, 2000, 8000]).round(1).tolist()
        [-100.0, -3.0, -80.6]
    """
    power, frequencies = _power_spectrogram(audio, sample_rate)
    mean = power.mean((0, 2)).numpy()
    bands = [mean[(frequencies >= low) & (frequencies < high)].sum() for low, high in pairwise(edges)]
    levels: Samples = 10 * np.log10(np.maximum(bands, _POWER_FLOOR))
    return levels


def level_below_2k(pair: Pair) -> float:
    """Return the level below 2 kHz, generated minus reference, in dB; see `band_levels`."""
    return _level_difference(pair, 0, 2000)


def level_2_4k(pair: Pair) -> float:
    """Return the level from 2 to 4 kHz, generated minus reference, in dB; see `band_levels`."""
    return _level_difference(pair, 2000, 4000)


def level_4_8k(pair: Pair) -> float:
    """Return the level from 4 to 8 kHz, generated minus reference, in dB; see `band_levels`."""
    return _level_difference(pair, 4000, HIGH_BAND)


def level_above_8k(pair: Pair) -> float:
    """Return the level above 8 kHz, generated minus reference, in dB; see `band_levels`.

    It says nothing of when: energy at the wrong time or between the harmonics counts as if it were right.

    Raises:
        AudioError: If the rate is too low to hold such frequencies.
    """
    return _level_difference(pair, HIGH_BAND, math.inf)


def _level_difference(pair: Pair, low: float, high: float) -> float:
    _check_rate(pair, low)
    levels = [band_levels(audio, pair.sample_rate, (low, high)) for audio in (pair.generated, pair.reference)]
    return float(levels[0][0] - levels[1][0])


def _check_rate(pair: Pair, low: float) -> None:
    if pair.sample_rate / 2 < low + 500:
        raise AudioError(f"audio at {pair.sample_rate} Hz has nothing above {low:g} Hz.")


def lsd_above_8k(pair: Pair) -> float:
    """Return the log-spectral distance above 8 kHz in dB (Gray and Markel 1976), over frames of about 46 ms.

    The root mean square over the bins above 8 kHz of the difference of power spectra in dB, averaged over frames whose
    reference is within 40 dB of its loudest in this band. Two independent noises of the same spectrum are 7.9 dB apart
    (a bin of noise is exponentially distributed), so that is the value of a perfect band of noise, not 0; a band that
    is too smooth or too weak exceeds it. Lags of the two raise it little.

    Raises:
        AudioError: If the rate is too low to hold such frequencies.
    """
    _check_rate(pair, HIGH_BAND)
    powers = []
    for audio in (pair.generated, pair.reference):
        power, frequencies = _power_spectrogram(audio, pair.sample_rate)
        powers.append(power[:, torch.from_numpy(frequencies >= HIGH_BAND)])
    difference = 10 * (powers[0].clamp_min(_BIN_FLOOR) / powers[1].clamp_min(_BIN_FLOOR)).log10()
    level = powers[1].mean(1)
    return float(difference.square().mean(1).sqrt()[level >= _QUIET * level.max()].mean())


def _power_spectrogram(audio: Tensor, sample_rate: int) -> tuple[Tensor, Samples]:
    """Return power `(channels, bins, frames)`, whose sum over bins is the power of a frame, and the bins in Hz."""
    n_fft = 2 ** round(math.log2(_FRAME_SECONDS * sample_rate))
    if audio.shape[-1] < n_fft:
        raise AudioError(f"{audio.shape[-1] / sample_rate:.3f} s is too short; bands need 0.05 s.")
    window = torch.hann_window(n_fft, dtype=torch.float64)
    spectrum = torch.stft(audio.double(), n_fft, n_fft // 4, window=window, center=False, return_complex=True)
    # The two halves of a real spectrum have equal power.
    power = 2 * spectrum.abs().square() / (n_fft * window.square().sum())
    frequencies: Samples = np.fft.rfftfreq(n_fft, 1 / sample_rate).astype(np.float64)
    return power, frequencies


def frame_rate_buzz(pair: Pair) -> float:
    """Return how much more the synthesis than its recording is modulated at the frame rate above 8 kHz, in dB.

    A vocoder that makes a band swell once per frame of the mel is heard to buzz. The power envelope above 8 kHz (of the
    analytic signal) is divided by its mean over four frames, so that every passage within 40 dB of the loudest of the
    reference counts alike, and analysed in segments of 1 s. For the first four multiples of 86.13 Hz, the power of the
    envelope's spectrum within 2.5 Hz is taken over that 5 to 20 Hz away; the result is the mean of these ratios in dB,
    generated minus reference. Noise that swells by half its amplitude has about 10 dB.

    It supposes the usual frame rate (hop 256 at 22,050 Hz), whatever the model's. Steps from frame to frame of random
    height are not periodic and do not count. A pitch near a multiple of the frame rate does, so noise in place of a
    voice may be below 0. One clip of a few seconds is uncertain by a decibel or two: compare means.

    Raises:
        AudioError: If the clip is shorter than 1 s, its rate too low for frequencies above 8 kHz, or the band empty.
    """
    _check_rate(pair, HIGH_BAND)
    if pair.seconds < _MODULATION_SECONDS:
        raise AudioError(f"{pair.seconds:.2f} s is too short; the modulation at the frame rate needs 1 s.")
    rate = pair.sample_rate
    return pair.mean_over_channels(rate, lambda generated, reference: _buzz_difference(generated, reference, rate))


def _buzz_difference(generated: Samples, reference: Samples, sample_rate: int) -> float:
    envelopes = [_power_envelope(samples, sample_rate) for samples in (generated, reference)]
    window = np.hanning(round(4 * sample_rate / FRAME_RATE))
    local = [np.maximum(_smooth(envelope, window / window.sum()), 1e-20) for envelope in envelopes]
    loud = local[1] > _QUIET * local[1].max()
    if min(float(mean[loud].mean()) for mean in local) <= _POWER_FLOOR:
        raise AudioError("there is nothing above 8 kHz in one of the two.")
    ratios = [
        _modulation(np.where(loud, envelope / mean - 1, 0), sample_rate)
        for envelope, mean in zip(envelopes, local, strict=True)
    ]
    return 10 * math.log10(ratios[0] / ratios[1])


def _power_envelope(samples: Samples, sample_rate: int) -> Samples:
    """Return the squared magnitude of the analytic signal above 8 kHz `(time,)`."""
    spectrum = np.fft.fft(samples)
    frequencies = np.fft.fftfreq(len(samples), 1 / sample_rate)
    envelope: Samples = np.square(np.abs(np.fft.ifft(np.where(frequencies >= HIGH_BAND, 2 * spectrum, 0))))
    return envelope


def _smooth(values: Samples, window: Samples) -> Samples:
    """Return the moving average `(time,)`."""
    n_fft = len(values) + len(window) - 1
    whole = np.fft.irfft(np.fft.rfft(values, n_fft) * np.fft.rfft(window, n_fft), n_fft)
    return whole[len(window) // 2 :][: len(values)]


def _modulation(envelope: Samples, sample_rate: int) -> float:
    """Return peak over neighbourhood in an envelope's spectrum, averaged over the multiples of the frame rate."""
    length, hop = (round(seconds * sample_rate) for seconds in (_MODULATION_SECONDS, _MODULATION_HOP_SECONDS))
    segments = np.lib.stride_tricks.sliding_window_view(envelope, length)[::hop]
    power = np.square(np.abs(np.fft.rfft(segments * np.hanning(length)))).mean(0)
    frequencies = np.arange(len(power)) / _MODULATION_SECONDS
    ratios = []
    for multiple in range(1, _N_MULTIPLES + 1):
        distance = np.abs(frequencies - multiple * FRAME_RATE)
        near = (distance > _NEIGHBOUR_HZ[0]) & (distance <= _NEIGHBOUR_HZ[1])
        ratios.append(power[distance <= _PEAK_HZ].mean() / power[near].mean())
    return float(np.mean(ratios))


class _Autocorrelation(NamedTuple):
    """What frames of a recording have in common with themselves one period later.

    Attributes:
        values: Normalised autocorrelation of each frame, by lag in quarters of a sample `(frames, lags)`.
        power: Of each frame `(frames,)`.
    """

    values: Samples
    power: Samples


def hnr_2_4k(pair: Pair) -> float:
    """Return the harmonic-to-noise ratio from 2 to 4 kHz, generated minus reference, in dB.

    Of each voiced frame of about 46 ms, the normalised autocorrelation r of the band one pitch period later (the period
    of the reference, within 3 %) gives 10 log10(r / (1 - r)) (Boersma 1993), kept between -20 and 40 dB and averaged
    over the frames that are voiced in the reference. A pitch that moves within a frame lowers it, in both recordings;
    a voice whose pitch is off by more than 3 % counts as noise.

    Raises:
        AudioError: If no frame of the reference is voiced, or the rate is too low to hold the band.
    """
    return _hnr_difference(pair, 2000, 4000)


def hnr_4_8k(pair: Pair) -> float:
    """Return the harmonic-to-noise ratio from 4 to 8 kHz, generated minus reference, in dB; see `hnr_2_4k`.

    Most voices are half noise here, and moving pitch blurs these harmonics most, so differences are small.
    """
    return _hnr_difference(pair, 4000, HIGH_BAND)


def _hnr_difference(pair: Pair, low: float, high: float) -> float:
    rate = pair.sample_rate
    if high > rate / 2:
        raise AudioError(f"audio at {rate} Hz has nothing up to {high:g} Hz.")

    def difference(generated: Samples, reference: Samples) -> float:
        periods, voiced = _periods(reference, rate)
        if not voiced.any():
            raise AudioError("no frame of the reference is voiced.")
        ratios = [_hnr(samples, rate, low, high, periods)[voiced] for samples in (generated, reference)]
        return float(np.mean(ratios[0] - ratios[1]))

    return pair.mean_over_channels(rate, difference)


def _periods(reference: Samples, sample_rate: int) -> tuple[Samples, Samples]:
    """Return the period of every frame in quarters of a sample, and whether it is voiced `(frames,)`, below 2 kHz."""
    found = _autocorrelate(reference, sample_rate, _F0_RANGE[0], 2000)
    first, last = (round(_UPSAMPLING * sample_rate / hertz) for hertz in reversed(_F0_RANGE))
    lags = found.values[:, first : last + 1]
    loud = found.power > _QUIET * found.power.max()
    return first + lags.argmax(1), (lags.max(1) > _VOICED) & loud


def _hnr(samples: Samples, sample_rate: int, low: float, high: float, periods: Samples) -> Samples:
    """Return the harmonic-to-noise ratio of a band in dB `(frames,)`."""
    values = _autocorrelate(samples, sample_rate, low, high).values
    near = np.abs(np.arange(values.shape[1]) - periods[:, None]) <= 0.03 * periods[:, None]
    peak = np.where(near, values, -1).argmax(1)
    before, at, after = (values[np.arange(len(values)), peak + shift] for shift in (-1, 0, 1))
    curvature = np.minimum(before - 2 * at + after, -1e-12)
    vertex = at - np.square(before - after) / (8 * curvature)  # of the parabola through the three
    harmonic = vertex.clip(_MIN_HARMONIC, _MAX_HARMONIC)
    ratio: Samples = 10 * np.log10(harmonic / (1 - harmonic))
    return ratio


def _autocorrelate(samples: Samples, sample_rate: int, low: float, high: float) -> _Autocorrelation:
    """Autocorrelate Hann-windowed frames of a band, divided by the autocorrelation of the window (Boersma 1993)."""
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    band = np.fft.irfft(np.where((frequencies >= low) & (frequencies < high), spectrum, 0), len(samples))
    length = 2 ** round(math.log2(_FRAME_SECONDS * sample_rate))
    if len(band) < length:
        raise AudioError(f"{len(band) / sample_rate:.3f} s is too short; the harmonic-to-noise ratio needs 0.05 s.")
    frames = np.lib.stride_tricks.sliding_window_view(band, length)[:: length // 4]
    window = np.hanning(length)
    n_lags = round(1.05 * _UPSAMPLING * sample_rate / _F0_RANGE[0])
    own, of_window = (_autocorrelation(values)[:, :n_lags] for values in (frames * window, window[None]))
    power = own[:, 0]
    normalised = own / np.maximum(power[:, None], 1e-12) / (of_window / of_window[:, :1])
    return _Autocorrelation(normalised, power)


def _autocorrelation(frames: Samples) -> Samples:
    """Return the autocorrelation by lag in quarters of a sample, interpolated by zeros after the spectrum."""
    n_fft = 2 * frames.shape[1]
    power = np.square(np.abs(np.fft.rfft(frames, n_fft)))
    result: Samples = np.fft.irfft(power, _UPSAMPLING * n_fft)
    return result
