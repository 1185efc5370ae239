"""Noise schedules: pure functions from a number of steps to the log-SNR at which each step is taken.

Every schedule returns `n_steps + 1` values in float64, rising from noise to signal; the last is infinite (clean).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from audiodiff.errors import ConfigError

LOG_SNR_MIN = -10.0
LOG_SNR_MAX = 10.0


def _finish(log_snr: Tensor) -> Tensor:
    return torch.cat([log_snr, torch.full((1,), math.inf, dtype=torch.float64)])


def _check_steps(n_steps: int) -> None:
    if n_steps < 1:
        raise ConfigError(f"a schedule needs at least 1 step, got {n_steps}")


def uniform(n_steps: int, *, log_snr_min: float = LOG_SNR_MIN, log_snr_max: float = LOG_SNR_MAX) -> Tensor:
    """Space the steps evenly in log-SNR (Lu et al. 2022, DPM-Solver); a single step is taken at the minimum."""
    _check_steps(n_steps)
    return _finish(torch.linspace(log_snr_min, log_snr_max, n_steps, dtype=torch.float64))


def cosine(n_steps: int, *, log_snr_min: float = LOG_SNR_MIN, log_snr_max: float = LOG_SNR_MAX) -> Tensor:
    """Space the steps evenly in time of the cosine schedule, cut to a log-SNR range.

    alpha = cos(pi t / 2), so log_snr = -2 log tan(pi t / 2) (Nichol and Dhariwal 2021; Kingma et al. 2021, App. A).
    """
    _check_steps(n_steps)
    first, last = (math.atan(math.exp(-edge / 2)) for edge in (log_snr_min, log_snr_max))
    return _finish(-2 * torch.log(torch.tan(torch.linspace(first, last, n_steps, dtype=torch.float64))))


def sigmoid(
    n_steps: int, *, log_snr_min: float = LOG_SNR_MIN, log_snr_max: float = LOG_SNR_MAX, spread: float = 3.0
) -> Tensor:
    """Space the steps evenly in time of the sigmoid schedule, cut to a log-SNR range.

    alpha^2 falls from 1 to 0 along a logistic curve over [-spread, spread] (Jabri et al. 2022, Fig. 3; Chen 2023).
    """
    _check_steps(n_steps)
    top = 1 / (1 + math.exp(-spread))
    edges = [1 / (1 + math.exp(-edge)) for edge in (log_snr_min, log_snr_max)]
    first, last = (math.log(p / (1 - p)) for p in ((1 - top) + edge * (2 * top - 1) for edge in edges))
    time = torch.linspace(first, last, n_steps, dtype=torch.float64)
    alpha_squared = (torch.sigmoid(time) - (1 - top)) / (2 * top - 1)
    return _finish(torch.logit(alpha_squared))


def from_log_snrs(log_snrs: Sequence[float]) -> Tensor:
    """Build a schedule from explicit log-SNRs and append the clean level."""
    return _finish(torch.tensor(log_snrs, dtype=torch.float64))


def from_betas(betas: Sequence[float] | Tensor) -> Tensor:
    """Convert the variances of a discrete forward process into log-SNR levels.

    Args:
        betas: beta_1 ... beta_T in forward order (Ho et al. 2020), each strictly between 0 and 1.

    Returns:
        Log-SNR `(T + 1,)` in reverse order, clean last; log_snr = log(abar / (1 - abar)), abar = prod(1 - beta).

    Raises:
        ConfigError: If a beta is not strictly between 0 and 1.
    """
    beta = torch.as_tensor(betas, dtype=torch.float64)
    if beta.dim() != 1 or not len(beta) or not bool(((beta > 0) & (beta < 1)).all()):
        raise ConfigError(f"betas must be a list of numbers strictly between 0 and 1, got {beta.tolist()}")
    log_abar = torch.log1p(-beta).cumsum(0)
    return _finish((log_abar - torch.log(-torch.expm1(log_abar))).flip(0))


def linear_beta(n_steps: int, *, beta_start: float = 1e-4, beta_end: float = 0.02, train_steps: int = 1000) -> Tensor:
    """Take evenly spaced steps of a discrete process whose betas grow linearly (Ho et al. 2020, section 4).

    Raises:
        ConfigError: If more steps are asked for than the process has.
    """
    _check_steps(n_steps)
    if n_steps > train_steps:
        raise ConfigError(f"linear_beta has {train_steps} steps, {n_steps} were asked for")
    levels = from_betas(torch.linspace(beta_start, beta_end, train_steps, dtype=torch.float64))
    return _finish(levels[torch.linspace(0, train_steps - 1, n_steps).round().long()])


def fibonacci(n_steps: int, *, beta_start: float = 1e-6, beta_second: float = 2e-6) -> Tensor:
    """Let each beta be the sum of the two before it (Chen et al. 2021, WaveGrad, section 4.4, which takes 25 steps).

    Raises:
        ConfigError: If there are so many steps that a beta reaches 1.
    """
    _check_steps(n_steps)
    betas = [beta_start, beta_second]
    while len(betas) < n_steps:
        betas.append(betas[-1] + betas[-2])
    return from_betas(betas[:n_steps])


def _interpolated_betas(n_steps: int, betas: Sequence[float]) -> Tensor:
    """Return the levels of hand-searched variances, or as many others on the broken line through them in log-SNR."""
    _check_steps(n_steps)
    levels = from_betas(betas)[:-1]
    position = torch.linspace(0, len(levels) - 1, n_steps, dtype=torch.float64)
    left = position.floor().long().clamp(max=len(levels) - 2)
    return _finish(torch.lerp(levels[left], levels[left + 1], position - left))


def wavegrad(n_steps: int = 6) -> Tensor:
    """Return the six hand-searched levels of WaveGrad (Chen et al. 2021), or a log-linear interpolation of them."""
    return _interpolated_betas(n_steps, (7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 3.5e-1, 7e-1))


def diffwave(n_steps: int = 6) -> Tensor:
    """Return the six levels of DiffWave's fast sampling, or a log-linear interpolation of them.

    The variances are those that Kong et al. 2021 use for DiffWave BASE, whose training ends at 0.05, and that
    lmnt-com/diffwave has as `inference_noise_schedule`. The first level is a log-SNR of -0.51: far from pure noise, but
    sampling starts there from pure noise: the network was not trained at noisier levels (training ends at -0.94).
    """
    return _interpolated_betas(n_steps, (1e-4, 1e-3, 1e-2, 5e-2, 2e-1, 5e-1))


def diffwave_large(n_steps: int = 6) -> Tensor:
    """Return the same for DiffWave LARGE, whose training ends at a variance of 0.02 after 200 steps (ibid.)."""
    return _interpolated_betas(n_steps, (1e-4, 1e-3, 1e-2, 5e-2, 2e-1, 7e-1))


def diffwave_50(n_steps: int = 50) -> Tensor:
    """Take evenly spaced steps of the process that DiffWave BASE is trained on (Kong et al. 2021)."""
    return linear_beta(n_steps, beta_end=0.05, train_steps=50)


def diffwave_200(n_steps: int = 200) -> Tensor:
    """Take evenly spaced steps of the process that DiffWave LARGE is trained on (Kong et al. 2021)."""
    return linear_beta(n_steps, train_steps=200)


def rescale_zero_terminal_snr(log_snr: Tensor, floor: float = -math.inf) -> Tensor:
    """Shift and stretch a schedule so that its first level holds no signal, as a start from pure noise presumes.

    With the default floor, alpha of every level becomes (alpha - alpha_first) alpha_last / (alpha_last - alpha_first),
    where `last` is the last finite level, which stays (Lin et al. 2024, "Common diffusion noise schedules and sample
    steps are flawed", Algorithm 1). A sampler needs a finite floor: at -inf the clean signal (x - sigma noise) / alpha
    is 0 / 0. It is the lowest level that the network was trained on. The error
    of a network that predicts noise is divided by alpha there; v and the clean signal can be predicted down to -16.

    Args:
        log_snr: A schedule `(n_steps + 1,)`, the last infinite.
        floor: The first level of the result; a schedule that begins lower stays as it is.

    Returns:
        Log-SNR of the same shape, float64.
    """
    levels = log_snr[:-1].double()
    if float(levels[0]) <= floor:
        return log_snr.double()
    alpha = torch.sigmoid(levels).sqrt()
    lowest = torch.sigmoid(torch.tensor(floor, dtype=torch.float64)).sqrt()
    if len(levels) > 1:
        alpha = lowest + (alpha - alpha[0]) * (alpha[-1] - lowest) / (alpha[-1] - alpha[0])
        levels = torch.cat([torch.logit(alpha[:-1].square()), levels[-1:]])
    levels[0] = floor  # exactly, and the only level of a single step
    return _finish(levels)


SCHEDULES: dict[str, Callable[..., Tensor]] = {
    "uniform": uniform,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "linear_beta": linear_beta,
    "fibonacci": fibonacci,
    "wavegrad": wavegrad,
    "diffwave": diffwave,
    "diffwave_large": diffwave_large,
    "diffwave_50": diffwave_50,
    "diffwave_200": diffwave_200,
}

RANGED = ("uniform", "cosine", "sigmoid")  # these fill a log-SNR range; the others have a fixed range


def make_schedule(name: str, n_steps: int, *, log_snr_min: float, log_snr_max: float) -> Tensor:
    """Return the levels of a named schedule; the range serves those that fill one (`RANGED`).

    Args:
        name: A key of `SCHEDULES`.
        n_steps: Number of sampling steps.
        log_snr_min: Noise level of the first step.
        log_snr_max: Noise level of the last step.

    Returns:
        Log-SNR `(n_steps + 1,)`, float64, the last infinite.

    Raises:
        ConfigError: If the name is unknown or the step count impossible.
    """
    if name not in SCHEDULES:
        raise ConfigError(f"unknown schedule {name!r}; choose from {', '.join(SCHEDULES)}")
    if name in RANGED:
        return SCHEDULES[name](n_steps, log_snr_min=log_snr_min, log_snr_max=log_snr_max)
    return SCHEDULES[name](n_steps)
