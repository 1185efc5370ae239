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
from audiodiff.training.objective import Objective, Predict, Prepared, predict_with


@dataclass(frozen=True)
class ValidationResult:
    """The loss on the validation crops.

    Attributes:
        loss: Mean over all noise levels.
        by_level: Log-SNR to the mean loss there.
    """

    loss: float
    by_level: dict[float, float]


class Validator:
    """Measures the loss of a network on fixed crops at noise levels evenly spaced in log-SNR.

    Args:
        crops: The validation crops.
        objective: The loss.
        config: How many levels, and how many crops at a time.
    """

    def __init__(self, crops: Sequence[Example], objective: Objective, config: TrainingConfig) -> None:
        self._crops = crops
        self._objective = objective
        self._batch_size = config.batch_size
        diffusion = objective.config.diffusion
        self._levels = torch.linspace(diffusion.log_snr_min, diffusion.log_snr_max, config.validation_levels).tolist()

    @torch.no_grad()
    def __call__(self, network: Network) -> ValidationResult:
        """Measure a network.

        Args:
            network: In evaluation mode, on the objective's device.

        Returns:
            The losses.
        """
        predict = predict_with(network)
        totals = torch.zeros(len(self._levels), device=self._objective.device)
        for first in range(0, len(self._crops), self._batch_size):
            crops = list(self._crops[first : first + self._batch_size])
            batch = self._objective.prepare(default_collate(crops))
            totals += torch.stack([self._loss(predict, batch, first, level) for level in range(len(self._levels))])
        losses = (totals / len(self._crops)).tolist()
        return ValidationResult(sum(losses) / len(losses), dict(zip(self._levels, losses, strict=True)))

    def _loss(self, predict: Predict, batch: Prepared, first_crop: int, level: int) -> Tensor:
        """Return the summed loss of a batch at one level; noise belongs to the number of the crop and of the level."""
        n_crops, channels, n_samples = batch.clean.shape
        seeds = range(first_crop, first_crop + n_crops)
        device = batch.clean.device
        noise = position_noise(seeds, level, n_samples=n_samples, channels=channels, device=device)
        log_snr = torch.full((n_crops,), self._levels[level], device=device)
        return self._objective.loss(predict, batch, log_snr, noise).sum()
