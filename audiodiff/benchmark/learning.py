"""Rows of training: a whole step on noise, in a batch that memory and time allow."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from audiodiff.benchmark.jobs import Conditions
from audiodiff.benchmark.memory import MemoryWatch, available_bytes
from audiodiff.benchmark.report import Training
from audiodiff.benchmark.subjects import load_subject, noise_crops, whole_blocks
from audiodiff.benchmark.timing import time_one, waiting_for
from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.engine.choose import Dtype
from audiodiff.networks.build import Network
from audiodiff.training.distributed import Distributed
from audiodiff.training.state import TrainState

CROP_SAMPLES = 16384
"""Length of a training crop; rounded up to whole blocks of a model."""

MEMORY_SHARE = 0.6
"""How much of the memory that is left a training batch may take; the rest is for what others do meanwhile."""

Step = Callable[[], object]


@dataclass(frozen=True)
class TrainingLimits:
    """What a training row may cost.

    Attributes:
        batch: Crops of a step, at most.
        seconds: Of a step, as expected from one of a single crop.
    """

    batch: int = 16
    seconds: float = 5.0


@dataclass(frozen=True)
class TrainingJob:
    """Time training steps; the batch is made smaller where memory or time does not allow it."""

    conditions: Conditions
    model: str
    dtype: Dtype
    limits: TrainingLimits

    def __str__(self) -> str:
        return f"training, {self.model}, {self.dtype}, batch {self.limits.batch} x {CROP_SAMPLES}"

    def run(self) -> tuple[Training, str]:
        """Measure it here; return the row, and why its batch is smaller than wanted, or an empty text."""
        device = self.conditions.prepare()
        network, config = load_subject(self.model, str(device))
        make_step = step_maker(network, config, self.dtype)
        watch, wait = MemoryWatch(device), waiting_for(device)
        batch, reason = affordable_batch(make_step, self.limits, watch, device)
        step = make_step(batch)
        if device.type == "cuda":
            step()
        seconds = time_one(step, self.conditions.effort, wait)
        n_samples = whole_blocks(config, CROP_SAMPLES)
        memory = watch.memory()
        row = Training(
            model=self.model, dtype=self.dtype, batch=batch, n_samples=n_samples, seconds=seconds, memory=memory
        )
        return row, f"{self}: done with batch {batch}, {reason}" if reason else ""


def step_maker(network: Network, config: ModelConfig, dtype: Dtype) -> Callable[[int], Step]:
    """Return what makes a training step of ours on a batch of a given size; all steps train the same weights.

    Args:
        network: The network, which stays as it is.
        config: The model.
        dtype: "fp32" or "bf16".
    """
    device = next(network.parameters()).device
    precision = TrainingConfig.model_validate({"precision": dtype})
    # `TrainState` freezes the network it is given, which may serve another row.
    own = copy.deepcopy(network).requires_grad_(True)
    state = TrainState(own, config, precision, Distributed(device))
    n_samples = whole_blocks(config, CROP_SAMPLES)

    def make_step(batch: int) -> Step:
        crops = noise_crops(config, batch, n_samples)
        return lambda: state.step(crops)

    return make_step


def affordable_batch(
    make_step: Callable[[int], Step],
    limits: TrainingLimits,
    watch: MemoryWatch,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[int, str]:
    """Find a batch that fits into memory and time, by two steps on a single crop, which also warm up.

    Args:
        make_step: See `step_maker`.
        limits: What it may cost.
        watch: Begun when the network was there.
        device: Where it runs.
        clock: Seconds.

    Returns:
        The batch, halved from the wanted one until it fits, and why it is smaller, or an empty text.
    """
    step, wait = make_step(1), waiting_for(device)
    step()  # the first one makes room for the state of the optimiser
    wait()
    started = clock()
    step()
    wait()
    seconds = clock() - started
    memory, available = watch.memory(), available_bytes(device)
    batch, reason = limits.batch, ""
    if memory.before is not None and memory.peak is not None and available is not None:
        each = memory.peak - memory.before
        while batch > 1 and batch * each > MEMORY_SHARE * available:
            batch //= 2
            reason = f"for one crop takes {each / 1e9:.2f} GB, and {available / 1e9:.1f} GB are left"
    if batch * seconds > limits.seconds and batch > 1:
        while batch > 1 and batch * seconds > limits.seconds:
            batch //= 2
        reason = f"for one crop takes {seconds:.2f} s, and a step shall take {limits.seconds:g} s at most"
    return batch, reason
