"""Jobs of a benchmark: the machine, synthesis, streams, precision, training. Each runs in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.benchmark.inputs import count_flops, load_vocoder, noise_mel
from audiodiff.benchmark.machine import (
    MemoryMonitor,
    RooflineProbe,
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
)
from audiodiff.benchmark.timing import TimingOptions, speedup, synchroniser, time_interleaved
from audiodiff.checkpoint import choose_device
from audiodiff.engine.choose import Dtype
from audiodiff.pipelines import SynthesisChanges, Vocoder

REFERENCE_SECONDS = 10.0
"""Length of the clip that the cost of longer ones is compared with."""
_REFERENCE_SHARE = 0.05
"""Of the longer clip: so much of it is made before it, and after it, in clips of that length."""

STREAM_SECONDS = 2.0
"""Length of a stream."""

STREAM_ROW_SECONDS = 4.0
"""No further round of a stream starts after these."""

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

    @property
    def clock(self) -> Callable[[], float]:
        """The clock in seconds: of one CPU thread its CPU time, which other programs disturb less."""
        return time.process_time if self.threads == 1 and self.device == "cpu" else time.perf_counter

    def time(
        self,
        runs: Mapping[str, Step],
        device: torch.device,
        dtypes: tuple[str, ...],
        monitor: MemoryMonitor | None = None,
        timing: TimingOptions | None = None,
    ) -> tuple[dict[str, list[float]], RooflineProbe]:
        """Time functions in turns, and the roofline after every round; `monitor` as in `RooflineProbe`."""
        probe = RooflineProbe(device, dtypes, monitor, self.clock)
        return time_interleaved(runs, timing or self.timing, synchroniser(device), self.clock, probe), probe

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
        device, timing, clock = self.environment.set_up(), self.environment.timing, self.environment.clock
        machine = describe_machine(device)
        matmuls = matmul_rates(device, self.dtypes, timing, self.square, clock)
        return MachineResult(machine, matmuls, copy_rate(device, timing, clock))


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
        times, probe = self.environment.time(self._runs(vocoder, mel, steps), device, (self.dtype,), monitor)
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
        times, probe = self.environment.time(functions, device, (self.dtype,), timing=timing)
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
