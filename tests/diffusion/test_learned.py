"""The map of learned noise levels is a distribution function, even at first, and its inverse is its inverse."""

import pytest
import torch
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig
from audiodiff.diffusion.learned import N_QUANTILES, LearnedLevels

LOW, HIGH = -8.0, 10.0
LEVELS = torch.linspace(LOW, HIGH, 2001, dtype=torch.float64)


@pytest.fixture(params=[0.0, 3.0], ids=["even", "uneven"])
def learned(request):
    levels = LearnedLevels(LOW, HIGH)
    torch.nn.init.normal_(levels.logits, std=request.param, generator=torch.Generator().manual_seed(0))
    return levels


def test_it_is_even_at_first():
    levels = LearnedLevels(LOW, HIGH)
    assert_close(levels.density(LEVELS), torch.ones(2001, dtype=torch.float64), rtol=0, atol=0.005)


def test_its_time_rises_from_0_to_1_and_its_density_is_the_slope(learned):
    levels = LEVELS.clone().requires_grad_()
    time = learned.time(levels)
    assert time[0] == 0
    assert time[-1] == 1
    assert (time.diff() > 0).all()
    (slope,) = torch.autograd.grad(time.sum(), levels)
    assert_close(learned.density(LEVELS), slope * (HIGH - LOW), rtol=1e-9, atol=1e-9)
    assert learned.density(LEVELS).min() > 0.05


def test_levels_are_drawn_through_the_inverse(learned):
    assert_close(learned.log_snr(learned.time(LEVELS)), LEVELS, rtol=0, atol=1e-8)


def test_the_quantiles_of_a_configuration_are_those_of_the_map(learned):
    config = DiffusionConfig(log_snr_min=LOW, log_snr_max=HIGH, distribution="learned", learned=learned.quantiles())
    assert len(config.learned) == N_QUANTILES
    shares = torch.linspace(0, 1, 33, dtype=torch.float64)
    assert_close(torch.tensor([config.log_snr_at(u) for u in shares.tolist()]), learned.log_snr(shares).float())
