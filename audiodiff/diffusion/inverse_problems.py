"""Sampling from a posterior without retraining: a noise predictor that heeds what is known of the clean signal.

Both wrappers take a predictor and return one, so that every sampler can use them. `consistent` puts what is known into
the predicted clean signal (replacement, and the null-space form of Wang et al. 2023, "DDNM"); `dps` follows the
gradient of a misfit through the network (Chung et al. 2023, "DPS"; weighted as Song et al. 2023, "Pseudoinverse-guided
diffusion models"). `resampled` takes each step of a sampler several times (Lugmayr et al. 2022, "RePaint").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from audiodiff.diffusion.process import Prediction, alpha_sigma, denoised_from_noise, forward_step
from audiodiff.diffusion.samplers import Corrector, NoiseSource, Predictor, Sampler

_DRAWS_PER_STEP = 64
"""Numbers of draws that each single step of `resampled` has to itself; the last is for the way back."""

Consistency = Callable[[Tensor, float], Tensor]
"""(predicted clean signal `(batch, channels, time)`, its standard deviation given x) -> one that fits what is known."""

Residual = Callable[[Tensor], Tensor]
"""Predicted clean signal -> what is known minus what the prediction says of it, of the same shape, differentiable."""


def consistent(predict: Predictor, fit: Consistency, *, before: float = math.inf) -> Predictor:
    """Make the clean signal that a predictor implies fit what is known.

    Args:
        predict: The network with its conditions bound.
        fit: Puts in what is known. The standard deviation it is given is that of a unit Gaussian prior, sigma.
        before: log-SNR from which predictions stay as they are.

    Returns:
        A predictor whose noise belongs to the fitted clean signal: (x - alpha fit) / sigma.
    """

    def predict_consistent(x: Tensor, log_snr: Tensor) -> Prediction:
        prediction = predict(x, log_snr)
        if float(log_snr) >= before:
            return prediction
        alpha, sigma = alpha_sigma(log_snr)
        denoised = fit(denoised_from_noise(prediction.noise, x, log_snr), float(sigma))
        return prediction._replace(noise=(x - alpha * denoised) / sigma)

    return predict_consistent


def dps(predict: Predictor, residual: Residual, strength: float) -> Predictor:
    """Turn the score of a predictor into that of a posterior.

    With a likelihood N(known; predicted, sigma^2) the score gains -grad(|residual|^2) / (2 sigma^2), and the noise,
    which is -sigma times the score, grad(|residual|^2) / (2 sigma).

    Args:
        predict: The network with its conditions bound; differentiable.
        residual: What is known minus what a clean signal says of it.
        strength: Factor of the gradient: 0 leaves the predictor alone, 1 is the formula above, as far as it changes the
            noise by no more than `strength` standard deviations on average; networks have wilder gradients.

    Returns:
        A predictor of the noise in x given what is known.
    """

    def predict_posterior(x: Tensor, log_snr: Tensor) -> Prediction:
        sigma = float(alpha_sigma(log_snr)[1])
        with torch.enable_grad():
            start = x.detach().requires_grad_()
            prediction = predict(start, log_snr)
            misfit = residual(denoised_from_noise(prediction.noise, start, log_snr)).square().sum() / 2
            (gradient,) = torch.autograd.grad(misfit, start)
        deviation = gradient.square().mean(dim=(1, 2), keepdim=True).sqrt()
        noise = prediction.noise.detach() + strength * gradient / deviation.clamp_min(sigma)
        return Prediction(noise, None if prediction.variance is None else prediction.variance.detach())

    return predict_posterior


def resampled(
    sampler: Sampler,
    predict: Predictor,
    x: Tensor,
    log_snrs: Tensor,
    noise: NoiseSource,
    *,
    rounds: int = 1,
    corrector: Corrector | None = None,
) -> Tensor:
    """Take every step of a sampler several times, with fresh noise in between.

    What is generated so comes to agree with what is known beside it, at so many times the cost.

    Args:
        sampler: How a step is taken; with more than one round every step is a schedule of its own, so that a sampler of
            several steps (dpmpp_2m) is one of single steps.
        predict: The predictor.
        x: The signal at the first noise level `(batch, channels, time)`.
        log_snrs: A schedule `(n_steps + 1,)`, rising.
        noise: Where fresh noise comes from.
        rounds: How often each step is taken; 1 is the sampler as it is.
        corrector: What is done before every step; see `audiodiff.diffusion.samplers`.

    Returns:
        The signal at the last level, of the shape of x.
    """
    if rounds == 1:
        return sampler(predict, x, log_snrs, noise, corrector=corrector)
    taken = 0
    for log_snr, log_snr_next in pairwise(log_snrs):
        for left in reversed(range(rounds)):
            draw = _shifted(noise, taken * _DRAWS_PER_STEP)
            taken += 1
            x = sampler(predict, x, torch.stack([log_snr, log_snr_next]), draw, corrector=corrector)
            if left:
                x = forward_step(x, draw(_DRAWS_PER_STEP - 1), log_snr_next, log_snr)
    return x


def _shifted(noise: NoiseSource, by: int) -> NoiseSource:
    return lambda step: noise(step + by)
