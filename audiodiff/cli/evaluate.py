"""`audiodiff evaluate`: scores, listening pages, ratings, and tables from stored results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.options import progress_bar

if TYPE_CHECKING:
    from audiodiff.evaluation.results import Evaluation

FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("evaluate", short_help="Score recordings against their originals.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[GENERATED REFERENCE | FILES...]")
@click.option(
    "--metrics",
    "-m",
    metavar="NAMES",
    help="Sets (default, eval, eval-mos) or metrics, with commas between; default,eval unless told otherwise.",
)
@click.option("--list", "list_metrics", is_flag=True, help="Say what each metric is, costs, and misleads about.")
@click.option("--name", metavar="NAME", help="What GENERATED is called in tables; the folder's name by default.")
@click.option(
    "--compare",
    "-c",
    "others",
    multiple=True,
    metavar="[NAME=]PATH",
    help="Another system's recordings, scored too and compared with GENERATED pair by pair; may be repeated.",
)
@click.option(
    "--max-length-difference",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=0.1,
    show_default=True,
    help="Pairs further apart in length are not compared; the longer is cut.",
)
@click.option(
    "--max-lag",
    type=click.FloatRange(min=0),
    metavar="MS",
    default=50.0,
    show_default=True,
    help="Pairs further apart in time are not compared.",
)
@click.option("--align", is_flag=True, help="Undo the lag of each recording before comparing.")
@click.option(
    "--mcd-alignment",
    type=click.Choice(["none", "dtw"]),
    default="none",
    show_default=True,
    help="How frames are matched for MCD.",
)
@click.option(
    "--timings", type=EXISTING_FILE, metavar="FILE", help="What `audiodiff vocode` printed: adds the real-time factor."
)
@click.option("--jobs", "-j", type=click.IntRange(min=1), metavar="N", help="Processes; one per core by default.")
@click.option("--json", "json_path", type=FILE, metavar="FILE", help="Store everything as JSON.")
@click.option("--csv", "csv_path", type=FILE, metavar="FILE", help="Store a line per recording as CSV.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write DIR/index.html: players, pictures, tables, and listening tests, in one file.",
)
@click.option(
    "--report-items",
    type=click.IntRange(min=1),
    metavar="N",
    default=12,
    show_default=True,
    help="Recordings on the page, evenly chosen.",
)
@click.option("--ratings", is_flag=True, help="FILES are CSV from the page's listening tests: print what they say.")
@click.option("--table", type=EXISTING_FILE, metavar="FILE.md", help="Rewrite the marked tables of a Markdown file.")
@click.pass_context
def command(context: click.Context, /, *, paths: tuple[Path, ...], **options: Any) -> None:
    """Score the recordings of GENERATED against those of REFERENCE that have the same name.

    Both are folders, manifests (.jsonl) or single files. Recordings are brought to the reference's rate and the shorter
    one's length; what cannot be compared is listed with its reason, is in no mean, and makes the exit code 1. With
    FILES that --json wrote, their tables are printed again.

    A table in a Markdown file is marked by a line `<!-- scores: results/*.json | pesq_wb estoi -->` before it and
    `<!-- /scores -->` after it; --table writes what the stored results say between the two.
    """
    if options["list_metrics"]:
        click.echo(_catalogue())
    elif options["table"]:
        from audiodiff.evaluation.tables import rewrite_tables

        click.echo(f"{options['table']}: {rewrite_tables(options['table'])} tables written")
    elif options["ratings"]:
        from audiodiff.evaluation.ratings import rating_tables, read_ratings

        click.echo(rating_tables(read_ratings(_some(paths, "CSV files"))))
    elif paths and all(path.suffix == ".json" for path in paths):
        from audiodiff.evaluation.results import read_json

        for path in paths:
            _show(read_json(path))
    else:
        evaluation = _evaluate(paths, **options)
        if evaluation.problems:
            context.exit(1)


def _some(paths: Sequence[Path], what: str) -> Sequence[Path]:
    if not paths:
        raise click.UsageError(f"give the {what}.")
    return paths


def _evaluate(paths: Sequence[Path], **options: Any) -> Evaluation:
    if len(paths) != 2:
        raise click.UsageError(f"expected GENERATED and REFERENCE, got {len(paths)} paths. See --help.")
    generated, reference = paths
    systems = _systems(options["name"] or generated.stem, generated, options["others"])
    evaluation = _measure(systems, reference, options)
    _show(evaluation)
    if options["json_path"]:
        from audiodiff.evaluation.results import write_json

        write_json(_with_folder(options["json_path"]), evaluation)
    if options["csv_path"]:
        from audiodiff.evaluation.results import write_csv

        write_csv(_with_folder(options["csv_path"]), evaluation)
    if options["report"]:
        from audiodiff.evaluation.report import write_report

        page = _with_folder(options["report"] / "index.html")
        with progress_bar(1) as bar:
            write_report(page, evaluation, options["report_items"], lambda share: bar.update(share))
        click.echo(f"report: {click.format_filename(page)}", err=True)
    return evaluation


def _with_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _systems(name: str, generated: Path, others: Sequence[str]) -> dict[str, Path]:
    systems = {name: generated}
    for other in others:
        label, equals, path = other.rpartition("=")
        label = label if equals else Path(path).stem
        if label in systems:
            raise click.UsageError(f"two systems are called {label}. Name them: --name NAME, --compare NAME=PATH.")
        systems[label] = Path(path)
    return systems


def _measure(systems: dict[str, Path], reference: Path, options: dict[str, Any]) -> Evaluation:
    from audiodiff.evaluation.evaluate import evaluate, read_timings
    from audiodiff.evaluation.metrics import choose_metrics
    from audiodiff.evaluation.pairing import Limits, match_files

    wanted = (options["metrics"] or "default,eval").split(",")
    timings = read_timings(options["timings"]) if options["timings"] else None
    metrics, notes = choose_metrics([name.strip() for name in wanted] + (["timing"] if timings else []))
    for note in notes:
        click.echo(note, err=True)
    n_pairs = sum(len(match_files(path, reference)[0]) for path in systems.values())
    with progress_bar(n_pairs) as bar:
        return evaluate(
            systems,
            reference,
            metrics,
            limits=Limits(options["max_length_difference"], options["max_lag"], options["align"]),
            mcd_alignment=options["mcd_alignment"],
            timings=timings,
            jobs=options["jobs"],
            on_progress=bar.update,
        )


def _show(evaluation: Evaluation) -> None:
    from audiodiff.evaluation.tables import aligned, comparison_rows, summary_rows

    n_files = len({file.name for system in evaluation.systems for file in system.files})
    click.echo(f"{n_files} recordings of {evaluation.reference}: means and 95 % intervals")
    click.echo(aligned(summary_rows(evaluation)))
    if "mcd" in evaluation.metrics:
        click.echo(f"MCD13: order 13, alpha 0.65, c0 left out, alignment {evaluation.settings['mcd_alignment']}")
    if len(evaluation.systems) > 1:
        click.echo(f"\nagainst {evaluation.systems[0].name}, recording by recording (sign-flip test):")
        click.echo(aligned(comparison_rows(evaluation)))
    for system in evaluation.systems:
        for file in system.files:
            for note in file.notes:
                click.echo(f"note: {system.name}, {file.name}: {note}", err=True)
    if evaluation.problems:
        click.echo(f"{len(evaluation.problems)} problems, in no mean:", err=True)
    for problem in evaluation.problems:
        click.echo(f"  {problem}", err=True)


def _catalogue() -> str:
    from audiodiff.evaluation.catalogue import METRICS

    lines = []
    for name, metric in METRICS.items():
        direction = {"higher": "higher is better", "lower": "lower is better", "neither": "near the best is better"}
        best = "" if metric.best is None else f"; a recording against itself {metric.best:g}"
        lines += [
            f"{name}  {metric.title} (set {metric.belongs_to}{'' if metric.installed else ', not installed'})",
            f"    range    {metric.range}; {direction[metric.better]}{best}",
            f"    source   {metric.source}",
            f"    caution  {metric.caution}",
            f"    cost     {metric.cost:g} s per second of audio",
        ]
    return "\n".join(lines)
