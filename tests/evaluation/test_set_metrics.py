"""Metrics of sets have their known values where those are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile
from scipy import linalg

from audiodiff.errors import DataError
from audiodiff.evaluation.set_metrics import (
    NearestClipSearch,
    accuracy,
    diversity,
    frechet_distance,
    inception_score,
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


RATE = 8000


@pytest.fixture
def clips(tmp_path, save_voice):
    return [save_voice(tmp_path / f"{seed}.wav", 0.6, RATE, seed) for seed in range(6)]


def test_a_copy_is_found_though_quieter_and_later(clips, tmp_path):
    samples = soundfile.read(clips[3])[0]
    soundfile.write(tmp_path / "copy.wav", 0.2 * np.concatenate([np.zeros(800), samples[:-800]]), RATE, subtype="FLOAT")
    nearest = NearestClipSearch(clips, RATE, 0.6)
    found = nearest(tmp_path / "copy.wav")
    assert found.path == clips[3]
    assert found.similarity > max(0.8, *nearest.leave_one_out())  # a sixth of it was cut off


def test_itself_is_one_and_others_are_less(clips):
    nearest = NearestClipSearch(clips, RATE, 0.6)
    assert nearest(clips[2]).similarity == pytest.approx(1, abs=1e-4)
    among = nearest.leave_one_out()
    assert len(among) == len(clips)
    assert max(among) < 0.98
    assert nearest(clips[2], exclude=2).similarity == pytest.approx(among[2])
    assert NearestClipSearch(clips[:1], RATE, 0.6).leave_one_out() == []


def test_the_length_that_is_compared_counts(clips):
    assert NearestClipSearch(clips, RATE, 0.2)(clips[0], exclude=0).similarity != pytest.approx(
        NearestClipSearch(clips, RATE, 0.6)(clips[0], exclude=0).similarity
    )


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(DataError, match="no training clips"):
        NearestClipSearch([], RATE, 0.5)
