"""The configuration of a training run, read from YAML: a model, data, and how to train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from audiodiff.choices import (
    COUNT,
    EMA_WIDTH,
    FRACTION,
    FRACTION_BELOW_1,
    MINUTES,
    RATIO,
    SECONDS,
    SEED,
    STEPS,
    WIDTH,
    Number,
)
from audiodiff.config.base import Config, change, parse_config
from audiodiff.config.model import ModelConfig
from audiodiff.errors import ConfigError
from audiodiff.text import read_yaml

_TRAINING_STEPS = Number(int, low=1, high=1_000_000_000, unit="steps")
_Fade = Annotated[float, Number(float, low=0, high=3600, unit="seconds")]
_Gain = Annotated[float, Number(float, low=-200, high=200, unit="dB")]
_Speed = Annotated[float, Number(float, low=0.25, high=4)]
_Decay = Annotated[float, FRACTION_BELOW_1]
_Width = Annotated[float, EMA_WIDTH]


class TransformConfig(Config):
    """One augmentation by the package audiomentations (extra `augment`)."""

    name: str = Field(description="as audiomentations calls it, for example AddGaussianSNR")
    parameters: dict[str, Any] = Field(default_factory=dict, description="its own, for example {p: 0.5}")


class DataConfig(Config):
    """Where recordings come from and what is done to them on the way."""

    RENAMED_KEYS: ClassVar = {"valid_share": "valid_fraction", "max_bad_share": "max_bad_fraction"}
    MAY_CHANGE: ClassVar = {"workers", "resident", "max_bad_fraction"}

    train: str = Field(
        description="a manifest (.jsonl), a folder of audio, or an index of shards (.shards.json, or URL)"
    )
    valid: str | None = Field(None, description="likewise; without it a fixed fraction of train is held out")
    valid_fraction: Annotated[float, RATIO] = 0.05
    crop_seconds: Annotated[float, SECONDS] = Field(
        0.75, description="rounded up to whole hops; shorter clips are zero-padded"
    )
    one_shots: bool = Field(
        False,
        description="each recording is one sound: crops begin where it begins, and long sounds are seen no more often "
        "than short ones. For drums, notes and words; without it every second of audio is as likely",
    )
    peak_db: Annotated[float, Number(float, low=-200, high=0, unit="dB")] | None = Field(
        None,
        description="normalise each crop to this peak (dBFS) before `gain_db`; unset: off, crops are as loud as "
        "recorded. For generators: recordings whose levels spread teach clips whose levels spread, and a level that no "
        "condition tells is decided by the initial noise",
    )
    fade_seconds: tuple[_Fade, _Fade] = Field(
        (0.0, 0.0),
        description="fade in at the start of a crop, and out at its end or where the recording ends before it, in "
        "seconds. For generators: recordings that break off teach clips that break off, and clicks",
    )
    polarity: bool = Field(True, description="flip the sign of half the crops")
    gain_db: tuple[_Gain, _Gain] = Field((-6.0, 3.0), description="range of a random gain per crop, in dB")
    time_reversal: bool = Field(
        False, description="play half the crops backwards; for drums and noises, not for speech"
    )
    speed: tuple[_Speed, _Speed] = Field(
        (1.0, 1.0),
        description="range of a random speed per crop, resampling speed, pitch included: a few drums or notes "
        "become many, (0.8, 1.25); voices become other voices, (0.9, 1.1)",
    )
    mel_noise_db: Annotated[float, Number(float, low=0, high=200, unit="dB")] = Field(
        0.0,
        description="standard deviation of noise on the mel, in dB, so that mels that another model predicted do not "
        "take this one by surprise",
    )
    given_mels: bool = Field(
        True,
        description="condition on the mels that manifests name (`mel`), where they do, in training and validation; "
        "False computes all mels from the recordings. `gain_db` moves given mels too, `mel_noise_db` is added to them "
        "as to others; `speed`, `time_reversal`, `peak_db`, `fade_seconds` and `transforms` are refused with them",
    )
    transforms: tuple[TransformConfig, ...] = Field((), description="by audiomentations, applied in this order")
    resample: bool = Field(True, description="resample files at another rate; False refuses them")
    mask_bandwidth: bool = Field(
        True,
        description="leave out of the loss what is above the band of a recording, so that speech from 16 kHz does not "
        "teach silence there; False has the model end its band where the mel shows that the recording ended",
    )
    workers: Annotated[int, Number(int, low=0, high=256)] = Field(
        0, description="processes that read audio, where it is not resident"
    )
    resident: Literal["auto", "on", "off"] = Field(
        "auto",
        description="hold the whole corpus in memory as 16-bit samples at the model's rate, on the GPU where there is "
        "one, and cut crops there; the examples stay the same. auto does so if the corpus takes at most a quarter of "
        "the GPU's free memory (without a GPU, of all memory, and at most 512 MiB) and there are no transforms",
    )
    max_bad_fraction: Annotated[float, FRACTION] = Field(
        0.05,
        description="fraction of the recordings that may turn out unreadable; they are skipped and listed. Beyond it, "
        "the run saves and stops",
    )

    @field_validator("train", "valid")
    @classmethod
    def _from_home(cls, path: str | None) -> str | None:
        return path and os.path.expanduser(path)

    @field_validator("resident", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        """Take what YAML makes of on and off."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.gain_db[0] > self.gain_db[1]:
            raise ValueError(f"gain_db must be (low, high), got {self.gain_db}")
        if sum(self.fade_seconds) > self.crop_seconds:
            raise ValueError(f"fade_seconds must fit in crop_seconds {self.crop_seconds}, got {self.fade_seconds}")
        if self.speed[0] > self.speed[1]:
            raise ValueError(f"speed must be (low, high), got {self.speed}")
        return self


