"""The terms of the bound on the likelihood are the divergences and probabilities they claim to be."""

import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig
from audiodiff.diffusion.likelihood import (
    VARIANCE_WEIGHT,
    decoder_cost,
    noise_error,
    prior_divergence,
    step_divergence,
    variance_loss,
)
from audiodiff.diffusion.process import diffuse, training_target
from audiodiff.diffusion.variance import log_ratio, posterior

LEVELS = torch.tensor([-6.0, -1.0, 2.0, 7.0], dtype=torch.float64)


def normal_divergence(mean, variance, other_mean, other_variance):
    """KL divergence of the first normal distribution from the second, from the textbook."""
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - other_mean) ** 2 / other_variance)


@pytest.mark.parametrize("width", [0.02, 1.5])
@pytest.mark.parametrize("second", [None, -0.4, 0.7])
def test_a_step_s_divergence_is_that_of_the_two_normal_distributions(width, second):
    clean, noise, off = torch.randn(3, 4, 1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = diffuse(clean, noise, LEVELS)
    known = posterior(LEVELS, LEVELS + width)
    coef_x, coef_denoised, lower = (part.view(-1, 1, 1) for part in known[:3])
    alpha, sigma = (torch.sigmoid(sign * LEVELS).sqrt().view(-1, 1, 1) for sign in (1, -1))
    predicted = (x - sigma * (noise + off)) / alpha
    ratio = torch.zeros(()) if second is None else log_ratio(torch.full_like(x, second), LEVELS, width)
    means = (coef_x * x + coef_denoised * signal for signal in (clean, predicted))
    true_mean, mean = means
    expected = normal_divergence(true_mean, lower, mean, lower * torch.exp(ratio.double()))
    assert_close(step_divergence(off, ratio, width), expected, rtol=1e-8, atol=1e-12)


def test_what_is_left_of_the_signal_at_the_start_is_a_divergence_from_the_standard_normal():
    clean = torch.tensor([-2.0, 0.0, 1.0], dtype=torch.float64)
    alpha, variance = torch.sigmoid(LEVELS[0]).sqrt(), torch.sigmoid(-LEVELS[0])
    expected = normal_divergence(alpha * clean, variance, torch.zeros(1), torch.ones(1))
    assert_close(prior_divergence(clean, float(LEVELS[0])), expected)


def test_the_decoder_s_probabilities_sum_to_one_and_hold_in_the_tails():
    grid = torch.arange(-400, 401, dtype=torch.float64) * 0.1 + 0.033
    cost = decoder_cost(grid, torch.tensor(1.3), torch.tensor(0.1, dtype=torch.float64))
    assert float(torch.exp(-cost).sum()) == pytest.approx(1.0, abs=1e-12)
    distance = torch.tensor([0.0, 2.0, -2.0, 60.0, -60.0])
    cost = decoder_cost(distance, torch.tensor(1.0), torch.tensor(1e-4))
    density = -torch.from_numpy(stats.norm.logpdf(distance.numpy())) - math.log(1e-4)
    assert_close(cost, density.double(), rtol=1e-4, atol=1e-4)
    wide = decoder_cost(torch.zeros(1), torch.tensor(1e-3), torch.tensor(1.0))
    assert float(wide) == pytest.approx(0.0, abs=1e-12)  # the interval holds it all: no bits


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_the_error_is_that_of_the_noise_whatever_the_target(target):
    clean, noise, off = torch.randn(3, 4, 1, 5, generator=torch.Generator().manual_seed(2))
    levels = LEVELS.float()
    x = diffuse(clean, noise, levels)
    sigma, alpha = torch.sigmoid(-levels).sqrt().view(-1, 1, 1), torch.sigmoid(levels).sqrt().view(-1, 1, 1)
    scale = {"epsilon": 1.0, "v": alpha, "x0": -alpha / sigma}[target]
    output = training_target(clean, noise, levels, target) + off
    error = noise_error(output, x, noise, levels, DiffusionConfig(target=target))
    assert_close(error, scale * off, rtol=1e-3, atol=1e-3)


def test_the_variance_loss_finds_the_exact_variance_and_leaves_the_mean_alone():
    """For Gaussian data the best second output is known; gradient descent on it must get there."""
    config, variance, n = DiffusionConfig(log_snr_min=-8, log_snr_max=10, steps=100, variance="learned"), 0.5, 40_000
    levels = torch.tensor([-3.0, 0.0, 3.0])
    clean, noise = torch.randn(2, 3, 1, n, generator=torch.Generator().manual_seed(3))
    x = diffuse(variance**0.5 * clean, noise, levels)
    marginal = (torch.sigmoid(levels) * variance + torch.sigmoid(-levels)).view(-1, 1, 1)
    predicted = (torch.sigmoid(-levels).sqrt().view(-1, 1, 1) / marginal * x).requires_grad_()
    second = torch.zeros(3, 1, 1, requires_grad=True)
    optimiser = torch.optim.LBFGS([second], line_search_fn="strong_wolfe", tolerance_grad=1e-12, max_iter=15)

    def closure():
        optimiser.zero_grad()
        loss = 1e3 * variance_loss(second, predicted - noise, levels, config).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    assert predicted.grad is None
    known = posterior(levels.double(), levels.double() + config.step_width)
    exact = known.variance((variance / marginal).flatten().double())
    expected = 2 * torch.log(exact / known.beta_tilde) / torch.log(known.beta / known.beta_tilde) - 1
    assert_close(second.detach().flatten().double(), expected, rtol=0, atol=0.05)


def test_the_variance_loss_is_the_bound_times_its_weight():
    config = DiffusionConfig(steps=50)
    error, levels = torch.full((2, 1, 4), 0.3), torch.tensor([0.0, 1.0])
    at_lower = variance_loss(torch.full((2, 1, 4), -1.0), error, levels, config)
    expected = VARIANCE_WEIGHT * 50 * 0.5 * math.expm1(18 / 50) * 0.09
    assert at_lower.tolist() == pytest.approx([expected] * 2)
