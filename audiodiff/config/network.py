"""The configuration of a network: which kind, how wide and deep, and how the noise level enters it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from audiodiff.choices import DILATION_CYCLE, LOG_SNR, RATIO, STEPS, WIDTH, WINDOW, Number
from audiodiff.config.base import Config

_LAYERS = Number(int, low=1, high=1000, unit="layers")


DISCRETE = ("lmnt", "philsyn")
"""Embeddings of the steps of a discrete process."""


def parse_betas(value: Any) -> tuple[float, ...]:
    """Return the variances of a discrete process: from a list, or from {start, end, steps} where they grow linearly.

    Raises:
        ValueError: If it is neither, or a value is no variance.
    """
    if isinstance(value, list | tuple):
        return tuple(RATIO.parse(beta) for beta in value)
    if not isinstance(value, Mapping) or value.keys() != {"start", "end", "steps"}:
        raise ValueError("expected a list, or {start: ..., end: ..., steps: ...}")
    start, end, steps = RATIO.parse(value["start"]), RATIO.parse(value["end"]), STEPS.parse(value["steps"])
    return tuple(start + (end - start) * i / max(steps - 1, 1) for i in range(steps))


Betas = Annotated[tuple[Annotated[float, RATIO], ...], BeforeValidator(parse_betas)]
"""Variances of a discrete process in forward order (Ho et al. 2020)."""

SPREAD_FLOOR = 1e-2
"""Smallest spread of a radial basis function, in log-SNR; training cannot reach less."""


class EmbeddingConfig(Config):
    """How the noise level (log-SNR) enters the network."""

    kind: Literal["rbf", "fourier", "sinusoidal", "lmnt", "philsyn"] = Field(
        "rbf",
        description="radial basis functions, random Fourier features (Song et al. 2021), DiffWave's sinusoids; the "
        "last two are those of other projects' weights, by discrete steps",
    )
    width: Annotated[int, WIDTH] = Field(128, description="features after the MLP")
    centres: Annotated[int, Number(int, low=2, high=8192)] = Field(
        32, description="number of RBF centres (or of sines and cosines)"
    )
    initialisation: Literal["uniform", "quantiles", "k-means", "random", "explicit"] = Field(
        "uniform",
        description="of RBF centres: evenly over the range; at quantiles of the training levels; "
        "k-means of draws of these, which lies between both; anywhere; or at `centre_positions`. It matters where "
        "training levels crowd, as with distribution 'logistic'",
    )
    centre_positions: tuple[Annotated[float, LOG_SNR], ...] = Field(
        (),
        description="initial RBF centres one by one, lowest first, on the scale of `domain`, which has the ends of "
        "log-SNR; initialisation is then 'explicit', and `centres` their number",
    )
    centre_spreads: tuple[Annotated[float, Number(float, low=SPREAD_FLOOR, high=1000, unit="log-SNR")], ...] = Field(
        (), description="initial spread of each centre, on the same scale; without them all have `spread`"
    )
    spread: Annotated[float, Number(float, above=0, high=1000)] = Field(
        1.0, description="initial spread, in units of the distance between centres"
    )
    domain: Literal["log-snr", "sqrt-abar", "step"] = Field(
        "log-snr",
        description="'rbf' and 'fourier' only: what they are functions of, stretched to the range of log-SNR: itself; "
        "the amplitude of the signal, which resolves the middle of the range; or the rank among the training levels, "
        "which gives every level as many centres as it has training",
    )
    learnable: bool | Literal["centres", "spreads"] = Field(
        True, description="which of RBF centres and spreads are trained: both (true), none (false), or one of them"
    )
    fourier_scale: Annotated[float, Number(float, above=0, high=1000)] = Field(
        16.0,
        description="'fourier' only: standard deviation of the frequencies, in cycles over the trained range; smaller "
        "is smoother between training levels",
    )
    betas: Betas = Field(
        (),
        description="'lmnt' and 'philsyn' only: variances of the discrete process that the weights were trained on, in "
        "forward order; they say which step a log-SNR is. Those of the model's diffusion, unless given",
    )

    @model_validator(mode="before")
    @classmethod
    def _count_centres(cls, values: Any) -> Any:
        """Let explicit centres or spreads say how many centres there are, where nothing else does."""
        if not isinstance(values, Mapping):
            return values
        for name, more in (("centre_positions", {"initialisation": "explicit"}), ("centre_spreads", {})):
            if isinstance(given := values.get(name), list | tuple) and given:
                values = {"centres": len(given), **more, **values}
        return values

    @model_validator(mode="after")
    def _check_centres(self) -> EmbeddingConfig:
        positions, spreads = self.centre_positions, self.centre_spreads
        if (positions or spreads or self.initialisation == "explicit") and self.kind != "rbf":
            raise ValueError(f"kind {self.kind!r} has no RBF centres; leave out what places them, or use kind 'rbf'")
        if (self.initialisation == "explicit") != bool(positions):
            what = "needs centre_positions" if not positions else "ignores centre_positions; use 'explicit'"
            raise ValueError(f"initialisation {self.initialisation!r} {what}")
        for name, values in (("centre_positions", positions), ("centre_spreads", spreads)):
            if values and len(values) != self.centres:
                raise ValueError(f"centres is {self.centres}, but {name} holds {len(values)} values")
        for number, (one, other) in enumerate(pairwise(positions)):
            if other < one:
                raise ValueError(
                    f"centre_positions must rise, but {other:g} (number {number + 2}) follows {one:g}; sort them, and "
                    "centre_spreads with them"
                )
        if spreads and self.spread != 1:
            raise ValueError(f"centre_spreads replace spread; leave spread {self.spread:g} out")
        return self

    @model_validator(mode="after")
    def _check(self) -> EmbeddingConfig:
        if self.domain != "log-snr" and self.kind not in ("rbf", "fourier"):
            raise ValueError(f"kind {self.kind!r} has its own scale of noise levels; leave domain {self.domain!r} out")
        if self.kind not in DISCRETE:
            if self.betas:
                raise ValueError(f"betas are of no use to kind {self.kind!r}; leave them out")
            return self
        if len(self.betas) < 2 or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError(
                f"kind {self.kind!r} needs at least 2 betas strictly between 0 and 1, got {len(self.betas)}: "
                f"{list(self.betas[:3])}"
            )
        if self.centres < 4:
            raise ValueError(f"kind {self.kind!r} needs at least 4 centres (2 frequencies), got {self.centres}")
        return self

    def check_range(self, low: float, high: float) -> None:
        """Refuse explicit centres that lie beyond the trained range by more than its width: of another unit, as dB.

        Training moves centres past the ends, so that nearer ones are right.

        Raises:
            ValueError: If there is one.
        """
        for position in self.centre_positions:
            if max(low - position, position - high) > high - low:
                raise ValueError(
                    f"centre_positions: {position:g} is far outside the trained log-SNR, {low:g} to {high:g}; log-SNR "
                    "is a natural logarithm, not in dB"
                )


HEAD_WIDTH = 32
"""Channels of an attention head."""


def _fitting_factors(product: int) -> str:
    """Say which pairs of even factors have a product, most equal first."""
    pairs = [[a, product // a] for a in range(2, math.isqrt(product) + 1, 2) if product % a == 0]
    fitting = [pair for pair in reversed(pairs) if pair[1] % 2 == 0] or ([[product]] if product % 2 == 0 else [])
    if not fitting:
        return "no even factors do, so use upsampling 'repeat' or another hop length"
    return f"these do: {', '.join(map(str, fitting[:4]))}"


class BranchConfig(Config):
    """A stack of gated dilated layers on an STFT finer than the network's own."""

    n_fft: Annotated[int, WINDOW] = Field(256, description="window, in samples")
    hop_length: Annotated[int, WINDOW] = Field(64, description="hop, in samples; must divide the mel's hop length")
    channels: Annotated[int, WIDTH] = Field(128, description="width of the residual stream")
    layers: Annotated[int, _LAYERS] = Field(6, description="residual layers")
    dilation_cycle: Annotated[int, DILATION_CYCLE] = Field(
        3, description="dilation of layer i is 2 ** (i % dilation_cycle)"
    )


