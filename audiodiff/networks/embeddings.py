"""Embeddings of the noise level: radial basis functions (the default), random Fourier features, DiffWave's sinusoids.

Those of other projects' weights, which count discrete steps, are in `audiodiff.networks.steps`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiodiff.config import DiffusionConfig, EmbeddingConfig
from audiodiff.networks.domains import LevelDomain
from audiodiff.networks.radial import k_means, positive_spread, raw_spread
from audiodiff.networks.steps import StepSinusoids, StepTable

_DRAWS_PER_CENTRE = 512
"""Training levels that k-means looks at."""


class RadialBasis(nn.Module):
    """phi_k(level) = exp(-(level - c_k)^2 / (2 sigma_k^2)) over K centres that cover the trained range.

    Smooth and bounded, so neighbouring noise levels look alike to the network and levels between training steps are
    interpolated (Broomhead and Lowe 1988, "Radial basis functions, multi-variable functional interpolation").

    Args:
        config: Number of centres, how they are placed, their spread, on which scale, and which of both are trained.
        diffusion: The range and distribution of log-SNR in training.
    """

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.n_features = config.centres
        self.domain = LevelDomain(config.domain, diffusion)
        raw = raw_spread(config.spread * self.domain.width / (config.centres - 1))
        train_centres, train_spreads = (config.learnable in (True, part) for part in ("centres", "spreads"))
        self.centres = nn.Parameter(_initial_centres(config, diffusion, self.domain), requires_grad=train_centres)
        self.raw_spread = nn.Parameter(torch.full((config.centres,), raw), requires_grad=train_spreads)

    @property
    def spread(self) -> Tensor:
        """The widths sigma_k `(K,)`, in the units of the domain, which are those of log-SNR."""
        return positive_spread(self.raw_spread)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between 0 and 1."""
        distance = (self.domain(log_snr).unsqueeze(1) - self.centres) / self.spread
        return torch.exp(-0.5 * distance.square())


def _initial_centres(config: EmbeddingConfig, diffusion: DiffusionConfig, domain: LevelDomain) -> Tensor:
    """Return where the centres `(K,)` are before training, rising; what is random comes from torch's own generator."""
    share = torch.linspace(0, 1, config.centres)
    if config.initialisation == "random":
        share = torch.rand(config.centres).sort().values
    elif config.initialisation == "k-means":
        drawn = torch.rand(_DRAWS_PER_CENTRE * config.centres)
        return k_means(domain(torch.tensor([diffusion.log_snr_at(u) for u in drawn.tolist()])), config.centres)
    elif config.initialisation == "quantiles":
        quantiles: Tensor = domain(torch.tensor([diffusion.log_snr_at(u) for u in share.tolist()]))
        return quantiles
    return domain.low + domain.width * share


class Fourier(nn.Module):
    """sin and cos of the noise level at K / 2 random frequencies, drawn once and saved with the weights.

    Tancik et al. 2020, "Fourier features let networks learn high frequency functions in low dimensional domains"; for
    noise levels Song et al. 2021, "Score-based generative modeling through stochastic differential equations".

    Args:
        config: Number of features, on which scale, and the standard deviation of the frequencies.
        diffusion: The range and distribution of log-SNR in training.
    """

    frequencies: Tensor

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        half = config.centres // 2
        self.n_features = 2 * half
        self.domain = LevelDomain(config.domain, diffusion)
        self.register_buffer("frequencies", config.fourier_scale * torch.randn(half))

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between -1 and 1."""
        share = (self.domain(log_snr) - self.domain.low) / self.domain.width
        angle = 2 * math.pi * share.unsqueeze(1) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


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


FEATURES: dict[str, type[RadialBasis] | type[Fourier] | type[Sinusoids] | type[StepTable] | type[StepSinusoids]] = {
    "rbf": RadialBasis,
    "fourier": Fourier,
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


def radial_parameters(network: nn.Module) -> list[nn.Parameter]:
    """List the centres and spreads of the RBF embedding of a network; none if its embedding is another."""
    return [
        parameter
        for module in network.modules()
        if isinstance(module, RadialBasis)
        for parameter in module.parameters()
    ]
