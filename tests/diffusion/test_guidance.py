"""Guidance against closed forms: for a mixture of Gaussians, one per class, every score is known."""

import math

import pytest
import torch

from audiodiff.diffusion.guidance import Guidance, guided
from audiodiff.diffusion.process import Prediction, alpha_sigma, denoised_from_noise
from audiodiff.diffusion.samplers import ddim
from audiodiff.diffusion.schedules import make_schedule

MEANS, VARIANCES, SHARES = (-2.0, 1.0, 2.5), (0.09, 0.25, 0.04), (0.2, 0.5, 0.3)
NOISY = torch.linspace(-4, 4, 41, dtype=torch.float64).view(1, 1, -1)
LEVELS = [-6.0, -1.0, 2.0, 8.0]


def diffused(mean, variance, log_snr):
    """Return mean and variance of alpha * clean + sigma * noise."""
    alpha, sigma = alpha_sigma(log_snr.double().view(-1, 1, 1))
    return alpha * mean, alpha**2 * variance + sigma**2


def class_noise(index):
    """Return the ideal predictor of noise given a class: sigma (x - mean) / variance, of the diffused Gaussian."""

    def predict(x, log_snr):
        mean, variance = diffused(MEANS[index], VARIANCES[index], log_snr)
        return Prediction((alpha_sigma(log_snr.double())[1] * (x - mean) / variance).to(x))

    return predict


def mixture_noise(x, log_snr):
    """Predict the noise without a class: the classes' predictions, weighted by their posterior."""
    logits = []
    for mean, variance, share in zip(MEANS, VARIANCES, SHARES, strict=True):
        mean, variance = diffused(mean, variance, log_snr)
        logits.append(math.log(share) - 0.5 * variance.log() - 0.5 * (x - mean) ** 2 / variance)
    posterior = torch.stack(logits).softmax(0)
    noises = torch.stack([class_noise(i)(x, log_snr).noise for i in range(3)])
    return Prediction((posterior * noises).sum(0).to(x))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("scale", "expected"), [(1.0, class_noise(1)), (0.0, mixture_noise)])
def test_scale_one_is_the_class_and_scale_zero_the_mixture(level, scale, expected):
    log_snr = torch.tensor(level, dtype=torch.float64)
    found = guided(class_noise(1), mixture_noise, Guidance(scale))(NOISY, log_snr).noise
    torch.testing.assert_close(found, expected(NOISY, log_snr).noise)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("level", LEVELS)
def test_the_guided_score_is_that_of_the_class_times_its_posterior_to_a_power(scale, level):
    """The gradient of log p(x | class) + (scale - 1) log p(class | x), found by differentiation."""
    log_snr = torch.tensor(level, dtype=torch.float64)
    x = NOISY.clone().requires_grad_()
    logits = []
    for mean, variance, share in zip(MEANS, VARIANCES, SHARES, strict=True):
        mean, variance = diffused(mean, variance, log_snr)
        logits.append(math.log(share) - 0.5 * variance.log() - 0.5 * (x - mean) ** 2 / variance)
    logits = torch.stack(logits)
    density = logits[2] + (scale - 1) * logits.log_softmax(0)[2]
    (score,) = torch.autograd.grad(density.sum(), x)
    found = guided(class_noise(2), mixture_noise, Guidance(scale))(NOISY, log_snr).noise
    torch.testing.assert_close(found, -alpha_sigma(log_snr)[1] * score)


def moments(guidance, mean, variance, null):
    """Sample a class N(mean, variance) against a null N(0, null), both ideal; return mean and variance of clips."""

    def predict(mean, variance):
        def noise(x, log_snr):
            centre, spread = diffused(mean, variance, log_snr)
            return Prediction(alpha_sigma(log_snr.double())[1] * (x - centre) / spread)

        return noise

    x = torch.randn(1, 1, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = (x - x.mean()) / x.std()  # all is linear, so these moments are all that counts
    predictor = guided(predict(mean, variance), predict(0.0, null), guidance)
    levels = make_schedule("uniform", 400, log_snr_min=-14.0, log_snr_max=14.0)
    clips = ddim(predictor, x, levels, lambda _: torch.zeros_like(x))
    return float(clips.mean()), float(clips.var())


def closed_form(scale, mean, variance, null):
    """Solve the guided probability-flow ODE, which is linear.

    With u = 1 / SNR as time and y = x / alpha: dy/du = ((1 - w) y / (null + u) + w (y - mean) / (variance + u)) / 2.
    """
    # Homogeneous solution h(u) = (null + u)^((1 - w) / 2) (variance + u)^(w / 2); the mean by variation of constants.
    u = torch.logspace(-14 / math.log(10), 14 / math.log(10), 400001, dtype=torch.float64)
    log_h = 0.5 * ((1 - scale) * (null + u).log() + scale * (variance + u).log())
    pull = -0.5 * scale * mean / (variance + u) * torch.exp(-log_h)
    constant = torch.cumulative_trapezoid(pull, u)[-1]
    shrink = torch.exp(log_h[0] - log_h[-1])
    return float(-constant * torch.exp(log_h[0])), float(shrink**2 * (1 + u[-1]))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.0])
