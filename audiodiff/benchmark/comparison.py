"""Comparison with a baseline: the same weights, the same task, timed in turns in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from audiodiff.benchmark.baseline import (
    BASELINE,
    NetworkPair,
    baseline_crops,
    baseline_synthesis,
    baseline_training_step,
    build_pair,
    relative_difference,
)
from audiodiff.benchmark.inputs import count_flops, noise_mel, whole_hops
from audiodiff.benchmark.jobs import Environment, Step, synthesis_changes, warm_up
from audiodiff.benchmark.machine import MemoryMonitor
from audiodiff.benchmark.results import Comparison, Entry, Measurement, Memory
from audiodiff.benchmark.timing import speedup, synchroniser
from audiodiff.benchmark.training import CROP_SAMPLES, TrainingLimits, largest_batch, step_factory
from audiodiff.engine.choose import Dtype
from audiodiff.pipelines import Vocoder

OURS = "audiodiff"

MAX_BASELINE_STEP_SECONDS = 1.0
"""Where a step of the baseline takes longer, one is timed and scaled up; all its steps are alike."""

Key = tuple[str, Dtype]
"""Name and precision of an entry."""

BASELINE_KEY: Key = (BASELINE, "fp32")
"""The baseline runs in float32: its synthesis has no other precision, and its training has it by default."""


def summarise(times: Mapping[Key, list[float]], scale: float = 1.0) -> tuple[Entry, ...]:
    """Summarise interleaved times.

    Args:
        times: Entry to seconds, one value per round.
        scale: Factor of the baseline's seconds, where it did only a part of the task.

    Returns:
        One entry per key, in their order.
    """
    baseline = [scale * seconds for seconds in times[BASELINE_KEY]]
    rows = []
    for (name, dtype), taken in times.items():
        seconds = Measurement.from_values(baseline if name == BASELINE else taken)
        ratio = None if name == BASELINE else speedup(taken, baseline)
        rows.append(Entry(name=name, dtype=dtype, seconds=seconds, speedup=ratio))
    return tuple(rows)


@dataclass(frozen=True)
class SynthesisComparison:
    """Synthesis by our network and the baseline, from mel to signal.

    Attributes:
        environment: Of the run.
        dtypes: Precisions of ours.
        batch: Clips made together.
        seconds: Length of a clip.
        steps: Of the loop; None is the model's own number.
    """

    environment: Environment
    dtypes: tuple[Dtype, ...]
    batch: int
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        return f"synthesis against {BASELINE}, batch {self.batch} x {self.seconds:g} s"

    @property
    def keys(self) -> tuple[Key, ...]:
        """All entries, ours first."""
        return (*((OURS, dtype) for dtype in self.dtypes), BASELINE_KEY)

    def run(self) -> Comparison:
        """Time all of them in turns in this process."""
        device = self.environment.set_up()
        pair = build_pair(device)
        difference = relative_difference(pair)
        vocoder = Vocoder(pair.ours, pair.config, "fp32")
        mel, steps = self._mel(vocoder), vocoder.settings(synthesis_changes(self.steps)).steps
        tasks = {key: self._task(pair, key, mel) for key in self.keys}
        timed = self._baseline_steps(tasks[BASELINE_KEY], steps, device)
        for dtype in self.dtypes:
            tasks[OURS, dtype](0)
        runs = {str(key): partial(task, timed if key == BASELINE_KEY else steps) for key, task in tasks.items()}
        times, probe = self.environment.time(runs, device, self.dtypes)
        flops = count_flops(pair.ours, pair.config, batch=self.batch, n_frames=mel.shape[-1])
        return Comparison(
            task="synthesis",
            baseline=BASELINE,
            batch=self.batch,
            n_samples=mel.shape[-1] * pair.config.hop_length,
            sample_rate=pair.config.sample_rate,
            steps=steps,
            baseline_steps_timed=timed,
            flops=flops.of_loop(steps),
            relative_difference=difference,
            entries=summarise({key: times[str(key)] for key in self.keys}, steps / timed),
            rooflines=probe.rooflines(),
        )

    def memory(self, key: Key) -> Memory:
        """Measure the memory of one entry in this process.

        Ours may work at several steps at once, so it takes all; one step of the baseline needs as much as all.
        """
        device = self.environment.set_up()
        pair = build_pair(device)
        vocoder = Vocoder(pair.ours, pair.config, "fp32")
        noise_mel(vocoder, 1, 1.0)  # its library takes memory when it is first used
        monitor = MemoryMonitor(device)
        steps = 1 if key == BASELINE_KEY else vocoder.settings(synthesis_changes(self.steps)).steps
        self._task(pair, key, self._mel(vocoder))(steps)
        return monitor.memory()

    def _mel(self, vocoder: Vocoder) -> Tensor:
        return noise_mel(vocoder, self.batch, self.seconds)

    def _task(self, pair: NetworkPair, key: Key, mel: Tensor) -> Callable[[int], object]:
        """Return what an entry does, as a function of the steps taken; 0 steps of ours only warm up."""
        vocoder = Vocoder(pair.ours, pair.config, key[1])
        settings = vocoder.settings(synthesis_changes(self.steps))
        if key != BASELINE_KEY:
            return lambda steps: vocoder(mel, steps=steps) if steps else warm_up(vocoder, mel, settings.steps)
        shape = (self.batch, 1, mel.shape[-1] * pair.config.hop_length)
        log_snrs = vocoder.noise_levels(settings)

        def loop(steps: int) -> Tensor:
            return baseline_synthesis(pair, mel, log_snrs, lambda _number: torch.randn(shape, device=mel.device), steps)

        return loop

    def _baseline_steps(self, loop: Callable[[int], object], steps: int, device: torch.device) -> int:
        """Return how many steps of the baseline are timed; measuring that warms it up."""
        synchronise = synchroniser(device)
        if device.type == "cuda":
            loop(steps)
        synchronise()
        started = time.perf_counter()
        loop(1)
        synchronise()
        return steps if time.perf_counter() - started < MAX_BASELINE_STEP_SECONDS else 1


@dataclass(frozen=True)
class TrainingComparison:
    """A training step of ours and of the baseline; the batch is what all of them have memory and time for.

    Attributes:
        environment: Of the run.
        dtypes: Precisions of ours.
        limits: What a step may cost.
    """

    environment: Environment
    dtypes: tuple[Dtype, ...]
    limits: TrainingLimits

    def __str__(self) -> str:
        return f"training against {BASELINE}, batch {self.limits.batch} x {CROP_SAMPLES}"

    @property
    def keys(self) -> tuple[Key, ...]:
        """All entries, ours first."""
        return (*((OURS, dtype) for dtype in self.dtypes), BASELINE_KEY)

    def run(self) -> tuple[Comparison, str]:
        """Time all of them in turns in this process; also return why the batch is smaller than asked for, or ""."""
        device = self.environment.set_up()
        pair = build_pair(device)
        difference = relative_difference(pair)
        monitor = MemoryMonitor(device)
        factories, limits, reason = {key: _step_factory(pair, key) for key in self.keys}, self.limits, ""
        for factory in factories.values():  # which warms them up too
            batch, why = largest_batch(factory, limits, monitor, device)
            limits, reason = replace(limits, batch=batch), why or reason
        steps = {str(key): factory(limits.batch) for key, factory in factories.items()}
        if device.type == "cuda":
            for step in steps.values():
                step()
        times, probe = self.environment.time(steps, device, self.dtypes)
        comparison = Comparison(
            task="training",
            baseline=BASELINE,
            batch=limits.batch,
            n_samples=whole_hops(pair.config, CROP_SAMPLES),
            sample_rate=pair.config.sample_rate,
            steps=1,
            baseline_steps_timed=1,
            flops=0,
            relative_difference=difference,
            entries=summarise({key: times[str(key)] for key in self.keys}),
            rooflines=probe.rooflines(),
        )
        return comparison, f"{self}: done with batch {limits.batch}, {reason}" if reason else ""

    def memory(self, key: Key) -> Memory:
        """Measure the memory of one entry in this process, over two steps of the largest batch in `limits`."""
        device = self.environment.set_up()
        pair = build_pair(device)
        monitor = MemoryMonitor(device)
        step = _step_factory(pair, key)(self.limits.batch)
        step()
        step()  # the first made the state of the optimiser
        return monitor.memory()


def _step_factory(pair: NetworkPair, key: Key) -> Callable[[int], Step]:
    if key != BASELINE_KEY:
        return step_factory(pair.ours, pair.config, key[1])
    step, n_samples = baseline_training_step(pair), whole_hops(pair.config, CROP_SAMPLES)

    def make_step(batch: int) -> Step:
        audio, mel = baseline_crops(pair.config, batch, n_samples)
        return lambda: step(audio, mel)

    return make_step