class NetworkConfig(Config):
    """The noise predictor: gated dilated residual layers on samples, patches or STFT frames, or a U-Net on patches."""

    RENAMED_VALUES: ClassVar = {"kind": {"frames": "stft"}}

    kind: Literal["diffwave", "stft", "unet"] = "diffwave"
    channels: Annotated[int, WIDTH] = Field(
        64, description="width of the residual stream; of a 'unet', at its finest resolution"
    )
    layers: Annotated[int, _LAYERS] = Field(30, description="residual layers; a 'unet' has `blocks` instead")
    dilation_cycle: Annotated[int, DILATION_CYCLE] = Field(
        10,
        description="dilation of layer i is 2 ** (i % dilation_cycle); of a 'unet', at its coarsest resolution only",
    )
    activation: Literal["gated", "rbf"] = Field(
        "gated",
        description="what follows the dilated convolution: DiffWave's sigmoid times tanh, or a radial basis function "
        "network per channel, initialised to that. Experimental, and slower: the fast engines compute gates only",
    )
    activation_centres: Annotated[int, Number(int, low=2, high=1024)] = Field(
        8, description="RBF centres of each channel ('rbf' only)"
    )
    patch: Annotated[int, WINDOW] = Field(
        1, description="samples per position ('diffwave' and 'unet'); must divide the hop length"
    )
    factors: tuple[Annotated[int, Number(int, low=2, high=1024)], ...] = Field(
        (4, 4, 2),
        description="'unet' only: neighbouring positions that become one from each resolution to the next coarser one; "
        "patch times their product, the stride, must divide the hop length",
    )
    multipliers: tuple[Annotated[int, Number(int, low=1, high=1024)], ...] = Field(
        (1, 2, 3, 4), description="'unet' only: width at each resolution, finest first, in units of `channels`"
    )
    blocks: tuple[Annotated[int, _LAYERS], ...] = Field(
        (1, 1, 1, 2),
        description="'unet' only: residual blocks of each resolution on the way down, and as many again on the way up",
    )
    attention: Annotated[int, Number(int, low=0, high=100)] = Field(
        0,
        description="'unet' only: layers of self-attention at the coarsest resolution, for clips that are made whole, "
        "such as words and notes; 0 for long audio, because what attends to the whole clip cannot be made in chunks",
    )
    n_fft: Annotated[int, WINDOW] = Field(
        1024, description="window of the network's own STFT, in samples ('stft' only)"
    )
    hop_length: Annotated[int, WINDOW] = Field(
        256, description="hop of the network's own STFT, in samples ('stft' only)"
    )
    branches: tuple[BranchConfig, ...] = Field(
        (), description="stacks on finer STFTs that add what the network's own window blurs in time ('stft' only)"
    )
    mel_encoder_layers: Annotated[int, Number(int, low=0, high=100)] = Field(
        0,
        description="convolutions over three mel frames each, by which a frame sees its neighbours ('stft' only)",
    )
    mel_encoder_channels: Annotated[int, WIDTH] = Field(128, description="width of the mel encoder ('stft' only)")
    look_ahead: Annotated[int, Number(int, low=0, high=1_000_000)] | None = Field(
        None,
        description="positions that all layers together see ahead: the dilated taps of the others lie in the past, for "
        "streams of low latency; none for taps on both sides ('diffwave' and 'stft')",
    )
    upsampling: Literal["repeat", "transposed", "transposed-per-layer"] = Field(
        "repeat",
        description="how mel frames reach the rate of the signal ('diffwave' only): each is repeated, and all layers "
        "project it at frame rate; or transposed convolutions with a leaky ReLU, shared (lmnt-com/diffwave) or one set "
        "per layer (philsyn/DiffWave-Vocoder), and each layer projects the result",
    )
    upsampling_factors: tuple[Annotated[int, Number(int, low=1, high=8192)], ...] = Field(
        (16, 16),
        description="strides of the transposed convolutions, each even; their product must be hop length / patch",
    )
    embedding: EmbeddingConfig = EmbeddingConfig()

    @property
    def stride(self) -> int:
        """Samples by which a signal can be moved such that the prediction moves with it."""
        if self.kind == "stft":
            return self.hop_length
        return self.patch * (math.prod(self.factors) if self.kind == "unet" else 1)

    @property
    def samples_per_position(self) -> int:
        """Samples that are one position of the layers, of a U-Net those of the finest resolution."""
        return self.hop_length if self.kind == "stft" else self.patch

    @model_validator(mode="after")
    def _check(self) -> NetworkConfig:
        if self.kind != "unet":
            return self
        n_resolutions = len(self.factors) + 1
        if len(self.multipliers) != n_resolutions or len(self.blocks) != n_resolutions:
            raise ValueError(
                f"{len(self.factors)} factors make {n_resolutions} resolutions, so multipliers and blocks need "
                f"{n_resolutions} values each, got {list(self.multipliers)} and {list(self.blocks)}"
            )
        width = self.channels * self.multipliers[-1]
        if self.attention and width % HEAD_WIDTH:
            raise ValueError(
                f"attention needs at the coarsest resolution a multiple of {HEAD_WIDTH} channels, got {width} "
                f"({self.channels} channels times {self.multipliers[-1]})"
            )
        if self.upsampling != "repeat":
            raise ValueError(f"upsampling {self.upsampling!r} is for kind 'diffwave'; 'unet' takes 'repeat' only")
        if self.activation != "gated":
            raise ValueError(f"activation {self.activation!r} is for 'diffwave' and 'stft'; leave it out for 'unet'")
        return self

    def check_hop(self, hop_length: int) -> None:
        """Refuse what cannot bring frames every `hop_length` samples to the positions of this network.

        Raises:
            ValueError: If a patch, a hop or upsampling factors do not fit; the message says what would.
        """
        if self.kind == "stft":
            if self.hop_length != hop_length:
                raise ValueError(f"network.hop_length {self.hop_length} must equal the mel's hop_length {hop_length}")
            if self.upsampling != "repeat":
                raise ValueError(f"upsampling {self.upsampling!r} is for kind 'diffwave'; 'stft' takes 'repeat' only")
            return
        if self.kind == "unet" and hop_length % self.stride:
            raise ValueError(
                f"patch {self.patch} times the factors {list(self.factors)} is {self.stride}; it must divide the hop "
                f"length {hop_length}"
            )
        if hop_length % self.patch:
            divisors = ", ".join(str(d) for d in range(1, 65) if hop_length % d == 0)
            raise ValueError(f"patch {self.patch} must divide the hop length {hop_length}; these do: {divisors}")
        if self.upsampling == "repeat":
            return
        product = hop_length // self.patch
        if math.prod(self.upsampling_factors) != product or any(f < 2 or f % 2 for f in self.upsampling_factors):
            raise ValueError(
                f"upsampling_factors {list(self.upsampling_factors)} must be even and multiply to {product} (hop "
                f"length {hop_length} / patch {self.patch}); {_fitting_factors(product)}"
            )
