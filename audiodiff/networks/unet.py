"""A U-Net on patches of samples: fine levels see detail, coarse ones the whole clip, at little cost per sample."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.config import ModelConfig
from audiodiff.networks.base import ConditionedNetwork, zero_projection
from audiodiff.networks.levels import UNetStack


class UNet1d(ConditionedNetwork):
    """The noise predictor as a U-Net (Ronneberger et al. 2015) on non-overlapping patches of samples.

    Its output y is read as v: the noise is sigma x + alpha y, which is the best linear guess where y is zero and keeps
    y of unit scale at every noise level (Karras et al. 2022, section 5, preconditioning). Whichever target the model is
    trained for, that v implies it.

    Args:
        config: The model; its network, diffusion range and target, mel and conditions are used.
    """

    stack: UNetStack

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        network = config.network
        self.patch, self.stride, self.target = network.patch, network.stride, config.diffusion.target
        self.input = nn.Linear(network.patch, network.channels)
        self.stack = UNetStack(network, config.mel.n_mels if config.mel else 0)
        self.output = zero_projection(network.channels, network.patch)
        if config.diffusion.variance == "learned":
            self.variance = zero_projection(network.channels, network.patch)

    @property
    def receptive_field(self) -> int | float:
        """Samples on either side that an output depends on; infinite with attention."""
        if len(self.stack.attention):
            return math.inf
        return max(self._reach_of(sample) for sample in range(self.stride))

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, given: Tensor | None = None
    ) -> Tensor:
        """Predict the training target; arguments and result as in `DiffWave.forward`.

        A signal that is no multiple of the stride is padded with zeros, and the prediction cut to its length.
        """
        n_samples = x.shape[-1]
        padded = functional.pad(x[:, 0], (0, -n_samples % self.stride))
        h = self.input(padded.unflatten(1, (-1, self.patch)))
        h = self.stack(h, self.embed_level(log_snr, given), condition)
        y, *variance = (
            projection(h).float().flatten(1)[:, :n_samples].unsqueeze(1)
            for projection in (self.output, self.variance)
            if projection is not None
        )
        return torch.cat([self._as_target(y, x, log_snr), *variance], dim=1)

    def _as_target(self, y: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
        if self.target == "v":
            return y
        alpha, sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        return alpha * x - sigma * y if self.target == "x0" else sigma * x + alpha * y

    def _reach_of(self, sample: int) -> int:
        """Return how far a sample's prediction sees, to the farther side."""
        low, high = self.stack.reach_of(sample // self.patch)
        return max(sample - low * self.patch, high * self.patch + self.patch - 1 - sample)
