"""The forward process has the moments it claims, and its targets can be turned into each other."""

import math

import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig
from audiodiff.config.model import LOGISTIC_SPREAD
from audiodiff.diffusion.process import (
    alpha_sigma,
    denoised_from_noise,
    diffuse,
    forward_step,
    mean_squared_error,
    min_snr_weight,
    noise_from,
    sample_log_snr,
    score,
    training_target,
)
from audiodiff.diffusion.schedules import from_betas

LEVELS = torch.tensor([-12.0, -3.0, 0.0, 4.0, 12.0], dtype=torch.float64)


def random_batch(channels=2, time=50, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, len(LEVELS), channels, time, dtype=dtype, generator=generator)
    return clean, noise


def test_scales_are_those_of_the_log_snr_and_preserve_variance():
    alpha, sigma = alpha_sigma(LEVELS)
    assert_close((alpha / sigma).square().log(), LEVELS)
    assert_close(alpha.square() + sigma.square(), torch.ones_like(LEVELS))


def test_an_infinite_log_snr_is_clean_signal_and_minus_infinity_is_noise():
    clean, noise = random_batch()
    endless = torch.full((len(LEVELS),), math.inf, dtype=torch.float64)
    assert torch.equal(diffuse(clean, noise, endless), clean)
    assert torch.equal(diffuse(clean, noise, -endless), noise)


def test_diffuse_has_the_stated_mean_and_variance_at_each_clips_own_level():
    n = 100_000
    noise = torch.randn(len(LEVELS), 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy = diffuse(torch.full_like(noise, 3.0), noise, LEVELS)
    alpha, sigma = torch.sigmoid(LEVELS).sqrt(), torch.sigmoid(-LEVELS).sqrt()
    assert ((noisy.mean((1, 2)) - 3 * alpha).abs() < 5 * sigma / n**0.5).all()
    assert ((noisy.var((1, 2)) - sigma**2).abs() < 5 * sigma**2 * (2 / n) ** 0.5).all()


def test_diffuse_leaves_a_signal_of_unit_variance_at_unit_variance():
    n = 100_000
    clean, noise = torch.randn(2, len(LEVELS), 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert ((diffuse(clean, noise, LEVELS).var((1, 2)) - 1).abs() < 5 * (2 / n) ** 0.5).all()


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_a_perfect_output_of_any_target_gives_back_noise_and_clean_signal(target):
    clean, noise = random_batch()
    noisy = diffuse(clean, noise, LEVELS)
    output = training_target(clean, noise, LEVELS, target)
    predicted = noise_from(output, noisy, LEVELS, target)
    # the way back divides by sigma or alpha, which enlarges rounding by up to exp(6)
    assert_close(predicted, noise, rtol=0, atol=1e-12)
    assert_close(denoised_from_noise(predicted, noisy, LEVELS), clean, rtol=0, atol=1e-9)


def test_the_targets_are_what_their_papers_say():
    clean, noise = random_batch()
    angle = torch.atan(torch.exp(-LEVELS / 2)).view(-1, 1, 1)  # of Salimans and Ho: x = cos clean + sin noise
    assert torch.equal(training_target(clean, noise, LEVELS, "epsilon"), noise)
    assert torch.equal(training_target(clean, noise, LEVELS, "x0"), clean)
    assert_close(training_target(clean, noise, LEVELS, "v"), angle.cos() * noise - angle.sin() * clean)
    assert_close(diffuse(clean, noise, LEVELS), angle.cos() * clean + angle.sin() * noise)


def test_v_is_the_derivative_of_the_noisy_signal_by_its_angle():
    clean, noise = random_batch()
    step = 1e-5
    angle = torch.atan(torch.exp(-LEVELS / 2))
    after, before = (-2 * torch.log(torch.tan(angle + sign * step)) for sign in (1, -1))
    slope = (diffuse(clean, noise, after) - diffuse(clean, noise, before)) / (2 * step)
    assert_close(slope, training_target(clean, noise, LEVELS, "v"), rtol=0, atol=1e-6)


def test_results_keep_the_dtype_of_the_signal():
    clean, noise = random_batch(dtype=torch.float32)
    noisy = diffuse(clean, noise, LEVELS)
    assert noisy.dtype == denoised_from_noise(noise, noisy, LEVELS).dtype == torch.float32
    assert all(noise_from(noise, noisy, LEVELS, target).dtype == torch.float32 for target in ("epsilon", "v", "x0"))


CONFIGS = [
    DiffusionConfig(log_snr_min=-8.0, log_snr_max=10.0),
    DiffusionConfig(log_snr_min=-5.0, log_snr_max=14.0, distribution="logistic"),
]


def reference_cdf(levels, config):
    """Share of levels below, from scipy instead of the code's own formula."""
    width = config.log_snr_max - config.log_snr_min
    if config.distribution == "uniform":
        return stats.uniform.cdf(levels, config.log_snr_min, width)
    logistic = stats.logistic((config.log_snr_min + config.log_snr_max) / 2, LOGISTIC_SPREAD * width)
    low, high = logistic.cdf(config.log_snr_min), logistic.cdf(config.log_snr_max)
    return (logistic.cdf(levels) - low) / (high - low)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.distribution)
def test_log_snr_quantile_is_the_quantile_function_of_its_distribution(config):
    shares = torch.linspace(0, 1, 41, dtype=torch.float64)
    levels = torch.tensor([config.log_snr_quantile(share) for share in shares.tolist()], dtype=torch.float64)
    assert_close(torch.from_numpy(reference_cdf(levels.numpy(), config)), shares, rtol=0, atol=1e-9)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.distribution)
