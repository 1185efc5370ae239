"""Embeddings of the noise level: radial basis functions (the default), random Fourier features, sinusoids.

The last two classes serve other projects' weights, whose noise levels are discrete steps. Both mean Kong et al. 2021,
section 3.1: that of lmnt-com/diffwave has frequencies from 1 to 10^4, as the paper writes; that of
philsyn/DiffWave-Vocoder and -unconditional has them from 1 down to 10^-4. Weights trained with one mean nothing with
the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.config import DiffusionConfig, EmbeddingConfig
from audiodiff.config.network import SPREAD_FLOOR

_K_MEANS_ITERATIONS = 300
_DRAWS_PER_CENTRE = 512
"""Noise levels, as drawn in training, that k-means clusters."""
_N_QUANTILES = 1024
"""Linear segments of the distribution function of the training levels."""


class NoiseLevelDomain(nn.Module):
    """Map log-SNR to the argument of an embedding; every domain is stretched to the trained range of log-SNR.

    So centres, spreads and their learning rate mean the same in each: `log-snr` is the log-SNR itself, `sqrt-abar` the
    amplitude of the signal, alpha = sqrt(sigmoid(log_snr)), and `step` the fraction of the training levels that are
    noisier, as the index of a discrete step says. The last two are clamped to the range.

    Args:
        domain: One of those names.
        diffusion: Range and distribution of log-SNR in training.

    Attributes:
        low: Argument at the lowest trained level.
        width: How far the highest is above it.
    """

    quantiles: Tensor

    def __init__(self, domain: str, diffusion: DiffusionConfig) -> None:
        super().__init__()
        self.domain = domain
        self.low, self.width = diffusion.log_snr_min, diffusion.log_snr_max - diffusion.log_snr_min
        self._amplitudes = _amplitude(diffusion.log_snr_min), _amplitude(diffusion.log_snr_max)
        u = [i / _N_QUANTILES for i in range(_N_QUANTILES + 1)] if domain == "step" else []
        quantiles = torch.tensor([diffusion.log_snr_quantile(p) for p in u], dtype=torch.float64)
        self.register_buffer("quantiles", quantiles, persistent=False)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels to arguments of the same shape, in float32."""
        if self.domain == "log-snr":
            return log_snr.float()
        clamped = log_snr.double().clamp(self.low, self.low + self.width)
        u = self._rank(clamped) if self.domain == "step" else self._relative_amplitude(clamped)
        return (self.low + self.width * u).float()

    def _relative_amplitude(self, log_snr: Tensor) -> Tensor:
        lowest, highest = self._amplitudes
        return (torch.sigmoid(log_snr).sqrt() - lowest) / (highest - lowest)

    def _rank(self, log_snr: Tensor) -> Tensor:
        """Return the fraction of training levels below a level: the quantile function, inverted."""
        knots = self.quantiles.double()
        above = (knots < log_snr.unsqueeze(-1)).sum(-1).clamp(1, _N_QUANTILES)  # searchsorted, which ONNX lacks
        between = (log_snr - knots[above - 1]) / (knots[above] - knots[above - 1])
        return (above - 1 + between.clamp(0, 1)) / _N_QUANTILES


def _amplitude(log_snr: float) -> float:
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def raw_spread(spread: float) -> float:
    """Return the parameter of which `positive_spread` makes this spread."""
    above = max(spread - SPREAD_FLOOR, 1e-6)
    return above + math.log(-math.expm1(-above))  # log(exp(above) - 1), of which the exponential may overflow


def positive_spread(raw: Tensor) -> Tensor:
    """Return spreads of the shape of their parameter: its softplus, plus the floor."""
    return functional.softplus(raw) + SPREAD_FLOOR


