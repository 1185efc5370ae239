"""With the exact score of a Gaussian mixture every sampler finds its modes, with correctors and without.

The samples of a signal are independent, each from the same mixture of three modes: one long signal is a sample of it.
"""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import Prediction, score
from audiodiff.diffusion.samplers import (
    CORRECTOR_DRAW_OFFSET,
    SAMPLERS,
    Langevin,
    count_network_calls,
    ddim,
    ddpm,
    heun,
)
from audiodiff.diffusion.schedules import uniform

WEIGHTS, MEANS, SPREADS = (
    torch.tensor(values, dtype=torch.float64) for values in ([0.3, 0.5, 0.2], [-1.2, 0.3, 1.5], [0.1, 0.2, 0.05])
)
MEAN = float((WEIGHTS * MEANS).sum())
VARIANCE = float((WEIGHTS * (SPREADS**2 + MEANS**2)).sum()) - MEAN**2
N = 8_000


def scales(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    return torch.sigmoid(log_snr).sqrt().view(-1, 1, 1), torch.sigmoid(-log_snr).sqrt().view(-1, 1, 1)


def log_density(x: Tensor, log_snr: Tensor) -> Tensor:
    """Log of the density of noisy samples, each for itself, of the shape of x; what is the same for all is left out."""
    alpha, sigma = (scale.unsqueeze(-1) for scale in scales(log_snr))
    variance = (alpha * SPREADS) ** 2 + sigma**2
    modes = WEIGHTS.log() - variance.log() / 2 - (x.unsqueeze(-1) - alpha * MEANS) ** 2 / variance / 2
    return torch.logsumexp(modes, dim=-1)


def exact_score(x: Tensor, log_snr: Tensor) -> Tensor:
    """Differentiate the log density: no formula of the code under test is used."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(x, log_snr).sum(), x)
    return gradient


def exact_noise(x: Tensor, log_snr: Tensor) -> Prediction:
    return Prediction(-scales(log_snr)[1] * exact_score(x, log_snr))


def exact_prediction(x: Tensor, log_snr: Tensor) -> Prediction:
    """Give the variance of the clean signal too, over sigma^2: (1 + sigma^2 times the slope of the score) / alpha^2."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(x, log_snr).sum(), x, create_graph=True)
    (slope,) = torch.autograd.grad(gradient.sum(), x)
    alpha, sigma = scales(log_snr)
    return Prediction(-sigma * gradient.detach(), (1 + sigma**2 * slope) / alpha**2)


def draw(step: int, seed: int = 0) -> Tensor:
    return position_noise([seed], step, n_samples=N).double()


def sample(name: str, n_steps: int, corrector: Langevin | None = None, predict=exact_noise) -> Tensor:
    levels = uniform(n_steps, log_snr_min=-8.0, log_snr_max=9.0)
    return SAMPLERS[name](predict, draw(0), levels, draw, corrector=corrector).flatten()


def distance(made: Tensor) -> float:
    """Return the mean distance between quantiles of what was made and of the mixture (Wasserstein-1)."""
    generator = torch.Generator().manual_seed(5)
    modes = torch.multinomial(WEIGHTS, 10 * N, replacement=True, generator=generator)
    true = MEANS[modes] + SPREADS[modes] * torch.randn(10 * N, dtype=torch.float64, generator=generator)
    quantiles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    return float((torch.quantile(made, quantiles) - torch.quantile(true, quantiles)).abs().mean())


def test_the_score_is_the_gradient_of_the_log_density():
    levels = torch.tensor([-4.0, 0.0, 5.0], dtype=torch.float64)
    x = torch.randn(3, 1, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alpha, sigma = scales(levels)
    # E[noise | x] from the posterior mean of the clean signal, mode by mode, and the score by differentiation
    variance = (alpha.unsqueeze(-1) * SPREADS) ** 2 + sigma.unsqueeze(-1) ** 2
    off = x.unsqueeze(-1) - alpha.unsqueeze(-1) * MEANS
    share = torch.softmax(WEIGHTS.log() - variance.log() / 2 - off**2 / variance / 2, dim=-1)
    clean = (share * (MEANS + alpha.unsqueeze(-1) * SPREADS**2 / variance * off)).sum(-1)
    assert_close(score((x - alpha * clean) / sigma, levels), exact_score(x, levels))


@pytest.mark.parametrize("corrector", [None, Langevin(2, 0.1)], ids=["plain", "corrected"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_recovers_mean_variance_and_weights_of_the_modes(name, corrector):
    made = sample(name, 100, corrector)
    nearest = (made.unsqueeze(-1) - MEANS).abs().argmin(-1)
    weights = torch.stack([(nearest == mode).double().mean() for mode in range(3)])
    # five standard errors, and one hundredth for finite steps and the corrector's bias
    assert ((weights - WEIGHTS).abs() < 5 * (WEIGHTS * (1 - WEIGHTS) / N).sqrt() + 0.01).all()
    assert abs(float(made.mean()) - MEAN) < 5 * (VARIANCE / N) ** 0.5 + 0.01
    assert abs(float(made.var()) - VARIANCE) < 0.05
    spreads = torch.stack([made[nearest == mode].std() for mode in range(3)])
    assert ((spreads - SPREADS).abs() < 0.02).all()


def test_heun_follows_the_probability_flow_at_second_order():
    def end(n_steps):
        levels = torch.linspace(-5, 7, n_steps + 1, dtype=torch.float64)
        return heun(exact_noise, draw(0)[..., :100], levels, draw)

    truth = end(1024)
    errors = [float((end(n_steps) - truth).norm()) for n_steps in (50, 100, 200)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.25)


def test_heun_is_closer_than_ddim_at_as_many_network_calls():
    levels = uniform(10, log_snr_min=-8.0, log_snr_max=9.0)
    assert count_network_calls("heun", levels) == 19
    assert distance(sample("heun", 10)) < 0.9 * distance(sample("ddim", 19))


@pytest.mark.parametrize("n_steps", [4, 10, 25])
def test_the_exact_variance_makes_ddpm_right_at_few_steps(n_steps):
    fixed, learned = (distance(sample("ddpm", n_steps, predict=predict)) for predict in (exact_noise, exact_prediction))
    assert learned < fixed / 3


@pytest.mark.parametrize("name", sorted({*SAMPLERS} - {"ddpm"}))
def test_the_other_samplers_leave_the_variance_out(name):
    assert torch.equal(sample(name, 5), sample(name, 5, predict=exact_prediction))


def test_correctors_bring_ddim_closer_to_the_mixture():
    errors = [distance(sample("ddim", 25, corrector)) for corrector in (None, Langevin(1), Langevin(4))]
    assert errors[1] < 0.85 * errors[0]
    assert errors[2] < 0.6 * errors[0]


def test_many_corrector_steps_alone_reach_the_distribution_of_a_level_with_the_bias_they_state():
    """Of data that is one point the noisy signal is normal; from far off it must come to sigma / sqrt(1 - snr^2)."""
    level, snr = torch.tensor(0.7, dtype=torch.float64), 0.4
    sigma = float(torch.sigmoid(-level).sqrt())

    def predict(x, log_snr):
        assert log_snr is level
        return Prediction(x / sigma)  # the noise in a signal of nothing but noise

    made = Langevin(40, snr)(predict, torch.full((1, 1, N), 3.0, dtype=torch.float64), level, 0, draw)
    assert abs(float(made.mean())) < 5 * sigma / N**0.5
    assert float(made.std()) == pytest.approx(sigma / (1 - snr**2) ** 0.5, rel=5 / (2 * N) ** 0.5)


def test_a_corrector_asks_at_every_level_and_draws_noise_of_its_own():
    asked, levels = [], uniform(4)

    def noise(step):
        asked.append(step)
        return torch.zeros(1, 1, 3, dtype=torch.float64)

    ddpm(
        lambda x, log_snr: Prediction(x),
        torch.zeros(1, 1, 3, dtype=torch.float64),
        levels,
        noise,
        corrector=Langevin(2),
    )
    assert sorted(asked) == [1, 2, 3, *range(CORRECTOR_DRAW_OFFSET, CORRECTOR_DRAW_OFFSET + 8)]
    assert len(set(asked)) == len(asked)
    assert count_network_calls("ddpm", levels, Langevin(2)) == 12


@pytest.mark.parametrize("change", [{"steps": 2}, {"snr": 0.3}])
def test_every_setting_of_a_corrector_changes_the_result(change):
    assert not torch.allclose(*(sample("ddim", 5, Langevin(**given)) for given in ({}, change)))


def test_steps_are_reported_as_without_a_corrector():
    levels = uniform(4)
    seen_by = {True: [], False: []}
    for corrected, seen in seen_by.items():
        ddim(
            exact_noise, draw(0), levels, draw, corrector=Langevin() if corrected else None,
            on_step=lambda step, x, seen=seen: seen.append(step),
        )  # fmt: skip
    assert seen_by[True] == seen_by[False] == [1, 2, 3, 4]


def test_noise_by_position_makes_a_part_of_a_signal_that_of_the_whole():
    levels, cut = uniform(5), slice(700, 900)
    whole = ddim(exact_noise, draw(0), levels, draw, corrector=Langevin(2))
    part_draw = partial(position_noise, [0], start=700, n_samples=200)
    part = ddim(
        exact_noise, part_draw(0).double(), levels, lambda step: part_draw(step).double(), corrector=Langevin(2)
    )
    assert_close(part, whole[..., cut])
