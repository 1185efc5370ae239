"""The typed configuration: one pydantic model per part, read from YAML, saved beside weights as JSON."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from audiodiff.errors import ConfigError


class Config(BaseModel):
    """Base of all parts: unknown keys are refused, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MelConfig(Config):
    """One mel convention: everything that decides how samples become a mel spectrogram.

    Two toolkits that differ in any of these make mels that sound like noise in each other's vocoder.
    """

    name: str = "custom"
    sample_rate: int = Field(gt=0, description="Hz")
    n_fft: int = Field(gt=0, description="samples")
    hop_length: int = Field(gt=0, description="samples between frames")
    win_length: int = Field(gt=0, description="samples; the Hann window is centred in n_fft")
    n_mels: int = Field(gt=0, description="number of bins")
    f_min: float = Field(ge=0, description="Hz")
    f_max: float = Field(gt=0, description="Hz")
    scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney", "none"] = "slaney"
    power: Literal[1, 2] = 1
    centre: Literal["frame", "hop"] = Field(
        "hop",
        description="where frame i is centred: 'frame' at i * hop (n_fft / 2 padded, one frame more), "
        "'hop' at (i + 1/2) * hop ((n_fft - hop) / 2 padded)",
    )
    padding: Literal["reflect", "constant"] = "reflect"
    magnitude_floor: float = Field(0.0, ge=0, description="added to the squared magnitude before its root")
    window_norm: bool = Field(False, description="divide the spectrum by the L2 norm of the window")
    log: Literal["natural", "log10"] = "natural"
    floor: float = Field(1e-5, gt=0, description="mel values are clamped to this before the logarithm")
    multiplier: float = Field(1.0, gt=0, description="value = clip(multiplier * log(mel) + offset)")
    offset: float = 0.0
    clip: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> MelConfig:
        if self.f_max > self.sample_rate / 2:
            raise ValueError(f"f_max {self.f_max} Hz is above half of sample_rate {self.sample_rate} Hz")
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min} Hz must be below f_max {self.f_max} Hz")
        if not self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(
                f"need hop_length <= win_length <= n_fft, got {self.hop_length}, {self.win_length}, {self.n_fft}"
            )
        if self.centre == "hop" and (self.n_fft - self.hop_length) % 2:
            raise ValueError(f"centre 'hop' needs n_fft - hop_length even, got {self.n_fft} - {self.hop_length}")
        return self


def _convention(name: str, sample_rate: int, n_mels: int, **values: Any) -> MelConfig:
    values = {"n_fft": 1024, "hop_length": 256, "f_min": 0.0, "f_max": sample_rate / 2} | values
    values.setdefault("win_length", values["n_fft"])
    return MelConfig(name=name, sample_rate=sample_rate, n_mels=n_mels, **values)


MEL_CONVENTIONS: dict[str, MelConfig] = {
    convention.name: convention
    for convention in (
        _convention("hifigan-22k", 22050, 80, f_max=8000.0, magnitude_floor=1e-9),
        _convention("tacotron2", 22050, 80, f_max=8000.0, centre="frame"),
        _convention(
            "lmnt", 22050, 80, f_min=20.0, scale="htk", norm="none", centre="frame", window_norm=True,
            log="log10", multiplier=0.2, offset=0.8, clip=(0.0, 1.0),
        ),
        _convention("vocos-24k", 24000, 100, scale="htk", norm="none", centre="frame", floor=1e-7),
        _convention("bigvgan-24k", 24000, 100, magnitude_floor=1e-9),
        _convention("bigvgan-44k", 44100, 128, n_fft=2048, hop_length=512, magnitude_floor=1e-9),
    )
}  # fmt: skip


def _named_mel(value: Any) -> Any:
    if isinstance(value, str):
        if value not in MEL_CONVENTIONS:
            raise ValueError(f"unknown mel convention {value!r}; choose from {', '.join(MEL_CONVENTIONS)}")
        return MEL_CONVENTIONS[value]
    return value


MelField = Annotated[MelConfig | None, BeforeValidator(_named_mel)]


class EmbeddingConfig(Config):
    """How the noise level (log-SNR) enters the network."""

    kind: Literal["rbf", "sinusoidal"] = "rbf"
    width: int = Field(128, gt=0, description="features after the MLP")
    centres: int = Field(32, gt=1, description="number of RBF centres (or of sinusoidal frequencies)")
    initialisation: Literal["uniform", "quantiles", "random"] = "uniform"
    spread: float = Field(1.0, gt=0, description="initial spread, in units of the distance between centres")
    learnable: bool = Field(True, description="whether centres and spreads are trained")


