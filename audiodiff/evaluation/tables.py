"""Results as rows of tables, and tables in a Markdown file that are rewritten in place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from audiodiff.audio.io import replacing
from audiodiff.errors import DataError
from audiodiff.evaluation.results import Evaluation, SystemResult, read_json
from audiodiff.evaluation.scoring import find_metric
from audiodiff.evaluation.verdict import judge
from audiodiff.text import latex_table, markdown_table, text_table

BLOCK = re.compile(
    r"^(?P<open><!-- scores: (?P<sources>[^|>]+)\|(?P<metrics>[^>]+)-->)\n(?P<body>.*?)^(?P<close><!-- /scores -->)$",
    re.MULTILINE | re.DOTALL,
)
"""A table in a Markdown file: `<!-- scores: FILES | METRICS -->`, the table, `<!-- /scores -->`."""


def summary_rows(evaluation: Evaluation) -> list[list[str]]:
    """Return a heading and one row per metric: a column of mean ± half interval for every system.

    Where recordings are missing from a mean, their number is said.
    """
    rows = [["", *(system.name for system in evaluation.systems)]]
    for metric in evaluation.metrics:
        arrow = {"higher": "↑", "lower": "↓", "neither": " "}[find_metric(metric).better]
        rows.append([f"{find_metric(metric).title} {arrow}", *(cell(system, metric) for system in evaluation.systems)])
    for name in dict.fromkeys(name for system in evaluation.systems for name in system.set_scores):
        values = (system.set_scores.get(name) for system in evaluation.systems)
        title = name.replace("_", " ")
        if name == "frechet_distance" and (embedder := evaluation.settings.get("frechet_embedder")):
            title += f" ({embedder})"
        rows.append([title, *("n/a" if value is None else f"{value:.4g}" for value in values)])
    return rows


def text_summary(evaluation: Evaluation) -> str:
    """Return what an evaluation found, for a terminal: means and intervals, and paired differences."""
    n_files = len({file.name for system in evaluation.systems for file in system.files})
    of = f"{n_files} recordings of {evaluation.reference}: means and 95 % intervals"
    lines = [of if evaluation.metrics else f"sets of clips against {evaluation.reference}"]
    lines.append(text_table(summary_rows(evaluation)))
    if "classifier_accuracy" in evaluation.settings:
        lines.append(f"classifier's accuracy on held-out real clips: {evaluation.settings['classifier_accuracy']:.3f}")
    if recogniser := evaluation.settings.get("recogniser"):
        lines.append(f"speech recogniser: {recogniser}")
    if "mcd" in evaluation.metrics:
        lines.append(f"MCD13: order 13, alpha 0.65, without c0, alignment {evaluation.settings['mcd_alignment']}")
    if evaluation.metrics and len(evaluation.systems) > 1:
        lines.append(f"\npaired differences from {evaluation.systems[0].name} (sign-flip test):")
        lines.append(text_table(comparison_rows(evaluation)))
        verdicts = (judge(evaluation, 0, number) for number in range(1, len(evaluation.systems)))
        lines += [f"\n{verdict.headline} {verdict.reason}" for verdict in verdicts if verdict]
    return "\n".join(lines)


def note_lines(evaluation: Evaluation) -> list[str]:
    """Return the notes on recordings, one line for all of a system that differ in their numbers alone."""
    alike: dict[tuple[str, str], list[str]] = {}
    for system in evaluation.systems:
        for file in system.files:
            for note in file.notes:
                alike.setdefault((system.name, re.sub(r"[\d.]+", "#", note)), []).append(f"{file.name}: {note}")
    more = " (and {} more recordings like it)"
    return [
        f"{system}, {notes[0]}{more.format(len(notes) - 1) if len(notes) > 1 else ''}"
        for (system, _), notes in alike.items()
    ]


def latex_summary(evaluation: Evaluation) -> str:
    """Return a LaTeX table with a row per system, for booktabs; comments before it say how the numbers were made."""
    comments = [f"% {line}" for line in _provenance(evaluation)]
    rows = list(zip(*summary_rows(evaluation), strict=True))
    return "\n".join([*comments, latex_table([[cell.strip() for cell in row] for row in rows])])


def _provenance(evaluation: Evaluation) -> list[str]:
    """Return how the numbers were made, in lines; what is not known is left out."""
    known = {"audiodiff": evaluation.settings.get("versions", {}).get("audiodiff"), "created": evaluation.created}
    names = ("commit", "command", "seed", "machine", "recogniser", "frechet_embedder", "classifier_accuracy")
    known |= {name: evaluation.settings.get(name) for name in names}
    return [f"{name}: {value}" for name, value in known.items() if value is not None]


def cell(system: SystemResult, metric: str, *, interval: bool = True) -> str:
    """Return the mean of a metric in words, with the 95 % interval and how many recordings it lacks."""
    summary, decimals = system.summary(metric), find_metric(metric).decimals
    if summary is None:
        return "n/a"
    text = f"{summary.mean:.{decimals}f}"
    if interval and summary.high is not None:
        text += f" ± {summary.high - summary.mean:.{decimals}f}"
    n_failed = system.n_failed(metric)
    return f"{text} ({summary.n} of {summary.n + n_failed})" if n_failed else text


def comparison_rows(evaluation: Evaluation) -> list[list[str]]:
    """Return a heading and one row per metric and further system: its difference to the first, and the p-value."""
    rows = [["", "difference", "95 % interval", "p", "recordings"]]
    first = evaluation.systems[0].name
    for metric in evaluation.metrics:
        for number, system in enumerate(evaluation.systems[1:], 1):
            difference = evaluation.comparison(metric, 0, number)
            if difference is None:
                continue
            decimals = find_metric(metric).decimals
            interval = p_value = "n/a"
            if difference.low is not None and difference.high is not None and difference.p_value is not None:
                interval = f"{difference.low:+.{decimals}f} to {difference.high:+.{decimals}f}"
                p_value = f"{difference.p_value:.4f}"
            title = f"{find_metric(metric).title}, {system.name} - {first}"
            rows.append([title, f"{difference.mean:+.{decimals}f}", interval, p_value, str(difference.n)])
    return rows


def score_table(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> str:
    """Return a Markdown table with a row per system and a column per metric: means alone, as in a README.

    Raises:
        DataError: If a metric is unknown.
    """
    rows = [["", *(find_metric(metric).title for metric in metrics)]]
    for evaluation in evaluations:
        for system in evaluation.systems:
            cells = [cell(system, metric, interval=False) if metric in evaluation.metrics else "" for metric in metrics]
            rows.append([system.name, *cells])
    return markdown_table(rows)


def rewrite_tables(path: Path) -> int:
    """Rewrite every marked table of a Markdown file from the stored evaluations that its mark names.

    A mark names JSON files (patterns are allowed), relative to the Markdown file, then the metrics that become columns:

        <!-- scores: results/*.json | pesq_wb estoi -->
        <!-- /scores -->

    Args:
        path: The Markdown file.

    Returns:
        The number of tables.

    Raises:
        DataError: If the file has no mark, or a mark names no stored evaluation or an unknown metric.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error

    def table(block: re.Match[str]) -> str:
        evaluations = [read_json(file) for file in _files(path.parent, block["sources"].split())]
        made = "\n".join(dict.fromkeys(f"<!-- {'; '.join(_provenance(evaluation))} -->" for evaluation in evaluations))
        return f"{block['open']}\n{score_table(evaluations, block['metrics'].split())}\n{made}\n{block['close']}"

    fresh, n_tables = BLOCK.subn(table, text)
    if not n_tables:
        raise DataError(f"{path} has no line `<!-- scores: FILES | METRICS -->` with `<!-- /scores -->` after it.")
    with replacing(path) as part:
        part.write_text(fresh, encoding="utf-8")
    return n_tables


def _files(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = []
    for pattern in patterns:
        matching = sorted(folder.glob(pattern))
        if not matching:
            raise DataError(f"no file {pattern} in {folder}. `audiodiff evaluate pairs --json` writes such files.")
        found += matching
    return found
