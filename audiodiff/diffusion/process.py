"""The forward process in continuous log-SNR, its training targets, the MSE loss, and the score.

Variance preserving: x = alpha * clean + sigma * noise with alpha^2 = sigmoid(log_snr), sigma^2 = sigmoid(-log_snr)
(Kingma et al. 2021, "Variational Diffusion Models", with log-SNR as the clock).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.config import DiffusionConfig

Target = Literal["epsilon", "v", "x0"]


class Prediction(NamedTuple):
    """What a network says of a noisy signal.

    Attributes:
        noise: Predicted noise `(batch, channels, time)`, E[noise | x].
        variance: Learned variance of the clean signal given x, over sigma^2, of the same shape; None where the variance
            is fixed. From it follows the variance of a step of any width (`audiodiff.diffusion.variance.Posterior`).
    """

    noise: Tensor
    variance: Tensor | None = None


def alpha_sigma(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales of signal and noise, each of the shape of `log_snr`.

    A log-SNR of inf is clean signal, one of -inf is pure noise.
    """
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def scales_like(log_snr: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scales of signal and noise, ready to be multiplied with x.

    Noise levels `(batch,)` may be on another device than x. A scalar stays one: it takes no copy to a device, and x may
    be any signal with the arithmetic of a tensor.
    """
    alpha, sigma = alpha_sigma(log_snr.double())
    if not log_snr.dim():
        return alpha, sigma
    shape = (-1,) + (1,) * (x.dim() - 1)
    return alpha.view(shape).to(x), sigma.view(shape).to(x)


def diffuse(clean: Tensor, noise: Tensor, log_snr: Tensor) -> Tensor:
    """Draw from q(x | clean) at given noise levels, in closed form.

    Args:
        clean: Clean signals `(batch, channels, time)`.
        noise: Standard normal noise of the same shape.
        log_snr: Noise levels `(batch,)`.

    Returns:
        Noisy signals of the same shape (Kingma et al. 2021, Eq. 1).
    """
    alpha, sigma = scales_like(log_snr, clean)
    return alpha * clean + sigma * noise


def forward_step(x: Tensor, noise: Tensor, log_snr: Tensor, noisier: Tensor) -> Tensor:
    """Draw from q(x_t | x_s): one step of the forward process, from a noise level to any noisier one.

    With a^2 = alpha_t^2 / alpha_s^2 the mean is a x and the variance sigma_t^2 - a^2 sigma_s^2 (Kingma et al. 2021,
    Eq. 2), here in the equal form sigma_t^2 (1 - exp(log_snr_t - log_snr_s)), which does not cancel. Between two
    neighbouring levels of `schedules.from_betas` that is sqrt(1 - beta) x and beta (Ho et al. 2020, Eq. 2). Steps in a
    chain have the distribution of `diffuse`.

    Args:
        x: Signals `(batch, channels, time)` at the level `log_snr`.
        noise: Standard normal noise of the same shape.
        log_snr: Noise levels of `x` `(batch,)`; infinite where it is clean.
        noisier: Noise levels to go to `(batch,)`, none above `log_snr`.

    Returns:
        Noisier signals of the same shape.
    """
    (alpha, _), (alpha_to, sigma_to) = scales_like(log_snr, x), scales_like(noisier, x)
    fresh = -torch.expm1(noisier.double() - log_snr.double())
    return alpha_to / alpha * x + sigma_to * fresh.sqrt().view(sigma_to.shape).to(x) * noise


def score(noise: Tensor, log_snr: Tensor) -> Tensor:
    """Return the gradient of the log density of noisy signals that predicted noise implies: -noise / sigma.

    Exact where the noise is the posterior mean E[noise | x] (Song et al. 2021, "Score-based generative modeling").

    Args:
        noise: Predicted noise `(batch, channels, time)`.
        log_snr: Noise levels `(batch,)`, or a scalar.

    Returns:
        The score, of the shape of `noise`.
    """
    return -noise / scales_like(log_snr, noise)[1]


def training_target(clean: Tensor, noise: Tensor, log_snr: Tensor, target: Target) -> Tensor:
    """Return what a network of this target should have predicted, of the shape of `clean`.

    `v` is alpha * noise - sigma * clean (Salimans and Ho 2022, "Progressive Distillation").
    """
    if target == "epsilon":
        return noise
    if target == "x0":
        return clean
    alpha, sigma = scales_like(log_snr, clean)
    return alpha * noise - sigma * clean


def noise_from(output: Tensor, x: Tensor, log_snr: Tensor, target: Target) -> Tensor:
    """Convert a network's output into predicted noise.

    Args:
        output: What the network returned `(batch, channels, time)`, without a learned variance.
        x: The noisy signal it was given `(batch, channels, time)`.
        log_snr: Noise levels `(batch,)`, or a scalar.
        target: What the network was trained to predict.

    Returns:
        Predicted noise of the shape of `x`.
    """
    if target == "epsilon":
        return output
    alpha, sigma = scales_like(log_snr, x)
    if target == "x0":
        return (x - alpha * output) / sigma
    return sigma * x + alpha * output


def denoised_from_noise(noise: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
    """Return the clean signal that predicted noise implies: (x - sigma * noise) / alpha, shapes as in `diffuse`.

    Rounding of x is divided by alpha: at a log-SNR of -16 it is at -74 dB in float32; at -inf the result is NaN.
    """
    alpha, sigma = scales_like(log_snr, x)
    return (x - sigma * noise) / alpha


def stratified_uniforms(n: int, generator: torch.Generator) -> Tensor:
    """Draw n numbers from 0 to 1 in random order, one from each n-th (Kingma et al. 2021, App. I.1)."""
    u = (torch.arange(n) + torch.rand((), generator=generator)) / n
    return u[torch.randperm(n, generator=generator)]


def sample_log_snr(n: int, config: DiffusionConfig, generator: torch.Generator) -> Tensor:
    """Draw noise levels for a training batch, stratified so that every batch covers the whole range.

    Args:
        n: How many levels.
        config: Range and distribution; with `n_levels`, each is moved to one of so many.
        generator: The source of randomness.

    Returns:
        Noise levels `(n,)`, float32, in random order.
    """
    u = stratified_uniforms(n, generator)
    if config.n_levels:
        u = (u * config.n_levels).floor().clamp_max(config.n_levels - 1) / (config.n_levels - 1)
    return torch.tensor([config.log_snr_quantile(u) for u in u.tolist()])


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each clip `(batch,)`, float32."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def min_snr_weight(log_snr: Tensor, target: Target, gamma: float) -> Tensor:
    """Return the weights of noise levels by which none counts more than `gamma` times an error of the clean signal.

    The loss on the clean signal is weighted by min(SNR, gamma); as errors of noise, clean signal and v are the same up
    to a factor, that is min(SNR, gamma) / SNR for the noise and min(SNR, gamma) / (SNR + 1) for v (Hang et al. 2023,
    "Efficient diffusion training via min-SNR weighting strategy").

    Args:
        log_snr: Noise levels `(batch,)`.
        target: What the MSE is of.
        gamma: Largest weight; 5 in the paper.

    Returns:
        Weights `(batch,)`.
    """
    log_weight = log_snr.clamp_max(math.log(gamma))
    if target == "epsilon":
        log_weight = log_weight - log_snr
    elif target == "v":
        log_weight = log_weight - functional.softplus(log_snr)
    return log_weight.exp()
