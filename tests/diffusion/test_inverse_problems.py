"""Posterior sampling held against Gaussians, whose posterior is known."""

from __future__ import annotations

import math

import pytest
import torch

from audiodiff.diffusion.inverse_problems import consistent, dps, resampled
from audiodiff.diffusion.process import Prediction, alpha_sigma
from audiodiff.diffusion.samplers import SAMPLERS, Langevin

CORRELATION = 0.9
N_CLIPS = 4000
LEVELS = torch.tensor([-9.0, -5, -2, 0, 2, 4, 6, 9, math.inf], dtype=torch.float64)


def predict(x, log_snr):
    """Return the noise that the ideal denoiser of pairs of correlated standard normals finds."""
    alpha, sigma = (float(scale) for scale in alpha_sigma(log_snr.double()))
    covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]])
    gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(2))
    return Prediction((x - alpha * x @ gain.T) / sigma)


def draw(step):
    return torch.randn(N_CLIPS, 1, 2, generator=torch.Generator().manual_seed(step))


def first_is(value):
    def fit(clean, deviation):
        return torch.cat([torch.full_like(clean[..., :1], value), clean[..., 1:]], -1)

    return fit


def residual_of(value):
    def residual(clean):
        return torch.cat([value - clean[..., :1], torch.zeros_like(clean[..., 1:])], -1)

    return residual


def sampled(predictor, rounds=1, sampler="ddpm"):
    return resampled(SAMPLERS[sampler], predictor, draw(0), LEVELS, draw, rounds=rounds)[:, 0]


def test_what_is_known_is_kept_and_pulls_the_rest_along():
    free, held = sampled(predict), sampled(consistent(predict, first_is(1.5)))
    assert abs(float(free.mean())) < 0.1
    assert torch.allclose(held[:, 0], torch.full((N_CLIPS,), 1.5), atol=1e-5)
    assert float(held[:, 1].mean()) > 0.5


def test_more_rounds_bring_the_rest_to_its_posterior_mean():
    means = [float(sampled(consistent(predict, first_is(1.5)), rounds)[:, 1].mean()) for rounds in (1, 4, 16)]
    assert means[0] < means[1] < means[2]
    assert means[2] == pytest.approx(CORRELATION * 1.5, abs=0.15)


def test_steering_finds_the_posterior_mean_and_its_strength_counts():
    free, weak, strong = (sampled(dps(predict, residual_of(1.5), strength)).mean(0) for strength in (0.0, 0.2, 1.0))
    assert torch.equal(free, sampled(predict).mean(0))
    assert free[0] < weak[0] < strong[0]
    assert float(strong[0]) == pytest.approx(1.5, abs=0.1)
    assert float(strong[1]) == pytest.approx(CORRELATION * 1.5, abs=0.15)


def test_a_wild_gradient_moves_no_more_than_noise_would():
    x, level = draw(1), torch.zeros(())
    change = dps(predict, lambda clean: 1e6 * (3 - clean), 0.5)(x, level).noise - predict(x, level).noise
    assert torch.allclose(change.square().mean((1, 2)).sqrt(), torch.full((N_CLIPS,), 0.5), atol=1e-4)


def test_one_round_is_the_sampler_itself():
    for name, sampler in SAMPLERS.items():
        assert torch.equal(
            resampled(sampler, predict, draw(0), LEVELS, draw), sampler(predict, draw(0), LEVELS, draw)
        ), name


def test_no_draw_is_taken_twice():
    taken = []

    def noted(step):
        taken.append(step)
        return draw(step)

    resampled(SAMPLERS["ddpm"], predict, draw(0), LEVELS, noted, rounds=3, corrector=Langevin(2))
    assert len(taken) == len(set(taken)) > 3 * 3 * (len(LEVELS) - 1)
    assert 0 not in taken


def test_a_learned_variance_is_handed_on():
    def learned(x, log_snr):
        return Prediction(predict(x, log_snr).noise, torch.full_like(x, 0.3))

    x, level = draw(1), torch.zeros(())
    for wrapped in (consistent(learned, first_is(1.0)), dps(learned, residual_of(1.0), 0.5)):
        prediction = wrapped(x, level)
        assert torch.equal(prediction.variance, torch.full_like(x, 0.3))
        assert not torch.equal(prediction.noise, predict(x, level).noise)
