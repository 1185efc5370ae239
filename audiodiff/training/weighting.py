"""What counts more in training: noise levels by their SNR, frequencies by how finely the ear resolves them.

Validation is never weighted, so its loss compares between runs whatever they were trained with.
"""

from __future__ import annotations

from torch import Tensor

from audiodiff.config import TrainingConfig
from audiodiff.diffusion.process import Target, min_snr_weight


class Weighting:
    """The weights of the training loss, by noise level and by frequency.

    Args:
        config: `loss_weighting`, `min_snr_gamma` and `spectral_weighting`.
        target: What the network predicts.
    """

    def __init__(self, config: TrainingConfig, target: Target) -> None:
        self._gamma = config.min_snr_gamma if config.loss_weighting == "min-snr" else None
        self._exponent = config.spectral_weighting
        self._target = target

    @property
    def by_frequency(self) -> bool:
        """Whether frequencies differ in weight."""
        return self._exponent > 0

    def of_levels(self, log_snr: Tensor) -> Tensor | None:
        """Return the weights of noise levels `(batch,)`, or None where all are alike."""
        return None if self._gamma is None else min_snr_weight(log_snr, self._target, self._gamma)

    def of_frequencies(self, frequency: Tensor) -> Tensor:
        """Return the weights of frequencies in Hz, of their shape; only their proportions matter."""
        return auditory_bandwidth(frequency) ** -self._exponent


def auditory_bandwidth(frequency: Tensor) -> Tensor:
    """Return the equivalent rectangular bandwidth of the ear's filters, in Hz (Glasberg and Moore 1990).

    Example:
        >>> import torch
        >>> auditory_bandwidth(torch.tensor([100.0, 1000.0, 10000.0])).round().tolist()
        [35.0, 133.0, 1104.0]
    """
    return 24.7 * (4.37e-3 * frequency + 1)
