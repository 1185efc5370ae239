"""Metrics of a set of generated clips as a whole, from a classifier's probabilities and embeddings.

Inception score, diversity and accuracy reward what the classifier was trained on, whatever it sounds like; compare with
what real clips reach by the same classifier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiodiff.errors import DataError

FEWEST_FOR_FRECHET = 1000
_Array = NDArray[np.float64]


def inception_score(probabilities: _Array) -> float:
    """Return exp of the mean Kullback-Leibler divergence of p(label | clip) from p(label) (Salimans et al. 2016).

    1 where all clips look alike, the number of labels where each is clearly one and all are equally frequent.

    Args:
        probabilities: Of each class `(clips, labels)`.
    """
    clipped = np.maximum(probabilities, 1e-12)
    marginal = clipped.mean(0)
    return float(np.exp((clipped * np.log(clipped / marginal)).sum(1).mean()))


def accuracy(probabilities: _Array, targets: Sequence[int]) -> float:
    """Return the share of clips that the classifier hears as the label they were generated for."""
    return float((probabilities.argmax(1) == np.asarray(targets)).mean())


class Diversity(NamedTuple):
    """Mean distance of embeddings; each is first scaled to length one, so 0 is alike and 1.41 at right angles.

    Attributes:
        within: Between clips of one class; low where a model always makes the same.
        between: Between clips of different classes.
    """

    within: float
    between: float


def diversity(embeddings: _Array, classes: Sequence[int]) -> Diversity:
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


def _unit(embeddings: _Array) -> _Array:
    unit: _Array = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return unit


def different_bins(reference: _Array, generated: _Array, *, n_bins: int = 20, seed: int = 0) -> float:
    """Return the share of statistically different bins (NDB/K of Richardson and Weiss 2018).

    The reference is divided in bins by k-means; a bin differs where the shares of reference and generated clips in it
    differ by a two-sample test of proportions at 5 %. So 0.05 is what the same distribution gives, 1 is the worst.

    Args:
        reference: Embeddings of real clips `(clips, features)`.
        generated: Embeddings of generated clips.
        n_bins: Number of bins, lowered to one per five real clips.
        seed: Of the first centres.

    Returns:
        The share of bins that differ.
    """
    from scipy.cluster.vq import kmeans2
    from scipy.spatial.distance import cdist

    n_bins = max(2, min(n_bins, len(reference) // 5))
    deviation = np.maximum(reference.std(0), 1e-6)
    scaled, other = reference / deviation, generated / deviation
    centres, bins = kmeans2(scaled, n_bins, minit="++", seed=np.random.default_rng(seed))
    first = np.bincount(bins, minlength=n_bins)
    second = np.bincount(cdist(other, centres).argmin(1), minlength=n_bins)
    pooled = (first + second) / (len(reference) + len(generated))
    error = np.sqrt(pooled * (1 - pooled) * (1 / len(reference) + 1 / len(generated)))
    gap = np.abs(first / len(reference) - second / len(generated))
    return float((gap > 1.959964 * np.maximum(error, 1e-12)).mean())


class Nearest(NamedTuple):
    """The training clip that is most like a generated one.

    Attributes:
        which: Number of the training clip, for each generated clip `(clips,)`.
        distance: Between their embeddings of length one: 0 is the same clip `(clips,)`.
    """

    which: NDArray[np.int64]
    distance: _Array


def nearest_training_clip(generated: _Array, training: _Array) -> Nearest:
    """Find the nearest training clip of each generated clip.

    A distance well under that of real clips that were not trained on says that training clips are repeated.

    Args:
        generated: Embeddings `(clips, features)`.
        training: Embeddings of the training clips.
    """
    similarity = _unit(generated) @ _unit(training).T
    index = similarity.argmax(1)
    highest = similarity[np.arange(len(generated)), index]
    return Nearest(index, np.sqrt(np.maximum(2 - 2 * highest, 0)))


def frechet_distance(reference: _Array, generated: _Array, *, force: bool = False) -> float:
    """Return the Fréchet distance of two Gaussians fitted to embeddings (Heusel et al. 2017; Kilgour et al. 2019).

    Args:
        reference: Embeddings of real clips `(clips, features)`.
        generated: Embeddings of generated clips.
        force: Whether it is measured on few clips too.

    Returns:
        |mean difference|^2 + trace(A + B - 2 sqrt(A B)), 0 or more.

    Raises:
        DataError: If one of the sets has fewer than 1,000 clips, unless forced.
    """
    fewest = min(len(reference), len(generated))
    if fewest < FEWEST_FOR_FRECHET and not force:
        raise DataError(
            f"a Fréchet distance on {fewest} clips is mostly noise: two halves of one set can be further apart than "
            f"real and generated clips. Give {FEWEST_FOR_FRECHET} or more of each, or --force it."
        )
    if fewest < 2:
        raise DataError("a Fréchet distance needs at least two clips of each.")
    difference = reference.mean(0) - generated.mean(0)
    first, second = np.cov(reference, rowvar=False), np.cov(generated, rowvar=False)
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    # The trace of sqrt(A B) is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is symmetric.
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(max(0.0, difference @ difference + np.trace(first) + np.trace(second) - 2 * cross))