class NetworkConfig(Config):
    """The noise predictor: gated dilated residual layers, on samples, patches of samples or STFT frames."""

    kind: Literal["diffwave", "frames"] = "diffwave"
    channels: int = Field(64, gt=0)
    layers: int = Field(30, gt=0)
    dilation_cycle: int = Field(10, gt=0, description="dilation of layer i is 2 ** (i % dilation_cycle)")
    patch: int = Field(1, gt=0, description="samples per position ('diffwave' only); must divide the hop length")
    n_fft: int = Field(1024, gt=0, description="window of the network's own STFT, in samples ('frames' only)")
    hop_length: int = Field(256, gt=0, description="hop of the network's own STFT, in samples ('frames' only)")
    embedding: EmbeddingConfig = EmbeddingConfig()


class WhiteningConfig(Config):
    """What is known of the signal and divided out before diffusion (the data-dependent prior)."""

    kind: Literal["none", "energy", "spectral"] = "none"
    exponent: float = Field(1.0, ge=0, le=1, description="power of the envelope: 0 nothing, 1 fully white")
    gain: tuple[float, ...] = Field(
        (1.0,), description="measured on training data so that whitened audio has unit variance; one per band, or one"
    )


LOGISTIC_SPREAD = 0.15
"""Scale of the logistic distribution of noise levels, as a share of the log-SNR range it is cut to."""


class DiffusionConfig(Config):
    """The forward process as it is trained."""

    target: Literal["epsilon", "v", "x0"] = Field("epsilon", description="what the network predicts and the MSE is of")
    log_snr_min: float = -8.0
    log_snr_max: float = 10.0
    distribution: Literal["uniform", "logistic"] = Field("uniform", description="of log-SNR in training")

    @model_validator(mode="after")
    def _check(self) -> DiffusionConfig:
        if self.log_snr_min >= self.log_snr_max:
            raise ValueError(f"log_snr_min {self.log_snr_min} must be below log_snr_max {self.log_snr_max}")
        return self

    def log_snr_at(self, share: float) -> float:
        """Return the log-SNR below which a share (0 to 1) of the training levels lies: the quantile function."""
        if self.distribution == "logistic":
            edge = 1 / (1 + math.exp(0.5 / LOGISTIC_SPREAD))
            p = edge + share * (1 - 2 * edge)
            share = 0.5 + LOGISTIC_SPREAD * math.log(p / (1 - p))
        return self.log_snr_min + (self.log_snr_max - self.log_snr_min) * share


class SynthesisConfig(Config):
    """The reverse process as the model likes it best: what `vocode` and `generate` use unless told otherwise."""

    steps: int = Field(6, gt=0)
    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = "ddim"
    schedule: str = Field("uniform", description="a name of audiodiff.diffusion.schedules")
    start: Literal["noise", "griffin-lim"] = Field(
        "noise",
        description="what is diffused to the first noise level: nothing, or a Griffin-Lim estimate from the mel",
    )
    start_log_snr: float = Field(-8.0, description="noise level of the first step")
    end_log_snr: float = Field(10.0, description="noise level of the last step, after which the signal is clean")
    griffin_lim_iterations: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _check(self) -> SynthesisConfig:
        if self.start_log_snr >= self.end_log_snr:
            raise ValueError(f"start_log_snr {self.start_log_snr} must be below end_log_snr {self.end_log_snr}")
        return self


