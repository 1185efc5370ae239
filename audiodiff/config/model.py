"""The configuration of a model: everything that decides what it computes, saved beside its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from audiodiff.choices import (
    CORRECTOR_STEPS,
    FRACTION,
    GUIDANCE,
    ITERATIONS,
    LOG_SNR,
    RATIO,
    SAMPLE_RATE,
    SECONDS,
    STEPS,
    Number,
    Sampler,
    Start,
    shown,
)
from audiodiff.config.base import Config
from audiodiff.config.mel_conventions import MelField
from audiodiff.config.network import DISCRETE, Betas, NetworkConfig, parse_betas
from audiodiff.errors import ConfigError

LogSNR = Annotated[float, LOG_SNR]
_Score = Annotated[float, Number(float, low=-1e9, high=1e9)]


class WhiteningConfig(Config):
    """What is known of the signal and divided out before diffusion (the data-dependent prior)."""

    kind: Literal["none", "energy", "spectral"] = "none"
    exponent: Annotated[float, FRACTION] = Field(1.0, description="power of the envelope: 0 nothing, 1 fully white")
    gain: tuple[Annotated[float, Number(float, low=1e-9, high=1e9)], ...] = Field(
        (1.0,), description="measured on training data so that whitened audio has unit variance; one per band, or one"
    )


LOGISTIC_SPREAD = 0.15
"""Scale of the logistic distribution of noise levels, as a fraction of the log-SNR range it is cut to."""


class DiffusionConfig(Config):
    """The forward process as it is trained."""

    RENAMED_KEYS: ClassVar = {"levels": "n_levels"}
    REMOVED_KEYS: ClassVar = {"learned": "use distribution: logistic, or uniform"}

    target: Literal["epsilon", "v", "x0"] = Field("epsilon", description="what the network predicts and the MSE is of")
    log_snr_min: LogSNR = -8.0
    log_snr_max: LogSNR = 10.0
    distribution: Literal["uniform", "logistic"] = Field("uniform", description="of log-SNR in training")
    betas: Betas = Field(
        (),
        description="variances of a discrete process in forward order (Ho et al. 2020), as a list or, where they grow "
        "linearly, {start: 1e-4, end: 0.05, steps: 50}: training takes all its steps alike, and range and number of "
        "noise levels follow from them",
    )
    n_levels: Annotated[int, Number(int, low=0, high=100_000)] = Field(
        0,
        description="train on so many noise levels only, evenly spaced in quantiles of the distribution, as the "
        "discrete steps of classical DiffWave; 0 trains on all. For comparisons: sampling takes levels between them",
    )
    variance: Literal["fixed", "learned"] = Field(
        "fixed",
        description="of a step of the reverse process: that of the posterior, or between its bounds as a second output "
        "of the network says (Nichol and Dhariwal 2021). 'learned' serves the likelihood and sampler 'ddpm'; the other "
        "samplers make no use of it, and the faster engines do not know it",
    )
    steps: Annotated[int, Number(int, low=1, high=100_000)] = Field(
        1000,
        description="of the discrete process, evenly spaced in log-SNR, that a learned variance and the bound on the "
        "likelihood are of; synthesis has its own",
    )

    @model_validator(mode="before")
    @classmethod
    def _follow_betas(cls, values: Any) -> Any:
        """Fill in what follows from the betas; what was filled in before may stand."""
        if not isinstance(values, dict) or not values.get("betas"):
            return values
        try:
            betas = parse_betas(values["betas"])
        except ValueError:  # the field itself says it, by its name
            return values
        if len(betas) < 2:
            raise ValueError("betas are at least 2")
        levels = log_snrs_of_betas(betas)
        follows = {"log_snr_min": levels[0], "log_snr_max": levels[-1], "n_levels": len(levels)}
        for name, value in follows.items():
            given = values.get(name, value)
            if not isinstance(given, int | float) or abs(given - value) > 1e-6:
                raise ValueError(f"{name} {given!r} contradicts the betas, from which {value:g} follows; leave it out")
        if values.get("distribution", "uniform") != "uniform":
            raise ValueError("betas have a distribution of their own; leave distribution out")
        return values | follows | {"betas": betas}

    @property
    def step_width(self) -> float:
        """How far a step of the discrete process goes, in log-SNR."""
        return (self.log_snr_max - self.log_snr_min) / self.steps

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError(f"log_snr_min {self.log_snr_min} must be below log_snr_max {self.log_snr_max}")
        if self.n_levels == 1:
            raise ValueError("n_levels 1 is no range; use 0 for a continuous one, or at least 2")
        return self

    def log_snr_quantile(self, u: float) -> float:
        """Return the log-SNR below which a fraction u (0 to 1) of the training levels lies: the quantile function."""
        if self.betas:
            levels, place = log_snrs_of_betas(self.betas), u * (len(self.betas) - 1)
            below = min(int(place), len(levels) - 2)
            return levels[below] + (place - below) * (levels[below + 1] - levels[below])
        if self.distribution == "logistic":
            edge = 1 / (1 + math.exp(0.5 / LOGISTIC_SPREAD))
            p = edge + u * (1 - 2 * edge)
            u = 0.5 + LOGISTIC_SPREAD * math.log(p / (1 - p))
        return self.log_snr_min + (self.log_snr_max - self.log_snr_min) * u


def log_snrs_of_betas(betas: Sequence[float]) -> list[float]:
    """Return the log-SNRs of a discrete process, rising (`audiodiff.diffusion.schedules.from_betas` in Python)."""
    log_abars = accumulate(math.log1p(-beta) for beta in betas)
    return [log_abar - math.log(-math.expm1(log_abar)) for log_abar in log_abars][::-1]


def check_log_snrs(log_snrs: Sequence[float]) -> None:
    """Refuse log-SNRs that are no schedule.

    Raises:
        ValueError: If they are not finite or not increasing.
    """
    if not all(map(math.isfinite, log_snrs)) or not all(low < high for low, high in pairwise(log_snrs)):
        raise ValueError(
            "log_snrs (--log-snrs) must be finite and increasing, noisiest first; got "
            + ", ".join(f"{log_snr:g}" for log_snr in log_snrs)
        )


class SearchedLevels(Config):
    """The best noise levels of one number of steps, for one start and one sampler: `audiodiff search schedule`."""

    RENAMED_KEYS: ClassVar = {"levels": "log_snrs"}

    log_snrs: tuple[LogSNR, ...] = Field(min_length=1, description="log-SNR of each step, noisiest first")
    start: Start = Field(description="what they were searched for")
    sampler: str = Field(description="likewise")
    metric: str = Field(description="a name of audiodiff.evaluation.scoring")
    score: _Score = Field(description="mean of the metric over the validation recordings the search was made on")
    uniform_score: _Score | None = Field(
        None, description="of as many steps, evenly spaced in log-SNR between the ends that the model states"
    )
    data: str = Field("", description="these recordings, in words")

    @field_validator("log_snrs")
    @classmethod
    def _check(cls, log_snrs: tuple[float, ...]) -> tuple[float, ...]:
        check_log_snrs(log_snrs)
        return log_snrs

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.log_snrs)


class SynthesisConfig(Config):
    """Default sampling settings of the model, which `vocode` and `generate` use."""

    RENAMED_KEYS: ClassVar = {"levels": "log_snrs"}

    steps: Annotated[int, STEPS] = 6
    sampler: Sampler = "ddim"
    corrector_steps: Annotated[int, CORRECTOR_STEPS] = Field(
        0, description="Langevin steps at every noise level, each one network call; for many steps of 'ddim'"
    )
    corrector_snr: Annotated[float, RATIO] = Field(
        0.16, description="size of a Langevin step, drift over noise; larger ones correct more, with a bias"
    )
    schedule: str = Field(
        "uniform",
        description="a name of audiodiff.diffusion.schedules; or 'searched', those in `searched` of as many steps",
    )
    zero_terminal: bool = Field(
        False,
        description="stretch the schedule down to the lowest trained level (Lin et al. 2024): for a start from noise "
        "with a schedule that begins higher, such as wavegrad, where pure noise would be taken for faint signal",
    )
    log_snrs: tuple[LogSNR, ...] = Field(
        (), description="log-SNR of each step, noisiest first, in place of a schedule and its ends; they decide `steps`"
    )
    searched: tuple[SearchedLevels, ...] = Field(
        (), description="what `audiodiff search schedule` found, one entry per number of steps, start and sampler"
    )
    clamp: bool = Field(
        False,
        description="clamp the signal to ±1 after every step, as lmnt-com/diffwave's inference does; no paper does",
    )
    start: Start = Field(
        "noise",
        description="what is diffused to the first noise level: nothing, or an estimate from the mel",
    )
    start_log_snr: LogSNR = Field(-8.0, description="noise level of the first step")
    end_log_snr: LogSNR = Field(10.0, description="noise level of the last step, after which the signal is clean")
    griffin_lim_iterations: Annotated[int, ITERATIONS] = Field(
        32, description="rounds; after 'phase-gradient' 1 makes phases consistent and 0 looks less far ahead"
    )
    mel_consistency: bool = Field(
        False,
        description="bring every predicted clean signal to the levels that the mel states (after Liu et al. 2024, "
        "GLA-Grad): nearer to the recording, most of all from noise; a stream looks further ahead",
    )
    guidance: Annotated[float, GUIDANCE] = Field(
        1.0,
        description="how strongly label, speaker and vector steer (classifier-free guidance): 1 as trained; 2 to 4 for "
        "clips that are clearer and more alike, at twice the cost per step; 0 not at all. Needs "
        "training.condition_dropout",
    )
    guidance_rescale: Annotated[float, FRACTION] = Field(
        0.0,
        description="how far the level that guidance inflates is brought back to that without: 0.7 where guided clips "
        "are too loud or distorted. It looks at the whole clip in every step, so none of it comes out before the end",
    )
    guidance_interval: tuple[LogSNR, LogSNR] | None = Field(
        None,
        description="log-SNR from which and up to which guidance acts; none for everywhere. Left out at its noisy end "
        "clips vary more, left out at its clean end steps cost less",
    )

    @model_validator(mode="before")
    @classmethod
    def _count(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = cls.migrate(values)
        given = values.get("log_snrs")
        return {"steps": len(given)} | values if isinstance(given, list | tuple) and given else values

    @model_validator(mode="after")
    def _check(self) -> SynthesisConfig:
        if self.start_log_snr >= self.end_log_snr:
            raise ValueError(f"start_log_snr {self.start_log_snr} must be below end_log_snr {self.end_log_snr}")
        if self.guidance_interval is not None and self.guidance_interval[0] >= self.guidance_interval[1]:
            raise ValueError(f"guidance_interval must be (low, high), got {self.guidance_interval}")
        check_log_snrs(self.log_snrs)
        if self.log_snrs and len(self.log_snrs) != self.steps:
            raise ValueError(f"{len(self.log_snrs)} log_snrs are as many steps, not {self.steps}; leave steps out")
        return self

    @property
    def rescales_guidance(self) -> bool:
        """Whether guidance needs the standard deviation of whole clips."""
        return self.guidance != 1 and self.guidance_rescale > 0


def searched_levels(searched: Sequence[SearchedLevels], steps: int, start: str, sampler: str) -> tuple[float, ...]:
    """Return the searched log-SNRs of a number of steps, a start and a sampler.

    Raises:
        ConfigError: If there are none; the message names those that there are.
    """
    for found in searched:
        if (found.steps, found.start, found.sampler) == (steps, start, sampler):
            return found.log_snrs
    known = [f"{found.steps} from {found.start} by {found.sampler}" for found in searched]
    raise ConfigError(
        f"no searched schedule of {steps} steps from {start} by {sampler}; this model has "
        f"{', '.join(known) or 'none'}. `audiodiff search schedule` finds some."
    )


class ModelConfig(Config):
    """Everything that decides what a model computes; saved in its folder, so that weights never need a script."""

    MAY_CHANGE: ClassVar = {"provenance", "synthesis", "clip_seconds", "mel.name"}

    sample_rate: Annotated[int, SAMPLE_RATE] = Field(description="Hz")
    mel: MelField = Field(None, description="a name, a mapping, or nothing for a model without mel condition")
    labels: tuple[str, ...] = Field((), description="class names of a class-conditional model")
    speakers: tuple[str, ...] = Field(
        (), description="names of speakers, as manifests call them, for a model that is conditioned on who speaks"
    )
    vector_width: Annotated[int, Number(int, low=0, high=65_536)] = Field(
        0,
        description="length of the `vector` that manifests give for each recording: what another model makes of a "
        "text, a sound or anything else, by which this one is driven; 0 for none",
    )
    clip_seconds: Annotated[float, SECONDS] | None = Field(
        None, description="length of a generated clip by default, in seconds"
    )
    condition_dropout: Annotated[float, FRACTION] = Field(
        0.0,
        description="fraction of clips whose conditions training dropped, noted by training: above 0 the model can be "
        "guided, and sampled without conditions",
    )
    network: NetworkConfig = NetworkConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="training data, licences, hours, steps, hardware, seed, measured scores"
    )

    @field_validator("labels", "speakers")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "" in names:
            raise ValueError("a name is empty; give each one a name")
        if len(set(names)) < len(names):
            raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} is there twice")
        return names

    @property
    def is_conditional(self) -> bool:
        """Whether the model has global conditions."""
        return bool(self.labels or self.speakers or self.vector_width)

    @property
    def hop_length(self) -> int:
        """Samples per mel frame, or of a stride of a network without mel; signals are padded to a multiple of it."""
        if self.mel is not None:
            return self.mel.hop_length
        return self.network.stride

    @model_validator(mode="before")
    @classmethod
    def _share_betas(cls, values: Any) -> Any:
        """Give an embedding of discrete steps the betas of the process."""
        try:
            embedding, betas = values["network"]["embedding"], values["diffusion"]["betas"]
            if embedding["kind"] not in DISCRETE or embedding.get("betas"):
                return values
            network = values["network"] | {"embedding": embedding | {"betas": betas}}
        except (KeyError, TypeError):  # left out, or of a type that is refused elsewhere
            return values
        return values | {"network": network}

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.mel is not None and self.mel.sample_rate != self.sample_rate:
            raise ValueError(
                f"mel {self.mel.name} is for {self.mel.sample_rate} Hz, sample_rate is {self.sample_rate} Hz; write "
                f"mel: {self.mel.name.partition('@')[0]}@{self.sample_rate}, or sample_rate: {self.mel.sample_rate}"
            )
        if self.mel is None and self.whitening.kind != "none":
            raise ValueError(f"whitening {self.whitening.kind!r} needs a mel")
        if self.mel is None and self.synthesis.start != "noise":
            raise ValueError(f"start {self.synthesis.start!r} needs a mel")
        if self.mel is not None:
            self.network.check_hop(self.mel.hop_length)
        elif self.network.upsampling != "repeat":
            raise ValueError(f"upsampling {self.network.upsampling!r} needs a mel; without one leave it out")
        self.network.embedding.check_range(self.diffusion.log_snr_min, self.diffusion.log_snr_max)
        self._check_frames()
        if self.network.kind == "stft" and self.diffusion.target != "epsilon":
            raise ValueError(
                f"network kind 'stft' predicts noise; diffusion.target {self.diffusion.target!r} must be 'epsilon'"
            )
        return self

    def _check_frames(self) -> None:
        """Refuse a window that the network's own STFT cannot have (`audiodiff.audio.transforms.FramedSTFT`)."""
        n_fft, hop = self.network.n_fft, self.network.hop_length
        if self.network.kind == "stft" and (n_fft % hop or n_fft < 2 * hop or (n_fft - hop) % 2):
            fitting = ", ".join(str(n * hop) for n in (2, 3, 4, 5, 6, 8) if n * hop % 2 == hop % 2)
            raise ValueError(
                f"network.n_fft {n_fft} must be a multiple of network.hop_length {hop}, at least twice it, their "
                f"difference even; these do: {fitting}"
            )
