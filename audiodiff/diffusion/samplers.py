"""Samplers: plain functions of one signature that walk a noise predictor down a schedule, from noise to signal."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from audiodiff.diffusion.process import alpha_sigma

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(x `(batch, channels, time)`, log_snr `(batch,)`) -> predicted noise of the shape of x."""

NoiseSource = Callable[[int], Tensor]
"""step -> fresh standard normal noise of the shape of x; step 0 is reserved for the initial noise."""

StepCallback = Callable[[int, Tensor], None]
"""(step, x) called after every step, for progress bars and pictures of the reverse process."""


class Sampler(Protocol):
    """What every sampler looks like; see `ddim`."""

    def __call__(  # noqa: D102
        self,
        predict_noise: NoisePredictor,
        x: Tensor,
        log_snr: Tensor,
        noise: NoiseSource,
        *,
        clamp: float | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor: ...


def _scales(log_snr: Tensor) -> tuple[float, float]:
    alpha, sigma = alpha_sigma(log_snr)
    return float(alpha), float(sigma)


def _predict(predict_noise: NoisePredictor, x: Tensor, log_snr: Tensor, clamp: float | None) -> tuple[Tensor, Tensor]:
    """Return predicted clean signal and predicted noise at one level; a clamp acts on the clean signal."""
    alpha, sigma = _scales(log_snr)
    epsilon = predict_noise(x, log_snr.to(x).expand(len(x)))
    clean = (x - sigma * epsilon) / alpha
    if clamp is not None:
        clean = clean.clamp(-clamp, clamp)
        epsilon = (x - alpha * clean) / sigma
    return clean, epsilon


def ddim(
    predict_noise: NoisePredictor,
    x: Tensor,
    log_snr: Tensor,
    noise: NoiseSource,
    *,
    clamp: float | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Follow the deterministic path (Song et al. 2021, "DDIM", Eq. 12 with sigma = 0).

    Args:
        predict_noise: The network with its conditions bound.
        x: The signal at the first noise level `(batch, channels, time)`.
        log_snr: A schedule `(n_steps + 1,)`, rising, the last infinite.
        noise: Unused here; all samplers share one signature.
        clamp: Largest absolute value of the predicted clean signal; None leaves it alone.
        on_step: Called with (step, x) after every step.

    Returns:
        The signal at the last level, of the shape of x.
    """
    for step, (level, following) in enumerate(pairwise(log_snr), 1):
        clean, epsilon = _predict(predict_noise, x, level, clamp)
        alpha, sigma = _scales(following)
        x = alpha * clean + sigma * epsilon
        if on_step:
            on_step(step, x)
    return x


def ddpm(
    predict_noise: NoisePredictor,
    x: Tensor,
    log_snr: Tensor,
    noise: NoiseSource,
    *,
    clamp: float | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Draw every step from the posterior q(x_s | x_t, clean) (Ho et al. 2020, Eq. 6-7).

    In log-SNR, with c = 1 - exp(log_snr_t - log_snr_s): the mean is alpha_s ((1 - c) x / alpha_t + c clean) and the
    variance sigma_s^2 c (Kingma et al. 2021, Eq. 33-34). Arguments and result as in `ddim`; `noise(step)` is added.
    """
    for step, (level, following) in enumerate(pairwise(log_snr), 1):
        clean, _ = _predict(predict_noise, x, level, clamp)
        alpha, sigma = _scales(following)
        fresh = -float(torch.expm1(level - following))
        x = alpha * ((1 - fresh) / _scales(level)[0] * x + fresh * clean)
        if sigma > 0:
            x = x + sigma * fresh**0.5 * noise(step)
        if on_step:
            on_step(step, x)
    return x


def dpmpp_2m(
    predict_noise: NoisePredictor,
    x: Tensor,
    log_snr: Tensor,
    noise: NoiseSource,
    *,
    clamp: float | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Take second-order multistep steps on the clean signal (Lu et al. 2022, "DPM-Solver++", Algorithm 2).

    The paper's lambda is half a log-SNR. The first step, and the last one to an infinite log-SNR, are of first order.
    Arguments and result as in `ddim`.
    """
    previous: Tensor | None = None
    previous_width = 0.0
    for step, (level, following) in enumerate(pairwise(log_snr), 1):
        clean, _ = _predict(predict_noise, x, level, clamp)
        width = float(following - level) / 2
        estimate = clean
        if previous is not None and torch.isfinite(following):
            ratio = previous_width / width
            estimate = (1 + 0.5 / ratio) * clean - 0.5 / ratio * previous
        (alpha, sigma), (_, sigma_now) = _scales(following), _scales(level)
        x = sigma / sigma_now * x - alpha * float(torch.expm1(torch.tensor(-width, dtype=torch.float64))) * estimate
        previous, previous_width = clean, width
        if on_step:
            on_step(step, x)
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m}
