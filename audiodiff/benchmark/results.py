"""Results of a benchmark: the schema of its JSON, and its tables for a terminal and for a README.

Derived figures are computed from the results, never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import ClassVar

from pydantic import Field

from audiodiff.config import Config, parse_config
from audiodiff.errors import ConfigError
from audiodiff.text import Align, format_number, markdown_table, read_json, text_table

FORMAT = 1


class Measurement(Config):
    """A measured quantity over its repeats: median, lowest, highest."""

    median: float
    low: float
    high: float
    repeats: int = Field(gt=0)

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Measurement:
        """Summarise measured values.

        Example:
            >>> Measurement.from_values([3.0, 1.0, 2.0])
            Measurement(median=2.0, low=1.0, high=3.0, repeats=3)
        """
        return cls(median=median(values), low=min(values), high=max(values), repeats=len(values))

    def scaled(self, factor: float) -> Measurement:
        """Return it in another unit: every value multiplied by a positive factor."""
        scaled = {"median": self.median * factor, "low": self.low * factor, "high": self.high * factor}
        return Measurement(**scaled, repeats=self.repeats)

    def rate_of(self, amount: float) -> Measurement:
        """Return an amount per unit of this one, for example samples per second from seconds."""
        values = {"median": amount / self.median, "low": amount / self.high, "high": amount / self.low}
        return Measurement(**values, repeats=self.repeats)


class Memory(Config):
    """Bytes that the process of a job held: before it, model loaded, and at its peak.

    On a CPU that is the resident set of the whole process, Python and torch among it; on a GPU what torch allocated
    there. None where the system does not tell.
    """

    before: int | None = None
    peak: int | None = None


class Machine(Config):
    """The machine and its software."""

    device: str
    name: str = Field(description="of the CPU or GPU that computed")
    cpu: str
    cores: int
    threads: int = Field(description="that torch computes with on the CPU")
    bf16: bool = Field(description="whether the device multiplies bfloat16 matrices in hardware")
    features: tuple[str, ...] = Field((), description="of the CPU or GPU that matter here")
    system: str
    versions: dict[str, str]
    load: float | None = Field(
        None, description="runnable processes over the minute before; of 0 when nothing else ran"
    )


class MatmulResult(Config):
    """Matrix product of an `m x k` with a `k x n` matrix."""

    name: str
    m: int
    k: int
    n: int
    dtype: str
    rate: Measurement = Field(description="FLOP/s: a multiplication and an addition count as two")
    roofline: bool = Field(description="whether utilisation is relative to this one")


class SynthesisResult(Config):
    """One way of making audio; times are of a whole call, from mel to audio."""

    model: str
    dtype: str
    batch: int
    clip_seconds: float = Field(description="seconds of audio of one clip")
    steps: int
    seconds: Measurement
    flops: float = Field(description="of the network over all steps, its condition once")
    memory: Memory

    RENAMED_KEYS: ClassVar = {"operations": "flops"}

    @property
    def real_time_factor(self) -> Measurement:
        """Seconds of computing per second of audio."""
        return self.seconds.scaled(1 / (self.batch * self.clip_seconds))


class PrecisionResult(Config):
    """How far the result in bfloat16 is from the one in float32, of the same noise."""

    model: str
    steps: int
    clip_seconds: float
    snr_db: float


class TrainingResult(Config):
    """One way of training; times are of a whole step."""

    model: str
    dtype: str
    batch: int
    n_samples: int = Field(description="of a crop")
    seconds: Measurement
    memory: Memory


class Entry(Config):
    """One network and precision of a comparison."""

    RENAMED_KEYS: ClassVar = {"advantage": "speedup"}

    name: str
    dtype: str
    seconds: Measurement = Field(description="of the whole task")
    speedup: Measurement | None = Field(None, description="seconds of the baseline over these; None for the baseline")
    memory: Memory = Memory()


class Comparison(Config):
    """Our network and a baseline with the same weights, timed in turns in one process."""

    RENAMED_KEYS: ClassVar = {
        "peer": "baseline",
        "peer_steps_timed": "baseline_steps_timed",
        "operations": "flops",
        "contestants": "entries",
    }

    task: str = Field(description="'synthesis' or 'training'")
    baseline: str
    batch: int
    n_samples: int = Field(description="of a clip")
    sample_rate: int
    steps: int = Field(description="of the reverse loop; 1 in training")
    baseline_steps_timed: int = Field(description="steps of the baseline that were timed; its time is scaled up to all")
    flops: float = Field(description="of the reverse loop, as in synthesis; 0 in training")
    relative_difference: float = Field(description="of the two networks' predictions, in float32")
    entries: tuple[Entry, ...]


class Report(Config):
    """All results of one run of `audiodiff bench`."""

    RENAMED_KEYS: ClassVar = {"matrix_products": "matmuls", "contests": "comparisons"}

    audiodiff_benchmark: int = FORMAT
    command: str
    date: str = Field(description="UTC, ISO 8601")
    commit: str | None = Field(None, description="of the checkout it ran from; None for an installed package")
    machine: Machine
    matmuls: tuple[MatmulResult, ...] = ()
    copy_rate: Measurement | None = Field(None, description="bytes per second, read and written, of a large copy")
    synthesis: tuple[SynthesisResult, ...] = ()
    precision: tuple[PrecisionResult, ...] = ()
    training: tuple[TrainingResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = Field((), description="what was left out, made smaller, or failed, and why")

    def roofline(self, dtype: str) -> float | None:
        """Return the FLOP/s that utilisation is relative to, or None where they were not measured."""
        return next((row.rate.median for row in self.matmuls if row.roofline and row.dtype == dtype), None)


def read_report(path: str | Path) -> Report:
    """Read a report that `audiodiff bench --json` wrote.

    Args:
        path: The file.

    Returns:
        The report.

    Raises:
        ConfigError: If it cannot be read, or is no such report.
    """
    values = read_json(path, ConfigError)
    found = values.get("audiodiff_benchmark") if isinstance(values, dict) else None
    if found != FORMAT:
        raise ConfigError(
            f"{path} is no report of `audiodiff bench --json` in format {FORMAT} (it says {found!r}). Make it anew."
        )
    return parse_config(Report, values, str(path))


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: One line above it.
        header: Names of the columns.
        rows: As many cells each.
        align: Of the columns after the first.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: Align = "right"


def report_tables(report: Report) -> list[Table]:
    """Return the tables of a report, with derived figures.

    Args:
        report: The report.

    Returns:
        Its tables, without empty ones.
    """
    tables = [_machine(report), _matmuls(report), _synthesis(report), _precision(report), _training(report)]
    tables += [_comparison(report, comparison) for comparison in report.comparisons]
    tables.append(Table("Notes", ("",), tuple((note,) for note in report.notes)))
    return [table for table in tables if table.rows]


def as_text(tables: Sequence[Table]) -> str:
    """Format tables for a terminal."""
    return "\n\n".join(_text(table) for table in tables) + "\n"


def as_markdown(tables: Sequence[Table]) -> str:
    """Format tables in Markdown."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _text(table: Table) -> str:
    rows = [row for row in (table.header, *table.rows) if any(row)]
    return f"{table.title}\n{text_table(rows, align=table.align, indent=2)}"


