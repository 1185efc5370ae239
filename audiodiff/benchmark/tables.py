"""A report as tables, for a terminal and for a README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from audiodiff.benchmark.report import Contest, Contestant, Figure, Memory, Report


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: One line above it.
        header: Names of the columns; the first is aligned to the left.
        rows: As many cells each.
        words: Whether the other columns hold words, and are aligned to the left too.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False


def tables_of(report: Report) -> list[Table]:
    """Lay out everything a report holds, with derived figures.

    Args:
        report: The report.

    Returns:
        Its tables, empty ones left out.
    """
    made = [_machine(report), _matrix_products(report), _synthesis(report), _precision(report), _training(report)]
    made += [_contest(report, contest) for contest in report.contests]
    made.append(Table("Notes", ("",), tuple((note,) for note in report.notes)))
    return [table for table in made if table.rows]


def as_text(tables: Sequence[Table]) -> str:
    """Lay out tables in columns for a terminal."""
    return "\n\n".join(_text(table) for table in tables) + "\n"


def as_markdown(tables: Sequence[Table]) -> str:
    """Lay out tables in Markdown, for a README."""
    return "\n\n".join(_markdown(table) for table in tables) + "\n"


def _text(table: Table) -> str:
    lines = [line for line in (table.header, *table.rows) if any(line)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    body = []
    for line in lines:
        first, *others = (
            cell.ljust(width) if column == 0 or table.words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        body.append("  ".join([first, *others]).rstrip())
    return "\n".join([table.title, *(f"  {line}" for line in body)])


def _markdown(table: Table) -> str:
    if len(table.header) == 1:
        return "\n".join([f"{table.title}:", *(f"- {row[0]}" for row in table.rows)])
    rule = ("---", *("---" if table.words else "---:" for _ in table.header[1:]))
    lines = (table.header, rule, *table.rows)
    return "\n".join(
        [f"**{table.title}**", "", *(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)]
    )


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def number(value: float) -> str:
    """Write a number with three digits, whole ones above 100 with commas.

    Example:
        >>> [number(value) for value in (0.01234, 5.678, 45.67, 1234.5)]
        ['0.0123', '5.68', '45.7', '1,234']
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3 if abs(value) >= 0.1 else 4
    return f"{value:.{digits}f}"


def span(figure: Figure) -> str:
    """Write a median with the lowest and the highest value, or alone where there was a single repeat.

    Example:
        >>> span(Figure.of([1.0, 2.0, 4.0])), span(Figure.of([2.0]))
        ('2.00 (1.00-4.00)', '2.00 (once)')
    """
    if figure.repeats == 1:
        return f"{number(figure.median)} (once)"
    return f"{number(figure.median)} ({number(figure.low)}-{number(figure.high)})"


def gigabytes(memory: Memory) -> str:
    """Write the peak, and how much of it came with the row."""
    if memory.peak is None:
        return "n/a"
    grown = "" if memory.before is None else f" (+{(memory.peak - memory.before) / 1e9:.2f})"
    return f"{memory.peak / 1e9:.2f}{grown}"


def share(report: Report, dtype: str, rate: float) -> str:
    """Write operations per second as a share of what the large square product reached in the same run."""
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
        ("load before", "n/a" if machine.load is None else f"{machine.load:g}"),
        ("commit", report.commit or "n/a"),
        ("date", report.date),
        ("command", report.command),
    ]
    return Table("Machine", ("", "this run"), tuple(rows), words=True)


def _matrix_products(report: Report) -> Table:
    rows = [
        (
            f"{row.name}{', the roofline' if row.roofline else ''}",
            f"{row.m} x {row.k} x {row.n}",
            row.dtype,
            span(row.rate.times(1e-9)),
        )
        for row in report.matrix_products
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
            number(row.clip_seconds),
            span(row.seconds),
            span(row.real_time_factor),
            number(row.operations / 1e9),
            share(report, row.dtype, row.operations / row.seconds.median),
            gigabytes(row.memory),
        )
        for row in report.synthesis
    ]
    title = "Synthesis: from mel to audio (real-time factor: seconds of computing per second of audio)"
    return Table(title, (*header, "of roofline", "peak GB"), tuple(rows))


def _precision(report: Report) -> Table:
    rows = [(row.model, str(row.steps), number(row.clip_seconds), f"{row.snr_db:.1f}") for row in report.precision]
    return Table("bf16 against fp32, from the same noise", ("model", "steps", "clip, s", "SNR, dB"), tuple(rows))


def _training(report: Report) -> Table:
    rows = [
        (
            row.model,
            row.dtype,
            f"{row.batch} x {row.n_samples:,}",
            span(row.seconds),
            span(row.seconds.under(row.batch * row.n_samples)),
            gigabytes(row.memory),
        )
        for row in report.training
    ]
    title = "Training: a whole step, from crops in main memory to new weights"
    return Table(title, ("model", "dtype", "batch", "seconds per step", "samples/s", "peak GB"), tuple(rows))


def _contest(report: Report, contest: Contest) -> Table:
    audio_seconds = contest.n_samples / contest.sample_rate
    what = f"batch {contest.batch} x {number(audio_seconds)} s, {contest.steps} steps"
    if contest.task == "training":
        what = f"batch {contest.batch} x {contest.n_samples:,} samples"
    if contest.peer_steps_timed != contest.steps:
        what += f" (of the peer {contest.peer_steps_timed} timed, and multiplied)"
    title = (
        f"{contest.task.capitalize()} of DiffWave BASE, the same weights, taking turns: {what}; "
        f"predictions differ by {contest.relative_difference:.1e}"
    )
    rate = "real-time factor" if contest.task == "synthesis" else "samples/s"
    header = ("", "dtype", "seconds", rate, f"times {contest.peer}", "of roofline", "peak GB")
    return Table(title, header, tuple(_contestant(report, contest, row) for row in contest.contestants))


def _contestant(report: Report, contest: Contest, row: Contestant) -> tuple[str, ...]:
    n_samples = contest.batch * contest.n_samples
    pace, part = row.seconds.under(n_samples), "n/a"
    if contest.task == "synthesis":
        pace = row.seconds.times(contest.sample_rate / n_samples)
        part = share(report, row.dtype, contest.operations / row.seconds.median)
    ahead = "1" if row.advantage is None else span(row.advantage)
    return (row.name, row.dtype, span(row.seconds), span(pace), ahead, part, gigabytes(row.memory))
