"""Every schedule keeps the contract, and the formula that it is named after."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from audiodiff.diffusion import schedules
from audiodiff.diffusion.schedules import (
    RANGED,
    SCHEDULES,
    diffwave,
    diffwave_50,
    diffwave_200,
    diffwave_large,
    fibonacci,
    from_betas,
    linear_beta,
    make_schedule,
    wavegrad,
)
from audiodiff.errors import ConfigError

WAVEGRAD_BETAS = [7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 3.5e-1, 7e-1]


def log_snr_of_exact_product(betas):
    """Multiply 1 - beta as fractions, without rounding; noisiest level first."""
    alpha_bar, levels = Fraction(1), []
    for beta in betas:
        alpha_bar *= 1 - Fraction(beta)
        levels.append(math.log(alpha_bar / (1 - alpha_bar)))
    return torch.tensor(levels[::-1], dtype=torch.float64)


@pytest.mark.parametrize("n_steps", [1, 2, 6, 25])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_one_level_per_step_rises_and_ends_clean(name, n_steps):
    levels = SCHEDULES[name](n_steps)
    assert levels.shape == (n_steps + 1,)
    assert levels.dtype == torch.float64
    assert levels[-1] == math.inf
    assert torch.isfinite(levels[:-1]).all()
    assert (levels.diff() > 0).all()


@pytest.mark.parametrize("n_steps", [0, -1])
@pytest.mark.parametrize("name", SCHEDULES)
def test_less_than_one_step_is_refused(name, n_steps):
    with pytest.raises(ConfigError, match="at least 1 step"):
        SCHEDULES[name](n_steps)


@pytest.mark.parametrize("name", RANGED)
def test_ranged_schedules_start_and_end_where_they_are_told(name):
    levels = make_schedule(name, 9, log_snr_min=-7.5, log_snr_max=11.0)
    assert levels[0].item() == pytest.approx(-7.5, abs=1e-9)
    assert levels[-2].item() == pytest.approx(11.0, abs=1e-9)


@pytest.mark.parametrize("name", RANGED)
def test_the_single_step_of_a_ranged_schedule_is_taken_at_the_noisiest_level(name):
    assert make_schedule(name, 1, log_snr_min=-7.5, log_snr_max=11.0)[0].item() == pytest.approx(-7.5, abs=1e-9)


@pytest.mark.parametrize("name", sorted(SCHEDULES.keys() - RANGED))
def test_other_schedules_bring_their_own_range(name):
    assert torch.equal(make_schedule(name, 6, log_snr_min=-1.0, log_snr_max=1.0), SCHEDULES[name](6))


def test_an_unknown_schedule_is_refused_with_the_known_names():
    with pytest.raises(ConfigError, match="'quadratic'.*fibonacci"):
        make_schedule("quadratic", 6, log_snr_min=-8.0, log_snr_max=10.0)


def test_uniform_steps_are_equal_in_log_snr():
    steps = schedules.uniform(7, log_snr_min=-8.0, log_snr_max=10.0)[:-1].diff()
    assert_close(steps, torch.full((6,), 3.0, dtype=torch.float64))


def test_cosine_is_alpha_squared_equal_to_cosine_squared_at_evenly_spaced_times():
    low, high = -8.0, 10.0
    time = np.linspace(*(np.arccos(1 / np.sqrt(1 + np.exp(-level))) for level in (low, high)), 12) * 2 / np.pi
    alpha_squared = torch.sigmoid(schedules.cosine(12, log_snr_min=low, log_snr_max=high)[:-1])
    assert_close(alpha_squared, torch.from_numpy(np.cos(np.pi * time / 2) ** 2), rtol=1e-10, atol=0)


@pytest.mark.parametrize("spread", [1.0, 3.0, 5.0])
def test_sigmoid_is_alpha_squared_on_a_logistic_curve_cut_to_its_spread(spread):
    def logistic(time):
        return 1 / (1 + math.exp(-time))

    levels = schedules.sigmoid(12, log_snr_min=-8.0, log_snr_max=10.0, spread=spread)[:-1]
    # Jabri et al. 2022: (g(spread) - g(time)) / (g(spread) - g(-spread)), solved for time
    scale = logistic(spread) - logistic(-spread)
    inner = logistic(spread) - torch.sigmoid(-levels) * scale
    time = torch.log(inner / (1 - inner))
    assert_close(time, torch.linspace(time[0], time[-1], 12, dtype=torch.float64), rtol=0, atol=1e-9)
    assert time.abs().max() <= spread


@pytest.mark.parametrize("betas", [[0.5], [1e-6, 2e-6, 3e-6], [0.9, 0.1, 0.999], WAVEGRAD_BETAS])
def test_from_betas_is_the_exact_product(betas):
    levels = from_betas(betas)
    assert_close(levels[:-1], log_snr_of_exact_product(betas), rtol=1e-12, atol=1e-12)
    assert levels[-1] == math.inf


def test_from_betas_takes_a_tensor_as_well():
    assert torch.equal(from_betas(torch.tensor(WAVEGRAD_BETAS, dtype=torch.float64)), from_betas(WAVEGRAD_BETAS))


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [0.1, 1.0], [-0.1], [0.1, math.nan], [[0.1, 0.2]]])
def test_from_betas_refuses_what_is_no_list_of_variances(betas):
    with pytest.raises(ConfigError, match="strictly between 0 and 1"):
        from_betas(betas)


def test_composing_single_forward_steps_gives_the_level_in_closed_form():
    # x_t = sqrt(1 - beta) x + sqrt(beta) noise, step by step: the share of signal and the variance of the noise
    signal, variance = 1.0, 0.0
    for beta in WAVEGRAD_BETAS:
        signal, variance = signal * math.sqrt(1 - beta), variance * (1 - beta) + beta
    level = from_betas(WAVEGRAD_BETAS)[0]
    assert torch.sigmoid(level).sqrt().item() == pytest.approx(signal, rel=1e-12)
    assert torch.sigmoid(-level).item() == pytest.approx(variance, rel=1e-12)


def test_linear_beta_takes_its_levels_from_the_process_of_ho_et_al():
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    process = torch.from_numpy(np.log(alpha_bar / (1 - alpha_bar))[::-1].copy())
    assert_close(linear_beta(1000)[:-1], process, rtol=1e-9, atol=1e-9)
    assert_close(linear_beta(6)[:-1], process[[0, 200, 400, 599, 799, 999]], rtol=1e-9, atol=1e-9)
    assert_close(linear_beta(1)[:-1], process[:1], rtol=1e-9, atol=1e-9)


def test_linear_beta_follows_its_arguments():
    levels = linear_beta(3, beta_start=0.1, beta_end=0.3, train_steps=3)
    assert_close(levels[:-1], log_snr_of_exact_product([0.1, 0.2, 0.3]))


def test_linear_beta_refuses_more_steps_than_the_process_has():
    with pytest.raises(ConfigError, match="50 steps, 51 were asked for"):
        linear_beta(51, train_steps=50)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 25])
def test_each_fibonacci_beta_is_the_sum_of_the_two_before(n_steps):
    log_alpha_bar = torch.nn.functional.logsigmoid(fibonacci(n_steps)[:-1].flip(0))
    betas = -torch.expm1(torch.diff(log_alpha_bar, prepend=torch.zeros(1)))
    expected = [1e-6, 2e-6]
    for _ in range(n_steps):
        expected.append(sum(expected[-2:]))
    assert_close(betas, torch.tensor(expected[:n_steps], dtype=torch.float64), rtol=1e-6, atol=0)


def test_fibonacci_follows_its_arguments():
    betas = [0.01, 0.03, 0.04, 0.07, 0.11]
    assert_close(fibonacci(5, beta_start=0.01, beta_second=0.03)[:-1], log_snr_of_exact_product(betas))


def test_fibonacci_refuses_so_many_steps_that_a_beta_passes_one():
    assert torch.isfinite(fibonacci(29)[0])
    with pytest.raises(ConfigError):
        fibonacci(30)


SEARCHED = {
    wavegrad: WAVEGRAD_BETAS,
    diffwave: [0.0001, 0.001, 0.01, 0.05, 0.2, 0.5],
    diffwave_large: [0.0001, 0.001, 0.01, 0.05, 0.2, 0.7],
}


@pytest.mark.parametrize("schedule", SEARCHED)
def test_six_steps_of_a_searched_schedule_are_its_six_betas(schedule):
    assert_close(schedule(6)[:-1], log_snr_of_exact_product(SEARCHED[schedule]), rtol=1e-12, atol=1e-12)
    assert torch.equal(schedule(), schedule(6))


@pytest.mark.parametrize("schedule", SEARCHED)
@pytest.mark.parametrize("n_steps", [2, 5, 11, 16])
def test_other_counts_of_a_searched_schedule_lie_on_the_broken_line_through_the_six(schedule, n_steps):
    six = schedule(6)[:-1].numpy()
    expected = np.interp(np.linspace(0, 5, n_steps), np.arange(6), six)
    assert_close(schedule(n_steps)[:-1], torch.from_numpy(expected))


@pytest.mark.parametrize(("schedule", "n_steps", "last"), [(diffwave_50, 50, 0.05), (diffwave_200, 200, 0.02)])
def test_the_full_processes_of_diffwave_have_every_training_step_and_hold_its_fast_sampling(schedule, n_steps, last):
    levels = schedule()
    assert_close(levels, from_betas(np.linspace(1e-4, last, n_steps)), rtol=1e-12, atol=1e-12)
    fast = diffwave() if n_steps == 50 else diffwave_large()
    assert levels[0] < fast[0]
    assert fast[-2] <= levels[-2] + 1e-9


def test_levels_that_someone_chose_are_taken_as_they_are():
    assert schedules.from_log_snrs([-2.0, 1.5, 8.0]).tolist() == [-2.0, 1.5, 8.0, math.inf]


# --- zero terminal SNR ------------------------------------------------------------------------------------------------


def test_zero_terminal_is_the_rescaling_of_lin_et_al():
    betas = np.linspace(1e-4, 0.02, 50)
    alpha = np.sqrt(np.cumprod(1 - betas))  # their Algorithm 1, on the amplitude of the signal
    expected = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    rescaled = schedules.rescale_zero_terminal_snr(from_betas(betas))
    assert_close(torch.sigmoid(rescaled[:-1]).sqrt().flip(0), torch.from_numpy(expected), rtol=1e-9, atol=1e-12)
    assert rescaled[0] == -math.inf


@pytest.mark.parametrize("floor", [-16.0, -8.0])
def test_a_floor_is_where_a_rescaled_schedule_begins_and_the_cleanest_level_stays(floor):
    plain = wavegrad(6)
    rescaled = schedules.rescale_zero_terminal_snr(plain, floor)
    assert rescaled[0] == floor
    assert rescaled[-2:].tolist() == plain[-2:].tolist()
    assert (rescaled[:-1].diff() > 0).all()
    alpha, moved = (torch.sigmoid(levels[:-1]).sqrt() for levels in (plain, rescaled))
    assert_close(moved.diff() / alpha.diff(), (moved.diff() / alpha.diff())[:1].expand(5))  # a straight line in alpha


def test_a_schedule_that_begins_below_the_floor_stays_and_a_single_step_goes_there():
    low = schedules.uniform(4, log_snr_min=-9.0, log_snr_max=5.0)
    assert torch.equal(schedules.rescale_zero_terminal_snr(low, -8.0), low)
    assert schedules.rescale_zero_terminal_snr(wavegrad(1), -8.0).tolist() == [-8.0, math.inf]
