"""The configuration of a training run, read from YAML: a model, data, and how to train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from audiodiff.config.base import Config, change, parse_config
from audiodiff.config.model import ModelConfig
from audiodiff.errors import ConfigError


class TransformConfig(Config):
    """One augmentation by the package audiomentations (extra `augment`)."""

    name: str = Field(description="as audiomentations calls it, for example AddGaussianSNR")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its own, for example {p: 0.5}")


class DataConfig(Config):
    """Where recordings come from and what is done to them on the way."""

    RENAMED_KEYS: ClassVar = {"valid_share": "valid_fraction", "max_bad_share": "max_bad_fraction"}

    train: str = Field(
        description="a manifest (.jsonl), a folder of audio, or an index of shards (.shards.json, or URL)"
    )
    valid: str | None = Field(None, description="likewise; without it a fixed fraction of train is held out")
    valid_fraction: float = Field(0.05, gt=0, lt=1)
    crop_seconds: float = Field(0.75, gt=0, description="rounded up to whole hops; shorter clips are zero-padded")
    one_shots: bool = Field(
        False,
        description="each recording is one sound: crops begin where it begins, and long sounds are seen no more often "
        "than short ones. For drums, notes and words; without it every second of audio is as likely",
    )
    peak_db: float | None = Field(
        None,
        le=0,
        description="bring every crop to this peak, in dB of full scale, before `gain_db`; unset, crops are as loud as "
        "recorded. For generators: recordings whose levels spread teach clips whose levels spread, and a level that no "
        "condition tells is decided by the initial noise",
    )
    fade_seconds: tuple[float, float] = Field(
        (0.0, 0.0),
        description="fade in at the start of a crop, and out at its end or where the recording ends before it, in "
        "seconds. For generators: recordings that break off teach clips that break off, and clicks",
    )
    polarity: bool = Field(True, description="flip the sign of half the crops")
    gain_db: tuple[float, float] = Field((-6.0, 3.0), description="range of a random gain per crop, in dB")
    time_reversal: bool = Field(
        False, description="play half the crops backwards; for drums and noises, not for speech"
    )
    speed: tuple[float, float] = Field(
        (1.0, 1.0),
        description="range of a random speed per crop, as a tape would play it, pitch included: a few drums or notes "
        "become many, (0.8, 1.25); voices become other voices, (0.9, 1.1)",
    )
    mel_noise_db: float = Field(
        0.0,
        ge=0,
        description="standard deviation of noise on the mel, in dB, so that mels that another model predicted do not "
        "take this one by surprise",
    )
    transforms: tuple[TransformConfig, ...] = Field((), description="by audiomentations, applied in this order")
    resample: bool = Field(True, description="resample files at another rate; False refuses them")
    mask_bandwidth: bool = Field(
        True,
        description="leave out of the loss what is above the band of a recording, so that speech from 16 kHz does not "
        "teach silence there; False has the model end its band where the mel shows that the recording ended",
    )
    workers: int = Field(0, ge=0, description="processes that read audio, where it is not resident")
    resident: Literal["auto", "on", "off"] = Field(
        "auto",
        description="hold the whole corpus in memory as 16-bit samples at the model's rate, on the GPU where there is "
        "one, and cut crops there; the examples stay the same. auto does so if the corpus takes at most a quarter of "
        "the GPU's free memory (without a GPU, of all memory, and at most 512 MiB) and there are no transforms",
    )
    max_bad_fraction: float = Field(
        0.05,
        ge=0,
        le=1,
        description="fraction of the recordings that may turn out unreadable; they are skipped and listed. Beyond it, "
        "the run saves and stops",
    )

    @field_validator("resident", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        """Take what YAML makes of on and off."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.gain_db[0] > self.gain_db[1]:
            raise ValueError(f"gain_db must be (low, high), got {self.gain_db}")
        if min(self.fade_seconds) < 0 or sum(self.fade_seconds) > self.crop_seconds:
            raise ValueError(
                f"fade_seconds must be 0 or more and fit in crop_seconds {self.crop_seconds}, got {self.fade_seconds}"
            )
        if not 0.25 <= self.speed[0] <= self.speed[1] <= 4:
            raise ValueError(f"speed must be (low, high) between 0.25 and 4, got {self.speed}")
        return self


class AdapterConfig(Config):
    """Low-rank adapters of the trunk (Hu et al. 2021): every weight matrix W becomes W + alpha / rank * up @ down."""

    rank: int = Field(8, gt=0, description="columns of `up` and rows of `down`: what an adapter can hold grows with it")
    alpha: float = Field(8.0, gt=0, description="how strongly a step of training moves the adapted weights")


