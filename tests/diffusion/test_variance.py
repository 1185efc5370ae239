"""A step of the reverse process is what Bayes' rule says, and its variance what the clean signal's leaves open."""

import math

import pytest
import torch
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig
from audiodiff.diffusion.process import diffuse, training_target
from audiodiff.diffusion.schedules import from_betas
from audiodiff.diffusion.variance import log_ratio, posterior, prediction_from, variance_fraction_from

LEVELS = torch.tensor([-9.0, -2.0, 0.3, 6.0], dtype=torch.float64)
FOLLOWING = LEVELS + torch.tensor([0.02, 1.0, 3.0, 0.5], dtype=torch.float64)


def conditional(level, following, variance):
    """Return factor and variance of x_s given x_t, for clean signals N(0, variance): from their joint covariance."""
    signal_t, signal_s = torch.sigmoid(level), torch.sigmoid(following)
    between = (signal_t / signal_s).sqrt()  # x_t = between * x_s + fresh noise
    variance_s = signal_s * variance + 1 - signal_s
    variance_t = signal_t * variance + 1 - signal_t
    factor = between * variance_s / variance_t
    return factor, variance_s - factor * between * variance_s


def test_the_mean_and_the_lower_bound_are_those_of_bayes_rule():
    known = posterior(LEVELS, FOLLOWING)
    factor, variance = conditional(LEVELS, FOLLOWING, 0.0)
    assert_close(known.coef_x, factor)
    assert_close(known.beta_tilde, variance)
    # a clean signal of 1 has the mean alpha_t, and given that x_t the mean of x_s must be alpha_s
    alpha_t, alpha_s = torch.sigmoid(LEVELS).sqrt(), torch.sigmoid(FOLLOWING).sqrt()
    assert_close(known.coef_x * alpha_t + known.coef_denoised, alpha_s)


@pytest.mark.parametrize("variance", [0.0, 0.3, 1.0, 2.5])
def test_the_variance_is_exact_for_gaussian_data_at_steps_of_any_width(variance):
    variance_fraction = variance / (torch.sigmoid(LEVELS) * variance + torch.sigmoid(-LEVELS))
    known = posterior(LEVELS, FOLLOWING)
    assert_close(known.variance(variance_fraction), conditional(LEVELS, FOLLOWING, variance)[1])
    if variance == 1.0:  # for white data the variance of the forward step
        assert_close(known.variance(variance_fraction), known.beta)


def test_the_bounds_are_the_betas_of_a_discrete_process():
    betas = torch.linspace(1e-3, 0.3, 12, dtype=torch.float64)
    levels, abar = from_betas(betas), torch.cumprod(1 - betas, 0)
    before = torch.cat([torch.ones(1), abar[:-1]])
    known = posterior(levels[:-1], levels[1:])
    assert_close(known.beta.flip(0), betas)
    assert_close(known.beta_tilde.flip(0), (1 - before) / (1 - abar) * betas)  # Ho et al. 2020, Eq. 7
    assert_close(known.coef_denoised.flip(0), before.sqrt() * betas / (1 - abar))
    assert_close(known.coef_x.flip(0), (1 - betas).sqrt() * (1 - before) / (1 - abar))


def test_the_ends_are_finite():
    levels = torch.tensor([-math.inf, 5.0], dtype=torch.float64)
    known = posterior(levels, torch.tensor([-3.0, math.inf], dtype=torch.float64))
    assert all(bool(part.isfinite().all()) for part in known)
    assert (known.coef_x.tolist(), known.coef_denoised[1].item(), known.beta_tilde[1].item()) == ([0.0, 0.0], 1.0, 0.0)


def test_the_second_output_interpolates_the_logarithm_between_the_bounds():
    config = DiffusionConfig(log_snr_min=-8, log_snr_max=10, steps=20)
    known = posterior(LEVELS, LEVELS + config.step_width)
    for output, expected in (
        (-1.0, known.beta_tilde),
        (1.0, known.beta),
        (0.0, (known.beta_tilde * known.beta).sqrt()),
    ):
        second = torch.full((4, 1, 3), output, dtype=torch.float64)
        variance = known.beta_tilde * log_ratio(second, LEVELS, config.step_width)[:, 0, 0].exp()
        assert_close(variance, expected)
        variance_fraction = variance_fraction_from(second, LEVELS, config.step_width)[:, 0, 0]
        assert_close(known.variance(variance_fraction), expected)  # both ways agree on a step of the process
    assert float(variance_fraction_from(torch.full((4, 1, 1), -3.0), LEVELS, 0.5).min()) == 0.0


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_a_prediction_holds_the_noise_of_any_target_and_the_variance(target):
    config = DiffusionConfig(target=target, variance="learned")
    clean, noise, second = torch.randn(3, 4, 1, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = diffuse(clean, noise, LEVELS)
    first = training_target(clean, noise, LEVELS, target)
    prediction = prediction_from(torch.cat([first, second], dim=1), x, LEVELS, config)
    assert_close(prediction.noise, noise)
    assert_close(prediction.variance, variance_fraction_from(second, LEVELS, config.step_width))
    alone = prediction_from(first, x, LEVELS, config.model_copy(update={"variance": "fixed"}))
    assert alone.variance is None
    assert torch.equal(alone.noise, prediction.noise)


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_a_scalar_level_is_that_of_every_clip(target):
    config = DiffusionConfig(target=target, variance="learned")
    output, x = torch.randn(3, 2, 7, dtype=torch.float64), torch.randn(3, 1, 7, dtype=torch.float64)
    predictions = [prediction_from(output, x, level, config) for level in (LEVELS[1], LEVELS[1].expand(3))]
    assert_close(*predictions)
