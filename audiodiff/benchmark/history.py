"""Reports in files, alone or with those before them, and what changed from one to another."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb
from pathlib import Path

from audiodiff.audio.io import replacing
from audiodiff.benchmark.results import (
    FORMAT,
    Measurement,
    Report,
    Row,
    StreamingResult,
    SynthesisResult,
    TrainingResult,
)
from audiodiff.benchmark.tables import Table
from audiodiff.config import parse_config
from audiodiff.errors import ConfigError
from audiodiff.text import format_number, read_json, read_text

HISTORY = ".jsonl"
"""Ending of a file that keeps all reports written to it, one a line."""
_LARGEST_P = 0.05
"""Of the chance that repeats of equal speed would lie apart; with more there is no judgement."""


def read_report(path: str | Path) -> Report:
    """Read a report that `audiodiff bench --json` wrote.

    Args:
        path: The file; of a history (.jsonl) the last report.

    Returns:
        The report.

    Raises:
        ConfigError: If it cannot be read, or is no such report.
    """
    values = read_json(path, ConfigError, last_line=Path(path).suffix == HISTORY)
    found = values.get("audiodiff_benchmark") if isinstance(values, dict) else None
    if found != FORMAT:
        raise ConfigError(
            f"{path} is no report of `audiodiff bench --json` in format {FORMAT} (it says {found!r}). Make it anew."
        )
    return parse_config(Report, values, str(path))


def write_report(report: Report, path: Path) -> None:
    """Write a report, in place of the file or, in a history, of what was written of the same run before.

    Args:
        report: The report, or what there is of it.
        path: The file; one in .jsonl keeps the reports of other runs.
    """
    text = report.model_dump_json(indent=None if path.suffix == HISTORY else 1) + "\n"
    if path.suffix == HISTORY and path.exists():
        run = Report.model_dump_json(report, include={"command", "date"})[1:-1]
        lines = filter(None, read_text(path, ConfigError).split("\n"))  # the last may lack its end
        text = "".join(f"{line}\n" for line in lines if run not in line) + text
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def changes(old: Report, new: Report) -> Table:
    """Return a table of the rows that two reports have in common: seconds then and now, their ratio and what it means.

    A row is faster or slower where none of its repeats lies among those of the other run, where that would hardly
    happen by chance (p = 0.05, which takes 4 repeats in each), and where the roofline beside it does not say that the
    whole machine was as much faster or slower.

    Args:
        old: The earlier report.
        new: The later one.
    """
    before = {name: (seconds, rate) for name, seconds, rate in _rows(old)}
    rows = []
    for name, seconds, rate in _rows(new):
        if name in before:
            earlier, earlier_rate = before[name]
            ratio, roofline = _ratio(earlier, seconds), _ratio(earlier_rate, rate) if earlier_rate and rate else "n/a"
            times = format_number(earlier.median), format_number(seconds.median)
            rows.append((name, *times, ratio, roofline, _judgement(earlier, seconds, earlier_rate, rate)))
    header = ("row", "seconds then", "now", "ratio", "roofline's", "judgement")
    title = f"Against {old.date}, {old.commit or 'no commit'}: seconds now over seconds then{_other_machine(old, new)}"
    return Table(title, header, tuple(rows or [("no row in common", *[""] * 5)]))


def _rows(report: Report) -> Iterator[tuple[str, Measurement, Measurement | None]]:
    """Yield the name, the seconds and the roofline (FLOP/s) of each row."""

    def rate(row: Row, dtype: str) -> Measurement | None:
        return row.rooflines[dtype].matmul_rate if dtype in row.rooflines else None

    rows: tuple[SynthesisResult | StreamingResult | TrainingResult, ...]
    rows = (*report.synthesis, *report.streaming, *report.training)
    for row in rows:
        yield str(row), row.seconds, rate(row, row.dtype)
    for comparison in report.comparisons:
        for entry in comparison.entries:
            yield f"{comparison}, {entry.name}, {entry.dtype}", entry.seconds, rate(comparison, entry.dtype)


def _ratio(old: Measurement, new: Measurement) -> str:
    if not old.low > 0:
        return "n/a"
    low, high = new.low / old.high, new.high / old.low
    return f"{new.median / old.median:.2f} ({low:.2f}-{high:.2f})"


def _judgement(old: Measurement, new: Measurement, old_rate: Measurement | None, new_rate: Measurement | None) -> str:
    if 2 / comb(old.repeats + new.repeats, old.repeats) > _LARGEST_P:
        return "too few repeats"
    found = _apart(old, new)
    if found and old_rate and new_rate and _apart(_products(old, old_rate), _products(new, new_rate)) != found:
        return f"{found}, and so was the machine"
    return found or "within noise"


def _apart(old: Measurement, new: Measurement) -> str:
    """Return "faster" or "slower" where all seconds now lie on one side of all those then."""
    return "faster" if new.high < old.low else "slower" if new.low > old.high else ""


def _products(seconds: Measurement, rate: Measurement) -> Measurement:
    """Return the seconds in units of those that the machine took for a product."""
    values = {name: getattr(seconds, name) * getattr(rate, name) for name in ("median", "low", "high")}
    return Measurement(**values, repeats=seconds.repeats)


def _other_machine(old: Report, new: Report) -> str:
    """Say what is not the same in two reports, and makes ratios meaningless or worth a thought."""
    differences = [
        f"{name} {then} → {now}"
        for name in ("name", "threads")
        if (then := getattr(old.machine, name)) != (now := getattr(new.machine, name))
    ]
    then, now = (report.machine.versions.get("torch") for report in (old, new))
    return "".join(f"; {text}" for text in [*differences, *([f"torch {then} → {now}"] if then != now else [])])
