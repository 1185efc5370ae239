"""Embeddings of the noise level: radial basis functions of the log-SNR (the default), and DiffWave's sinusoids.

Those of other projects' weights, which count discrete steps, are in `audiodiff.networks.steps`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.config import DiffusionConfig, EmbeddingConfig
from audiodiff.networks.steps import StepSinusoids, StepTable

SPREAD_FLOOR = 1e-2


class RadialBasis(nn.Module):
    """phi_k(log_snr) = exp(-(log_snr - c_k)^2 / (2 sigma_k^2)) over K centres that cover the trained range.

    Smooth and bounded, so neighbouring noise levels look alike to the network and levels between training steps are
    interpolated (Broomhead and Lowe 1988, "Radial basis functions, multi-variable functional interpolation").

    Args:
        config: Number of centres, how they are placed, their spread, and whether both are trained.
        diffusion: The range and distribution of log-SNR in training.
    """

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.n_features = config.centres
        low, high = diffusion.log_snr_min, diffusion.log_snr_max
        share = torch.linspace(0, 1, config.centres)
        if config.initialisation == "random":
            share = torch.rand(config.centres).sort().values
        centres = low + (high - low) * share
        if config.initialisation == "quantiles":
            centres = torch.tensor([diffusion.log_snr_at(u) for u in share.tolist()])
        spread = config.spread * (high - low) / (config.centres - 1)
        raw = math.log(math.expm1(max(spread - SPREAD_FLOOR, 1e-6)))
        self.centres = nn.Parameter(centres, requires_grad=config.learnable)
        self.raw_spread = nn.Parameter(torch.full((config.centres,), raw), requires_grad=config.learnable)

    @property
    def spread(self) -> Tensor:
        """The widths sigma_k `(K,)`, in log-SNR: softplus of the parameter, plus a floor."""
        return functional.softplus(self.raw_spread) + SPREAD_FLOOR

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between 0 and 1."""
        distance = (log_snr.float().unsqueeze(1) - self.centres) / self.spread
        return torch.exp(-0.5 * distance.square())


class Sinusoids(nn.Module):
    """sin and cos of the noise level at K / 2 frequencies from 1 to 10^4 (Kong et al. 2021, section 3.1).

    The level is first spread over a scale of 0 to 50, the diffusion steps of DiffWave.

    Args:
        config: Number of features.
        diffusion: The range of log-SNR in training.
    """

    frequencies: Tensor

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        half = config.centres // 2
        self.n_features = 2 * half
        self.low, self.width = diffusion.log_snr_min, diffusion.log_snr_max - diffusion.log_snr_min
        self.register_buffer("frequencies", torch.logspace(0, 4, half), persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between -1 and 1."""
        step = 50 * (1 - (log_snr.float() - self.low) / self.width)
        angle = step.unsqueeze(1) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


FEATURES: dict[str, type[RadialBasis] | type[Sinusoids] | type[StepTable] | type[StepSinusoids]] = {
    "rbf": RadialBasis,
    "sinusoidal": Sinusoids,
    "lmnt": StepTable,
    "philsyn": StepSinusoids,
}


class NoiseLevelEmbedding(nn.Module):
    """Features of the noise level, followed by the two-layer MLP whose output enters every residual layer."""

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.features = FEATURES[config.kind](config, diffusion)
        self.mlp = nn.Sequential(
            nn.Linear(self.features.n_features, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
        )

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to embeddings `(batch, width)`."""
        embedded: Tensor = self.mlp(self.features(log_snr))
        return embedded
