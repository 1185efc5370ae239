"""The job of training: whole steps on crops of noise, in the largest batch that memory and time allow."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from audiodiff.benchmark.inputs import load_network, noise_crops, whole_hops
from audiodiff.benchmark.jobs import Environment, Step
from audiodiff.benchmark.machine import MemoryMonitor, available_bytes
from audiodiff.benchmark.results import Measurement, TrainingResult
from audiodiff.benchmark.timing import synchroniser
from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.engine.choose import Dtype
from audiodiff.networks import Network
from audiodiff.training.distributed import Distributed
from audiodiff.training.state import TrainState

CROP_SAMPLES = 16384
"""Length of a training crop; rounded up to whole hops of a model."""

MEMORY_FRACTION = 0.6
"""Of the free memory, for a training batch; the rest is for other programs."""


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
        monitor = MemoryMonitor(device)
        batch, reason = largest_batch(make_step, self.limits, monitor, device)
        step = make_step(batch)
        if device.type == "cuda":
            step()
        times, probe = self.environment.time({"": step}, device, (self.dtype,), monitor)
        result = TrainingResult(
            model=self.model,
            dtype=self.dtype,
            batch=batch,
            n_samples=whole_hops(config, CROP_SAMPLES),
            seconds=Measurement.from_values(times[""]),
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
