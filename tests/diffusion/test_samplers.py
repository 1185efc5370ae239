"""With the exact denoiser of Gaussian data every sampler must give that data back.

Three samples in time with a full covariance stand for a waveform; everything is float64.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from audiodiff.diffusion import schedules
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import Prediction, noise_from
from audiodiff.diffusion.samplers import SAMPLERS, count_network_calls, ddim, ddpm, dpmpp_2m, dpmpp_2m_sde, heun

DETERMINISTIC = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "heun": heun}


@dataclass
class GaussianData:
    """Signals `(batch, 1, 3)` of known mean and covariance, and what is known exactly about their diffusion."""

    mean: Tensor
    covariance: Tensor
    log_snrs_seen: list[Tensor] = field(default_factory=list)

    def predict(self, x: Tensor, log_snr: Tensor) -> Prediction:
        """Return E[noise | x], which is sigma (alpha^2 C + sigma^2 I)^-1 (x - alpha mean)."""
        self.log_snrs_seen.append(log_snr)
        alpha, covariance = self.marginal(log_snr.view(-1, 1, 1))
        sigma = torch.sigmoid(-log_snr).sqrt().view(-1, 1, 1)
        return Prediction(sigma * torch.linalg.solve(covariance, (x - alpha * self.mean).mT).mT)

    def marginal(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and the covariance of the noisy signal."""
        return torch.sigmoid(log_snr).sqrt(), (
            torch.sigmoid(log_snr) * self.covariance + torch.sigmoid(-log_snr) * torch.eye(3)
        )

    def follow_flow(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Solve the probability-flow ODE from one log-SNR to another: every principal axis keeps its z-score."""
        variances, axes = torch.linalg.eigh(self.covariance)

        def deviation(level):
            return (torch.sigmoid(level) * variances + torch.sigmoid(-level)).sqrt()

        z_score = ((x - torch.sigmoid(start).sqrt() * self.mean) @ axes) / deviation(start)
        return torch.sigmoid(end).sqrt() * self.mean + (z_score * deviation(end)) @ axes.mT


@pytest.fixture
def data():
    factor = torch.tensor([[0.9, 0.0, 0.0], [0.5, 0.4, 0.0], [-0.3, 0.6, 0.2]], dtype=torch.float64)
    return GaussianData(torch.tensor([0.7, -0.4, 0.1], dtype=torch.float64), factor @ factor.T)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def fresh_noise(like, seed=100):
    return lambda step: normal(*like.shape, seed=seed + step)


def no_noise(step):
    raise AssertionError(f"noise({step}) was asked for")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_recovers_mean_and_covariance_of_gaussian_data(name, data):
    n, n_steps = 10_000, 500
    start = normal(n, 1, 3)
    levels = schedules.uniform(n_steps, log_snr_min=-12.0, log_snr_max=12.0)
    samples = SAMPLERS[name](data.predict, start, levels, fresh_noise(start))[:, 0]
    variance = data.covariance.diagonal()
    mean_error = (variance / n).sqrt()
    covariance_error = ((variance[:, None] * variance + data.covariance**2) / n).sqrt()
    # four standard errors of the estimate, and two for finite steps (the next test measures that part exactly)
    assert ((samples.mean(0) - data.mean).abs() < 6 * mean_error).all()
    assert ((samples.T.cov() - data.covariance).abs() < 6 * covariance_error).all()


@pytest.mark.parametrize(
    ("name", "order"), [("ddim", 1), ("ddpm", 1), ("dpmpp_2m", 2), ("dpmpp_2m_sde", 2), ("heun", 2)]
)
def test_the_exact_moments_of_a_sampler_converge_to_those_of_the_data_at_its_order(name, order, data):
    def error(n_steps):
        levels = torch.linspace(-6, 6, n_steps + 1, dtype=torch.float64)
        mean, covariance = exact_moments(SAMPLERS[name], data, levels)
        alpha, true_covariance = data.marginal(levels[-1])
        assert_close(mean, alpha * data.mean, rtol=0, atol=2 / n_steps)
        return (covariance - true_covariance).abs().max()

    errors = [error(n_steps) for n_steps in (150, 300)]
    assert errors[-1] < 0.02
    assert (errors[0] / errors[1]).log2().item() == pytest.approx(order, abs=0.15)


def exact_moments(sampler, data, levels):
    """Return mean and covariance of a sampler's result: it is affine in its normal draws if the denoiser is affine."""

    def unit_draws(step):
        """Give each of the three draws of each step (0 is the start) a row of its own, and leave the last row none."""
        draws = torch.zeros(3 * len(levels) + 1, 1, 3, dtype=torch.float64)
        draws[3 * step : 3 * step + 3, 0] = torch.eye(3)
        return draws

    alpha, covariance = data.marginal(levels[0])
    start = alpha * data.mean + unit_draws(0) @ torch.linalg.cholesky(covariance).mT
    end = sampler(data.predict, start, levels, unit_draws)[:, 0]
    mean = end[-1]
    return mean, (end - mean).T @ (end - mean)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpmpp_2m", 2), ("heun", 2)])
@pytest.mark.parametrize("widths", [[1.0, 1.0], [1.0, 3.0]], ids=["even", "uneven"])
def test_a_deterministic_sampler_converges_to_the_probability_flow_at_its_order(name, order, widths, data):
    start = normal(5, 1, 3)

    def error(n_steps):
        widths_of_all = torch.tensor(widths, dtype=torch.float64).repeat(n_steps // 2)
        levels = -5 + 10 * torch.cat([torch.zeros(1), widths_of_all.cumsum(0) / widths_of_all.sum()])
        end = DETERMINISTIC[name](data.predict, start, levels, no_noise)
        return (end - data.follow_flow(start, levels[0], levels[-1])).abs().max()

    errors = [error(n_steps) for n_steps in (128, 256, 512)]
    assert errors[-1] < 0.01
    for coarse, fine in pairwise(errors):
        assert (coarse / fine).log2().item() == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_deterministic_sampler_maps_noise_to_signal_like_the_probability_flow(name, data):
    levels = schedules.cosine(1000, log_snr_min=-12.0, log_snr_max=14.0)
    start = normal(20, 1, 3)
    end = DETERMINISTIC[name](data.predict, start, levels, no_noise)
    assert_close(end, data.follow_flow(start, levels[0], levels[-1]), rtol=0, atol=0.01)


def test_second_order_is_closer_to_the_flow_than_first_order_at_few_steps(data):
    levels = torch.linspace(-6, 6, 21, dtype=torch.float64)
    start = normal(50, 1, 3)
    truth = data.follow_flow(start, levels[0], levels[-1])
    first, *second = (f(data.predict, start, levels, no_noise) - truth for f in (ddim, dpmpp_2m, heun))
    assert all(error.norm() < first.norm() / 2 for error in second)


def test_a_step_of_dpmpp_2m_has_an_error_of_third_order_even_when_the_step_before_was_much_shorter(data):
    # over a whole path a wrong ratio of neighbouring steps cancels out; in one step it shows as second order
    def error(width):
        levels, states = torch.tensor([-0.1 * width, 0.0, width], dtype=torch.float64), []
        dpmpp_2m(data.predict, normal(5, 1, 3), levels, no_noise, on_step=lambda step, x: states.append(x))
        return (states[1] - data.follow_flow(states[0], levels[1], levels[2])).norm()

    assert (error(0.2) / error(0.1)).log2().item() == pytest.approx(3, abs=0.2)


def test_the_first_step_of_dpmpp_2m_is_a_step_of_ddim(data):
    levels = torch.tensor([-2.0, 1.0], dtype=torch.float64)
    start = normal(4, 1, 3)
    assert_close(*(sample(data.predict, start, levels, no_noise) for sample in (ddim, dpmpp_2m)))


def test_the_first_step_of_dpmpp_2m_sde_is_a_step_of_ddpm(data):
    levels = torch.tensor([-2.0, 1.0], dtype=torch.float64)
    start = normal(4, 1, 3)
    assert_close(*(sample(data.predict, start, levels, fresh_noise(start)) for sample in (ddpm, dpmpp_2m_sde)))


def test_a_step_of_ddpm_draws_from_the_gaussian_posterior():
    # the posterior of x_s given x_t and clean, from the joint of both by Bayes' rule instead of the papers' formulas
    level, following = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    (a_t, a_s), (v_t, v_s) = ([torch.sigmoid(s * x) for x in (level, following)] for s in (1, -1))
    a_t, a_s = a_t.sqrt(), a_s.sqrt()
    share = a_t / a_s  # x_t = share x_s + noise of variance v_t - share^2 v_s
    precision = share**2 / (v_t - share**2 * v_s) + 1 / v_s
    x, clean, draw = normal(3, 4, 1, 5)
    mean = (share * x / (v_t - share**2 * v_s) + a_s * clean / v_s) / precision

    def exact(x, log_snr):
        return Prediction((x - a_t * clean) / v_t.sqrt())

    step = ddpm(exact, x, torch.stack([level, following]), lambda step: draw)
    assert_close(step, mean + precision**-0.5 * draw)


def test_ddpm_keeps_the_marginals_of_the_forward_process_at_every_step():
    n, point = 50_000, 0.8
    levels = schedules.cosine(6, log_snr_min=-3.0, log_snr_max=3.0)
    alpha, sigma = torch.sigmoid(levels).sqrt(), torch.sigmoid(-levels).sqrt()
    start = alpha[0] * point + sigma[0] * normal(1, 1, n)
    seen = []

    def exact(x, log_snr):
        return Prediction((x - torch.sigmoid(log_snr).sqrt() * point) / torch.sigmoid(-log_snr).sqrt())

    ddpm(exact, start, levels, fresh_noise(start), on_step=lambda step, x: seen.append(x))
    for step, x in enumerate(seen[:-1], 1):
        assert abs(x.mean() - alpha[step] * point) < 5 * sigma[step] / n**0.5
        assert abs(x.var() - sigma[step] ** 2) < 5 * sigma[step] ** 2 * (2 / n) ** 0.5


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n_steps", [1, 2, 10])
def test_a_sampler_lands_on_the_point_when_the_data_is_one_point(name, n_steps):
    point, start = normal(2, 1, 3, seed=7), 2 * normal(2, 1, 3)
    levels = schedules.uniform(n_steps)

    def exact(x, log_snr):
        alpha, sigma = (torch.sigmoid(s * log_snr).sqrt().view(-1, 1, 1) for s in (1, -1))
        return Prediction((x - alpha * point) / sigma)

    assert_close(SAMPLERS[name](exact, start, levels, fresh_noise(start)), point, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_last_step_returns_exactly_the_predicted_clean_signal(name, data):
    start, states = normal(4, 1, 3), []
    levels = schedules.uniform(5, log_snr_min=-6.0, log_snr_max=6.0)
    end = SAMPLERS[name](data.predict, start, levels, fresh_noise(start), on_step=lambda step, x: states.append(x))
    alpha, sigma = (float(torch.sigmoid(s * levels[-2]).sqrt()) for s in (1, -1))
    predicted = (states[-2] - sigma * data.predict(states[-2], levels[-2]).noise) / alpha
    assert torch.equal(end, predicted)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_asked_once_per_step_at_that_level_for_the_whole_batch(name, data):
    start, levels = normal(4, 1, 3), schedules.uniform(5)
    SAMPLERS[name](data.predict, start, levels, fresh_noise(start))
    asked = levels[:-1]
    if name == "heun":  # and at the end of every step but the last
        asked = torch.stack([levels[:-2], levels[1:-1]]).mT.flatten().tolist() + levels[-2:-1].tolist()
        asked = torch.tensor(asked, dtype=torch.float64)
    assert torch.equal(torch.stack(data.log_snrs_seen), asked)
    assert count_network_calls(name, levels) == len(asked)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("n_steps", [1, 7])
def test_on_step_is_called_after_every_step_and_changes_nothing(name, n_steps, data):
    start, levels, calls = normal(4, 1, 3), schedules.uniform(n_steps), []
    end = SAMPLERS[name](
        data.predict, start, levels, fresh_noise(start), on_step=lambda step, x: calls.append((step, x))
    )
    assert [step for step, _ in calls] == list(range(1, n_steps + 1))
    assert calls[-1][1] is end
    assert torch.equal(end, SAMPLERS[name](data.predict, start, levels, fresh_noise(start)))


@pytest.mark.parametrize("sampler", [ddpm, dpmpp_2m_sde])
def test_a_stochastic_sampler_asks_for_fresh_noise_at_every_step_but_the_last(sampler, data):
    start, asked = normal(4, 1, 3), []

    def noise(step):
        asked.append(step)
        return torch.zeros_like(start)

    sampler(data.predict, start, schedules.uniform(6), noise)
    assert asked == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_never_ask_for_noise(name, data):
    DETERMINISTIC[name](data.predict, normal(4, 1, 3), schedules.uniform(6), no_noise)


def test_the_noise_of_ddpm_changes_its_result(data):
    start, levels = normal(4, 1, 3), schedules.uniform(6)
    first, second = (ddpm(data.predict, start, levels, fresh_noise(start, seed)) for seed in (1, 2000))
    assert (first - second).abs().max() > 0.1


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_leaves_its_input_alone(name, data):
    start = normal(4, 1, 3)
    SAMPLERS[name](data.predict, start, schedules.uniform(3), fresh_noise(start))
    assert torch.equal(start, normal(4, 1, 3))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_gives_the_same_clip_alone_and_in_a_batch_of_eight(name, data):
    def sample(seeds):
        def noise(step):
            return position_noise(seeds, step, n_samples=3).double()

        return SAMPLERS[name](data.predict, noise(0), schedules.uniform(10), noise)

    seeds = [11, 12, 13, 14, 15, 16, 17, 18]
    assert_close(sample(seeds), torch.cat([sample([seed]) for seed in seeds]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_dtype_of_the_signal_is_kept(name):
    start = normal(2, 1, 3).float()
    end = SAMPLERS[name](
        lambda x, log_snr: Prediction(0.5 * x), start, schedules.uniform(4), torch.zeros_like(start).mul
    )
    assert end.dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_gives_the_same_clip_on_every_device(name):
    def sample(device):
        def noise(step):
            return position_noise([1, 2], step, n_samples=1000, device=device)

        return SAMPLERS[name](lambda x, log_snr: Prediction(torch.tanh(x)), noise(0), schedules.uniform(8), noise).cpu()

    assert_close(sample("cuda"), sample("cpu"), rtol=1e-4, atol=1e-4)


def as_v(predict):
    """Return a predictor that goes the way of a network that predicts v, in float32."""

    def predict_by_v(x, log_snr):
        alpha, sigma = (torch.sigmoid(sign * log_snr).sqrt() for sign in (1, -1))
        noise = predict(x.double(), log_snr).noise
        clean = (x.double() - sigma * noise) / alpha
        return Prediction(noise_from((alpha * noise - sigma * clean).float(), x, log_snr, "v"))

    return predict_by_v


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_zero_terminal_snr_lets_pure_noise_become_data_of_the_right_mean(name, data):
    """A schedule that begins with signal takes pure noise for signal of mean 0 (Lin et al. 2024, section 3)."""
    start = normal(4000, 1, 3).float()
    plain = schedules.diffwave(40)
    wrong, right = (
        DETERMINISTIC[name](as_v(data.predict), start, levels, no_noise)[:, 0].double().mean(0)
        for levels in (plain, schedules.rescale_zero_terminal_snr(plain, floor=-16.0))
    )
    assert_close(right, data.mean, rtol=0, atol=0.06)
    assert (wrong - data.mean).abs().max() > 0.2
