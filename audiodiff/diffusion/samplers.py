"""Samplers: walks down a schedule, from noise to signal, that ask a noise predictor on their way.

A walk is a generator: it yields the question it has for the network, is sent the predicted noise, and returns the
signal at the last level. `Sampler` makes a plain function of it, called with a predictor as k-diffusion's are. Because
every update acts on each sample of the signal alone, long audio can be walked piece by piece
(`audiodiff.engine.wavefront`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import update_wrapper
from itertools import pairwise
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from audiodiff.diffusion.process import alpha_sigma

NoisePredictor = Callable[[Tensor, Tensor], Tensor]
"""(x `(batch, channels, time)`, log_snr `(batch,)`) -> predicted noise of the shape of x."""

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


class WalkFunction(Protocol):
    """What every walk looks like; see `ddim`."""

    def __call__(  # noqa: D102
        self, x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None
    ) -> Walk: ...


class Sampler:
    """A walk as a function of a noise predictor.

    Args:
        walk: The generator function. It takes x, the signal at the first noise level `(batch, channels, time)`;
            log_snr, a schedule `(n_steps + 1,)`, rising, the last infinite; the source of fresh noise; and clamp,
            the largest absolute value of the predicted clean signal (None leaves it alone).
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
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Walk a whole signal.

        Args:
            predict_noise: The network with its conditions bound.
            x: The signal at the first noise level `(batch, channels, time)`.
            log_snr: A schedule `(n_steps + 1,)`, rising, the last infinite.
            noise: Where fresh noise comes from; deterministic samplers take none.
            clamp: Largest absolute value of the predicted clean signal; None leaves it alone.
            on_step: Called with (step, x) after every step.

        Returns:
            The signal at the last level, of the shape of x.
        """
        walk = self.walk(x, log_snr, noise, clamp=clamp)
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


def _predict(
    x: Tensor, log_snr: Tensor, step: int, clamp: float | None
) -> Generator[Question, Tensor, tuple[Tensor, Tensor]]:
    """Return predicted clean signal and predicted noise at one level; a clamp acts on the clean signal."""
    alpha, sigma = _scales(log_snr)
    epsilon = yield Question(x, log_snr, step)
    clean = (x - sigma * epsilon) / alpha
    if clamp is not None:
        clean = clean.clamp(-clamp, clamp)
        epsilon = (x - alpha * clean) / sigma
    return clean, epsilon


@Sampler
def ddim(x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None) -> Walk:
    """Follow the deterministic path (Song et al. 2021, "DDIM", Eq. 12 with sigma = 0)."""
    for step, (level, following) in enumerate(pairwise(log_snr)):
        clean, epsilon = yield from _predict(x, level, step, clamp)
        alpha, sigma = _scales(following)
        x = alpha * clean + sigma * epsilon
    return x


@Sampler
def ddpm(x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None) -> Walk:
    """Draw every step from the posterior q(x_s | x_t, clean) (Ho et al. 2020, Eq. 6-7).

    In log-SNR, with c = 1 - exp(log_snr_t - log_snr_s): the mean is alpha_s ((1 - c) x / alpha_t + c clean) and the
    variance sigma_s^2 c (Kingma et al. 2021, Eq. 33-34). Step n adds `noise(n)`, n counted from 1.
    """
    for step, (level, following) in enumerate(pairwise(log_snr)):
        clean, _ = yield from _predict(x, level, step, clamp)
        alpha, sigma = _scales(following)
        fresh = -float(torch.expm1(level - following))
        x = alpha * ((1 - fresh) / _scales(level)[0] * x + fresh * clean)
        if sigma > 0:
            x = x + sigma * fresh**0.5 * noise(step + 1)
    return x


@Sampler
def dpmpp_2m(x: Tensor, log_snr: Tensor, noise: NoiseSource, *, clamp: float | None = None) -> Walk:
    """Take second-order multistep steps on the clean signal (Lu et al. 2022, "DPM-Solver++", Algorithm 2).

    The paper's lambda is half a log-SNR. The first step, and the last one to an infinite log-SNR, are of first order.
    """
    previous: Tensor | None = None
    previous_width = 0.0
    for step, (level, following) in enumerate(pairwise(log_snr)):
        clean, _ = yield from _predict(x, level, step, clamp)
        width = float(following - level) / 2
        estimate = clean
        if previous is not None and torch.isfinite(following):
            ratio = previous_width / width
            estimate = (1 + 0.5 / ratio) * clean - 0.5 / ratio * previous
        (alpha, sigma), (_, sigma_now) = _scales(following), _scales(level)
        x = sigma / sigma_now * x - alpha * float(torch.expm1(torch.tensor(-width, dtype=torch.float64))) * estimate
        previous, previous_width = clean, width
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm, "dpmpp_2m": dpmpp_2m}
