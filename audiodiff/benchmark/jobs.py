"""Jobs of a benchmark: the machine, synthesis, streams, precision, training. Each runs in a process of its own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.benchmark.inputs import count_flops, load_network, load_vocoder, noise_crops, noise_mel, whole_hops
from audiodiff.benchmark.machine import (
    MemoryMonitor,
    RooflineProbe,
    available_bytes,
    copy_rate,
    describe_machine,
    matmul_rates,
)
from audiodiff.benchmark.results import (
    Machine,
    MatmulResult,
    Measurement,
    PrecisionResult,
    StreamingResult,
    SynthesisResult,
    TrainingResult,
)
from audiodiff.benchmark.timing import TimingOptions, speedup, synchroniser, time_interleaved
from audiodiff.checkpoint import choose_device
from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.engine.choose import Dtype
from audiodiff.networks import Network
from audiodiff.pipelines import SynthesisChanges, Vocoder
from audiodiff.training.distributed import Distributed
from audiodiff.training.state import TrainState

CROP_SAMPLES = 16384
"""Length of a training crop; rounded up to whole hops of a model."""

REFERENCE_SECONDS = 10.0
"""Length of the clip that the cost of longer ones is compared with."""
_REFERENCE_SHARE = 0.05
"""Of the longer clip: so much of it is made before it, and after it, in clips of that length."""

STREAM_SECONDS = 2.0
"""Length of a stream."""

STREAM_ROW_SECONDS = 4.0
"""No further round of a stream starts after these."""

MEMORY_FRACTION = 0.6
"""Of the free memory, for a training batch; the rest is for other programs."""

Step = Callable[[], object]

_WARM_UP_SECONDS = 1.0
"""Audio that warms up a CPU; a GPU is warmed up with the shape that is measured."""


@dataclass(frozen=True)
class Environment:
    """Device, threads and timing of all jobs of a run.

    Attributes:
        device: "cpu", "cuda", "cuda:1" ...
        threads: That torch computes with on the CPU.
        timing: How long a job is measured.
    """

    device: str = "cpu"
    threads: int = 1
    timing: TimingOptions = field(default_factory=TimingOptions)

    def set_up(self) -> torch.device:
        """Set up this process, and return the device."""
        torch.set_num_threads(self.threads)
        return choose_device(self.device)


class MachineResult(NamedTuple):
    """A machine and its limits.

    Attributes:
        machine: The machine.
        matmuls: Rates of matrix products.
        copy_rate: Bytes per second, read and written, of a large copy in memory.
    """

    machine: Machine
    matmuls: tuple[MatmulResult, ...]
    copy_rate: Measurement


@dataclass(frozen=True)
class MachineJob:
    """Describe the machine, and measure matrix products and a copy; `square` as in `machine.matmul_shapes`."""

    environment: Environment
    dtypes: tuple[str, ...]
    square: int | None = None

    def __str__(self) -> str:
        return f"matrix products in {' and '.join(self.dtypes)}"

    def run(self) -> MachineResult:
        """Measure it in this process."""
        device, timing = self.environment.set_up(), self.environment.timing
        machine = describe_machine(device)
        matmuls = matmul_rates(device, self.dtypes, timing, self.square)
        return MachineResult(machine, matmuls, copy_rate(device, timing))


@dataclass(frozen=True)
class SynthesisJob:
    """Time a model making audio; `steps` None is the model's own number."""

    environment: Environment
    model: str
    dtype: Dtype
    batch: int
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        steps = f"{self.steps} steps, " if self.steps else ""
        return f"synthesis, {self.model}, {self.dtype}, {steps}batch {self.batch} x {self.seconds:g} s"

    def run(self) -> SynthesisResult:
        """Measure it in this process."""
        device = self.environment.set_up()
        vocoder = load_vocoder(self.model, str(device), self.dtype)
        steps = vocoder.settings(synthesis_changes(self.steps)).steps
        noise_mel(vocoder, 1, 1.0)  # its library takes memory when it is first used
        monitor = MemoryMonitor(device)
        mel = noise_mel(vocoder, self.batch, self.seconds)
        warm_up(vocoder, mel, steps)
        probe = RooflineProbe(device, (self.dtype,), monitor)
        times = time_interleaved(
            self._runs(vocoder, mel, steps), self.environment.timing, synchroniser(device), after_round=probe
        )
        flops = count_flops(vocoder.network, vocoder.config, batch=self.batch, n_frames=mel.shape[-1])
        return SynthesisResult(
            model=self.model,
            dtype=self.dtype,
            batch=self.batch,
            clip_seconds=mel.shape[-1] * vocoder.mel_config.hop_length / vocoder.sample_rate,
            steps=steps,
            seconds=Measurement.from_values(times["row"]),
            flops=flops.of_loop(steps),
            memory=probe.memory,
            rooflines=probe.rooflines(),
            relative_cost=self._relative_cost(times),
        )

    def _runs(self, vocoder: Vocoder, mel: Tensor, steps: int) -> dict[str, Step]:
        """Return what takes turns: the row, between clips of the reference's length if it is longer than these."""
        runs: dict[str, Step] = {"row": lambda: vocoder(mel, steps=steps)}
        if self.seconds <= REFERENCE_SECONDS:
            return runs
        n_clips = self._clips_before()
        short = noise_mel(vocoder, self.batch, REFERENCE_SECONDS)

        def reference() -> None:
            for _ in range(n_clips):
                vocoder(short, steps=steps)

        return {"before": reference, **runs, "after": reference}

    def _clips_before(self) -> int:
        return max(1, round(_REFERENCE_SHARE * self.seconds / REFERENCE_SECONDS))

    def _relative_cost(self, times: dict[str, list[float]]) -> Measurement | None:
        if "before" not in times:
            return None
        reference = [sum(both) for both in zip(times["before"], times["after"], strict=True)]
        made = 2 * self._clips_before() * REFERENCE_SECONDS
        return speedup(reference, times["row"]).scaled(made / self.seconds)


