"""Samplers: walks down a schedule, from noise to signal, that ask a noise predictor on their way.

A walk is a generator: it yields the question it has for the network, is sent the predicted noise (and behind it the
learned variance, where there is one: `audiodiff.diffusion.variance.answer_from`), and returns the signal at the last
level. `Sampler` makes a plain function of it, called with a predictor as k-diffusion's are. Because
every update acts on each sample of the signal alone, long audio can be walked piece by piece
(`audiodiff.engine.wavefront`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import update_wrapper
from itertools import pairwise
from math import expm1, inf
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from audiodiff.diffusion.process import alpha_sigma
from audiodiff.diffusion.variance import posterior, split_answer

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(x `(batch, channels, time)`, log_snr `(batch,)`) -> predicted noise of the shape of x, or what `answer_from` has."""

NoiseSource = Callable[[int], Tensor]
"""step -> fresh standard normal noise of the shape of x; step 0 is reserved for the initial noise."""

StepCallback = Callable[[int, Tensor], None]
"""(step, x) called after every step, for progress bars and pictures of the reverse process."""


class Question(NamedTuple):
    """What a walk wants to know: the noise in `x` `(batch, channels, time)` at a level, after so many whole steps."""

    x: Tensor
    log_snr: Tensor
    step: int


Walk = Generator[Question, Tensor, Tensor]

Corrector = Callable[[Tensor, Tensor, int, NoiseSource], Walk]
"""(x, its log_snr (a scalar), whole steps done, noise) -> a walk that stays at this level; it precedes every step."""


class WalkFunction(Protocol):
    """What every walk looks like; see `ddim`."""

    def __call__(  # noqa: D102
        self,
        x: Tensor,
        log_snr: Tensor,
        noise: NoiseSource,
        *,
        clamp: float | None = None,
        corrector: Corrector | None = None,
    ) -> Walk: ...