def test_each_stratum_of_the_distribution_gets_one_level_of_a_batch(config):
    n = 64
    share = reference_cdf(sample_log_snr(n, config, torch.Generator().manual_seed(3)).double().numpy(), config)
    assert sorted((share * n - 1e-4).astype(int)) == list(range(n))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.distribution)
def test_sampled_levels_follow_the_configured_distribution(config):
    generator = torch.Generator().manual_seed(4)
    levels = torch.cat([sample_log_snr(1, config, generator) for _ in range(3000)]).double()  # one stratum: independent
    assert stats.kstest(reference_cdf(levels.numpy(), config), "uniform").pvalue > 0.01
    assert levels.min() >= config.log_snr_min
    assert levels.max() <= config.log_snr_max


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.distribution)
def test_with_a_number_of_levels_each_of_them_is_drawn_as_often_and_nothing_between(config):
    grid = torch.tensor([config.log_snr_quantile(i / 4) for i in range(5)])
    drawn = sample_log_snr(1000, config.model_copy(update={"n_levels": 5}), torch.Generator().manual_seed(3))
    assert (drawn[:, None] == grid).sum(0).tolist() == [200] * 5
    assert not torch.isin(sample_log_snr(1000, config, torch.Generator().manual_seed(3)), grid).any()


def test_a_single_level_is_refused():
    with pytest.raises(ValueError, match="n_levels 1 is no range"):
        DiffusionConfig(n_levels=1)