class ModelConfig(Config):
    """Everything that decides what a model computes; saved in its folder, so that weights never need a script."""

    sample_rate: int = Field(gt=0, description="Hz")
    mel: MelField = Field(None, description="a name, a mapping, or nothing for a model without mel condition")
    labels: tuple[str, ...] = Field((), description="class names of a class-conditional model")
    clip_seconds: float | None = Field(None, gt=0, description="length of a generated clip by default, in seconds")
    network: NetworkConfig = NetworkConfig()
    whitening: WhiteningConfig = WhiteningConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="training data, licences, hours, steps, hardware, seed, measured scores"
    )

    @property
    def block_length(self) -> int:
        """Samples per conditioning frame; signals are padded to a multiple of it."""
        if self.mel is not None:
            return self.mel.hop_length
        return self.network.hop_length if self.network.kind == "frames" else self.network.patch

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.mel is not None and self.mel.sample_rate != self.sample_rate:
            raise ValueError(
                f"mel {self.mel.name} is for {self.mel.sample_rate} Hz, sample_rate is {self.sample_rate} Hz"
            )
        if self.mel is None and self.whitening.kind != "none":
            raise ValueError(f"whitening {self.whitening.kind!r} needs a mel")
        if self.mel is None and self.synthesis.start == "griffin-lim":
            raise ValueError("start 'griffin-lim' needs a mel")
        hop = self.mel.hop_length if self.mel else None
        if self.network.kind == "diffwave" and hop and hop % self.network.patch:
            divisors = ", ".join(str(d) for d in range(1, 65) if hop % d == 0)
            raise ValueError(f"patch {self.network.patch} must divide the hop length {hop}; these do: {divisors}")
        if self.network.kind == "frames" and hop and self.network.hop_length != hop:
            raise ValueError(f"network.hop_length {self.network.hop_length} must equal the mel's hop_length {hop}")
        if self.network.kind == "frames" and self.diffusion.target != "epsilon":
            raise ValueError(
                f"network kind 'frames' predicts noise; diffusion.target {self.diffusion.target!r} must be 'epsilon'"
            )
        return self


class DataConfig(Config):
    """Where recordings come from and what is done to them on the way."""

    train: str = Field(description="a manifest (.jsonl) or a folder of audio")
    valid: str | None = Field(None, description="likewise; without it a fixed share of train is held out")
    valid_share: float = Field(0.05, gt=0, lt=1)
    crop_seconds: float = Field(0.75, gt=0, description="rounded up to whole hops; shorter clips are zero-padded")
    polarity: bool = Field(True, description="flip the sign of half the crops")
    gain_db: tuple[float, float] = Field((-6.0, 3.0), description="range of a random gain per crop, in dB")
    resample: bool = Field(True, description="resample files at another rate; False refuses them")
    workers: int = Field(0, ge=0, description="processes that read audio")

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.gain_db[0] > self.gain_db[1]:
            raise ValueError(f"gain_db must be (low, high), got {self.gain_db}")
        return self


class TrainingConfig(Config):
    """How long, how fast, and how carefully to train."""

    steps: int = Field(1_000_000, gt=0)
    batch_size: int = Field(16, gt=0)
    learning_rate: float = Field(2e-4, gt=0)
    final_learning_rate: float = Field(0.0, ge=0, description="reached by a cosine at the last step")
    warmup_steps: int = Field(500, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float = Field(1.0, gt=0, description="largest L2 norm of the gradient")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = Field(False, description="torch.compile the network")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    validate_every: int = Field(1000, gt=0, description="steps")
    validation_crops: int = Field(32, gt=0)
    validation_levels: int = Field(8, gt=1, description="fixed noise levels, evenly spaced in log-SNR")
    sample_every: int = Field(5000, gt=0, description="steps between pictures and audio in TensorBoard")
    checkpoint_every: int = Field(1000, gt=0, description="steps")
    keep: int = Field(3, gt=0, description="newest checkpoints that stay")
    max_bad_steps: int = Field(20, gt=0, description="non-finite losses in a row that stop the run")
    initial_model: str | None = Field(None, description="a model folder whose weights training starts from")


class RunConfig(Config):
    """One training run: `audiodiff train run.yaml`."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = TrainingConfig()


def _explain(error: ValidationError, source: str) -> ConfigError:
    lines = [f"{source} is not a valid configuration:"]
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"]) or "(top level)"
        lines.append(f"  {where}: {item['msg'].removeprefix('Value error, ')}")
    return ConfigError("\n".join(lines))


ConfigT = TypeVar("ConfigT", bound=Config)


def parse_config(kind: type[ConfigT], values: object, source: str) -> ConfigT:
    """Validate plain values against a configuration class.

    Args:
        kind: The configuration class, for example `ModelConfig`.
        values: A mapping as read from YAML or JSON.
        source: Where the values came from, for the message.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: If a key is unknown, or a value is missing, of the wrong type or contradictory.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(error, source) from error


def load_run_config(path: str | Path) -> RunConfig:
    """Read the configuration of a training run from a YAML file.

    Args:
        path: The YAML file; its keys are the fields of `RunConfig`.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: If the file cannot be read, is no YAML, or does not validate.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give the path of a YAML file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    return parse_config(RunConfig, values, str(path))