class TrainingConfig(Config):
    """How long, how fast, and how carefully to train."""

    RENAMED_VALUES: ClassVar = {"trained": {"ends": "all_but_trunk"}}

    steps: int = Field(1_000_000, gt=0, description="at most, where `minutes` is set")
    minutes: float | None = Field(
        None,
        gt=0,
        description="end after this wall-clock time, reading the data and the last checkpoint included, and let the "
        "learning rate follow the time; a resumed run has what is left. Unset, the run has `steps`",
    )
    batch_size: int = Field(16, gt=0, description="crops per step, in each process of a run on several")
    learning_rate: float = Field(2e-4, gt=0)
    final_learning_rate: float = Field(0.0, ge=0, description="reached by a cosine at the last step")
    embedding_learning_rate: float | None = Field(
        None,
        gt=0,
        description="learning rate of the centres and spreads of the RBF embedding, in units of log-SNR, with the same "
        "warm-up and the same cosine; unset, as of all else. Higher lets centres travel within a short run",
    )
    warmup_steps: int = Field(500, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.99)
    gradient_clip: float = Field(1.0, gt=0, description="largest L2 norm of the gradient")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    loss_weighting: Literal["none", "min-snr"] = Field(
        "none",
        description="how much a noise level counts in training: with target 'epsilon' all alike; or min-SNR (Hang et "
        "al. 2023), which takes weight from levels with little noise. For generation from noise; a vocoder that starts "
        "from a Griffin-Lim estimate works at just the levels it takes from. Validation is never weighted",
    )
    min_snr_gamma: float = Field(5.0, gt=0, description="SNR from which on 'min-snr' weighs less")
    spectral_weighting: float = Field(
        0.0,
        ge=0,
        le=2,
        description="power of the ear's bandwidth (ERB, Glasberg and Moore 1990) that the error at a frequency is "
        "divided by in training: 0 counts each Hz alike, 1 each auditory band, so that a small network spends itself "
        "below 4 kHz, where most of speech is heard. Validation is never weighted",
    )
    few_step_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the M-STFT distance between the recording and the whole reverse process, unrolled with "
        "the model's synthesis settings; added to the denoising loss for a fine-tuning that serves few steps",
    )
    few_step_counts: tuple[int, ...] = Field(
        (),
        description="numbers of steps that the few-step loss unrolls, one of them drawn for each training step, so "
        "that more steps are never worse; none for the model's own number",
    )
    few_step_from_noise: float = Field(
        0.0, ge=0, le=1, description="fraction of training steps whose few-step loss starts from noise, with 4 steps"
    )
    condition_dropout: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of clips that lose their label, speaker and vector (of several, each by itself too), "
        "so that the model also learns to do without: 0.1 for guidance and for samples of no class; 0 where neither is "
        "wanted",
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = Field(False, description="torch.compile the network")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: int = 0
    validate_every: int = Field(1000, gt=0, description="steps")
    validation_crops: int = Field(32, gt=0)
    validation_levels: int = Field(8, gt=1, description="fixed noise levels, evenly spaced in log-SNR")
    validation_bits: bool = Field(
        False,
        description="report the bound on the likelihood too, in bits per sample of 16-bit audio: to compare models of "
        "different targets, ranges or variances, whose losses do not compare; it takes 33 network calls per crop",
    )
    sample_every: int = Field(5000, gt=0, description="steps between pictures and audio in TensorBoard")
    checkpoint_every: int = Field(1000, gt=0, description="steps")
    checkpoint_minutes: float | None = Field(
        None, gt=0, description="also save when the last checkpoint is this old; for machines that may be taken away"
    )
    keep: int = Field(3, gt=0, description="newest checkpoints that stay")
    gradient_checkpointing: bool = Field(
        False, description="keep the input of each layer only and compute the rest again: less memory, a third slower"
    )
    patience: int | None = Field(
        None, gt=0, description="validations without a new best after which the run ends; unset, it never ends early"
    )
    max_bad_steps: int = Field(20, gt=0, description="non-finite losses in a row that stop the run")
    initial_model: str | None = Field(None, description="a model folder whose weights training starts from")
    trained: Literal["all", "all_but_trunk", "adapters"] = Field(
        "all",
        description="what of the initial model is trained: all of it; all but its trunk of residual layers, which are "
        "the embeddings, the conditioner and the projections; or low-rank adapters (LoRA) of the trunk alone, which "
        "overfit least",
    )
    adapters: AdapterConfig = AdapterConfig()


class RunConfig(Config):
    """One training run: `audiodiff train run.yaml`."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.training.few_step_weight and self.model.mel is None:
            raise ValueError("training.few_step_weight needs a model with a mel, whose recording the result is held to")
        if self.training.condition_dropout and not self.model.is_conditional:
            raise ValueError(
                "training.condition_dropout needs a model with labels, speakers or vector_width; there is nothing to "
                "drop"
            )
        embedding = self.model.network.embedding
        if self.training.embedding_learning_rate and (embedding.kind != "rbf" or not embedding.learnable):
            raise ValueError(
                "training.embedding_learning_rate is for learnable centres or spreads of an embedding of kind 'rbf'; "
                f"here kind is {embedding.kind!r} and learnable {embedding.learnable}"
            )
        if self.training.trained != "all" and self.training.initial_model is None:
            raise ValueError(
                f"training.trained is '{self.training.trained}', which leaves the other weights as they are: name the "
                "model they come from in training.initial_model"
            )
        if self.training.trained == "adapters" and self.training.embedding_learning_rate:
            raise ValueError("training.embedding_learning_rate has no effect on adapters of the trunk; leave it out")
        return self


def load_run_config(path: str | Path, changes: Mapping[str, object] | None = None) -> RunConfig:
    """Read the configuration of a training run from a YAML file.

    Args:
        path: The YAML file; its keys are the fields of `RunConfig`.
        changes: Dotted key to value, for example `{"training.steps": 2000}`, in place of what the file says.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: If the file cannot be read, is no YAML mapping, or does not validate.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no mapping with the keys model, data and training.")
    return parse_config(RunConfig, change(values, changes or {}), str(path))