class AdapterConfig(Config):
    """Low-rank adapters of the trunk (Hu et al. 2021): every weight matrix W becomes W + alpha / rank * up @ down."""

    rank: Annotated[int, WIDTH] = Field(
        8, description="columns of `up` and rows of `down`: what an adapter can hold grows with it"
    )
    alpha: Annotated[float, Number(float, above=0, high=1e6)] = Field(
        8.0, description="how strongly a step of training moves the adapted weights"
    )


class PostHocEMAConfig(Config):
    """Averages of which `audiodiff search ema` makes one of any width after training (Karras et al. 2024)."""

    widths: tuple[_Width, _Width] = Field(
        (0.05, 0.10),
        description="standard deviations of their profiles, as fractions of the steps done",
    )
    snapshot_every: Annotated[int, _TRAINING_STEPS] = Field(
        1000, description="steps; 40 snapshots or more in a run reach widths from 0.015 to 0.25. A run keeps them all"
    )

    @model_validator(mode="after")
    def _check(self) -> PostHocEMAConfig:
        if self.widths[0] == self.widths[1]:
            raise ValueError(f"widths must differ, got {self.widths}")
        return self


class TrainingConfig(Config):
    """Optimisation settings."""

    RENAMED_VALUES: ClassVar = {"trained": {"ends": "all_but_trunk"}}
    MAY_CHANGE: ClassVar = {
        *("minutes", "device", "compile", "gradient_checkpointing", "keep", "checkpoint_every", "checkpoint_minutes"),
        *("validate_every", "validation_bits", "sample_every", "patience", "max_bad_steps", "trackers"),
    }

    steps: Annotated[int, _TRAINING_STEPS] = Field(1_000_000, description="at most, where `minutes` is set")
    minutes: Annotated[float, MINUTES] | None = Field(
        None,
        description="end after this wall-clock time, reading the data and the last checkpoint included, and let the "
        "learning rate follow the time; a resumed run has what is left. Unset, the run has `steps`",
    )
    batch_size: Annotated[int, Number(int, low=1, high=65_536)] = Field(
        16, description="crops at once, in each process of a run on several"
    )
    gradient_accumulation_steps: Annotated[int, Number(int, low=1, high=65_536)] = Field(
        1,
        description="batches whose gradients make one step: trains as with so many times the `batch_size` and takes "
        "the memory of one",
    )
    learning_rate: Annotated[float, Number(float, above=0, high=1)] = 2e-4
    final_learning_rate: Annotated[float, Number(float, low=0, high=1)] = Field(
        0.0, description="'cosine' only: reached at the last step"
    )
    learning_rate_schedule: Literal["cosine", "constant", "step"] = Field(
        "cosine",
        description="after the warm-up: down to the final rate by a cosine; as it is; or times learning_rate_factor "
        "every learning_rate_step steps",
    )
    learning_rate_step: Annotated[int, _TRAINING_STEPS] | None = Field(None, description="'step' only")
    learning_rate_factor: Annotated[float, RATIO] | None = Field(None, description="'step' only")
    embedding_learning_rate: Annotated[float, Number(float, above=0, high=100)] | None = Field(
        None,
        description="learning rate of the centres and spreads of the RBF embedding, in units of log-SNR, with the same "
        "warm-up and the same cosine; unset, as of all else. Higher lets centres travel within a short run",
    )
    warmup_steps: Annotated[int, Number(int, low=0, high=1_000_000_000)] = 500
    weight_decay: Annotated[float, Number(float, low=0, high=100)] = 0.0
    betas: tuple[_Decay, _Decay] = (0.9, 0.99)
    gradient_clip: Annotated[float, Number(float, above=0, high=1e9)] | None = Field(
        1.0, description="largest L2 norm of the gradient; null for any"
    )
    ema_decay: _Decay = Field(0.999, description="of the averaged weights, which are validated and used")
    post_hoc_ema: PostHocEMAConfig | None = Field(
        None, description="keep averages beside those, to choose their length after training: {} for the usual ones"
    )
    loss: Literal["l2", "l1"] = Field(
        "l2",
        description="of the error of what the network predicts: mean square; or mean absolute value, as lmnt-com/"
        "diffwave has it. Validation is the mean square, so that runs compare",
    )
    loss_weighting: Literal["none", "min-snr"] = Field(
        "none",
        description="how much a noise level counts in training: with target 'epsilon' all alike; or min-SNR (Hang et "
        "al. 2023), which takes weight from levels with little noise. For generation from noise; a vocoder that starts "
        "from a Griffin-Lim estimate works at just the levels it takes from. Validation is never weighted",
    )
    min_snr_gamma: Annotated[float, Number(float, above=0, high=1e6)] = Field(
        5.0, description="SNR from which on 'min-snr' weighs less"
    )
    spectral_weighting: Annotated[float, Number(float, low=0, high=2)] = Field(
        0.0,
        description="power of the ear's bandwidth (ERB, Glasberg and Moore 1990) that the error at a frequency is "
        "divided by in training: 0 counts each Hz alike, 1 each auditory band, so that a small network focuses "
        "below 4 kHz, where most of speech is heard. Validation is never weighted",
    )
    few_step_weight: Annotated[float, Number(float, low=0, high=1e6)] = Field(
        0.0,
        description="weight of the M-STFT distance between the recording and the whole reverse process, unrolled with "
        "the model's synthesis settings; added to the denoising loss for few-step fine-tuning",
    )
    few_step_counts: tuple[Annotated[int, STEPS], ...] = Field(
        (),
        description="numbers of steps that the few-step loss unrolls, one of them drawn for each training step, so "
        "that more steps are never worse; none for the model's own number",
    )
    few_step_from_noise: Annotated[float, FRACTION] = Field(
        0.0, description="fraction of training steps whose few-step loss starts from noise, with 4 steps"
    )
    condition_dropout: Annotated[float, FRACTION] = Field(
        0.0,
        description="fraction of clips that lose their label, speaker and vector (of several, each by itself too), "
        "so that the model also learns to do without: 0.1 for guidance and for samples of no class; 0 where neither is "
        "wanted",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "fp32", description="of matrix products; auto is bf16 where the hardware has it, else fp32"
    )
    compile: bool = Field(False, description="torch.compile the network")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    seed: Annotated[int, SEED] = 0
    validate_every: Annotated[int, _TRAINING_STEPS] = Field(1000, description="steps")
    validation_crops: Annotated[int, COUNT] = 32
    validation_levels: Annotated[int, Number(int, low=2, high=10_000)] = Field(
        8, description="fixed noise levels, evenly spaced in log-SNR"
    )
    validation_bits: bool = Field(
        False,
        description="report the bound on the likelihood too, in bits per sample of 16-bit audio: to compare models of "
        "different targets, ranges or variances, whose losses do not compare; it takes 33 network calls per crop",
    )
    sample_every: Annotated[int, _TRAINING_STEPS] = Field(
        5000, description="steps between pictures and audio in TensorBoard"
    )
    trackers: tuple[str, ...] = Field(
        (),
        description="log curves and settings to these too, by accelerate: wandb, mlflow, comet_ml, aim, clearml, "
        "dvclive, swanlab, trackio; each is a package of its own. TensorBoard needs no mention",
    )
    checkpoint_every: Annotated[int, _TRAINING_STEPS] = Field(1000, description="steps")
    checkpoint_minutes: Annotated[float, MINUTES] | None = Field(
        None, description="also save when the last checkpoint is this old; for machines that may be taken away"
    )
    keep: Annotated[int, COUNT] = Field(3, description="newest checkpoints that stay")
    gradient_checkpointing: bool = Field(
        False, description="keep the input of each layer only and compute the rest again: less memory, a third slower"
    )
    patience: Annotated[int, COUNT] | None = Field(
        None, description="validations without a new best after which the run ends; unset, it never ends early"
    )
    max_bad_steps: Annotated[int, COUNT] = Field(20, description="non-finite losses in a row that stop the run")
    initial_model: str | None = Field(None, description="a model folder whose weights training starts from")
    trained: Literal["all", "all_but_trunk", "adapters"] = Field(
        "all",
        description="what of the initial model is trained: all of it; all but its trunk of residual layers, which are "
        "the embeddings, the conditioner and the projections; or low-rank adapters (LoRA) of the trunk alone, which "
        "overfit least",
    )
    adapters: AdapterConfig = AdapterConfig()

    @property
    def crops_per_step(self) -> int:
        """Number of crops per step, in each process."""
        return self.batch_size * self.gradient_accumulation_steps

    @model_validator(mode="after")
    def _check(self) -> TrainingConfig:
        steps = (self.learning_rate_step, self.learning_rate_factor)
        if (self.learning_rate_schedule == "step") != all(steps) or any(steps) != all(steps):
            raise ValueError(
                "learning_rate_schedule 'step' needs learning_rate_step and learning_rate_factor, and no other has them"
            )
        if self.final_learning_rate and self.learning_rate_schedule != "cosine":
            raise ValueError("final_learning_rate is for learning_rate_schedule 'cosine'; leave it out")
        if self.loss == "l1" and self.spectral_weighting:
            raise ValueError("spectral_weighting is of a squared error: it does not go with loss 'l1'")
        return self


class RunConfig(Config):
    """One training run: `audiodiff train run.yaml`."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _check(self) -> RunConfig:
        if self.training.few_step_weight and self.model.mel is None:
            raise ValueError("training.few_step_weight needs a model with a mel")
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
    values = read_yaml(path, ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no mapping with the keys model, data and training.")
    return parse_config(RunConfig, change(values, changes or {}), str(path))