def test_sampling_moves_and_narrows_a_gaussian_as_the_closed_form_says(scale):
    mean, variance, null = 0.7, 0.25, 1.0
    found = moments(Guidance(scale), mean, variance, null)
    expected = closed_form(scale, mean, variance, null)
    assert found == pytest.approx(expected, rel=0.02, abs=0.005)
    if scale == 1:
        assert expected == pytest.approx((mean, variance), rel=1e-3)
    if scale > 1:
        assert found[0] > mean + 0.1
        assert found[1] < 0.7 * variance


def test_guidance_sharpens_a_mixture():
    """The more guidance, the fewer clips end where another class is as likely."""
    x = torch.randn(1, 1, 4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = make_schedule("uniform", 100, log_snr_min=-12.0, log_snr_max=12.0)
    doubtful = []
    for scale in (0.0, 1.0, 2.0):
        clips = ddim(guided(class_noise(1), mixture_noise, Guidance(scale)), x, levels, lambda _: x)
        doubtful.append(float(((clips - MEANS[1]).abs() > 1).double().mean()))
    assert doubtful[0] == pytest.approx(1 - SHARES[1], abs=0.06)
    assert doubtful[1] == pytest.approx(2 * 0.02275, abs=0.015)  # beyond two standard deviations
    assert doubtful[2] < 0.3 * doubtful[1]


@pytest.mark.parametrize("level", LEVELS)
def test_a_rescaled_signal_has_the_deviation_that_the_condition_gives(level):
    generator = torch.Generator().manual_seed(2)
    x, conditional, null = torch.randn(3, 2, 1, 500, generator=generator, dtype=torch.float64)
    log_snr = torch.tensor([level, level + 1], dtype=torch.float64)
    deviations = {}
    for share in (0.0, 0.5, 1.0):
        noise = Guidance(3.0, share).combine(conditional, null, x, log_snr)
        deviations[share] = denoised_from_noise(noise, x, log_snr).std((1, 2))
    torch.testing.assert_close(deviations[1.0], denoised_from_noise(conditional, x, log_snr).std((1, 2)))
    torch.testing.assert_close(deviations[0.5], (deviations[0.0] + deviations[1.0]) / 2)
    if level < 0:  # at high SNR there is nothing left to guide
        assert (deviations[0.0] > 1.2 * deviations[1.0]).all()


def test_a_rescaled_signal_keeps_its_shape():
    generator = torch.Generator().manual_seed(3)
    x, conditional, null = torch.randn(3, 1, 1, 500, generator=generator, dtype=torch.float64)
    log_snr = torch.zeros(1, dtype=torch.float64)
    noises = (Guidance(3.0, share).combine(conditional, null, x, log_snr) for share in (0.0, 0.7))
    plain, rescaled = (denoised_from_noise(noise, x, log_snr) for noise in noises)
    ratio = rescaled / plain
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))


def test_silence_is_not_rescaled():
    x = torch.zeros(1, 1, 8)
    assert torch.equal(Guidance(2.0, 1.0).combine(x, x, x, torch.zeros(1)), x)


def test_an_interval_limits_where_the_null_is_asked():
    asked = []

    def null(x, log_snr):
        asked.append(float(log_snr))
        return mixture_noise(x, log_snr)

    predictor = guided(class_noise(0), null, Guidance(2.0, interval=(-1.0, 2.0)))
    for level in LEVELS:
        log_snr = torch.tensor(level, dtype=torch.float64)
        changed = not torch.equal(predictor(NOISY, log_snr).noise, class_noise(0)(NOISY, log_snr).noise)
        assert changed == (-1.0 <= level <= 2.0)
    assert asked == [-1.0, 2.0]


def test_a_learned_variance_under_guidance_is_that_with_conditions():
    variances = [torch.full_like(NOISY, value) for value in (0.3, 0.6)]

    def learned(predict, variance):
        return lambda x, log_snr: predict(x, log_snr)._replace(variance=variance)

    with_it, without = learned(class_noise(0), variances[0]), learned(mixture_noise, variances[1])
    prediction = guided(with_it, without, Guidance(3.0))(NOISY, torch.tensor(0.0, dtype=torch.float64))
    assert torch.equal(prediction.variance, variances[0])
