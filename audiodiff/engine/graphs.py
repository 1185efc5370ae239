"""A whole reverse process as CUDA graphs, one per step: network, guidance, sampler and fresh noise.

Steps are graphs of their own so that a callback can see the signal between them. Lengths are rounded up to buckets
where the kernels read in device memory how much of a bucket counts, so that few graphs serve all lengths. Noise levels
are constants of a graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from threading import Lock
from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.diffusion.samplers import NoiseSource, StepCallback
from audiodiff.engine.fused import FusedDiffWave
from audiodiff.networks import Network

WARM_UP_RUNS = 2
"""Runs before a capture: the first compiles and times kernels, the second allocates as the capture will."""

Cut = Callable[[int], object]
"""Called after every step, with its number."""

Replay = Callable[[Cut], None]
"""What a capture returns: it does again what was captured, and calls back after every step."""

Capture = Callable[[Replay], Replay]
"""Runs a function that calls back after every step, and captures what it does between; the tensors it reads are its
inputs from then on."""


class CudaGraphCapture:
    """Captures functions as CUDA graphs that share one memory pool, because they never run at the same time.

    Args:
        device: Where the functions work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, run: Replay) -> Replay:
        """Warm a function up on a stream of its own, as captures need, and capture it, a graph per step."""
        graphs: list[torch.cuda.CUDAGraph] = []

        def begin() -> None:
            graphs.append(torch.cuda.CUDAGraph())
            graphs[-1].capture_begin(self._pool, capture_error_mode="thread_local")  # other threads may allocate

        def cut(step: int) -> None:
            graphs[-1].capture_end()
            begin()

        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_RUNS):
                    run(lambda step: None)
                torch.cuda.synchronize()
                begin()
                try:
                    run(cut)
                finally:
                    graphs[-1].capture_end()
            torch.cuda.current_stream().wait_stream(stream)

        def replay(on_step: Cut) -> None:
            for step, graph in enumerate(graphs):
                if step:
                    on_step(step)
                graph.replay()

        return replay