def _markdown(table: Table) -> str:
    if len(table.header) == 1:
        return "\n".join([f"{table.title}:", *(f"- {row[0]}" for row in table.rows)])
    return f"**{table.title}**\n\n{markdown_table((table.header, *table.rows), align=table.align)}"


def format_measurement(measurement: Measurement) -> str:
    """Format a median with the lowest and the highest value, or alone where there was a single repeat.

    Example:
        >>> format_measurement(Measurement.from_values([1.0, 2.0, 4.0]))
        '2.00 (1.00-4.00)'
    """
    if measurement.repeats == 1:
        return f"{format_number(measurement.median)} (once)"
    return f"{format_number(measurement.median)} ({format_number(measurement.low)}-{format_number(measurement.high)})"


def format_memory(memory: Memory) -> str:
    """Format the peak in GB, and how much of it the job added."""
    if memory.peak is None:
        return "n/a"
    added = "" if memory.before is None else f" (+{(memory.peak - memory.before) / 1e9:.2f})"
    return f"{memory.peak / 1e9:.2f}{added}"


def utilisation(report: Report, dtype: str, rate: float) -> str:
    """Format FLOP/s as a percentage of those of the large square product in the same run."""
    roofline = report.roofline(dtype)
    return "n/a" if roofline is None else f"{rate / roofline:.1%}"


