"""What a run will cost, measured on three steps before it is begun; nothing is written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from audiodiff.config import RunConfig
from audiodiff.data.corpus import CropStream, open_corpus
from audiodiff.data.mels import check_mels
from audiodiff.networks.base import isolated
from audiodiff.training.distributed import init_distributed
from audiodiff.training.initialisation import initialise
from audiodiff.training.state import TrainState
from audiodiff.training.utilisation import count_flops, full_speed

MEASURED_STEPS = 3


@dataclass(frozen=True)
class Cost:
    """What a run needs.

    Attributes:
        parameters: Of the network.
        trained_parameters: How many the optimiser moves; `training.trained` may leave most as they are.
        flops_per_second: Floating-point operations of one network call, per second of audio; a multiplication and
            an addition count as two, as `torch.utils.flop_counter` counts them.
        step_flops: Those of a training step, over all processes; without the few-step loss.
        mfu: Fraction of what the device can do that the measured steps did; None where that is not known.
        memory: Bytes at the peak of a step: on a GPU measured, elsewhere weights, average, gradient, optimiser and what
            the backward pass needs of the forward pass.
        step_seconds: Seconds per step, without waiting for data: the median.
        waiting_fraction: Fraction of the measured time that was spent waiting for data.
        epoch_steps: Steps that see as many seconds as there are in the training recordings.
        steps: Steps of the run.
        checkpoint_bytes: Size of a checkpoint.
        disk_bytes: What the run's folder may hold at once: the checkpoints that are kept and one more while it is
            written, and two models.
    """

    parameters: int
    trained_parameters: int
    flops_per_second: float
    step_flops: float
    mfu: float | None
    memory: int
    step_seconds: float
    waiting_fraction: float
    epoch_steps: float
    steps: int
    checkpoint_bytes: int
    disk_bytes: int


@isolated("on")
def measure_cost(config: RunConfig, on_progress: Callable[[float], object] = lambda fraction: None) -> Cost:
    """Take three steps of a run and forget them.

    Args:
        config: The run.
        on_progress: Called with the fraction of the work done since the last call.

    Returns:
        What it would cost here.

    Raises:
        AudiodiffError: If data or model cannot be used, as in `audiodiff.training.trainer.train`.
    """
    with init_distributed(config.training.device) as distributed:
        corpus = open_corpus(config, distributed.device)
        stream = corpus.training
        if stream.reader.mel is not None:
            check_mels([*stream.recordings, *corpus.validation], stream.reader.mel)
        state = initialise(config, stream, distributed)
        report = partial(on_progress, 1 / (MEASURED_STEPS + 3))  # data and model, all steps, the counting
        report()
        step_seconds, waiting_fraction, saved, peak = _measure_steps(state, config, stream, report)
        n_samples = stream.reader.n_samples
        flops, training_flops = (count_flops(state.ema, state.config, n_samples, of) for of in (None, config.training))
        speed = full_speed(state, n_samples)()
        report()
    weights = _bytes(state.ema.state_dict())
    stored = _bytes(state.state_dict())
    trained = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
    gradient = sum(parameter.numel() * parameter.element_size() for parameter in trained)
    checkpoint = weights + stored
    n_clips = config.training.crops_per_step * distributed.world_size
    crop_seconds = n_samples / stream.reader.sample_rate
    return Cost(
        parameters=sum(parameter.numel() for parameter in state.ema.parameters()),
        trained_parameters=sum(parameter.numel() for parameter in trained),
        flops_per_second=flops / crop_seconds,
        step_flops=float(n_clips * training_flops),
        mfu=None if speed is None else n_clips * n_samples / step_seconds / speed,
        memory=peak or weights + stored + gradient + saved,
        step_seconds=step_seconds,
        waiting_fraction=waiting_fraction,
        epoch_steps=stream.seconds / (n_clips * crop_seconds),
        steps=config.training.steps,
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * (config.training.keep + 1) + 2 * weights + _snapshot_bytes(state),
    )


def _measure_steps(
    state: TrainState, config: RunConfig, stream: CropStream, report: Callable[[], object]
) -> tuple[float, float, int, int]:
    """Return seconds per step, waiting fraction, bytes kept for the backward pass, and peak bytes on a GPU (or 0)."""
    device = state.distributed.device
    on_gpu = device.type == "cuda"
    source = stream.batches(
        0, config.training.crops_per_step, config.data.workers, replica=state.distributed.replica, pin_memory=on_gpu
    )
    batches = islice(source, MEASURED_STEPS + 1)
    with _counting_saved() as saved:  # the first step, which also warms up
        state.step(next(batches))
    report()
    steps, waits = [], []
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        fetched = time.perf_counter()
        state.step(batch)
        state.flush()
        steps.append(time.perf_counter() - fetched)
        waits.append(fetched - began)
        report()
    source.close()
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    return sorted(steps)[len(steps) // 2], sum(waits) / (sum(waits) + sum(steps)), saved[0], peak


@contextmanager
def _counting_saved() -> Iterator[list[int]]:
    """Count the bytes of the tensors that autograd keeps for the backward pass, each storage once."""
    total = [0]
    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen and not isinstance(tensor, torch.nn.Parameter):
            seen.add(storage.data_ptr())
            total[0] += storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def _snapshot_bytes(state: TrainState) -> int:
    """Return the size of all snapshots of a run."""
    averages, settings = state.power_averages, state.training.post_hoc_ema
    if averages is None or settings is None:
        return 0
    return sum(map(_bytes, averages.averages)) * math.ceil(state.training.steps / settings.snapshot_every)


def _bytes(value: Any) -> int:
    """Return the size of all tensors in nested mappings and lists."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_bytes, inner))


def format_cost(cost: Cost) -> list[str]:
    """Return the lines that `audiodiff train --dry-run` prints."""
    epoch = cost.epoch_steps * cost.step_seconds
    return [
        f"parameters            {cost.parameters / 1e6:.2f} M, {cost.trained_parameters / 1e6:.2f} M trained",
        f"FLOPs                 {cost.flops_per_second / 1e9:.2f} GFLOP per second of audio and network call",
        f"training step         {cost.step_flops / 1e9:.2f} GFLOP"
        + ("" if cost.mfu is None else f", MFU {cost.mfu:.1%}"),
        f"memory                {_size(cost.memory)}",
        f"step                  {cost.step_seconds:.3f} s; {cost.waiting_fraction:.1%} of the time waits for data",
        f"epoch                 {math.ceil(cost.epoch_steps)} steps, {_duration(epoch)}",
        f"run                   {cost.steps} steps, {_duration(cost.steps * cost.step_seconds)}, without validation",
        f"checkpoint            {_size(cost.checkpoint_bytes)}",
        f"disk                  {_size(cost.disk_bytes)}",
    ]


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