def bucket(n: int) -> int:
    """Round up to one of four sizes per octave (4, 5, 6, 7, 8, 10, 12 ...), at most a quarter more than `n`."""
    step = 1 << max(n.bit_length() - 3, 0)
    return -(-n // step) * step


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


class Process(NamedTuple):
    """A reverse process, constant in a graph.

    Attributes:
        sample: Runs it, without any copy from host to device or back, and returns the signal `(batch, 1, time)`.
        key: Two of the same key are the same.
        is_pointwise: Whether all but the network acts on each sample alone, so that clips may be padded.
    """

    sample: Callable[[Inputs, NoiseSource, StepCallback | None], Tensor]
    key: Hashable
    is_pointwise: bool = True


class _Captured:
    """A captured process: its inputs, how much of them counts, its fresh noise, the signal after the last step done."""

    def __init__(self, inputs: Inputs, n_valid: Tensor) -> None:
        self.inputs, self.n_valid = inputs, n_valid
        self.noise: dict[int, Tensor] = {}
        self.latest = torch.empty_like(inputs.x)
        self.replay: Replay

    def fill(self, inputs: Inputs, n_valid: int) -> None:
        """Take over the inputs of a call."""
        for static, given in zip(self.inputs, inputs, strict=True):
            if static is not None and given is not None:
                _fill(static, given)
        self.n_valid.fill_(n_valid)

    def fresh(self, step: int) -> Tensor:
        """Return where the noise of a step will be; the warm-up shows which steps ask."""
        if step not in self.noise:
            self.noise[step] = torch.zeros_like(self.inputs.x)
        return self.noise[step]


class ReverseGraphs:
    """Reverse processes with one network, captured when a kind of call is first met, and replayed from then on.

    So a `FusedDiffWave`, for a bucket of lengths; any other network for the very length, when that is met again: most
    lengths of a folder come once. Several threads may call; one is served at a time.

    Args:
        network: The noise predictor, on the device where it runs.
        capture: How to capture; None is a `CudaGraphCapture`.
        limit: How many processes to keep; the one not used for longest goes first.
    """

    def __init__(self, network: Network, *, capture: Capture | None = None, limit: int = 4) -> None:
        self.network, self.limit = network, limit
        self._capture_graphs = capture
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._met: set[Hashable] = set()
        self._lock = Lock()

    def __len__(self) -> int:
        """Return the number of processes kept."""
        return len(self._captured)

    @torch.inference_mode()
    def __call__(
        self, process: Process, inputs: Inputs, noise: NoiseSource, on_step: StepCallback | None = None
    ) -> Tensor:
        """Run a process.

        Args:
            process: What to run.
            inputs: The noisy signal and its conditions.
            noise: Where fresh noise comes from, of the shape of `inputs.x`; called for the steps that the sampler asks.
            on_step: Called with (step, x) after every step.

        Returns:
            The signal at the last level, of the shape of `inputs.x`, in memory of its own.
        """
        n_samples = inputs.x.shape[-1]
        capacity = self._capacity(inputs) if process.is_pointwise else n_samples
        key = (process.key, capacity, *_kinds(inputs))
        with self._lock:
            if key not in self._met and not isinstance(self.network, FusedDiffWave):
                self._met.add(key)
                return process.sample(inputs, noise, on_step)
            captured = self._find(key, process, inputs, capacity)
            for step, static in captured.noise.items():
                _fill(static, noise(step))
            result = captured.latest[..., :n_samples]
            captured.replay(lambda step: on_step and on_step(step, result.clone()))
            return result.clone()

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

    def _find(self, key: Hashable, process: Process, inputs: Inputs, capacity: int) -> _Captured:
        """Return the captured process of a key with its inputs filled in; without one, capture it."""
        n_valid = inputs.x.shape[-1] // self._patch
        captured = self._captured.pop(key, None)
        if captured is not None:
            captured.fill(inputs, n_valid)
        else:
            while len(self._captured) >= self.limit:
                self._captured.popitem(last=False)
            captured = _Captured(_room_for(inputs, capacity), torch.empty(1, dtype=torch.int32, device=inputs.x.device))
            captured.fill(inputs, n_valid)  # for the warm-up, which times kernels
            self._capture(process, captured)
        self._captured[key] = captured
        return captured

    def _capture(self, process: Process, captured: _Captured) -> None:
        stack = self.network.layers.stack if isinstance(self.network, FusedDiffWave) else None

        def on_step(cut: Cut, step: int, x: Tensor) -> None:
            captured.latest.copy_(x)
            cut(step)

        def run(cut: Cut) -> None:
            if stack is not None:
                stack.n_valid = captured.n_valid
            try:
                captured.latest.copy_(process.sample(captured.inputs, captured.fresh, partial(on_step, cut)))
            finally:
                if stack is not None:
                    stack.n_valid = None

        if self._capture_graphs is None:
            self._capture_graphs = CudaGraphCapture(captured.latest.device)
        captured.replay = self._capture_graphs(run)


def _kinds(inputs: Inputs) -> tuple[object, ...]:
    """Return what distinguishes inputs beside their length."""
    x, condition, global_condition = inputs
    shape = None if condition is None else (condition.shape[2], condition.dtype)
    return x.shape[:-1], x.dtype, shape, global_condition is None


def _room_for(inputs: Inputs, capacity: int) -> Inputs:
    """Return inputs of the same kind with `capacity` samples, zeros."""
    x, condition, global_condition = inputs
    if condition is not None:
        batch, n_frames, width = condition.shape
        condition = condition.new_zeros(batch, n_frames * capacity // x.shape[-1], width)
    room = None if global_condition is None else torch.empty_like(global_condition)
    return Inputs(x.new_zeros(*x.shape[:-1], capacity), condition, room)


def _fill(static: Tensor, given: Tensor) -> None:
    """Copy into the beginning of a static tensor; the one axis in which it may be longer is that of time."""
    for axis, (capacity, n) in enumerate(zip(static.shape, given.shape, strict=True)):
        if capacity != n:
            static = static.narrow(axis, 0, n)
    static.copy_(given)
