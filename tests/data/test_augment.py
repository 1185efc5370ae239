"""Augmentations change the crop as they say, each on its own, and nothing else."""

import math
import random
import sys

import numpy as np
import pytest
import torch

from audiodiff.config import DataConfig, TransformConfig
from audiodiff.data.augment import Augmenter
from audiodiff.errors import ConfigError

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


def test_time_reversal_turns_half_the_crops():
    crops = [augmented(seed, polarity=False, gain_db=(0, 0), time_reversal=True) for seed in range(400)]
    turned = sum(torch.equal(crop, AUDIO.flip(-1)) for crop in crops)
    assert turned + sum(torch.equal(crop, AUDIO) for crop in crops) == 400
    assert abs(turned - 200) < 3 * np.sqrt(400) / 2


def transform(name, **parameters):
    return (TransformConfig(name=name, parameters=parameters),)


SNR = transform("AddGaussianSNR", min_snr_db=20.0, max_snr_db=20.0, p=1.0)


def test_a_transform_by_name_does_what_its_parameters_say():
    pytest.importorskip("audiomentations")
    noise = augmented(0, polarity=False, gain_db=(0, 0), transforms=SNR) - AUDIO
    ratio = AUDIO.square().mean() / noise.square().mean()
    assert 10 * math.log10(ratio) == pytest.approx(20, abs=1.5)


def test_the_seed_alone_decides_a_transform_and_global_randomness_is_left_alone():
    pytest.importorskip("audiomentations")
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = augmented(3, transforms=SNR)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(2)
    np.random.seed(2)
    assert torch.equal(augmented(3, transforms=SNR), first)
    assert not torch.equal(augmented(4, transforms=SNR), first)


def test_transforms_run_in_order_and_leave_the_other_augmentations_alone():
    pytest.importorskip("audiomentations")
    clip = transform("Clip", a_min=-0.1, a_max=0.1, p=1.0)
    double = transform("Gain", min_gain_db=20.0, max_gain_db=20.0, p=1.0)
    clipped_last, clipped_first = (
        augmented(0, polarity=False, gain_db=(0, 0), transforms=order) for order in (double + clip, clip + double)
    )
    assert float(clipped_last.abs().max()) == pytest.approx(0.1)
    assert float(clipped_first.abs().max()) == pytest.approx(1.0)
    never = transform("Gain", min_gain_db=20.0, max_gain_db=20.0, p=0.0)
    assert torch.equal(augmented(5, transforms=never), augmented(5))


@pytest.mark.parametrize(
    ("transforms", "said"),
    [
        (transform("AddGaussianNoize"), "has no transform 'AddGaussianNoize'"),
        (transform("os"), "has no transform 'os'"),
        (transform("Gain", min_gain=1.0), "Gain with .'min_gain': 1.0. fails"),
        (transform("Gain", min_gain_db=5.0, max_gain_db=-5.0), "Gain with"),
        (transform("TimeStretch", min_rate=2.0, max_rate=2.0, leave_length_unchanged=False, p=1.0), "TimeStretch"),
        (transform("Gain", min_gain_db=800.0, max_gain_db=800.0, p=1.0), "100 of them not finite"),
    ],
    ids=lambda value: value[0].name if isinstance(value, tuple) else "",
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_transform_that_cannot_serve_is_refused(transforms, said):
    pytest.importorskip("audiomentations")
    with pytest.raises(ConfigError, match=said):
        augmented(0, transforms=transforms)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "audiomentations", None)
    with pytest.raises(ConfigError, match="pip install 'audiodiff.augment.'"):
        augmented(0, transforms=SNR)
