"""Augmentations change the crop as they say, each on its own, and nothing else."""

import numpy as np
import pytest
import torch

from audiodiff.config import DataConfig
from audiodiff.data.augment import Augmenter

AUDIO = torch.linspace(-1, 1, 100)[None]


def augmented(seed, **options):
    config = DataConfig(train="x", **options)
    return Augmenter(config, 8000)(AUDIO, np.random.default_rng(seed))


def test_polarity_flips_half_the_crops():
    crops = [augmented(seed, polarity=True, gain_db=(0, 0)) for seed in range(400)]
    flipped = sum(torch.equal(crop, -AUDIO) for crop in crops)
    assert flipped + sum(torch.equal(crop, AUDIO) for crop in crops) == 400
    assert abs(flipped - 200) < 3 * np.sqrt(400) / 2


def test_gain_is_uniform_in_its_range_of_decibels():
    gains = np.array([float(augmented(seed, polarity=False, gain_db=(-6, 3))[0, -1]) for seed in range(400)])
    decibels = 20 * np.log10(gains)
    assert decibels.min() >= -6
    assert decibels.max() <= 3
    assert np.allclose(np.quantile(decibels, [0.05, 0.5, 0.95]), [-5.55, -1.5, 2.55], atol=0.6)


@pytest.mark.parametrize("seed", range(4))
def test_without_options_nothing_changes(seed):
    assert torch.equal(augmented(seed, polarity=False, gain_db=(0, 0)), AUDIO)


@pytest.mark.parametrize("seed", range(4))
def test_an_augmentation_does_not_depend_on_the_other(seed):
    both, gain = augmented(seed), augmented(seed, polarity=False)
    assert torch.equal(both.abs(), gain.abs())