def synthesis_changes(steps: int | None) -> SynthesisChanges:
    """Return the settings that differ from a model's own."""
    return {} if steps is None else {"steps": steps}


def warm_up(vocoder: Vocoder, mel: Tensor, steps: int) -> None:
    """Pack weights, compile kernels and capture graphs before the clock starts."""
    if vocoder.device.type == "cuda":
        for _ in range(2):
            vocoder(mel, steps=steps)
        return
    short = round(_WARM_UP_SECONDS * vocoder.sample_rate / vocoder.mel_config.hop_length)
    vocoder(mel[:1, :, : max(short, 1)], steps=1)


@dataclass(frozen=True)
class StreamingJob:
    """Time a model streaming, in turns with a call on the whole mel; the mel comes in pieces of a chunk each."""

    environment: Environment
    model: str
    dtype: Dtype
    chunk_seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        threads = self.environment.threads
        chunk = f"chunks of {self.chunk_seconds * 1000:g} ms"
        return f"stream, {self.model}, {self.dtype}, {chunk}, {threads} thread{'s' * (threads != 1)}"

    def run(self) -> StreamingResult:
        """Measure it in this process."""
        device = self.environment.set_up()
        vocoder, changes = load_vocoder(self.model, str(device), self.dtype), synthesis_changes(self.steps)
        latency, steps = vocoder.latency(self.chunk_seconds, **changes), vocoder.settings(changes).steps
        mel = noise_mel(vocoder, 1, STREAM_SECONDS)
        n_frames = max(round(self.chunk_seconds * vocoder.sample_rate / vocoder.mel_config.hop_length), 1)

        def stream() -> Iterator[Tensor]:
            return vocoder.stream(mel[0].split(n_frames, dim=-1), chunk_seconds=self.chunk_seconds, **changes)

        warm_up(vocoder, mel, steps)
        for _ in islice(stream(), 2):
            pass
        timing = self.environment.timing
        timing = replace(timing, max_seconds=min(timing.max_seconds, STREAM_ROW_SECONDS))
        functions = {"offline": lambda: vocoder(mel, **changes), "stream": lambda: [audio.cpu() for audio in stream()]}
        probe = RooflineProbe(device, (self.dtype,))
        times = time_interleaved(functions, timing, synchroniser(device), after_round=probe)
        return StreamingResult(
            model=self.model,
            dtype=self.dtype,
            threads=self.environment.threads,
            steps=steps,
            chunk_seconds=self.chunk_seconds,
            latency_seconds=latency,
            clip_seconds=mel.shape[-1] * vocoder.mel_config.hop_length / vocoder.sample_rate,
            seconds=Measurement.from_values(times["stream"]),
            offline_seconds=Measurement.from_values(times["offline"]),
            cost_ratio=speedup(times["offline"], times["stream"]),
            rooflines=probe.rooflines(),
        )


