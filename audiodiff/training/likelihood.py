"""The variational bound on the likelihood, in bits per sample: a figure of validation.

The recording counts as 16-bit audio: its samples are intervals of 2^-15 of full scale. Whitening stretches them, by its
determinant block by block, so models with different whitenings compare. The bound is on the likelihood given
the mel and the label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from audiodiff.diffusion.likelihood import decoder_cost, noise_error, prior_divergence, step_divergence
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import alpha_sigma, diffuse
from audiodiff.diffusion.variance import log_ratio, split_output, variance_fraction_from
from audiodiff.training.objective import Batch, Objective, Predict

SAMPLE_WIDTH = 2.0**-15
"""Distance of neighbouring values of 16-bit audio, full scale being 1."""

STEPS_EVALUATED = 32
"""Steps of the process at which a clip is looked at; they stand for all."""

LEAST_VARIANCE_FRACTION = 1e-3
"""Smallest learned variance of the clean signal behind the last level, in units of what the noise there leaves open."""

_TO_BITS = 1 / math.log(2)


def bits_per_sample(objective: Objective, predict: Predict, batch: Batch, seeds: Sequence[int]) -> Tensor:
    """Return the variational bound of each clip, over the steps of `diffusion.steps` (Ho et al. 2020, Eq. 5).

    The sum over the steps is taken from some of them, each for its neighbours too: the divergence changes slowly with
    the level. Noise comes from the seeds, so a figure repeats. Band-limited clips count with what is above their band.

    Args:
        objective: Tells model and whitening.
        predict: The network, its output as in `Objective.loss`.
        batch: What `Objective.prepare` returned.
        seeds: One for each clip.

    Returns:
        Bits per sample `(batch,)`.
    """
    config = objective.config.diffusion
    total = prior_divergence(batch.clean, config.log_snr_min).flatten(1).mean(1)
    n_evaluated = min(STEPS_EVALUATED, config.steps)
    stride = config.steps / n_evaluated
    for number in range(n_evaluated):
        level = config.log_snr_min + int((number + 0.5) * stride) * config.step_width
        log_snr = torch.full((len(batch.clean),), level, device=batch.clean.device)
        error, variance = _predict_error(objective, predict, batch, log_snr, seeds, number + 1)
        ratio = torch.zeros(()) if variance is None else log_ratio(variance, log_snr, config.step_width)
        total = total + stride * step_divergence(error, ratio.to(error), config.step_width).flatten(1).mean(1)
    return _TO_BITS * (total + _decoder_cost(objective, predict, batch, seeds))


def _predict_error(
    objective: Objective, predict: Predict, batch: Batch, log_snr: Tensor, seeds: Sequence[int], draw: int
) -> tuple[Tensor, Tensor | None]:
    """Return the error of the predicted noise, and the second output if there is one."""
    _, channels, n_samples = batch.clean.shape
    noise = position_noise(seeds, draw, n_samples=n_samples, channels=channels, device=batch.clean.device)
    x = diffuse(batch.clean, noise, log_snr)
    with objective.autocast():
        output, variance = split_output(
            predict(x, log_snr, batch.mel, batch.global_conditions), objective.config.diffusion
        )
    variance = None if variance is None else variance.float()
    return noise_error(output, x, noise, log_snr, objective.config.diffusion), variance


def _decoder_cost(objective: Objective, predict: Predict, batch: Batch, seeds: Sequence[int]) -> Tensor:
    """Return the cost of the quantised signal, given the last level, in nats per sample.

    Mean is the predicted clean signal; the variance is that of the last step's upper bound, sigma^2 (Ho et al. 2020,
    Eq. 13), or the learned fraction of it.
    """
    config = objective.config.diffusion
    log_snr = torch.full((len(batch.clean),), config.log_snr_max, device=batch.clean.device)
    error, variance = _predict_error(objective, predict, batch, log_snr, seeds, 0)
    alpha, deviation = (scale.view(-1, 1, 1) for scale in alpha_sigma(log_snr.double()))
    distance = deviation / alpha * error  # of the predicted clean signal
    if variance is not None:
        fraction = variance_fraction_from(variance, log_snr, config.step_width)
        deviation = deviation * fraction.clamp_min(LEAST_VARIANCE_FRACTION).sqrt()
    width = SAMPLE_WIDTH * objective.log_scale(batch).exp().unsqueeze(1)
    if width.shape[-1] > 1:
        width = width.repeat_interleave(error.shape[-1] // width.shape[-1], -1)
    return decoder_cost(distance, deviation, width).float().flatten(1).mean(1)
