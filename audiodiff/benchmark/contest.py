"""Rows against a peer: the same weights, the same task, in one process, taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from audiodiff.benchmark.counting import count_operations
from audiodiff.benchmark.jobs import Conditions, changes_of, warm_up
from audiodiff.benchmark.learning import CROP_SAMPLES, Step, TrainingLimits, affordable_batch, step_maker
from audiodiff.benchmark.memory import MemoryWatch
from audiodiff.benchmark.peer import (
    PEER,
    Pair,
    build_pair,
    peer_crops,
    peer_synthesis,
    peer_training_step,
    relative_difference,
)
from audiodiff.benchmark.report import Contest, Contestant, Figure, Memory
from audiodiff.benchmark.subjects import noise_mel, whole_blocks
from audiodiff.benchmark.timing import advantage, take_turns, waiting_for
from audiodiff.engine.choose import Dtype
from audiodiff.pipelines import Vocoder

OURS = "audiodiff"

LONGEST_PEER_STEP = 1.0
"""Seconds: where a step of the peer takes longer, one is timed and multiplied; all its steps are alike."""

Key = tuple[str, Dtype]
"""Name and precision of a contestant."""

THEIRS: Key = (PEER, "fp32")
"""The peer runs in float32: its synthesis knows nothing else, and its training does so by default."""


def sum_up(times: Mapping[Key, list[float]], scale: float = 1.0) -> tuple[Contestant, ...]:
    """Sum up what taking turns gave.

    Args:
        times: Contestant to seconds, one value per round.
        scale: What the peer's seconds are multiplied with, where it did only a part of the task.

    Returns:
        One contestant per key, in their order.
    """
    whole = [scale * seconds for seconds in times[THEIRS]]
    rows = []
    for (name, dtype), taken in times.items():
        seconds = Figure.of(whole if name == PEER else taken)
        ahead = None if name == PEER else advantage(taken, whole)
        rows.append(Contestant(name=name, dtype=dtype, seconds=seconds, advantage=ahead))
    return tuple(rows)


@dataclass(frozen=True)
class SynthesisContest:
    """Ours and the peer's reverse loop, from mel to signal.

    Attributes:
        conditions: Of the run.
        dtypes: Precisions of ours.
        batch: Clips made together.
        seconds: Length of a clip.
        steps: Of the loop; None is the model's own number.
    """

    conditions: Conditions
    dtypes: tuple[Dtype, ...]
    batch: int
    seconds: float
    steps: int | None = None

    def __str__(self) -> str:
        return f"synthesis against {PEER}, batch {self.batch} x {self.seconds:g} s"

    @property
    def keys(self) -> tuple[Key, ...]:
        """All contestants, ours first."""
        return (*((OURS, dtype) for dtype in self.dtypes), THEIRS)

    def run(self) -> Contest:
        """Time all of them here, taking turns."""
        device = self.conditions.prepare()
        pair = build_pair(device)
        difference = relative_difference(pair)
        vocoder = Vocoder(pair.ours, pair.config, "fp32")
        mel, steps = self._mel(vocoder), vocoder.settings(changes_of(self.steps)).steps
        tasks = {key: self._task(pair, key, mel) for key in self.keys}
        timed = self._peer_steps(tasks[THEIRS], steps, device)
        for dtype in self.dtypes:
            tasks[OURS, dtype](0)
        runs = {str(key): partial(task, timed if key == THEIRS else steps) for key, task in tasks.items()}
        times = take_turns(runs, self.conditions.effort, waiting_for(device))
        operations = count_operations(pair.ours, pair.config, batch=self.batch, n_blocks=mel.shape[-1])
        return Contest(
            task="synthesis",
            peer=PEER,
            batch=self.batch,
            n_samples=mel.shape[-1] * pair.config.block_length,
            sample_rate=pair.config.sample_rate,
            steps=steps,
            peer_steps_timed=timed,
            operations=operations.of_loop(steps),
            relative_difference=difference,
            contestants=sum_up({key: times[str(key)] for key in self.keys}, steps / timed),
        )

    def memory(self, key: Key) -> Memory:
        """Measure the memory of one contestant here.

        Ours works at several steps at once and takes the whole loop; each step of the peer needs what the others need.
        """
        device = self.conditions.prepare()
        pair = build_pair(device)
        vocoder = Vocoder(pair.ours, pair.config, "fp32")
        noise_mel(vocoder, 1, 1.0)  # the library behind it takes memory when it is first used
        watch = MemoryWatch(device)
        steps = 1 if key == THEIRS else vocoder.settings(changes_of(self.steps)).steps
        self._task(pair, key, self._mel(vocoder))(steps)
        return watch.memory()

    def _mel(self, vocoder: Vocoder) -> Tensor:
        return noise_mel(vocoder, self.batch, self.seconds)

    def _task(self, pair: Pair, key: Key, mel: Tensor) -> Callable[[int], object]:
        """Return what a contestant does, as a function of the steps taken; 0 steps of ours only warm up."""
        vocoder = Vocoder(pair.ours, pair.config, key[1])
        settings = vocoder.settings(changes_of(self.steps))
        if key != THEIRS:
            return lambda steps: vocoder(mel, steps=steps) if steps else warm_up(vocoder, mel, settings.steps)
        shape = (self.batch, 1, mel.shape[-1] * pair.config.block_length)
        levels = vocoder.noise_levels(settings)

        def loop(steps: int) -> Tensor:
            return peer_synthesis(pair, mel, levels, lambda _number: torch.randn(shape, device=mel.device), steps)

        return loop

    def _peer_steps(self, loop: Callable[[int], object], steps: int, device: torch.device) -> int:
        """Return how many steps of the peer are timed; finding out warms it up."""
        wait = waiting_for(device)
        if device.type == "cuda":
            loop(steps)
        wait()
        started = time.perf_counter()
        loop(1)
        wait()
        return steps if time.perf_counter() - started < LONGEST_PEER_STEP else 1


@dataclass(frozen=True)
class TrainingContest:
    """A training step of ours and of the peer; the batch is what all of them can afford.

    Attributes:
        conditions: Of the run.
        dtypes: Precisions of ours.
        limits: What a step may cost.
    """

    conditions: Conditions
    dtypes: tuple[Dtype, ...]
    limits: TrainingLimits

    def __str__(self) -> str:
        return f"training against {PEER}, batch {self.limits.batch} x {CROP_SAMPLES}"

    @property
    def keys(self) -> tuple[Key, ...]:
        """All contestants, ours first."""
        return (*((OURS, dtype) for dtype in self.dtypes), THEIRS)

    def run(self) -> tuple[Contest, str]:
        """Time all of them here, taking turns; return also why the batch is smaller than wanted, or an empty text."""
        device = self.conditions.prepare()
        pair = build_pair(device)
        difference = relative_difference(pair)
        watch = MemoryWatch(device)
        makers, limits, reason = {key: _training_maker(pair, key) for key in self.keys}, self.limits, ""
        for maker in makers.values():  # which warms them up too
            batch, why = affordable_batch(maker, limits, watch, device)
            limits, reason = replace(limits, batch=batch), why or reason
        steps = {str(key): maker(limits.batch) for key, maker in makers.items()}
        if device.type == "cuda":
            for step in steps.values():
                step()
        times = take_turns(steps, self.conditions.effort, waiting_for(device))
        contest = Contest(
            task="training",
            peer=PEER,
            batch=limits.batch,
            n_samples=whole_blocks(pair.config, CROP_SAMPLES),
            sample_rate=pair.config.sample_rate,
            steps=1,
            peer_steps_timed=1,
            operations=0,
            relative_difference=difference,
            contestants=sum_up({key: times[str(key)] for key in self.keys}),
        )
        return contest, f"{self}: done with batch {limits.batch}, {reason}" if reason else ""

    def memory(self, key: Key) -> Memory:
        """Measure the memory of one contestant here, over two steps of the largest batch in `limits`."""
        device = self.conditions.prepare()
        pair = build_pair(device)
        watch = MemoryWatch(device)
        step = _training_maker(pair, key)(self.limits.batch)
        step()
        step()  # the first made the state of the optimiser
        return watch.memory()


def _training_maker(pair: Pair, key: Key) -> Callable[[int], Step]:
    if key != THEIRS:
        return step_maker(pair.ours, pair.config, key[1])
    step, n_samples = peer_training_step(pair), whole_blocks(pair.config, CROP_SAMPLES)

    def make_step(batch: int) -> Step:
        audio, mel = peer_crops(pair.config, batch, n_samples)
        return lambda: step(audio, mel)

    return make_step
