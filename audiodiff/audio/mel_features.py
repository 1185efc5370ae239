"""What mels are compared by, to tell conventions apart: levels, and how much values change in time and over bins."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from audiodiff.audio.mel_candidates import Values, logarithm

Vector = NDArray[np.float64]

PERCENTILES = (0.5, 2, 10, 25, 50, 75, 90, 98, 99.7)
N_BANDS = 6
LAGS = (1, 2, 4, 8)
"""Frames over which the mean change of a value is measured; short ones depend on the logarithm alone."""
N_LEVELS = len(PERCENTILES) + N_BANDS
"""How many features are values of the mel; the others are logarithms of differences of values."""
N_FEATURES = N_LEVELS + 2 * len(LAGS) + 1 + 6
_LONGEST = 2048
"""Frames that are looked at; of longer mels, eight excerpts."""


def features(mel: Values) -> Vector:
    """Return what is compared: percentiles and band means of the values, and how much they change, `(N_FEATURES,)`.

    The first `N_LEVELS` follow an affine map of the values; of the others, which are logarithms, its factor is added.

    Args:
        mel: Values `(n_mels, frames)`, at least 3 x 9.
    """
    if mel.shape[1] > _LONGEST:
        starts = np.linspace(0, mel.shape[1] - _LONGEST // 8, 8).astype(int)
        mel = np.concatenate([mel[:, first : first + _LONGEST // 8] for first in starts], axis=1)
    at = np.round(np.array(PERCENTILES) / 100 * (mel.size - 1)).astype(int)
    flat = np.partition(mel.ravel(), (0, *at, mel.size - 1))
    lowest, extent = flat[0], max(float(flat[-1] - flat[0]), 1e-6)
    live = mel > lowest + 0.01 * extent
    edges = np.linspace(0, len(mel), N_BANDS + 1).astype(int)
    means = mel.mean(1)
    bands = [means[low : max(high, low + 1)].mean() for low, high in pairwise(edges)]
    differences = [(mel[:, lag:] - mel[:, :-lag], live[:, lag:] & live[:, :-lag]) for lag in LAGS]
    third = max(1, len(mel) // 3)
    changes = [
        _log_change(part, where, extent)
        for difference, used in differences
        for part, where in ((difference[:third], used[:third]), (difference[third:], used[third:]))
    ]
    spread = math.log(float(mel.std(1).mean()) + 1e-4 * extent)
    return np.array([*flat[at], *bands, *changes, spread, *_log_roughness(mel, live, extent)], np.float64)


def _log_roughness(mel: Values, live: NDArray[np.bool_], extent: float) -> Vector:
    """Return how rough the spectra of quiet and of other frames are, by thirds of the bins, `(6,)`.

    Noise, in recordings also what is between the words, has a roughness that depends on power and filters alone.
    """
    mel = mel[:, live.mean(0) > 0.5]
    rough = np.full(6, 0.05 * extent)
    edges = np.linspace(0, len(mel), 4).astype(int)
    for third, (low, high) in enumerate(pairwise(edges)):
        part = mel[low:high]
        second = np.abs(part[2:] - 2 * part[1:-1] + part[:-2])
        means = part.mean(0)
        quiet = means <= (np.quantile(means, 0.3) if means.size else 0)
        for half, frames in enumerate((quiet, ~quiet)):
            if second[:, frames].size > 20:
                rough[2 * third + half] = np.median(second[:, frames])
    return np.asarray(np.log(rough + 1e-4 * extent), np.float64)


def _log_change(difference: Values, used: NDArray[np.bool_], extent: float) -> float:
    count = int(used.sum())
    mean = float((np.abs(difference) * used).sum()) / count if count > 20 else 0.05 * extent
    return math.log(mean + 1e-4 * extent)


def audible_frames(mel: Values) -> NDArray[np.bool_]:
    """Return which frames of a mel `(n_mels, frames)` of whatever convention are not silence, `(frames,)`."""
    if not mel.size:
        return np.zeros(mel.shape[-1], np.bool_)
    mel = logarithm(mel) if mel.min() >= 0 else mel
    audible: NDArray[np.bool_] = np.ptp(mel, axis=0) > 0.02 * max(float(np.ptp(mel)), 1e-6)
    return audible
