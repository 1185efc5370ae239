"""Metrics of sets have their known values where those are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg, stats

from audiodiff.errors import DataError
from audiodiff.evaluation.set_metrics import (
    accuracy,
    am_score,
    diversity,
    frechet_distance,
    inception_score,
    modified_inception_score,
    ndb,
    nearest_neighbours,
)


def normal(n: int, seed: int = 0, features: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, features))


def test_inception_score_is_one_when_all_is_alike_and_the_number_of_labels_at_best():
    assert inception_score(np.eye(5)[[0, 1, 2, 3, 4] * 4]) == pytest.approx(5)
    assert inception_score(np.eye(5)[[2] * 9]) == pytest.approx(1)
    assert inception_score(np.full((9, 5), 0.2)) == pytest.approx(1)
    assert inception_score(np.eye(5)[[0, 1, 2] * 4]) == pytest.approx(3)  # two modes are missing


def some_probabilities(n: int, labels: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.linspace(0.2, 1, labels), n)


def test_scores_of_labels_are_their_definitions():
    """By the sums of Kong et al. 2021, term by term, with scipy's entropy."""
    real, made = some_probabilities(40, 10, 0), some_probabilities(30, 10, 1)
    to_marginal = [stats.entropy(row, made.mean(0)) for row in made]
    assert inception_score(made) == pytest.approx(np.exp(np.mean(to_marginal)))
    pairs = [stats.entropy(first, second) for first in made for second in made]
    assert modified_inception_score(made) == pytest.approx(np.exp(np.mean(pairs)))
    expected = stats.entropy(real.mean(0), made.mean(0)) + np.mean([stats.entropy(row) for row in made])
    assert am_score(real, made) == pytest.approx(expected)


def test_scores_of_labels_have_their_known_values():
    sure = np.eye(10)[np.arange(40) % 10]
    assert am_score(sure, sure) == pytest.approx(0, abs=1e-9)
    assert am_score(sure, np.full((5, 10), 0.1)) == pytest.approx(math.log(10))  # any label, equally often
    assert am_score(sure, np.eye(10)[[0, 1, 2, 3, 4] * 2]) > 10  # half of the labels never come
    assert modified_inception_score(sure[:1].repeat(9, 0)) == pytest.approx(1)
    assert modified_inception_score(np.full((5, 10), 0.1)) == pytest.approx(1)
    soft = 0.9 * np.eye(2) + 0.05  # the divergence of one from the other is 0.9 log 19; half of the pairs are equal
    assert modified_inception_score(soft) == pytest.approx(19**0.45)
    assert modified_inception_score(sure) < 1e12  # finite, though probabilities are 0


def test_published_bins_differ_where_a_test_of_proportions_says_so():
    """50 clusters far apart: which one a clip is in is known, and so is the two-sample z test of each."""
    centres = 1000.0 * np.eye(50)
    counts = np.random.default_rng(0).integers(5, 60, 50)
    other = np.where(np.arange(50) < 20, counts, counts[::-1])
    real, made = (centres[np.repeat(np.arange(50), n)] + normal(n.sum(), 3, 50) for n in (counts, other))
    pooled = (counts + other) / (counts.sum() + other.sum())
    z = (counts / counts.sum() - other / other.sum()) / np.sqrt(
        pooled * (1 - pooled) * (1 / counts.sum() + 1 / other.sum())
    )
    expected = (2 * stats.norm.cdf(-np.abs(z)) < 0.05).mean()
    assert 0.2 < expected < 0.8
    assert ndb(real, made, n_bins=50, scaled=False) == pytest.approx(expected, abs=0.1)  # k-means may miss a centre
    assert ndb(real, real, n_bins=50, scaled=False) == 0


def test_accuracy_is_a_share():
    assert accuracy(np.eye(3)[[0, 1, 2, 0]], [0, 1, 1, 0]) == 0.75


def test_diversity_of_known_angles():
    same_class = np.array([[1.0, 0], [2.0, 0]])  # length does not count
    other = np.array([[0, 3.0], [0, 1.0]])
    found = diversity(np.concatenate([same_class, other]), [0, 0, 1, 1])
    assert found.within == pytest.approx(0, abs=1e-7)
    assert found.between == pytest.approx(math.sqrt(2))
    assert math.isnan(diversity(same_class, [0, 0]).between)
    assert math.isnan(diversity(same_class, [0, 1]).within)


def test_equal_distributions_differ_in_few_bins_and_collapsed_ones_in_most():
    real = normal(1000)
    equal = [ndb(real, normal(1000, seed), seed=seed) for seed in range(1, 6)]
    assert np.mean(equal) < 0.15
    collapsed = ndb(real, np.repeat(normal(3, 9), 300, axis=0))
    assert collapsed > 0.8
    assert ndb(real, normal(900, 3), seed=4) == ndb(real, normal(900, 3), seed=4)


def test_a_repeated_training_clip_is_found():
    training = normal(50)
    generated = np.concatenate([3 * training[7:8], normal(4, 1)])  # louder, but the same
    found = nearest_neighbours(generated, training)
    assert found.indices[0] == 7
    assert found.distance[0] == pytest.approx(0, abs=1e-6)
    assert found.distance[1:].min() > 0.2


def test_frechet_distance_of_gaussians_is_its_formula():
    first, second = normal(3000), normal(2000, 1) @ np.diag([1, 2, 0.5, 1, 1, 3]) + 1
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)


def test_a_frechet_distance_on_few_clips_is_refused_unless_forced():
    with pytest.raises(DataError, match=r"on 999 clips is mostly noise: .* Give 1000 or more of each, or --force"):
        frechet_distance(normal(2000), normal(999))
    assert frechet_distance(normal(2000), normal(999, 1), force=True) > 0
    halves = frechet_distance(normal(20), normal(20, 1), force=True)
    assert halves > 20 * frechet_distance(normal(2000), normal(2000, 1))  # of one distribution both
    with pytest.raises(DataError, match="at least two clips"):
        frechet_distance(normal(2000), normal(1), force=True)
