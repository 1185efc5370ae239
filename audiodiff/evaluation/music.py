"""Statistics of music: how often notes begin, what pitches there are, and how far two sets of clips differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiodiff.audio.io import load_audio

RATE = 22050
_LOWEST, _HIGHEST = 55.0, 1760.0
"""Hz: A1 to A6, where a fundamental is looked for."""
_CLEAR = 0.2
"""Aperiodicity above which a frame has no pitch (the threshold of de Cheveigné and Kawahara 2002 is 0.1 to 0.2)."""


class MusicStatistics(NamedTuple):
    """What a set of clips is like.

    Attributes:
        onset_rates: Onsets per second of each clip `(clips,)`.
        pitches: MIDI numbers of all frames that have a pitch `(frames,)`.
    """

    onset_rates: NDArray[np.float64]
    pitches: NDArray[np.float64]


def measure_music(paths: Sequence[Path], on_progress: Callable[[int], object] = lambda n: None) -> MusicStatistics:
    """Find the onsets (librosa's spectral flux) and pitches (YIN) of clips, at 22,050 Hz.

    Args:
        paths: The clips.
        on_progress: Called with 1 for each clip.
    """
    rates, pitches = [], []
    for path in paths:
        samples = load_audio(path, RATE)[0].numpy()
        rates.append(_n_onsets(samples) / (len(samples) / RATE))
        pitches.append(_pitches(samples))
        on_progress(1)
    return MusicStatistics(np.array(rates), np.concatenate(pitches) if pitches else np.zeros(0))


def _n_onsets(samples: NDArray[np.float32]) -> int:
    from librosa.onset import onset_detect

    return len(onset_detect(y=samples, sr=RATE))


def _pitches(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the MIDI numbers of the frames whose waveform repeats; quiet frames have none."""
    from librosa import yin

    frame, hop = 2048, 512
    if len(samples) < frame:
        return np.zeros(0)
    hertz = yin(samples, fmin=_LOWEST, fmax=_HIGHEST, sr=RATE, frame_length=frame, hop_length=hop, center=False)
    frames = np.lib.stride_tricks.sliding_window_view(samples, frame)[::hop][: len(hertz)].astype(np.float64)
    period = np.round(RATE / hertz).astype(int)
    window = frame - int(RATE / _LOWEST) - 1
    found = []
    power = np.square(frames).mean(1)
    for values, lag, frequency, loud in zip(frames, period, hertz, power > 1e-4 * power.max(), strict=False):
        first, second = values[:window], values[lag : lag + window]
        energy = np.square(first).sum() + np.square(second).sum()
        if loud and energy > 0 and np.square(first - second).sum() / energy < _CLEAR:
            found.append(69 + 12 * np.log2(frequency / 440))
    return np.array(found)


def compare_music(reference: MusicStatistics, generated: MusicStatistics) -> dict[str, float]:
    """Compare two sets.

    Returns:
        `onsets_per_second` and `pitch_midi_median` of the generated; `onset_distance` and `pitch_distance`, the largest
        gap between the distributions (Kolmogorov-Smirnov: 0 the same, 1 no overlap). What cannot be told is left out.
    """
    from scipy.stats import ks_2samp

    found = {"onsets_per_second": float(generated.onset_rates.mean())}
    found["onset_distance"] = float(ks_2samp(reference.onset_rates, generated.onset_rates).statistic)
    if len(generated.pitches):
        found["pitch_midi_median"] = float(np.median(generated.pitches))
        if len(reference.pitches):
            found["pitch_distance"] = float(ks_2samp(reference.pitches, generated.pitches).statistic)
    return found
