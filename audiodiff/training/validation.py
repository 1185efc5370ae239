"""Validation that compares between steps and runs: the same crops, noise levels and noise every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import default_collate

from audiodiff.config import TrainingConfig
from audiodiff.data.crops import Example
from audiodiff.diffusion.noise import position_noise
from audiodiff.networks.build import Network
from audiodiff.training.few_step import FewStepLoss
from audiodiff.training.likelihood import bits_per_sample
from audiodiff.training.objective import Batch, Objective, Predict, predict_with


@dataclass(frozen=True)
class ValidationResult:
    """The loss on the validation crops.

    Attributes:
        loss: What training minimises: the mean over all noise levels, plus the weighted few-step loss where it is used.
        by_log_snr: Log-SNR to the mean denoising loss there.
        few_step: The few-step loss, where training uses it.
        bits: Variational bound in bits per sample, where it is wanted; see `audiodiff.training.likelihood`.
    """

    loss: float
    by_log_snr: dict[float, float]
    few_step: float | None = None
    bits: float | None = None


class Validator:
    """Measures the loss of a network on fixed crops at noise levels evenly spaced in log-SNR.

    Args:
        crops: The validation crops.
        objective: The loss.
        config: How many levels, how many crops at a time, the weight of the few-step loss, and whether to bound the
            likelihood.
        few_step: The few-step loss, where training uses it.
    """

    def __init__(
        self,
        crops: Sequence[Example],
        objective: Objective,
        config: TrainingConfig,
        few_step: FewStepLoss | None = None,
    ) -> None:
        self._few_step = few_step
        self._few_step_weight = config.few_step_weight
        self._bits_wanted = config.validation_bits
        self._crops = crops
        self._objective = objective
        self._batch_size = config.batch_size
        diffusion = objective.config.diffusion
        self._log_snrs = torch.linspace(diffusion.log_snr_min, diffusion.log_snr_max, config.validation_levels).tolist()

    @torch.no_grad()
    def __call__(self, network: Network) -> ValidationResult:
        """Measure a network.

        Args:
            network: In evaluation mode, on the objective's device.

        Returns:
            The losses.
        """
        predict = predict_with(network)
        totals = torch.zeros(len(self._log_snrs), device=self._objective.device)
        few_step_total = bits_total = 0.0
        for first in range(0, len(self._crops), self._batch_size):
            crops = list(self._crops[first : first + self._batch_size])
            batch = self._objective.prepare(default_collate(crops))
            totals += torch.stack([self._loss(predict, batch, first, level) for level in range(len(self._log_snrs))])
            seeds = range(first, first + len(crops))
            if self._bits_wanted:
                bits_total += float(bits_per_sample(self._objective, predict, batch, seeds).sum())
            if self._few_step is not None:
                few_step_total += float(self._few_step(predict, batch, seeds).sum())
        losses = (totals / len(self._crops)).tolist()
        by_log_snr = dict(zip(self._log_snrs, losses, strict=True))
        loss = sum(losses) / len(losses)
        bits = bits_total / len(self._crops) if self._bits_wanted else None
        if self._few_step is None:
            return ValidationResult(loss, by_log_snr, bits=bits)
        few_step = few_step_total / len(self._crops)
        return ValidationResult(loss + self._few_step_weight * few_step, by_log_snr, few_step, bits)

    def _loss(self, predict: Predict, batch: Batch, first_crop: int, level: int) -> Tensor:
        """Return the summed loss of a batch at one level; noise belongs to the number of the crop and of the level."""
        n_crops, channels, n_samples = batch.clean.shape
        seeds = range(first_crop, first_crop + n_crops)
        device = batch.clean.device
        noise = position_noise(seeds, level, n_samples=n_samples, channels=channels, device=device)
        log_snr = torch.full((n_crops,), self._log_snrs[level], device=device)
        return self._objective.loss(predict, batch, log_snr, noise).sum()