class Sampler:
    """A walk as a function of a noise predictor.

    Args:
        walk: The generator function. It takes x, the signal at the first noise level `(batch, channels, time)`;
            log_snr, a schedule `(n_steps + 1,)`, rising, the last infinite; the source of fresh noise; clamp, the
            largest absolute value of the predicted clean signal (None leaves it alone); and corrector (None for none).
    """

    def __init__(self, walk: WalkFunction) -> None:
        self.walk = walk
        update_wrapper(self, walk)

    def __call__(
        self,
        predict_noise: NoisePredictor,
        x: Tensor,
        log_snr: Tensor,
        noise: NoiseSource,
        *,
        clamp: float | None = None,
        corrector: Corrector | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Walk a whole signal.

        Args:
            predict_noise: The network with its conditions bound.
            x: The signal at the first noise level `(batch, channels, time)`.
            log_snr: A schedule `(n_steps + 1,)`, rising, the last infinite.
            noise: Where fresh noise comes from; deterministic samplers take none.
            clamp: Largest absolute value of the predicted clean signal; None leaves it alone.
            corrector: What is done at every level before the step from there; see `audiodiff.diffusion.correctors`.
            on_step: Called with (step, x) after every step.

        Returns:
            The signal at the last level, of the shape of x.
        """
        walk = self.walk(x, log_snr, noise, clamp=clamp, corrector=corrector)
        question, done = next(walk), 0
        while True:
            if on_step and question.step > done:
                on_step(question.step, question.x)
            done = question.step
            answer = predict_noise(question.x, question.log_snr.to(x).expand(len(x)))
            try:
                question = walk.send(answer)
            except StopIteration as end:
                result: Tensor = end.value
                if on_step:
                    on_step(len(log_snr) - 1, result)
                return result


def _scales(log_snr: Tensor) -> tuple[float, float]:
    alpha, sigma = alpha_sigma(log_snr)
    return float(alpha), float(sigma)


def _corrected(x: Tensor, log_snr: Tensor, step: int, noise: NoiseSource, corrector: Corrector | None) -> Walk:
    """Return the signal that a step is taken from."""
    if corrector is not None:
        x = yield from corrector(x, log_snr, step, noise)
    return x


class _Prediction(NamedTuple):
    clean: Tensor
    noise: Tensor
    variance_fraction: Tensor | None


def _predict(x: Tensor, log_snr: Tensor, step: int, clamp: float | None) -> Generator[Question, Tensor, _Prediction]:
    """Return predicted clean signal, noise and variance at one level; a clamp acts on the clean signal."""
    alpha, sigma = _scales(log_snr)
    epsilon, variance_fraction = split_answer((yield Question(x, log_snr, step)), x)
    clean = (x - sigma * epsilon) / alpha
    if clamp is not None:
        clean = clean.clamp(-clamp, clamp)
        epsilon = (x - alpha * clean) / sigma
    return _Prediction(clean, epsilon, variance_fraction)


@Sampler
def ddim(
    x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None, corrector: Corrector | None = None
) -> Walk:
    """Follow the deterministic path (Song et al. 2021, "DDIM", Eq. 12 with sigma = 0)."""
    for step, (level, following) in enumerate(pairwise(log_snr)):
        x = yield from _corrected(x, level, step, noise, corrector)
        clean, epsilon, _ = yield from _predict(x, level, step, clamp)
        alpha, sigma = _scales(following)
        x = alpha * clean + sigma * epsilon
    return x


@Sampler
def heun(
    x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None, corrector: Corrector | None = None
) -> Walk:
    """Follow the same path by steps of second order, two questions each: Heun's method for its curved part only.

    Of dx / dlog_snr the part linear in x is solved exactly, as by Lu et al. 2022; in what is left the predicted clean
    signal is taken to change linearly, from what it is at the start to what it is where a step of `ddim` would end. The
    last step, to an infinite log-SNR, is one of `ddim`.
    """
    for step, (level, following) in enumerate(pairwise(log_snr)):
        x = yield from _corrected(x, level, step, noise, corrector)
        clean, epsilon, _ = yield from _predict(x, level, step, clamp)
        (alpha, sigma), (_, sigma_now) = _scales(following), _scales(level)
        ahead = alpha * clean + sigma * epsilon
        if sigma > 0:
            clean_ahead, _, _ = yield from _predict(ahead, following, step, clamp)
            width = float(following - level) / 2
            fresh = -expm1(-width)
            later = 1 / fresh - 1 / width  # weight of the end: a half of a short step, nearly all of a wide one
            ahead = sigma / sigma_now * x + alpha * fresh * ((1 - later) * clean + later * clean_ahead)
        x = ahead
    return x


@Sampler
def ddpm(
    x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None, corrector: Corrector | None = None
) -> Walk:
    """Draw every step from the posterior q(x_s | x_t, clean), or with its mean and the learned variance.

    See `audiodiff.diffusion.variance`. Step n adds `noise(n)`, n counted from 1; the last step, to an infinite log-SNR,
    adds none.
    """
    for step, (level, following) in enumerate(pairwise(log_snr)):
        x = yield from _corrected(x, level, step, noise, corrector)
        clean, _, variance_fraction = yield from _predict(x, level, step, clamp)
        known = posterior(level, following)
        x = float(known.coef_x) * x + float(known.coef_denoised) * clean
        if known.beta_tilde > 0:
            deviation = (
                float(known.beta_tilde) ** 0.5
                if variance_fraction is None
                else known.variance(variance_fraction).sqrt()
            )
            x = x + deviation * noise(step + 1)
    return x


class _Extrapolation:
    """The clean signal half a step ahead, from those predicted where this step and the one before it begin."""

    def __init__(self) -> None:
        self._previous: Tensor | None = None
        self._previous_width = 0.0

    def __call__(self, clean: Tensor, width: float) -> Tensor:
        """Return the estimate for a step as wide as `width`; the first step, and an infinite one, leave `clean`."""
        estimate = clean
        if self._previous is not None and width < inf:
            ratio = self._previous_width / width
            estimate = (1 + 0.5 / ratio) * clean - 0.5 / ratio * self._previous
        self._previous, self._previous_width = clean, width
        return estimate


@Sampler
def dpmpp_2m(
    x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None, corrector: Corrector | None = None
) -> Walk:
    """Take second-order multistep steps on the clean signal (Lu et al. 2022, "DPM-Solver++", Algorithm 2).

    The paper's lambda is half a log-SNR. The first step, and the last one to an infinite log-SNR, are of first order.
    """
    extrapolated = _Extrapolation()
    for step, (level, following) in enumerate(pairwise(log_snr)):
        x = yield from _corrected(x, level, step, noise, corrector)
        clean, _, _ = yield from _predict(x, level, step, clamp)
        width = float(following - level) / 2
        estimate = extrapolated(clean, width)
        (alpha, sigma), (_, sigma_now) = _scales(following), _scales(level)
        x = sigma / sigma_now * x - alpha * float(torch.expm1(torch.tensor(-width, dtype=torch.float64))) * estimate
    return x


@Sampler
def dpmpp_2m_sde(
    x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None, corrector: Corrector | None = None
) -> Walk:
    """Take steps of `ddpm` towards the clean signal that `dpmpp_2m` would take (Lu et al. 2022, SDE-DPM-Solver++(2M)).

    Step n adds `noise(n)` as `ddpm` does; a learned variance is left out.
    """
    extrapolated = _Extrapolation()
    for step, (level, following) in enumerate(pairwise(log_snr)):
        x = yield from _corrected(x, level, step, noise, corrector)
        clean, _, _ = yield from _predict(x, level, step, clamp)
        known = posterior(level, following)
        x = float(known.coef_x) * x + float(known.coef_denoised) * extrapolated(clean, float(following - level) / 2)
        if known.beta_tilde > 0:
            x = x + float(known.beta_tilde) ** 0.5 * noise(step + 1)
    return x


SAMPLERS: dict[str, Sampler] = {
    "ddim": ddim,
    "heun": heun,
    "ddpm": ddpm,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
}


def count_network_calls(sampler: str, log_snr: Tensor, corrector: Corrector | None = None) -> int:
    """Return how many questions a walk asks: how often the network is called.

    Args:
        sampler: A key of `SAMPLERS`.
        log_snr: The schedule `(n_steps + 1,)`.
        corrector: As for a sampler.
    """
    nothing, asked = torch.zeros(1, 1, 0), 0

    def predict(x: Tensor, _log_snr: Tensor) -> Tensor:
        nonlocal asked
        asked += 1
        return x

    SAMPLERS[sampler](predict, nothing, log_snr, lambda step: nothing, corrector=corrector)
    return asked
