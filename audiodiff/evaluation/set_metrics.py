"""Metrics of a set of generated clips as a whole: by a classifier's outputs and by notes.

Inception score, diversity and accuracy reward what the classifier was trained on, whatever it sounds like; compare with
what real clips reach by the same classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiodiff.audio.io import load_audio
from audiodiff.errors import DataError

MIN_CLIPS_FOR_FRECHET = 1000
PUBLISHED_BINS = 50
"""Of NDB on SC09 (Goel et al. 2022)."""
_LEAST_PROBABILITY = 1e-12
MUSIC_RATE = 22050
_F0_MIN, _F0_MAX = 55.0, 1760.0
"""Hz: A1 to A6."""
_MAX_APERIODICITY = 0.2
"""Above it a frame has no pitch (the threshold of de Cheveigné and Kawahara 2002 is 0.1 to 0.2)."""
Array = NDArray[np.float64]


def inception_score(probabilities: Array) -> float:
    """Return exp of the mean Kullback-Leibler divergence of p(label | clip) from p(label) (Salimans et al. 2016).

    1 where all clips look alike, the number of labels where each is clearly one and all are equally frequent. The code
    that Goel et al. 2022 published for SC09 sums over clips where it should over labels.

    Args:
        probabilities: Of each class `(clips, labels)`.
    """
    clipped = np.maximum(probabilities, _LEAST_PROBABILITY)
    marginal = clipped.mean(0)
    return float(np.exp((clipped * np.log(clipped / marginal)).sum(1).mean()))


def modified_inception_score(probabilities: Array) -> float:
    """Return exp of the mean divergence of p(label | clip) from that of another clip (Gurumurthy et al. 2017).

    All pairs of clips count, each with itself too; the code of Goel et al. 2022 draws 10,000. It measures diversity
    within labels too, and hangs on how small a classifier's probabilities get (1e-12 is the least here).

    Args:
        probabilities: Of each class `(clips, labels)`.
    """
    clipped = np.maximum(probabilities, _LEAST_PROBABILITY)
    logarithm = np.log(clipped)
    return float(np.exp((clipped * logarithm).sum(1).mean() - clipped.mean(0) @ logarithm.mean(0)))


def am_score(real: Array, generated: Array) -> float:
    """Return the AM score: divergence of p(label) of real from generated clips, plus the mean entropy of the latter.

    0 is best: each clip is clearly one label, and labels are as frequent as in real clips (Zhou et al. 2018; the
    direction of the divergence is that of Kong et al. 2021).

    Args:
        real: Probabilities of each class of real clips `(clips, labels)`.
        generated: Those of generated clips.
    """
    marginal, other = (np.maximum(of.mean(0), _LEAST_PROBABILITY) for of in (real, generated))
    clipped = np.maximum(generated, _LEAST_PROBABILITY)
    return float((marginal * np.log(marginal / other)).sum() - (clipped * np.log(clipped)).sum(1).mean())


def accuracy(probabilities: Array, targets: Sequence[int]) -> float:
    """Return the fraction of clips that the classifier assigns to the label they were generated for."""
    return float((probabilities.argmax(1) == np.asarray(targets)).mean())


class Diversity(NamedTuple):
    """Mean distance of embeddings; each is first scaled to length one, so 0 is alike and 1.41 at right angles.

    Attributes:
        within: Between clips of one class; low where a model always makes the same.
        between: Between clips of different classes.
    """

    within: float
    between: float


def diversity(embeddings: Array, classes: Sequence[int]) -> Diversity:
    """Measure diversity over all pairs of clips.

    Args:
        embeddings: `(clips, features)`.
        classes: Of each clip.

    Returns:
        The mean distances; NaN where there is no such pair.
    """
    unit = _unit(embeddings)
    distance = np.sqrt(np.maximum(2 - 2 * unit @ unit.T, 0))
    labels = np.asarray(classes)
    same = labels[:, None] == labels[None]
    off_diagonal = ~np.eye(len(labels), dtype=bool)
    within, between = distance[same & off_diagonal], distance[~same]
    return Diversity(
        float(within.mean()) if within.size else math.nan, float(between.mean()) if between.size else math.nan
    )


def _unit(embeddings: Array) -> Array:
    unit: Array = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return unit


def ndb(reference: Array, generated: Array, *, n_bins: int = 20, scaled: bool = True, seed: int = 0) -> float:
    """Return the fraction of statistically different bins (NDB/K of Richardson and Weiss 2018).

    The reference is divided in bins by k-means; a bin differs where the fractions of reference and generated clips in
    it differ by a two-sample test of proportions at 5 %. So 0.05 is what the same distribution gives, 1 is the worst.

    Args:
        reference: Embeddings of real clips `(clips, features)`.
        generated: Embeddings of generated clips.
        n_bins: Number of bins, lowered to one per five real clips.
        scaled: Whether each feature is divided by its standard deviation first.
        seed: Of the first centres.

    Returns:
        The fraction of bins that differ.
    """
    from scipy.cluster.vq import kmeans2
    from scipy.spatial.distance import cdist

    n_bins = max(2, min(n_bins, len(reference) // 5))
    deviation = np.maximum(reference.std(0), 1e-6) if scaled else np.ones(reference.shape[1])
    points, other = reference / deviation, generated / deviation
    centres, bins = kmeans2(points, n_bins, minit="++", seed=np.random.default_rng(seed))
    first = np.bincount(bins, minlength=n_bins)
    second = np.bincount(cdist(other, centres).argmin(1), minlength=n_bins)
    pooled = (first + second) / (len(reference) + len(generated))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(reference) + 1 / len(generated)))
    difference = np.abs(first / len(reference) - second / len(generated))
    return float((difference > 1.959964 * np.maximum(error, 1e-12)).mean())


class NearestNeighbours(NamedTuple):
    """The nearest training clip of every generated one.

    Attributes:
        indices: Of the training clip, for each generated clip `(clips,)`.
        distance: Between their embeddings of length one: 0 is the same clip `(clips,)`.
    """

    indices: NDArray[np.int64]
    distance: Array


def nearest_neighbours(generated: Array, training: Array) -> NearestNeighbours:
    """Find the nearest training clip of each generated clip.

    A distance well under that of real clips that were not trained on says that training clips are repeated.

    Args:
        generated: Embeddings `(clips, features)`.
        training: Embeddings of the training clips.
    """
    similarity = _unit(generated) @ _unit(training).T
    index = similarity.argmax(1)
    highest = similarity[np.arange(len(generated)), index]
    return NearestNeighbours(index, np.sqrt(np.maximum(2 - 2 * highest, 0)))


def frechet_distance(reference: Array, generated: Array, *, force: bool = False, of: str = "clips") -> float:
    """Return the Fréchet distance of two Gaussians fitted to embeddings (Heusel et al. 2017; Kilgour et al. 2019).

    Args:
        reference: Embeddings of real clips, or of their windows `(clips, features)`.
        generated: Embeddings of generated clips.
        force: Whether it is measured on few clips too.
        of: What has an embedding: clips or windows.

    Returns:
        |mean difference|^2 + trace(A + B - 2 sqrt(A B)), 0 or more.

    Raises:
        DataError: If one of the sets has fewer than 1,000 clips, unless forced, or fewer than two.
    """
    fewest = min(len(reference), len(generated))
    if fewest < MIN_CLIPS_FOR_FRECHET and not force:
        raise DataError(
            f"a Fréchet distance on {fewest} {of} is mostly noise: two halves of one set can be further apart than "
            f"real and generated clips. Give {MIN_CLIPS_FOR_FRECHET} or more of each, or --force it."
        )
    if fewest < 2:
        raise DataError(f"a Fréchet distance needs at least two {of} of each.")
    difference = reference.mean(0) - generated.mean(0)
    first, second = np.cov(reference, rowvar=False), np.cov(generated, rowvar=False)
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    # The trace of sqrt(A B) is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(max(0.0, difference @ difference + np.trace(first) + np.trace(second) - 2 * cross))


class MusicStatistics(NamedTuple):
    """Onsets and pitches of a set of clips.

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
        samples = load_audio(path, MUSIC_RATE)[0].numpy()
        rates.append(_n_onsets(samples) / (len(samples) / MUSIC_RATE))
        pitches.append(_pitches(samples))
        on_progress(1)
    return MusicStatistics(np.array(rates), np.concatenate(pitches) if pitches else np.zeros(0))


def _n_onsets(samples: NDArray[np.float32]) -> int:
    from librosa.onset import onset_detect

    return len(onset_detect(y=samples, sr=MUSIC_RATE))


def _pitches(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the MIDI numbers of the frames whose waveform repeats; quiet frames have none."""
    from librosa import yin

    frame, hop = 2048, 512
    if len(samples) < frame:
        return np.zeros(0)
    hertz = yin(samples, fmin=_F0_MIN, fmax=_F0_MAX, sr=MUSIC_RATE, frame_length=frame, hop_length=hop, center=False)
    frames = np.lib.stride_tricks.sliding_window_view(samples, frame)[::hop][: len(hertz)].astype(np.float64)
    period = np.round(MUSIC_RATE / hertz).astype(int)
    window = frame - int(MUSIC_RATE / _F0_MIN) - 1
    found = []
    power = np.square(frames).mean(1)
    for values, lag, frequency, loud in zip(frames, period, hertz, power > 1e-4 * power.max(), strict=False):
        first, second = values[:window], values[lag : lag + window]
        energy = np.square(first).sum() + np.square(second).sum()
        if loud and energy > 0 and np.square(first - second).sum() / energy < _MAX_APERIODICITY:
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
