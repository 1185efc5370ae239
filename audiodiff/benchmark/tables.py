"""Tables of a benchmark's results, for a terminal and for a README."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from audiodiff.benchmark.results import Comparison, Entry, Measurement, Memory, Report, Roofline, Row
from audiodiff.text import Align, format_number, markdown_table, text_table


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: One line above it.
        header: Names of the columns.
        rows: As many cells each.
        align: Of the columns after the first.
        n_keys: How many columns, from the first, say what was measured; the others are figures.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: Align = "right"
    n_keys: int = 1


def report_tables(report: Report) -> list[Table]:
    """Return the tables of a report, with derived figures.

    Args:
        report: The report.

    Returns:
        Its tables, without empty ones.
    """
    tables = [_machine(report), *(table(report) for table in _TABLES.values())]
    tables += [_comparison(report, comparison) for comparison in report.comparisons]
    tables.append(Table("Notes", ("",), tuple((note,) for note in report.notes)))
    return [table for table in tables if table.rows]


def row_lines(report: Report, part: str, result: object) -> list[str]:
    """Return a line for a row that has just been measured; for a comparison, one for each entry.

    Args:
        report: What was measured so far.
        part: The report's field that has the row.
        result: The row.
    """
    is_comparison = isinstance(result, Comparison)
    alone = report.model_copy(update={part: (result,)})
    table = _comparison(report, result) if isinstance(result, Comparison) else _TABLES[part](alone)
    lines = []
    for row in table.rows:
        named = ", ".join([str(result), *(row[: table.n_keys] if is_comparison else ())])
        figures = zip(table.header[table.n_keys :], row[table.n_keys :], strict=True)
        lines.append(f"{named}: " + "; ".join(f"{header} {cell}" for header, cell in figures if cell != "n/a"))
    return lines


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


def utilisation(report: Report, row: Row, dtype: str, rate: float) -> str:
    """Format FLOP/s as a percentage of those of a large square product next to the row; more than all is noise."""
    roofline = row.rooflines[dtype].matmul_rate.median if dtype in row.rooflines else report.roofline(dtype)
    if roofline is None:
        return "n/a"
    return f"{rate / roofline:.1%}{' (noise)' if rate > roofline else ''}"


def format_roofline(roofline: Roofline | None) -> str:
    """Format the rates next to a row: GFLOP/s of a product, GB/s of a copy."""
    if roofline is None:
        return "n/a"
    rates = roofline.matmul_rate.median, roofline.copy_rate.median
    return ", ".join(format_number(rate / 1e9) for rate in rates)


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
    return Table("Matrix products", ("product", "size", "dtype", "GFLOP/s"), tuple(rows), n_keys=3)


def _synthesis(report: Report) -> Table:
    header = ("model", "dtype", "steps", "batch", "clip, s", "seconds", "real-time factor", "times 10 s", "GFLOP")
    rows = [
        (
            row.model,
            row.dtype,
            str(row.steps),
            str(row.batch),
            format_number(row.clip_seconds),
            format_measurement(row.seconds),
            format_measurement(row.real_time_factor),
            "n/a" if row.relative_cost is None else format_measurement(row.relative_cost),
            format_number(row.flops / 1e9),
            utilisation(report, row, row.dtype, row.flops / row.seconds.median),
            format_roofline(row.rooflines.get(row.dtype)),
            format_memory(row.memory),
        )
        for row in report.synthesis
    ]
    title = (
        "Synthesis: from mel to audio (real-time factor: seconds of computing per second of audio; times 10 s: that "
        "over the one of 10 s clips, in turns; GFLOP/s, GB/s: of a large matrix product, the roofline, and of a copy)"
    )
    return Table(title, (*header, "of roofline", _ROOFLINE, "peak GB"), tuple(rows), n_keys=5)


def _streaming(report: Report) -> Table:
    header = ("model", "dtype", "threads", "steps", "chunk, ms", "latency, ms")
    rows = [
        (
            row.model,
            row.dtype,
            str(row.threads),
            str(row.steps),
            format_number(row.chunk_seconds * 1000),
            str(round(row.latency_seconds * 1000)),
            format_measurement(row.real_time_factor),
            format_measurement(row.offline_real_time_factor),
            format_measurement(row.cost_ratio),
            format_roofline(row.rooflines.get(row.dtype)),
        )
        for row in report.streaming
    ]
    title = "Streaming, in turns with whole calls (latency without computing; cost in real-time factors)"
    return Table(title, (*header, "real-time factor", "offline", "times offline", _ROOFLINE), tuple(rows), n_keys=5)


def _precision(report: Report) -> Table:
    rows = [
        (row.model, str(row.steps), format_number(row.clip_seconds), f"{row.snr_db:.1f}") for row in report.precision
    ]
    header = ("model", "steps", "clip, s", "SNR, dB")
    return Table("bf16 against fp32, from the same noise", header, tuple(rows), n_keys=3)


def _training(report: Report) -> Table:
    rows = [
        (
            row.model,
            row.dtype,
            f"{row.batch} x {row.n_samples:,}",
            format_measurement(row.seconds),
            format_measurement(row.seconds.rate_of(row.batch * row.n_samples)),
            format_roofline(row.rooflines.get(row.dtype)),
            format_memory(row.memory),
        )
        for row in report.training
    ]
    title = "Training: a whole step, from crops in main memory to new weights"
    header = ("model", "dtype", "batch", "seconds per step", "samples/s", _ROOFLINE, "peak GB")
    return Table(title, header, tuple(rows), n_keys=3)


def _comparison(report: Report, comparison: Comparison) -> Table:
    audio_seconds = comparison.n_samples / comparison.sample_rate
    task = f"batch {comparison.batch} x {format_number(audio_seconds)} s, {comparison.steps} steps"
    if comparison.task == "training":
        task = f"batch {comparison.batch} x {comparison.n_samples:,} samples"
    if comparison.baseline_steps_timed != comparison.steps:
        task += f" (of the baseline {comparison.baseline_steps_timed} timed, and scaled up)"
    weights = "another network with random weights"
    if comparison.relative_difference is not None:
        weights = f"the same weights, predictions differ by {comparison.relative_difference:.1e}"
    both = f"{comparison.task.capitalize()} with {comparison.model} and with {comparison.baseline}"
    title = f"{both} ({weights}), timed in turns: {task}"
    rate = "real-time factor" if comparison.task == "synthesis" else "samples/s"
    header = ("", "dtype", "seconds", rate, f"times {comparison.baseline}", "of roofline", _ROOFLINE, "peak GB")
    return Table(title, header, tuple(_entry(report, comparison, row) for row in comparison.entries), n_keys=2)


def _entry(report: Report, comparison: Comparison, row: Entry) -> tuple[str, ...]:
    n_samples = comparison.batch * comparison.n_samples
    rate, used = row.seconds.rate_of(n_samples), "n/a"
    if comparison.task == "synthesis":
        rate = row.seconds.scaled(comparison.sample_rate / n_samples)
        flops = comparison.flops if row.flops is None else row.flops
        used = utilisation(report, comparison, row.dtype, flops / row.seconds.median)
    speedup = "1" if row.speedup is None else format_measurement(row.speedup)
    times = (format_measurement(row.seconds), format_measurement(rate))
    roofline = format_roofline(comparison.rooflines.get(row.dtype))
    return (row.name, row.dtype, *times, speedup, used, roofline, format_memory(row.memory))


_ROOFLINE = "GFLOP/s, GB/s"
_TABLES: dict[str, Callable[[Report], Table]] = {
    "matmuls": _matmuls,
    "synthesis": _synthesis,
    "streaming": _streaming,
    "precision": _precision,
    "training": _training,
}
"""By the field of a report that a table shows."""
