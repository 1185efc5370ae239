"""The variational bound on the log-likelihood, term by term, and the loss that a learned variance is trained by.

The terms are those of Ho et al. 2020, Eq. 5, for a process whose steps are equally wide in log-SNR: what is left of the
signal where the process begins, a divergence for every step, and the decoder after the last level. All are in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.special import log_ndtr

from audiodiff.config import DiffusionConfig
from audiodiff.diffusion.process import alpha_sigma, noise_from
from audiodiff.diffusion.variance import log_ratio

VARIANCE_WEIGHT = 1e-3
"""Weight of the variational bound, the sum over all steps, beside the MSE (Nichol and Dhariwal 2021, Eq. 16)."""


def step_divergence(error: Tensor, ratio: Tensor, width: float) -> Tensor:
    """Return the divergence of the model's step from q(x_s | x_t, clean), both normal, sample by sample.

    The means differ by sqrt(lower variance * (exp(width) - 1)) times the error of the predicted noise, at every level.
    With the lower variance itself that is (exp(width) - 1) / 2 error^2 (Kingma et al. 2021, Eq. 14).

    Args:
        error: Predicted less true noise, any shape.
        ratio: Log of the model's over the lower variance, of that shape, or a scalar.
        width: How far the step goes, in log-SNR.
    """
    return (ratio + torch.expm1(-ratio) + math.expm1(width) * error.square() * torch.exp(-ratio)) / 2


def prior_divergence(clean: Tensor, log_snr: float) -> Tensor:
    """Return the divergence of q(x | clean) at the first level from N(0, 1), of the shape of `clean`."""
    alpha, sigma = (scale.item() for scale in alpha_sigma(torch.tensor(log_snr, dtype=torch.float64)))
    return ((alpha * clean).square() + sigma**2 - 1) / 2 - math.log(sigma)


def decoder_cost(distance: Tensor, deviation: Tensor, width: Tensor) -> Tensor:
    """Return -log of the probability of a quantised signal under a normal distribution, sample by sample.

    Each sample stands for an interval of values (Ho et al. 2020, Eq. 13, without the special outermost ones).

    Args:
        distance: The signal less its predicted mean, any shape.
        deviation: Standard deviations, broadcastable.
        width: Widths of the intervals, broadcastable.

    Returns:
        Costs of the shape of `distance`, float64.
    """
    far = -distance.abs().double()  # turned so that the interval lies in the lower tail, where log_ndtr is exact
    high, low = (log_ndtr((far + sign * width.double() / 2) / deviation.double()) for sign in (1, -1))
    cost: Tensor = -(high + torch.log(-torch.expm1(low - high)))
    return cost


def variance_loss(output: Tensor, error: Tensor, log_snr: Tensor, config: DiffusionConfig) -> Tensor:
    """Return what trains a second output: the weighted variational bound, estimated at one level per clip.

    Args:
        output: The network's second output `(batch, channels, time)`.
        error: Predicted less true noise, of that shape; no gradient goes through it, so that the mean is trained by the
            MSE alone.
        log_snr: Noise levels `(batch,)`.
        config: The steps of the process.

    Returns:
        Losses `(batch,)`, float32: nats per sample times `VARIANCE_WEIGHT`.
    """
    ratio = log_ratio(output.float(), log_snr, config.step_width)
    divergence = step_divergence(error.detach().float(), ratio, config.step_width)
    return VARIANCE_WEIGHT * config.steps * divergence.flatten(1).mean(1)


def noise_error(output: Tensor, x: Tensor, noise: Tensor, log_snr: Tensor, config: DiffusionConfig) -> Tensor:
    """Return predicted less true noise, of the shape of x, whatever the network's target."""
    return noise_from(output.float(), x, log_snr, config.target) - noise
