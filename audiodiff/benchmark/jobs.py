"""Rows of a benchmark that need no training: the machine, synthesis, precision. Each runs in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from audiodiff.benchmark.counting import count_operations
from audiodiff.benchmark.machine import describe_machine, matrix_rates
from audiodiff.benchmark.memory import MemoryWatch
from audiodiff.benchmark.report import Machine, MatrixRate, Precision, Synthesis
from audiodiff.benchmark.subjects import load_vocoder, noise_mel
from audiodiff.benchmark.timing import Effort, time_one, waiting_for
from audiodiff.checkpoint import choose_device
from audiodiff.engine.choose import Dtype
from audiodiff.pipelines import SynthesisChanges, Vocoder

_WARM_UP_SECONDS = 1.0
"""Length of the audio that warms up a CPU; a GPU is warmed up with the very shape that is measured."""


@dataclass(frozen=True)
class Conditions:
    """What all rows of a run have in common.

    Attributes:
        device: "cpu", "cuda", "cuda:1" ...
        threads: That torch computes with on the CPU.
        effort: How long a row is measured.
    """

    device: str = "cpu"
    threads: int = 1
    effort: Effort = field(default_factory=Effort)

    def prepare(self) -> torch.device:
        """Set up this process, and return the device."""
        torch.set_num_threads(self.threads)
        return choose_device(self.device)


@dataclass(frozen=True)
class MachineJob:
    """Describe the machine and measure matrix products of some precisions; `square` as in `machine.matrix_shapes`."""

    conditions: Conditions
    dtypes: tuple[str, ...]
    square: int | None = None

    def __str__(self) -> str:
        return f"matrix products in {' and '.join(self.dtypes)}"

    def run(self) -> tuple[Machine, tuple[MatrixRate, ...]]:
        """Measure it here."""
        device = self.conditions.prepare()
        machine = describe_machine(device)
        return machine, matrix_rates(device, self.dtypes, self.conditions.effort, self.square)


@dataclass(frozen=True)
class SynthesisJob:
    """Time a model making audio; `steps` None is the model's own number."""

    conditions: Conditions
    model: str
    dtype: Dtype
    batch: int
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        steps = f"{self.steps} steps, " if self.steps else ""
        return f"synthesis, {self.model}, {self.dtype}, {steps}batch {self.batch} x {self.seconds:g} s"

    def run(self) -> Synthesis:
        """Measure it here."""
        device = self.conditions.prepare()
        vocoder = load_vocoder(self.model, str(device), self.dtype)
        steps = vocoder.settings(changes_of(self.steps)).steps
        noise_mel(vocoder, 1, 1.0)  # the library behind it takes memory when it is first used
        watch = MemoryWatch(device)
        mel = noise_mel(vocoder, self.batch, self.seconds)
        warm_up(vocoder, mel, steps)
        seconds = time_one(lambda: vocoder(mel, steps=steps), self.conditions.effort, waiting_for(device))
        operations = count_operations(vocoder.network, vocoder.config, batch=self.batch, n_blocks=mel.shape[-1])
        return Synthesis(
            model=self.model,
            dtype=self.dtype,
            batch=self.batch,
            clip_seconds=mel.shape[-1] * vocoder.mel_config.hop_length / vocoder.sample_rate,
            steps=steps,
            seconds=seconds,
            operations=operations.of_loop(steps),
            memory=watch.memory(),
        )


def changes_of(steps: int | None) -> SynthesisChanges:
    """Return the settings that differ from a model's own."""
    return {} if steps is None else {"steps": steps}


def warm_up(vocoder: Vocoder, mel: Tensor, steps: int) -> None:
    """Have a vocoder prepare what later calls find ready: packed weights, compiled kernels, recorded graphs."""
    if vocoder.device.type == "cuda":
        for _ in range(2):
            vocoder(mel, steps=steps)
        return
    short = round(_WARM_UP_SECONDS * vocoder.sample_rate / vocoder.mel_config.hop_length)
    vocoder(mel[:1, :, : max(short, 1)], steps=1)


@dataclass(frozen=True)
class PrecisionJob:
    """Hold the result in bf16 against the one in fp32, of the same mel, noise and weights."""

    conditions: Conditions
    model: str
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        return f"bf16 against fp32, {self.model}, {self.seconds:g} s"

    def run(self) -> Precision:
        """Measure it here."""
        device = self.conditions.prepare()
        vocoder = load_vocoder(self.model, str(device), "fp32")
        mel, steps = noise_mel(vocoder, 1, self.seconds), vocoder.settings(changes_of(self.steps)).steps
        exact, rounded = (vocoder.with_dtype(dtype)(mel, steps=steps) for dtype in ("fp32", "bf16"))
        return Precision(
            model=self.model,
            steps=steps,
            clip_seconds=exact.shape[-1] / vocoder.sample_rate,
            snr_db=signal_to_noise(exact, rounded),
        )


def signal_to_noise(exact: Tensor, other: Tensor) -> float:
    """Return the power of a signal over that of another's difference from it, in dB."""
    ratio = exact.double().square().sum() / (other.double() - exact.double()).square().sum()
    return float(10 * ratio.log10())
