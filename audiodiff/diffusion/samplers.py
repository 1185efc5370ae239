"""Samplers: plain functions from noise to signal, whose bodies are the update rules of the papers.

All have the signature of `ddim`. x is a tensor `(batch, channels, time)`, or any object supporting the same pointwise
arithmetic: signals in pieces (`audiodiff.engine.streaming.Signal`) go through the same functions, since an update rule
acts on each sample alone. Noise levels are log-SNRs; half a log-SNR is the lambda of DPM-Solver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from audiodiff.diffusion.process import Prediction, alpha_sigma, denoised_from_noise, score
from audiodiff.diffusion.variance import posterior

Predictor = Callable[[Tensor, Tensor], Prediction]
"""(x `(batch, channels, time)`, its log_snr, a scalar) -> prediction: the network with its conditions bound."""

NoiseSource = Callable[[int], Tensor]
"""step -> fresh standard normal noise of the shape of x; step 0 is reserved for the initial noise."""

StepCallback = Callable[[int, Tensor], object]
"""(step, x) called after every step, for progress bars and pictures of the reverse process."""

Corrector = Callable[[Predictor, Tensor, Tensor, int, NoiseSource], Tensor]
"""(predict, x, its log_snr, steps done, noise) -> x at the same noise level, nearer to the distribution there."""


class Sampler(Protocol):
    """The signature of every sampler; see `ddim`."""

    def __call__(  # noqa: D102
        self,
        predict: Predictor,
        x: Tensor,
        log_snrs: Tensor,
        noise: NoiseSource,
        *,
        corrector: Corrector | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor: ...


def ddim(
    predict: Predictor,
    x: Tensor,
    log_snrs: Tensor,
    noise: NoiseSource,
    *,
    corrector: Corrector | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Follow the deterministic path (Song et al. 2021, "DDIM", Eq. 12 with sigma = 0).

    Args:
        predict: The network with its conditions bound.
        x: The signal at the first noise level `(batch, channels, time)`.
        log_snrs: A schedule `(n_steps + 1,)`, increasing, the last usually infinite.
        noise: Where fresh noise comes from; deterministic samplers take none.
        corrector: Applied at each noise level before the step; see `Langevin`.
        on_step: Called with (step, x) after every step.

    Returns:
        The signal at the last level, of the shape of x.
    """
    for step, (log_snr, log_snr_next) in enumerate(pairwise(log_snrs)):
        if corrector:
            x = corrector(predict, x, log_snr, step, noise)
        epsilon = predict(x, log_snr).noise
        denoised = denoised_from_noise(epsilon, x, log_snr)
        alpha_next, sigma_next = alpha_sigma(log_snr_next)
        x = alpha_next * denoised + sigma_next * epsilon
        if on_step:
            on_step(step + 1, x)
    return x


