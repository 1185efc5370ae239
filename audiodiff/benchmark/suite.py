"""A whole run: which rows there are, one after the other, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import product
from typing import Protocol, TypeVar

from audiodiff.benchmark.contest import Key, SynthesisContest, TrainingContest
from audiodiff.benchmark.jobs import Conditions, MachineJob, PrecisionJob, SynthesisJob
from audiodiff.benchmark.learning import TrainingJob, TrainingLimits
from audiodiff.benchmark.machine import commit_of_checkout
from audiodiff.benchmark.processes import RowError, in_a_process
from audiodiff.benchmark.report import Contest, Memory, Report
from audiodiff.engine.choose import Dtype

PEER_SECONDS = {"cpu": 40.0, "cuda": 200.0}
"""Seconds of audio in a batch up to which a peer is asked to take part: it takes ten times as long to make, or more,
and its memory grows with them."""

PRECISION_SECONDS = 5.0
"""Length of the clip on which precisions are compared, at most."""

Progress = Callable[[str, int, int], None]
"""Called with the name of a row that begins, its number from 1 on, and how many there are."""

AnyContest = SynthesisContest | TrainingContest
Result = TypeVar("Result")
Task = TypeVar("Task")
_Result_co = TypeVar("_Result_co", covariant=True)


class Job(Protocol[_Result_co]):
    """A row to be measured; `str` names it."""

    def run(self) -> _Result_co:
        """Measure it in this process."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        conditions: Of all rows.
        models: Names, see `audiodiff.benchmark.subjects.load_subject`.
        lengths: Seconds of a clip.
        batches: Clips made together.
        steps: Of the reverse loop; None is a model's own number.
        dtypes: Precisions.
        every_combination: Measure the product of lengths, batches and steps; otherwise one of them is varied at a time,
            from the first of each, and in the last precision.
        training: Limits of training rows; None leaves training out.
        against: Whether the peer takes part.
        square: Side of the matrices of the roofline, in place of the usual one.
    """

    conditions: Conditions
    models: tuple[str, ...]
    lengths: tuple[float, ...] = (5.0,)
    batches: tuple[int, ...] = (1,)
    steps: tuple[int | None, ...] = (None,)
    dtypes: tuple[Dtype, ...] = ("fp32",)
    every_combination: bool = False
    training: TrainingLimits | None = field(default_factory=TrainingLimits)
    against: bool = False
    square: int | None = None

    def points(self) -> Iterator[tuple[int, float, int | None, Dtype]]:
        """Yield (batch, seconds, steps, dtype) of every synthesis row of a model."""
        axes = (self.batches, self.lengths, self.steps)
        if self.every_combination:
            yield from product(*axes, self.dtypes)
            return
        first, last = (self.batches[0], self.lengths[0], self.steps[0]), self.dtypes[-1]
        yield from ((*first, dtype) for dtype in self.dtypes)
        yield from ((first[0], seconds, first[2], last) for seconds in self.lengths[1:])
        yield from ((batch, first[1], first[2], last) for batch in self.batches[1:])
        yield from ((first[0], first[1], steps, last) for steps in self.steps[1:])

    def synthesis(self) -> Iterator[SynthesisJob]:
        """Yield the rows of synthesis."""
        for model in self.models:
            for batch, seconds, steps, dtype in self.points():
                yield SynthesisJob(self.conditions, model, dtype, batch, seconds, steps)

    def precision(self) -> Iterator[PrecisionJob]:
        """Yield the rows of bf16 against fp32, where both are measured."""
        if {"fp32", "bf16"} <= set(self.dtypes):
            seconds = min(self.lengths[0], PRECISION_SECONDS)
            yield from (PrecisionJob(self.conditions, model, seconds, self.steps[0]) for model in self.models)

    def learning(self) -> Iterator[TrainingJob]:
        """Yield the rows of training."""
        if self.training is not None:
            for model, dtype in product(self.models, self.dtypes):
                yield TrainingJob(self.conditions, model, dtype, self.training)

    def contests(self) -> Iterator[SynthesisContest]:
        """Yield the rows of synthesis against the peer."""
        if self.against:
            for batch, seconds, steps in dict.fromkeys(point[:3] for point in self.points()):
                yield SynthesisContest(self.conditions, self.dtypes, batch, seconds, steps)

    @property
    def n_rows(self) -> int:
        """How many processes it takes."""
        per_contest = 1 + len(self.dtypes) + 1  # all taking turns, then the memory of each
        n_contests = len(list(self.contests())) + (self.against and self.training is not None)
        rows = (self.synthesis(), self.precision(), self.learning())
        return 1 + sum(len(list(jobs)) for jobs in rows) + n_contests * per_contest


def _run(job: Job[Result]) -> Result:
    return job.run()


def _memory(job: tuple[AnyContest, Key]) -> Memory:
    return job[0].memory(job[1])


class _Runner:
    """Measures rows one after the other, and notes down those that cannot be."""

    def __init__(self, n_rows: int, progress: Progress) -> None:
        self._n_rows, self._progress, self._number = n_rows, progress, 0
        self.notes: list[str] = []

    def __call__(self, job: Job[Result]) -> Result | None:
        return self.ask(_run, job, str(job))

    def ask(self, function: Callable[[Task], Result], job: Task, name: str) -> Result | None:
        self._number += 1
        self._progress(name, self._number, self._n_rows)
        try:
            return in_a_process(function, job)
        except RowError as error:
            self.notes.append(f"{name}: not measured, {error}")
            return None

    def all_of(self, jobs: Iterator[Job[Result]]) -> tuple[Result, ...]:
        return tuple(result for job in jobs if (result := self(job)) is not None)

    def with_note(self, job: Job[tuple[Result, str]]) -> Result | None:
        answer = self(job)
        if answer is None:
            return None
        result, note = answer
        self.notes += [note] if note else []
        return result


def measure(plan: Plan, command: str, progress: Progress = lambda _name, _number, _total: None) -> Report:
    """Measure everything in a plan.

    Args:
        plan: What.
        command: The command line that asked for it, for the report.
        progress: See `Progress`.

    Returns:
        The report. Rows that could not be measured are in its notes, with the reason.

    Raises:
        RowError: If not even the machine could be described.
    """
    run = _Runner(plan.n_rows, progress)
    machine = run(MachineJob(plan.conditions, plan.dtypes, plan.square))
    if machine is None:
        raise RowError(run.notes[0])
    synthesis = run.all_of(plan.synthesis())
    precision = run.all_of(plan.precision())
    training = tuple(row for job in plan.learning() if (row := run.with_note(job)) is not None)
    contests = tuple(_contests(plan, run))
    return Report(
        command=command,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit_of_checkout(),
        machine=machine[0],
        matrix_products=machine[1],
        synthesis=synthesis,
        precision=precision,
        training=training,
        contests=contests,
        notes=tuple(run.notes),
    )


def _contests(plan: Plan, run: _Runner) -> Iterator[Contest]:
    for job in plan.contests():
        limit = PEER_SECONDS[plan.conditions.device.partition(":")[0]]
        if job.batch * job.seconds > limit:
            run.notes.append(f"{job}: left out, a peer is asked for {limit:g} s of audio at a time at most")
        elif (contest := run(job)) is not None:
            yield _with_memory(job, contest, run)
    if plan.against and plan.training is not None:
        learning = TrainingContest(plan.conditions, plan.dtypes, plan.training)
        if (contest := run.with_note(learning)) is not None:
            limits = replace(plan.training, batch=contest.batch)
            yield _with_memory(replace(learning, limits=limits), contest, run)


def _with_memory(job: AnyContest, contest: Contest, run: _Runner) -> Contest:
    rows = []
    for key, row in zip(job.keys, contest.contestants, strict=True):
        memory = run.ask(_memory, (job, key), f"memory of {' '.join(key)} in {job}")
        rows.append(row if memory is None else row.model_copy(update={"memory": memory}))
    return contest.model_copy(update={"contestants": tuple(rows)})