def k_means(draws: Tensor, count: int) -> Tensor:
    """Cluster draws on a line by Lloyd's algorithm until nothing moves (MacQueen 1967, Lloyd 1982).

    It starts from the draws' quantiles, so the same draws give the same centres. Their density follows the cube root of
    that of the draws (Panter and Dite 1951), between even spacing and quantiles.

    Args:
        draws: `(n,)`, more than `count` different ones.
        count: Number of centres.

    Returns:
        Centres `(count,)`, rising; each the mean of the draws that are nearest to it.
    """
    ordered = draws.double().sort().values
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    centres = torch.quantile(ordered, (torch.arange(count, dtype=torch.float64) + 0.5) / count)
    for _ in range(_K_MEANS_ITERATIONS):
        inner = torch.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        edges = torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(ordered))])
        moved = sums[edges].diff() / edges.diff().clamp_min(1)
        moved = torch.where(edges.diff() > 0, moved, centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres.to(draws.dtype)


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
        self.domain = NoiseLevelDomain(config.domain, diffusion)
        spreads = config.centre_spreads or [config.spread * self.domain.width / (config.centres - 1)] * config.centres
        train_centres, train_spreads = (config.learnable in (True, part) for part in ("centres", "spreads"))
        self.centres = nn.Parameter(_initial_centres(config, diffusion, self.domain), requires_grad=train_centres)
        raw = torch.tensor([raw_spread(spread) for spread in spreads])
        self.raw_spread = nn.Parameter(raw, requires_grad=train_spreads)

    @property
    def spread(self) -> Tensor:
        """The widths sigma_k `(K,)`, in the units of the domain, which are those of log-SNR."""
        return positive_spread(self.raw_spread)

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between 0 and 1."""
        distance = (self.domain(log_snr).unsqueeze(1) - self.centres) / self.spread
        return torch.exp(-0.5 * distance.square())


def _initial_centres(config: EmbeddingConfig, diffusion: DiffusionConfig, domain: NoiseLevelDomain) -> Tensor:
    """Return where the centres `(K,)` are before training, rising; what is random comes from torch's own generator."""
    if config.initialisation == "explicit":
        return torch.tensor(config.centre_positions)
    if config.initialisation == "k-means":
        drawn = torch.rand(_DRAWS_PER_CENTRE * config.centres)
        return k_means(domain(torch.tensor([diffusion.log_snr_quantile(u) for u in drawn.tolist()])), config.centres)
    if config.initialisation == "random":
        return domain.low + domain.width * torch.rand(config.centres).sort().values
    evenly = torch.linspace(0, 1, config.centres)
    if config.initialisation == "quantiles":
        quantiles: Tensor = domain(torch.tensor([diffusion.log_snr_quantile(u) for u in evenly.tolist()]))
        return quantiles
    return domain.low + domain.width * evenly


class FourierFeatures(nn.Module):
    """sin and cos of the noise level at K / 2 random frequencies, drawn once and saved with the weights.

    Experimental. Tancik et al. 2020, "Fourier features let networks learn high frequency functions in low dimensional
    domains"; for noise levels Song et al. 2021, "Score-based generative modeling through stochastic differential
    equations".

    Args:
        config: Number of features, on which scale, and the standard deviation of the frequencies.
        diffusion: The range and distribution of log-SNR in training.
    """

    frequencies: Tensor

    def __init__(self, config: EmbeddingConfig, diffusion: DiffusionConfig) -> None:
        super().__init__()
        half = config.centres // 2
        self.n_features = 2 * half
        self.domain = NoiseLevelDomain(config.domain, diffusion)
        self.register_buffer("frequencies", config.fourier_scale * torch.randn(half))

    def forward(self, log_snr: Tensor) -> Tensor:
        """Map noise levels `(batch,)` to features `(batch, K)` between -1 and 1."""
        u = (self.domain(log_snr) - self.domain.low) / self.domain.width
        angle = 2 * math.pi * u.unsqueeze(1) * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class SinusoidalFeatures(nn.Module):
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
        upper = (knots > amplitude.unsqueeze(-1)).sum(-1).clamp(1, len(knots) - 1)  # searchsorted, which ONNX lacks
        fraction = (knots[upper - 1] - amplitude) / (knots[upper - 1] - knots[upper])
        step: Tensor = upper - 1 + fraction.clamp(0, 1)
        return step


class LmntStepFeatures(nn.Module):
    """Features of lmnt-com/diffwave: a table of sin and cos of steps at frequencies from 1 to 10^4, interpolated.

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
        fraction = (step - below).to(self.table.dtype).unsqueeze(1)
        return torch.lerp(self.table[below], self.table[step.ceil().long()], fraction)


class PhilsynStepFeatures(nn.Module):
    """Features of philsyn's networks: sin and cos of the step at frequencies from 1 down to 10^-4.

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


Features = RadialBasis | FourierFeatures | SinusoidalFeatures | LmntStepFeatures | PhilsynStepFeatures

FEATURES: dict[str, type[Features]] = {
    "rbf": RadialBasis,
    "fourier": FourierFeatures,
    "sinusoidal": SinusoidalFeatures,
    "lmnt": LmntStepFeatures,
    "philsyn": PhilsynStepFeatures,
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
