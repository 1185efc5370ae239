"""Noise levels as discrete steps of other projects' networks: log-SNR to fractional step, and two sinusoidal tables.

Both tables are meant as Kong et al. 2021, section 3.1. That of lmnt-com/diffwave has frequencies from 1 to 10^4, as the
paper writes; that of philsyn/DiffWave-Vocoder and -unconditional has them from 1 down to 10^-4. Weights that were
trained with one mean nothing with the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiodiff.config import DiffusionConfig, EmbeddingConfig


class DiscreteSteps(nn.Module):
    """The step of a discrete forward process at which the signal is as noisy as a log-SNR says.

    Between two steps it is interpolated linearly in sqrt(abar), the amplitude of the signal (Kong et al. 2021, fast
    sampling; so does lmnt-com/diffwave). A level beyond the process is taken as its nearest step, for the network has
    seen no other.

    Args:
        betas: Variances beta_1 ... beta_T of the process, in forward order.

    Attributes:
        log_snr: Levels of the steps `(T,)`, falling, float64; step 0 has the least noise.

    Example:
        >>> steps = DiscreteSteps([0.1, 0.2, 0.4])
        >>> steps(steps.log_snr)
        tensor([0., 1., 2.], dtype=torch.float64)
    """

    log_snr: Tensor

    def __init__(self, betas: tuple[float, ...] | list[float]) -> None:
        super().__init__()
        log_abar = torch.log1p(-torch.tensor(betas, dtype=torch.float64)).cumsum(0)
        self.register_buffer("log_snr", log_abar - torch.log(-torch.expm1(log_abar)), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to steps `(batch,)` between 0 and T - 1, float64."""
        knots = torch.sigmoid(self.log_snr.double()).sqrt()
        amplitude = torch.sigmoid(log_snr.double()).sqrt()
        upper = torch.searchsorted(-knots, -amplitude).clamp(1, len(knots) - 1)
        share = (knots[upper - 1] - amplitude) / (knots[upper - 1] - knots[upper])
        step: Tensor = upper - 1 + share.clamp(0, 1)
        return step


class StepTable(nn.Module):
    """The table of lmnt-com/diffwave: sin and cos of whole steps at frequencies from 1 to 10^4, interpolated as values.

    Args:
        config: Number of features and the betas of the process.
        diffusion: Not used; all embeddings are made alike.

    Attributes:
        table: One row per step `(T, K)`. It is made in float32, whose rounding is part of it: at the highest frequency
            an angle is off by up to 0.02, and the network was trained so.
    """

    table: Tensor

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        half = config.centres // 2
        self.n_features = 2 * half
        self.steps = DiscreteSteps(config.betas)
        exponent = torch.arange(half, dtype=torch.float32) * 4.0 / (half - 1)
        angle = torch.arange(len(config.betas)).unsqueeze(1) * torch.pow(10.0, exponent)
        self.register_buffer("table", torch.cat([angle.sin(), angle.cos()], dim=1), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between -1 and 1."""
        step = self.steps(log_snr)
        below = step.floor().long()
        share = (step - below).to(self.table.dtype).unsqueeze(1)
        return torch.lerp(self.table[below], self.table[step.ceil().long()], share)


class StepSinusoids(nn.Module):
    """The features of philsyn's networks: sin and cos of the step at frequencies from 1 down to 10^-4.

    Args:
        config: Number of features and the betas of the process.
        diffusion: Not used; all embeddings are made alike.
    """

    frequencies: Tensor

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        half = config.centres // 2
        self.n_features = 2 * half
        self.steps = DiscreteSteps(config.betas)
        frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * (-math.log(10_000) / (half - 1)))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between -1 and 1."""
        angle = self.steps(log_snr).unsqueeze(1) * self.frequencies.double()
        return torch.cat([angle.sin(), angle.cos()], dim=1).to(self.frequencies.dtype)