@dataclass(frozen=True)
class PrecisionJob:
    """Compare the output in bf16 with that in fp32, for the same mel, noise and weights."""

    environment: Environment
    model: str
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        return f"bf16 against fp32, {self.model}, {self.seconds:g} s"

    def run(self) -> PrecisionResult:
        """Measure it in this process."""
        device = self.environment.set_up()
        vocoder = load_vocoder(self.model, str(device), "fp32")
        mel, steps = noise_mel(vocoder, 1, self.seconds), vocoder.settings(synthesis_changes(self.steps)).steps
        exact, rounded = (vocoder.with_dtype(dtype)(mel, steps=steps) for dtype in ("fp32", "bf16"))
        return PrecisionResult(
            model=self.model,
            steps=steps,
            clip_seconds=exact.shape[-1] / vocoder.sample_rate,
            snr_db=signal_to_noise(exact, rounded),
        )


def signal_to_noise(exact: Tensor, other: Tensor) -> float:
    """Return the power of a signal over that of another's difference from it, in dB."""
    ratio = exact.double().square().sum() / (other.double() - exact.double()).square().sum()
    return float(10 * ratio.log10())


@dataclass(frozen=True)
class TrainingLimits:
    """Limits of a training job.

    Attributes:
        batch: Crops of a step, at most.
        seconds: Of a step, extrapolated from one of a single crop.
    """

    batch: int = 16
    seconds: float = 5.0


@dataclass(frozen=True)
class TrainingJob:
    """Time training steps; the batch is made smaller where memory or time does not allow it."""

    environment: Environment
    model: str
    dtype: Dtype
    limits: TrainingLimits

    def __str__(self) -> str:
        return f"training, {self.model}, {self.dtype}, batch {self.limits.batch} x {CROP_SAMPLES}"

    def run(self) -> tuple[TrainingResult, str]:
        """Measure it in this process; return the result, and why its batch is smaller than asked for, or ""."""
        device = self.environment.set_up()
        network, config = load_network(self.model, str(device))
        make_step = step_factory(network, config, self.dtype)
        monitor, synchronise = MemoryMonitor(device), synchroniser(device)
        batch, reason = largest_batch(make_step, self.limits, monitor, device)
        step = make_step(batch)
        if device.type == "cuda":
            step()
        probe = RooflineProbe(device, (self.dtype,), monitor)
        times = time_interleaved({"": step}, self.environment.timing, synchronise, after_round=probe)[""]
        result = TrainingResult(
            model=self.model,
            dtype=self.dtype,
            batch=batch,
            n_samples=whole_hops(config, CROP_SAMPLES),
            seconds=Measurement.from_values(times),
            memory=probe.memory,
            rooflines=probe.rooflines(),
        )
        return result, f"{self}: done with batch {batch}, {reason}" if reason else ""


def step_factory(network: Network, config: ModelConfig, dtype: Dtype) -> Callable[[int], Step]:
    """Return a function of the batch size that makes a training step; all steps train the same weights.

    Args:
        network: The network, which stays as it is.
        config: The model.
        dtype: "fp32" or "bf16".
    """
    device = next(network.parameters()).device
    precision = TrainingConfig.model_validate({"precision": dtype})
    # `TrainState` freezes the network it is given, which may serve another job.
    own = copy.deepcopy(network).requires_grad_(True)
    state = TrainState(own, config, precision, Distributed(device))
    n_samples = whole_hops(config, CROP_SAMPLES)

    def make_step(batch: int) -> Step:
        crops = noise_crops(config, batch, n_samples)
        return lambda: state.step(crops)

    return make_step


def largest_batch(
    make_step: Callable[[int], Step],
    limits: TrainingLimits,
    monitor: MemoryMonitor,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, str]:
    """Find a batch that fits into memory and time, by two steps on a single crop, which also warm up.

    Args:
        make_step: See `step_factory`.
        limits: What it may cost.
        monitor: Started after the network was loaded.
        device: Where it runs.
        clock: Seconds.

    Returns:
        The batch, halved until it fits, and why it is smaller, or an empty text.
    """
    step, synchronise = make_step(1), synchroniser(device)
    step()  # the first one makes room for the state of the optimiser
    synchronise()
    started = clock()
    step()
    synchronise()
    seconds = clock() - started
    memory, available = monitor.memory(), available_bytes(device)
    batch, reason = limits.batch, ""
    if memory.before is not None and memory.peak is not None and available is not None:
        bytes_per_crop = memory.peak - memory.before
        while batch > 1 and batch * bytes_per_crop > MEMORY_FRACTION * available:
            batch //= 2
            reason = f"for one crop takes {bytes_per_crop / 1e9:.2f} GB, and {available / 1e9:.1f} GB are left"
    if batch * seconds > limits.seconds and batch > 1:
        while batch > 1 and batch * seconds > limits.seconds:
            batch //= 2
        reason = f"for one crop takes {seconds:.2f} s, and a step may take {limits.seconds:g} s at most"
    return batch, reason
