"""A whole run: which jobs there are, one after the other, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import product
from typing import Protocol, TypeVar

from audiodiff.benchmark.baseline import BASELINE
from audiodiff.benchmark.comparison import Key, SynthesisComparison, TrainingComparison
from audiodiff.benchmark.jobs import Environment, MachineJob, PrecisionJob, StreamingJob, SynthesisJob
from audiodiff.benchmark.machine import commit_of_checkout
from audiodiff.benchmark.results import Comparison, Memory, Report
from audiodiff.benchmark.tables import row_lines
from audiodiff.benchmark.timing import JobError, run_in_process
from audiodiff.benchmark.training import TrainingJob, TrainingLimits
from audiodiff.benchmark.vocos import VOCOS, VocosComparison
from audiodiff.engine.choose import Dtype

MAX_BASELINE_SECONDS = {"cpu": 40.0, "cuda": 200.0}
"""Seconds of audio in a batch; the baseline takes ten times as long or more, and its memory grows with them."""

PRECISION_SECONDS = 5.0
"""Length of the clip on which precisions are compared, at most."""

Progress = Callable[[str, int, int], None]
"""Called with the name of the job that starts, its number from 1, and their total."""

AnyComparison = SynthesisComparison | TrainingComparison | VocosComparison
Result = TypeVar("Result")
Task = TypeVar("Task")
_Result_co = TypeVar("_Result_co", covariant=True)


class Job(Protocol[_Result_co]):
    """A job to measure; `str` names it."""

    def run(self) -> _Result_co:
        """Measure it in this process."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        environment: Of all jobs.
        models: Names, see `audiodiff.benchmark.inputs.load_network`.
        lengths: Seconds of a clip.
        batches: Clips made together.
        steps: Of the reverse loop; None is a model's own number.
        dtypes: Precisions.
        every_combination: Measure the product of lengths, batches and steps; otherwise one of them is varied at a time,
            from the first of each, and in the last precision.
        streams: Models that stream, in the last precision; of synthesis only the first number of steps.
        stream_chunks: Seconds of a stream's chunk.
        training: Limits of training jobs; None leaves training out.
        against: Baselines that are compared with: "diffwave" with DiffWave BASE, "vocos" with `vocoders`.
        memory: Whether the memory of each side of a comparison is measured too, in a process of its own.
        square: Side of the matrices of the roofline, in place of the usual one.
    """

    environment: Environment
    models: tuple[str, ...]
    lengths: tuple[float, ...] = (5.0,)
    batches: tuple[int, ...] = (1,)
    steps: tuple[int | None, ...] = (None,)
    dtypes: tuple[Dtype, ...] = ("fp32",)
    every_combination: bool = False
    streams: tuple[str, ...] = ()
    stream_chunks: tuple[float, ...] = (0.02, 0.1, 0.5)
    training: TrainingLimits | None = field(default_factory=TrainingLimits)
    against: tuple[str, ...] = ()
    vocoders: tuple[str, ...] = ()
    memory: bool = True
    square: int | None = None

    def points(self) -> Iterator[tuple[int, float, int | None, Dtype]]:
        """Yield (batch, seconds, steps, dtype) of every synthesis job of a model."""
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
        """Yield the jobs of synthesis."""
        for model in self.models:
            for batch, seconds, steps, dtype in self.points():
                yield SynthesisJob(self.environment, model, dtype, batch, seconds, steps)

    def streaming(self) -> Iterator[StreamingJob]:
        """Yield the jobs of streams."""
        for model, chunk in product(self.streams, self.stream_chunks):
            yield StreamingJob(self.environment, model, self.dtypes[-1], chunk, self.steps[0])

    def precision(self) -> Iterator[PrecisionJob]:
        """Yield the jobs of bf16 against fp32, where both are measured."""
        if {"fp32", "bf16"} <= set(self.dtypes):
            seconds = min(self.lengths[0], PRECISION_SECONDS)
            yield from (PrecisionJob(self.environment, model, seconds, self.steps[0]) for model in self.models)

    def train(self) -> Iterator[TrainingJob]:
        """Yield the jobs of training."""
        if self.training is not None:
            for model, dtype in product(self.models, self.dtypes):
                yield TrainingJob(self.environment, model, dtype, self.training)

    def comparisons(self) -> Iterator[SynthesisComparison | VocosComparison]:
        """Yield the jobs of synthesis against a baseline."""
        points = dict.fromkeys(point[:3] for point in self.points())
        if VOCOS in self.against:
            for model, point in product(self.vocoders, points):
                yield VocosComparison(self.environment, model, self.dtypes, *point)
        if BASELINE in self.against:
            for point in points:
                yield SynthesisComparison(self.environment, self.dtypes, *point)

    @property
    def training_comparison(self) -> TrainingComparison | None:
        """Return the job of training against the baseline."""
        if self.training is None or BASELINE not in self.against:
            return None
        return TrainingComparison(self.environment, self.dtypes, self.training)

    @property
    def n_jobs(self) -> int:
        """How many processes it takes."""
        comparisons: list[AnyComparison] = [*self.comparisons(), *filter(None, [self.training_comparison])]
        jobs = (self.synthesis(), self.streaming(), self.precision(), self.train())
        # Of a comparison all take turns, then the memory of each is measured.
        n_compared = sum(1 + len(job.keys) * self.memory for job in comparisons)
        return 1 + sum(len(list(kind)) for kind in jobs) + n_compared


def _run(job: Job[Result]) -> Result:
    return job.run()


def _memory(job: tuple[AnyComparison, Key]) -> Memory:
    return job[0].memory(job[1])


class _Runner:
    """Run jobs one after the other, and note those that fail."""

    def __init__(self, n_jobs: int, progress: Progress, show: Callable[[str], object]) -> None:
        self._n_jobs, self._progress, self._number = n_jobs, progress, 0
        self._show, self.notes = show, list[str]()

    def __call__(self, job: Job[Result]) -> Result | None:
        return self.call(_run, job, str(job))

    def call(self, function: Callable[[Task], Result], job: Task, name: str) -> Result | None:
        self._number += 1
        self._progress(name, self._number, self._n_jobs)
        try:
            return run_in_process(function, job)
        except JobError as error:
            self.note(f"{name}: not measured, {error}")
            return None

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.show(text)

    def show(self, line: str) -> None:
        self._show(f"{self._number} of {self._n_jobs}: {line}")

    def with_note(self, job: Job[tuple[Result, str]]) -> Result | None:
        answer = self(job)
        if answer is None:
            return None
        result, note = answer
        if note:
            self.note(note)
        return result


def run_benchmark(
    plan: Plan,
    command: str,
    progress: Progress = lambda _name, _number, _total: None,
    show: Callable[[str], object] = lambda _line: None,
    save: Callable[[Report], object] = lambda _report: None,
) -> Report:
    """Measure everything in a plan.

    Args:
        plan: What.
        command: The command line that asked for it, for the report.
        progress: See `Progress`.
        show: Called with one line per row as soon as it is measured.
        save: Called at the same time with the results so far, so that a run that is killed loses none.

    Returns:
        The report. Jobs that failed are in its notes, with the reason.

    Raises:
        JobError: If the machine could not be described.
    """
    run = _Runner(plan.n_jobs, progress, show)
    machine = run(MachineJob(plan.environment, plan.dtypes, plan.square))
    if machine is None:
        raise JobError(run.notes[0])
    report = Report(
        command=command,
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        commit=commit_of_checkout(),
        machine=machine.machine,
        matmuls=machine.matmuls,
        copy_rate=machine.copy_rate,
    )
    save(report)
    for line in row_lines(report, "matmuls", machine.matmuls[0]):
        run.show(line)
    compared: list[AnyComparison] = []
    parts: dict[str, Iterator[object]] = {
        "synthesis": map(run, plan.synthesis()),
        "streaming": map(run, plan.streaming()),
        "precision": map(run, plan.precision()),
        "training": map(run.with_note, plan.train()),
        "comparisons": _comparisons(plan, run, compared),
    }
    for name, results in parts.items():
        for result in results:
            found = getattr(report, name) + (() if result is None else (result,))
            report = report.model_copy(update={name: found, "notes": tuple(run.notes)})
            save(report)
            for line in [] if result is None else row_lines(report, name, result):
                run.show(line)
    for number, job in enumerate(compared if plan.memory else ()):
        comparisons = list(report.comparisons)
        comparisons[number] = _with_memory(comparisons[number], job, run)
        report = report.model_copy(update={"comparisons": tuple(comparisons), "notes": tuple(run.notes)})
        save(report)
    return report.model_copy(update={"notes": tuple(run.notes)})


def _comparisons(plan: Plan, run: _Runner, compared: list[AnyComparison]) -> Iterator[Comparison | None]:
    """Yield comparisons, and list the jobs of those that succeeded."""
    for job in plan.comparisons():
        limit = MAX_BASELINE_SECONDS[plan.environment.device.partition(":")[0]]
        if isinstance(job, SynthesisComparison) and job.batch * job.seconds > limit:
            run.note(f"{job}: left out, the baseline is given {limit:g} s of audio at a time at most")
        elif (comparison := run(job)) is not None:
            compared.append(job)
            yield comparison
    if (training := plan.training_comparison) is not None and (comparison := run.with_note(training)) is not None:
        compared.append(replace(training, limits=replace(training.limits, batch=comparison.batch)))
        yield comparison


def _with_memory(comparison: Comparison, job: AnyComparison, run: _Runner) -> Comparison:
    entries = []
    for key, entry in zip(job.keys, comparison.entries, strict=True):
        memory = run.call(_memory, (job, key), f"memory of {' '.join(key)} in {job}")
        entries.append(entry if memory is None else entry.model_copy(update={"memory": memory}))
    return comparison.model_copy(update={"entries": tuple(entries)})