def test_levels_come_in_random_order_and_from_the_generator_alone():
    first, again = (sample_log_snr(64, CONFIGS[0], torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert abs(stats.spearmanr(range(64), first.numpy()).statistic) < 0.5
    generator = torch.Generator().manual_seed(5)
    draws = [sample_log_snr(64, CONFIGS[0], generator) for _ in range(2)]
    assert not torch.isin(*draws).any()


def test_the_error_is_the_mean_square_of_each_clip():
    prediction, target = random_batch(dtype=torch.float32)
    expected = torch.stack([((p - t) ** 2).mean() for p, t in zip(prediction, target, strict=True)])
    assert_close(mean_squared_error(prediction, target), expected)


def test_the_error_of_half_precision_is_summed_in_float32():
    prediction = torch.full((1, 1, 10_000), 100.0, dtype=torch.float16)
    assert mean_squared_error(prediction, -prediction).item() == pytest.approx(40_000.0)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_make_one_loss_of_all_targets(gamma):
    clean, noise = random_batch()
    noisy, guess = diffuse(clean, noise, LEVELS), clean + 0.3 * noise.flip(2)
    alpha, sigma = (scale.view(-1, 1, 1) for scale in alpha_sigma(LEVELS))
    noise_of_guess = (noisy - alpha * guess) / sigma
    answers = {"epsilon": noise_of_guess, "x0": guess, "v": alpha * noise_of_guess - sigma * guess}
    expected = LEVELS.exp().clamp_max(gamma) * (clean - guess).square().mean((1, 2))
    for target, answer in answers.items():
        error = (answer - training_target(clean, noise, LEVELS, target)).square().mean((1, 2))
        assert_close(error * min_snr_weight(LEVELS, target, gamma), expected)


def test_min_snr_leaves_noise_alone_below_gamma_and_is_finite_at_any_level():
    assert torch.equal(min_snr_weight(torch.tensor([-30.0, 0.0, 1.6]), "epsilon", 5.0), torch.ones(3))
    assert float(min_snr_weight(torch.tensor([math.log(50.0)]), "epsilon", 5.0)) == pytest.approx(0.1)
    for target in ("epsilon", "v", "x0"):
        assert min_snr_weight(torch.tensor([-100.0, 100.0]), target, 5.0).isfinite().all()


@pytest.mark.parametrize("n_steps", [1, 4, 40])
def test_a_chain_of_forward_steps_has_the_distribution_of_the_closed_form(n_steps):
    n = 100_000
    levels = torch.linspace(6.0, -4.0, n_steps, dtype=torch.float64)
    generator = torch.Generator().manual_seed(6)
    clean = torch.full((1, 1, n), 0.7, dtype=torch.float64)
    x, at = clean, torch.tensor([math.inf], dtype=torch.float64)
    for level in levels:
        noise = torch.randn(1, 1, n, dtype=torch.float64, generator=generator)
        x, at = forward_step(x, noise, at, level.view(1)), level.view(1)
    direct = diffuse(clean, torch.randn(1, 1, n, dtype=torch.float64, generator=generator), at)
    alpha, sigma = (float(scale) for scale in alpha_sigma(at))
    for made in (x, direct):
        assert stats.kstest((made.flatten().numpy() - 0.7 * alpha) / sigma, "norm").pvalue > 0.01
    assert stats.ks_2samp(x.flatten().numpy(), direct.flatten().numpy()).pvalue > 0.01


def test_two_forward_steps_add_up_exactly():
    """Mean and variance of the chain from its two normal draws, sample by sample, without statistics."""
    clean, _ = random_batch()
    first, second = LEVELS + 2.0, LEVELS
    none, one = torch.zeros_like(clean), torch.ones_like(clean)
    mean = forward_step(diffuse(clean, none, first), none, first, second)
    assert_close(mean, diffuse(clean, none, second))
    of_first = forward_step(diffuse(none, one, first), none, first, second)
    of_second = forward_step(none, one, first, second)
    assert_close(of_first**2 + of_second**2, diffuse(none, one, second) ** 2)


def test_a_forward_step_between_levels_of_betas_is_that_of_the_discrete_process():
    betas = torch.linspace(1e-3, 0.4, 9, dtype=torch.float64)
    levels = from_betas(betas).flip(0)  # clean first, in forward order
    x, noise = torch.randn(2, 9, 1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    beta = betas.view(-1, 1, 1)
    expected = (1 - beta).sqrt() * x + beta.sqrt() * noise  # Ho et al. 2020, Eq. 2
    assert_close(forward_step(x, noise, levels[:-1], levels[1:]), expected)


def test_a_forward_step_of_no_width_changes_nothing_and_dtypes_stay():
    clean, noise = random_batch(dtype=torch.float32)
    assert torch.equal(forward_step(clean, noise, LEVELS, LEVELS), clean)
    assert score(noise, LEVELS).dtype == torch.float32


def test_the_score_of_one_point_is_that_of_the_normal_distribution_around_it():
    clean, noise = random_batch()
    x = diffuse(clean, noise, LEVELS).requires_grad_()
    alpha, sigma = (scale.view(-1, 1, 1) for scale in alpha_sigma(LEVELS))
    density = torch.distributions.Normal(alpha * clean, sigma).log_prob(x)
    (gradient,) = torch.autograd.grad(density.sum(), x)
    assert_close(score(noise, LEVELS), gradient)


def test_pure_noise_is_the_noise_of_a_network_that_predicts_anything_else():
    """At a log-SNR of -inf there is no signal: alpha is 0, v is minus the clean signal, and noise implies nothing."""
    level, x, clean = torch.tensor([-torch.inf]), torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    assert [float(scale) for scale in alpha_sigma(level)] == [0.0, 1.0]
    assert torch.equal(training_target(clean, x, level, "v"), -clean)
    for target in ("v", "x0"):
        assert torch.equal(noise_from(training_target(clean, x, level, target), x, level, target), x)
    assert denoised_from_noise(x, x, level).isnan().all()


@pytest.mark.parametrize("target", ["v", "x0"])
def test_at_minus_16_the_clean_signal_survives_the_way_through_the_noise_in_float32(target):
    level, x, clean = torch.tensor([-16.0]), torch.randn(1, 1, 4096), torch.randn(1, 1, 4096)
    noise = (x - alpha_sigma(level)[0] * clean) / alpha_sigma(level)[1]
    implied = denoised_from_noise(noise_from(training_target(clean, noise, level, target), x, level, target), x, level)
    assert 10 * torch.log10((implied - clean).square().mean()) < -65


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_levels_may_be_on_the_host_where_the_signal_is_not(dtype):
    clean, noise = (tensor.to("meta") for tensor in random_batch(dtype=dtype))
    results = [
        diffuse(clean, noise, LEVELS),
        forward_step(clean, noise, LEVELS, LEVELS - 1),
        score(noise, LEVELS),
        denoised_from_noise(noise, clean, LEVELS),
        training_target(clean, noise, LEVELS, "v"),
        *(noise_from(noise, clean, LEVELS, target) for target in ("epsilon", "x0", "v")),
    ]
    assert {(x.device.type, x.dtype, x.shape) for x in results} == {("meta", dtype, clean.shape)}
