"""A whole reverse process as one CUDA graph: network, sampler and fresh noise, launched by a single call.

Lengths are rounded up to buckets, and the kernels read in device memory how much of a bucket counts, so that few graphs
serve all lengths. Noise levels are constants of a graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.diffusion.process import Prediction, Target, noise_from
from audiodiff.diffusion.samplers import SAMPLERS, Corrector, NoiseSource
from audiodiff.engine.fused import FusedDiffWave
from audiodiff.networks import Network

WARM_UP_RUNS = 2
"""Runs before a capture: the first compiles and times kernels, the second allocates as the capture will."""


class CapturedGraph(NamedTuple):
    """A captured function of no arguments: where it leaves its result, and what runs it again."""

    output: Tensor
    replay: Callable[[], None]


Capture = Callable[[Callable[[], Tensor]], CapturedGraph]
"""Runs a function and captures it; the tensors that the function reads are its inputs from then on."""


class CudaGraphCapture:
    """Captures functions as CUDA graphs that share one memory pool, because they never run at the same time.

    Args:
        device: Where the functions work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Callable[[], Tensor]) -> CapturedGraph:
        """Warm a function up on a stream of its own, as captures need, and capture it."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    run()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                output = run()
        return CapturedGraph(output, graph.replay)


def bucket(n: int) -> int:
    """Round up to one of four sizes per octave (4, 5, 6, 7, 8, 10, 12 ...), at most a quarter more than `n`."""
    step = 1 << max(n.bit_length() - 3, 0)
    return -(-n // step) * step


class Process(NamedTuple):
    """The reverse process: what is constant in a graph.

    Attributes:
        sampler: A key of `SAMPLERS`.
        log_snrs: The schedule, rising, the last infinite.
        corrector: What is done at every level, hashable; or None.
    """

    sampler: str
    log_snrs: tuple[float, ...]
    corrector: Corrector | None = None


class Inputs(NamedTuple):
    """What differs between calls.

    Attributes:
        x: The signal at the first noise level `(batch, 1, time)`, float32.
        condition: What the network's `encode` returned, or None.
        global_condition: What the network's `embed` returned `(batch, width)`, or None.
    """

    x: Tensor
    condition: Tensor | None = None
    global_condition: Tensor | None = None


def reverse(network: Network, target: Target, process: Process, inputs: Inputs, noise: NoiseSource) -> Tensor:
    """Run the sampler without any copy from host to device or back.

    Args:
        network: The noise predictor, without a learned variance.
        target: What it was trained to predict.
        process: Sampler and noise levels.
        inputs: The noisy signal and its conditions.
        noise: Where fresh noise comes from.

    Returns:
        The signal at the last level, of the shape of `inputs.x`.
    """
    x, condition, global_condition = inputs

    def predict(x: Tensor, log_snr: Tensor) -> Prediction:
        log_snr_of_each = torch.full((len(x),), float(log_snr), device=x.device)  # unlike `to`, copies nothing there
        return Prediction(noise_from(network(x, log_snr_of_each, condition, global_condition), x, log_snr, target))

    log_snrs = torch.tensor(process.log_snrs, dtype=torch.float64)
    return SAMPLERS[process.sampler](predict, x, log_snrs, noise, corrector=process.corrector)


@dataclass
class _Captured:
    inputs: Inputs
    n_valid: Tensor
    noise: dict[int, Tensor]
    graph: CapturedGraph

    def fill(self, inputs: Inputs, n_valid: int) -> None:
        """Take over the inputs of a call."""
        for static, global_condition in zip(self.inputs, inputs, strict=True):
            if static is not None and global_condition is not None:
                _fill(static, global_condition)
        self.n_valid.fill_(n_valid)


class ReverseGraphs:
    """Reverse processes of one network, captured when a kind of call is first met, and replayed from then on.

    A `FusedDiffWave` is captured for a bucket of lengths, any other network for the very length. Not for use by several
    threads at once.

    Args:
        network: The noise predictor, on the device where it runs.
        target: What it was trained to predict.
        capture: How to capture; None is a `CudaGraphCapture`.
        limit: How many graphs to keep; the one not used for longest goes first.
    """

    def __init__(self, network: Network, target: Target, *, capture: Capture | None = None, limit: int = 4) -> None:
        self.network, self.target, self.limit = network, target, limit
        self._capture_graph = capture or CudaGraphCapture(next(network.parameters()).device)
        self._captured: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of graphs kept."""
        return len(self._captured)

    @torch.inference_mode()
    def __call__(self, process: Process, inputs: Inputs, noise: NoiseSource) -> Tensor:
        """Do what `reverse` does.

        Args:
            process: Sampler and noise levels.
            inputs: The noisy signal and its conditions.
            noise: Where fresh noise comes from, of the shape of `inputs.x`; called for the steps that the sampler asks.

        Returns:
            The signal at the last level, of the shape of `inputs.x`, in memory of its own.
        """
        n_samples = inputs.x.shape[-1]
        capacity = self._capacity(inputs)
        key = (process, capacity, *_kinds(inputs))
        captured = self._captured.pop(key, None)
        if captured is None:
            while len(self._captured) >= self.limit:
                self._captured.popitem(last=False)
            captured = self._capture(process, inputs, capacity)
        else:
            captured.fill(inputs, n_samples // self._patch)
        self._captured[key] = captured
        for step, static in captured.noise.items():
            _fill(static, noise(step))
        captured.graph.replay()
        return captured.graph.output[..., :n_samples].clone()

    @property
    def _patch(self) -> int:
        return self.network.patch if isinstance(self.network, FusedDiffWave) else 1

    def _capacity(self, inputs: Inputs) -> int:
        """Return how many samples a graph for such inputs takes: a bucket of whole frames of the condition."""
        n_samples, condition = inputs.x.shape[-1], inputs.condition
        if not isinstance(self.network, FusedDiffWave):
            return n_samples
        block = self._patch if condition is None else n_samples // condition.shape[1]
        return bucket(n_samples // block) * block

    def _capture(self, process: Process, inputs: Inputs, capacity: int) -> _Captured:
        n_samples = inputs.x.shape[-1]
        x = inputs.x.new_zeros(*inputs.x.shape[:-1], capacity)
        condition = inputs.condition
        if condition is not None:
            batch, frames, width = condition.shape
            condition = condition.new_zeros(batch, frames * capacity // n_samples, width)
        global_condition = None if inputs.global_condition is None else torch.empty_like(inputs.global_condition)
        n_valid = torch.empty(1, dtype=torch.int32, device=x.device)
        captured = _Captured(Inputs(x, condition, global_condition), n_valid, {}, CapturedGraph(x, lambda: None))
        captured.fill(inputs, n_samples // self._patch)  # for the warm-up, which times kernels

        def fresh(step: int) -> Tensor:
            if step not in captured.noise:  # the warm-up shows which steps ask
                captured.noise[step] = torch.zeros_like(x)
            return captured.noise[step]

        def run() -> Tensor:
            stack = self.network.layers.stack if isinstance(self.network, FusedDiffWave) else None
            if stack is None:
                return reverse(self.network, self.target, process, captured.inputs, fresh)
            stack.n_valid = captured.n_valid
            try:
                return reverse(self.network, self.target, process, captured.inputs, fresh)
            finally:
                stack.n_valid = None

        captured.graph = self._capture_graph(run)
        return captured


def _kinds(inputs: Inputs) -> tuple[object, ...]:
    """Return what distinguishes inputs beside their length."""
    x, condition, global_condition = inputs
    shape = None if condition is None else (condition.shape[2], condition.dtype)
    return x.shape[:-1], x.dtype, shape, global_condition is None


def _fill(static: Tensor, global_condition: Tensor) -> None:
    """Copy into the beginning of a static tensor; the one axis in which it may be longer is that of time."""
    for axis, (capacity, n) in enumerate(zip(static.shape, global_condition.shape, strict=True)):
        if capacity != n:
            static = static.narrow(axis, 0, n)
    static.copy_(global_condition)