def _machine(report: Report) -> Table:
    machine = report.machine
    rows = [
        ("device", f"{machine.device}: {machine.name}"),
        ("CPU", f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads used"),
        ("bf16 in hardware", "yes" if machine.bf16 else "no"),
        ("features", ", ".join(machine.features)),
        ("system", machine.system),
        ("versions", ", ".join(f"{name} {version}" for name, version in machine.versions.items())),
        (
            "memory bandwidth",
            "n/a" if report.copy_rate is None else f"{format_measurement(report.copy_rate.scaled(1e-9))} GB/s",
        ),
        ("load before", "n/a" if machine.load is None else f"{machine.load:g}"),
        ("commit", report.commit or "n/a"),
        ("date", report.date),
        ("command", report.command),
    ]
    return Table("Machine", ("", "this run"), tuple(rows), align="left")


def _matmuls(report: Report) -> Table:
    rows = [
        (
            f"{row.name}{', the roofline' if row.roofline else ''}",
            f"{row.m} x {row.k} x {row.n}",
            row.dtype,
            format_measurement(row.rate.scaled(1e-9)),
        )
        for row in report.matmuls
    ]
    return Table("Matrix products", ("product", "size", "dtype", "GFLOP/s"), tuple(rows))


def _synthesis(report: Report) -> Table:
    header = ("model", "dtype", "steps", "batch", "clip, s", "seconds", "real-time factor", "GFLOP")
    rows = [
        (
            row.model,
            row.dtype,
            str(row.steps),
            str(row.batch),
            format_number(row.clip_seconds),
            format_measurement(row.seconds),
            format_measurement(row.real_time_factor),
            format_number(row.flops / 1e9),
            utilisation(report, row.dtype, row.flops / row.seconds.median),
            format_memory(row.memory),
        )
        for row in report.synthesis
    ]
    title = "Synthesis: from mel to audio (real-time factor: seconds of computing per second of audio)"
    return Table(title, (*header, "of roofline", "peak GB"), tuple(rows))


def _precision(report: Report) -> Table:
    rows = [
        (row.model, str(row.steps), format_number(row.clip_seconds), f"{row.snr_db:.1f}") for row in report.precision
    ]
    return Table("bf16 against fp32, from the same noise", ("model", "steps", "clip, s", "SNR, dB"), tuple(rows))


def _training(report: Report) -> Table:
    rows = [
        (
            row.model,
            row.dtype,
            f"{row.batch} x {row.n_samples:,}",
            format_measurement(row.seconds),
            format_measurement(row.seconds.rate_of(row.batch * row.n_samples)),
            format_memory(row.memory),
        )
        for row in report.training
    ]
    title = "Training: a whole step, from crops in main memory to new weights"
    return Table(title, ("model", "dtype", "batch", "seconds per step", "samples/s", "peak GB"), tuple(rows))


def _comparison(report: Report, comparison: Comparison) -> Table:
    audio_seconds = comparison.n_samples / comparison.sample_rate
    task = f"batch {comparison.batch} x {format_number(audio_seconds)} s, {comparison.steps} steps"
    if comparison.task == "training":
        task = f"batch {comparison.batch} x {comparison.n_samples:,} samples"
    if comparison.baseline_steps_timed != comparison.steps:
        task += f" (of the baseline {comparison.baseline_steps_timed} timed, and scaled up)"
    title = (
        f"{comparison.task.capitalize()} of DiffWave BASE, the same weights, timed in turns: {task}; "
        f"predictions differ by {comparison.relative_difference:.1e}"
    )
    rate = "real-time factor" if comparison.task == "synthesis" else "samples/s"
    header = ("", "dtype", "seconds", rate, f"times {comparison.baseline}", "of roofline", "peak GB")
    return Table(title, header, tuple(_entry(report, comparison, row) for row in comparison.entries))


def _entry(report: Report, comparison: Comparison, row: Entry) -> tuple[str, ...]:
    n_samples = comparison.batch * comparison.n_samples
    rate, used = row.seconds.rate_of(n_samples), "n/a"
    if comparison.task == "synthesis":
        rate = row.seconds.scaled(comparison.sample_rate / n_samples)
        used = utilisation(report, row.dtype, comparison.flops / row.seconds.median)
    speedup = "1" if row.speedup is None else format_measurement(row.speedup)
    times = (format_measurement(row.seconds), format_measurement(rate))
    return (row.name, row.dtype, *times, speedup, used, format_memory(row.memory))