def heun(
    predict: Predictor,
    x: Tensor,
    log_snrs: Tensor,
    noise: NoiseSource,
    *,
    corrector: Corrector | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Second-order exponential Heun: two network calls per step.

    The linear part of the ODE is integrated exactly (Lu et al. 2022, "DPM-Solver", Eq. 3.4); the denoised signal is
    interpolated linearly between both ends of the step. The last step (to infinite log-SNR) is a `ddim` step.
    """
    for step, (log_snr, log_snr_next) in enumerate(pairwise(log_snrs)):
        if corrector:
            x = corrector(predict, x, log_snr, step, noise)
        (_, sigma), (alpha_next, sigma_next) = alpha_sigma(log_snr), alpha_sigma(log_snr_next)
        epsilon = predict(x, log_snr).noise
        denoised = denoised_from_noise(epsilon, x, log_snr)
        x_next = alpha_next * denoised + sigma_next * epsilon
        if sigma_next > 0:
            epsilon_next = predict(x_next, log_snr_next).noise
            denoised_next = denoised_from_noise(epsilon_next, x_next, log_snr_next)
            h = (log_snr_next - log_snr) / 2
            weight_next = 1 / -torch.expm1(-h) - 1 / h  # a half of a short step, nearly all of a wide one
            denoised_mean = (1 - weight_next) * denoised + weight_next * denoised_next
            x_next = sigma_next / sigma * x + alpha_next * -torch.expm1(-h) * denoised_mean
        x = x_next
        if on_step:
            on_step(step + 1, x)
    return x


def ddpm(
    predict: Predictor,
    x: Tensor,
    log_snrs: Tensor,
    noise: NoiseSource,
    *,
    corrector: Corrector | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Draw every step from the posterior q(x_s | x_t, denoised), with the learned variance where there is one.

    Ho et al. 2020, Algorithm 2; Nichol and Dhariwal 2021. Step n adds `noise(n)`, n counted from 1; the last step, to
    an infinite log-SNR, adds none.
    """
    for step, (log_snr, log_snr_next) in enumerate(pairwise(log_snrs)):
        if corrector:
            x = corrector(predict, x, log_snr, step, noise)
        prediction = predict(x, log_snr)
        denoised = denoised_from_noise(prediction.noise, x, log_snr)
        q = posterior(log_snr, log_snr_next)
        x = q.coef_x * x + q.coef_denoised * denoised
        if q.beta_tilde > 0:
            variance = q.beta_tilde if prediction.variance is None else q.variance(prediction.variance)
            x = x + variance.sqrt() * noise(step + 1)
        if on_step:
            on_step(step + 1, x)
    return x


def _extrapolated(denoised: Tensor, h: Tensor, denoised_previous: Tensor | None, h_previous: Tensor | None) -> Tensor:
    """Return D of DPM-Solver++(2M): the denoised signal half a step ahead, from this step's and the one before.

    The first step, and the last one to an infinite log-SNR, are of first order and take the denoised signal as it is.
    """
    if denoised_previous is None or h_previous is None or h == inf:
        return denoised
    r = h_previous / h
    return (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * denoised_previous


def dpmpp_2m(
    predict: Predictor,
    x: Tensor,
    log_snrs: Tensor,
    noise: NoiseSource,
    *,
    corrector: Corrector | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Take second-order multistep steps on the denoised signal (Lu et al. 2022, "DPM-Solver++", Algorithm 2)."""
    denoised_previous = h_previous = None
    for step, (log_snr, log_snr_next) in enumerate(pairwise(log_snrs)):
        if corrector:
            x = corrector(predict, x, log_snr, step, noise)
        (_, sigma), (alpha_next, sigma_next) = alpha_sigma(log_snr), alpha_sigma(log_snr_next)
        denoised = denoised_from_noise(predict(x, log_snr).noise, x, log_snr)
        h = (log_snr_next - log_snr) / 2
        extrapolated = _extrapolated(denoised, h, denoised_previous, h_previous)
        x = sigma_next / sigma * x + alpha_next * -torch.expm1(-h) * extrapolated
        denoised_previous, h_previous = denoised, h
        if on_step:
            on_step(step + 1, x)
    return x


def dpmpp_2m_sde(
    predict: Predictor,
    x: Tensor,
    log_snrs: Tensor,
    noise: NoiseSource,
    *,
    corrector: Corrector | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Take steps of `ddpm` towards the signal that `dpmpp_2m` extrapolates (Lu et al. 2022, SDE-DPM-Solver++(2M)).

    Step n adds `noise(n)` as `ddpm` does; a learned variance is ignored.
    """
    denoised_previous = h_previous = None
    for step, (log_snr, log_snr_next) in enumerate(pairwise(log_snrs)):
        if corrector:
            x = corrector(predict, x, log_snr, step, noise)
        denoised = denoised_from_noise(predict(x, log_snr).noise, x, log_snr)
        h = (log_snr_next - log_snr) / 2
        q = posterior(log_snr, log_snr_next)
        x = q.coef_x * x + q.coef_denoised * _extrapolated(denoised, h, denoised_previous, h_previous)
        if q.beta_tilde > 0:
            x = x + q.beta_tilde.sqrt() * noise(step + 1)
        denoised_previous, h_previous = denoised, h
        if on_step:
            on_step(step + 1, x)
    return x


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "heun": heun,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}


def count_network_calls(sampler: str, log_snrs: Tensor, corrector: Corrector | None = None) -> int:
    """Return how often a sampler calls the network (NFE).

    Args:
        sampler: A key of `SAMPLERS`.
        log_snrs: The schedule `(n_steps + 1,)`.
        corrector: As for a sampler.
    """
    nothing, n_calls = torch.zeros(1, 1, 0), 0

    def predict(x: Tensor, _log_snr: Tensor) -> Prediction:
        nonlocal n_calls
        n_calls += 1
        return Prediction(x)

    SAMPLERS[sampler](predict, nothing, log_snrs, lambda step: nothing, corrector=corrector)
    return n_calls


CORRECTOR_DRAW_OFFSET = 1 << 19
"""Draws of noise from this number on belong to correctors; those of samplers are numbered by their steps."""


@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin steps at every noise level (Song et al. 2021, "Score-based generative modeling", Alg. 5).

    x moves by d * score + sqrt(2 d) * noise. The paper sets d by the norms of this very score and noise; here these are
    replaced by what they are expected to be, sqrt(n) / sigma and sqrt(n) for n samples, so that d = 2 (snr * sigma)^2
    depends neither on the length of a clip nor on its content, and chunked and whole synthesis agree. Of noise of
    standard deviation sigma the steps make noise of sigma / sqrt(1 - snr^2): their bias is snr^2 / 2 at most.

    Attributes:
        steps: How many at each level, each one network call.
        snr: Size of a step: the expected norm of d * score over that of sqrt(2 d) * noise.
    """

    steps: int = 1
    snr: float = 0.16

    def __call__(self, predict: Predictor, x: Tensor, log_snr: Tensor, step: int, noise: NoiseSource) -> Tensor:
        """Move x at one noise level; see `audiodiff.diffusion.samplers.Corrector`."""
        d = 2 * (self.snr * alpha_sigma(log_snr)[1]) ** 2
        for draw in range(step * self.steps, (step + 1) * self.steps):
            gradient = score(predict(x, log_snr).noise, log_snr)
            x = x + d * gradient + (2 * d).sqrt() * noise(CORRECTOR_DRAW_OFFSET + draw)
        return x


@dataclass(frozen=True)
class Clamp:
    """Keep the signal within ±1 at every noise level but the first, as the inference of lmnt-com/diffwave does.

    It is in no paper: noise of more than full scale is cut. After the last step the caller clamps.

    Attributes:
        then: What is done after it, if anything.
    """

    then: Corrector | None = None

    def __call__(self, predict: Predictor, x: Tensor, log_snr: Tensor, step: int, noise: NoiseSource) -> Tensor:
        """Clamp x; see `audiodiff.diffusion.samplers.Corrector`."""
        x = x.clamp(-1, 1) if step else x
        return self.then(predict, x, log_snr, step, noise) if self.then else x
