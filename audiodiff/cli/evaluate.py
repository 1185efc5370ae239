"""`audiodiff evaluate`: scores of pairs and of sets, listening tests, and tables from stored results."""

from __future__ import annotations

import inspect
import logging
import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.choices import COUNT, WORKERS, Number
from audiodiff.cli import options as opt
from audiodiff.cli.earlier_spellings import EvaluateGroup
from audiodiff.cli.progress import loading, progress_bar

if TYPE_CHECKING:
    from audiodiff.evaluation.results import Evaluation

_LOG = logging.getLogger(__name__)


@click.group("evaluate", cls=EvaluateGroup)
def command() -> None:
    """Score generated audio, compare systems, run listening tests, and print stored results.

    `audiodiff evaluate COMMAND --help` explains a command.
    """


_latex = click.option(
    "--latex", is_flag=True, help="Print a LaTeX table, a row per system, with how it was made in its comments."
)


def _systems_options(function: Any) -> Any:
    """Add the recordings that are evaluated, and what is stored."""
    for add in (
        click.option("--json", "json_path", type=opt.FILE, metavar="FILE", help="Store everything as JSON."),
        _latex,
        click.option(
            "--compare",
            "-c",
            "others",
            multiple=True,
            metavar="[NAME=]PATH",
            help="Another system, scored and compared with GENERATED; may be repeated.",
        ),
        click.option("--name", metavar="NAME", help="Name of GENERATED in tables.  [default: that of the folder]"),
        click.argument("reference", type=opt.PATH),
        click.argument("generated", type=opt.PATH),
    ):
        function = add(function)
    return function


@command.command("pairs", examples=("audiodiff evaluate pairs generated/ recordings/ --report page/",))
@_systems_options
@click.option(
    "--metrics",
    "-m",
    metavar="NAME,...",
    default="default,eval",
    show_default=True,
    help="Metrics, sets of them, or MODULE:FUNCTION of your own; `audiodiff evaluate metrics` explains them.",
)
@opt.expert("--csv", "csv_path", type=opt.FILE, metavar="FILE", help="Store a line per recording as CSV.")
@click.option(
    "--nearest",
    is_flag=True,
    help="For generators: pair each recording with the most similar clip of its label, at any length and delay.",
)
@click.option(
    "--report",
    type=opt.FOLDER,
    metavar="DIR",
    help="Write DIR/index.html: players, spectrograms, tables, ABX and MOS listening tests.",
)
@opt.expert(
    "--report-items",
    type=COUNT,
    metavar="N",
    default=12,
    show_default=True,
    help="Recordings on that page, evenly chosen.",
)
@opt.expert(
    "--max-length-difference",
    type=Number(float, low=0, high=3600, unit="seconds"),
    metavar="SECONDS",
    default=0.1,
    show_default=True,
    help="Largest difference in length: of a pair within it the longer is cut, others are left out.",
)
@opt.expert(
    "--max-lag",
    type=Number(float, low=0, high=60_000, unit="milliseconds"),
    metavar="MS",
    default=50.0,
    show_default=True,
    help="Largest delay; pairs with a larger one are left out.",
)
@opt.expert("--align", is_flag=True, help="Undo the delay of each recording first.")
@opt.expert(
    "--mcd-alignment",
    type=click.Choice(["none", "dtw"]),
    default="none",
    show_default=True,
    help="How frames are matched for MCD.",
)
@opt.expert(
    "--recogniser",
    metavar="MODULE:FUNCTION",
    help="For wer, cer, dwer, dcer: your own (samples, rate) to text.  [default: PocketSphinx, English alone, weak]",
)
@opt.expert(
    "--timings",
    type=opt.EXISTING_FILE,
    metavar="FILE",
    help="Saved output of `audiodiff vocode`, for the real-time factor.",
)
@opt.workers
@opt.threads
@opt.expert("--jobs", "-j", "workers", type=WORKERS, metavar="N", hidden=True)
def pairs(*, generated: Path, reference: Path, name: str | None, others: Sequence[str], **options: Any) -> None:
    """Score recordings against references of the same name.

    GENERATED and REFERENCE are folders, manifests (.jsonl) or single files. Recordings are resampled to the reference's
    rate and cut to the shorter length. What cannot be compared is listed, is in no mean, and makes the exit code 1.
    """
    with loading("the metrics"):
        from audiodiff.evaluation.evaluate import AlignmentOptions, evaluate, read_timings
        from audiodiff.evaluation.listening_test import missing_packages
        from audiodiff.evaluation.listing import list_recordings, match_files
        from audiodiff.evaluation.nearest_pairs import match_nearest
        from audiodiff.evaluation.scoring import resolve_metrics

    systems = _systems(name or generated.stem, generated, others)
    timings = read_timings(options["timings"]) if options["timings"] else None
    metrics, notes = resolve_metrics(options["metrics"].replace(" ", "").split(",") + ["timing"] * bool(timings))
    for note in notes + (missing_packages() if options["report"] else []):
        click.echo(note, err=True)
    alignment = AlignmentOptions(options["max_length_difference"], options["max_lag"], options["align"])
    if options["nearest"]:
        alignment = AlignmentOptions(max_length_difference=3600.0, max_lag_ms=60_000.0)
        n_pairs = len(systems) * len(list_recordings(reference))
    else:
        n_pairs = sum(len(match_files(path, reference)[0]) for path in systems.values())
    with progress_bar(n_pairs, "scoring") as bar:
        evaluation = evaluate(
            systems,
            reference,
            metrics,
            alignment=alignment,
            mcd_alignment=options["mcd_alignment"],
            recogniser=options["recogniser"],
            timings=timings,
            jobs=options["workers"],
            on_progress=bar.update,
            match=match_nearest if options["nearest"] else match_files,
        )
    _finish(evaluation, **{key: options[key] for key in ("json_path", "latex", "csv_path", "report", "report_items")})


def _embedder(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | str | None:
    from audiodiff.evaluation.plugin import load_function, names_function

    if value and names_function(value):
        load_function(value)
        return value
    return None if value is None else Path(str(opt.EXISTING_FILE.convert(value, param, ctx)))


@command.command("sets", examples=("audiodiff evaluate sets generated/ data/train.jsonl --classifier classifier.pt",))
@_systems_options
@click.option(
    "--classifier",
    type=opt.EXISTING_FILE,
    metavar="FILE",
    help="Accuracy, inception scores (IS, mIS), AM, NDB, diversity and nearest training clip by this classifier.",
)
@click.option(
    "--frechet", is_flag=True, help="Fréchet distance of the classifier's (FID) or --embedder's features (FAD)."
)
@click.option("--music", is_flag=True, help="Compare onsets and pitches.")
@opt.expert(
    "--embedder",
    callback=_embedder,
    metavar="FILE|MODULE:FUNCTION",
    help="For --frechet: TorchScript, (1, time) at 16 kHz to (windows, features), or your own of (samples, rate).",
)
@opt.expert("--force", is_flag=True, help="Allow --frechet on fewer than 1,000 clips, which is mostly noise.")
@opt.threads
def sets(
    *,
    generated: Path,
    reference: Path,
    name: str | None,
    others: Sequence[str],
    classifier: Path | None,
    json_path: Path | None,
    latex: bool,
    **options: Any,
) -> None:
    """Compare a set of generated clips with real ones, without pairs.

    GENERATED and REFERENCE are folders or manifests (.jsonl); REFERENCE holds the training clips. Real clips that were
    not trained on, given with --compare, show what can be reached. `audiodiff evaluate classifier` trains a classifier.
    """
    with loading("the measures"):
        from audiodiff.evaluation.classifier import load_classifier
        from audiodiff.evaluation.listing import list_recordings
        from audiodiff.evaluation.sets import SetOptions, evaluate_sets

    if not (classifier or options["frechet"] or options["music"]):
        raise click.UsageError("nothing to measure. Give --classifier FILE, --frechet or --music.")
    if options["frechet"] and not (classifier or options["embedder"]):
        raise click.UsageError("--frechet needs features: give --classifier or --embedder.")
    if (options["embedder"] or options["force"]) and not options["frechet"]:
        raise click.UsageError("--embedder and --force are for --frechet. Add it, or leave them out.")
    set_options = SetOptions(load_classifier(classifier) if classifier else None, **options)
    systems = _systems(name or generated.stem, generated, others)
    n_passes = bool(classifier) + options["music"] + bool(options["embedder"])
    total = n_passes * sum(len(list_recordings(path)) for path in (reference, *systems.values()))
    with progress_bar(total, "measuring") as bar:
        evaluation = evaluate_sets(systems, reference, set_options, bar.update)
    _finish(evaluation, json_path, latex=latex)


@command.command("classifier")
@click.argument("output", type=opt.FILE)
@click.argument("clips", nargs=-1, required=True, type=opt.EXISTING, metavar="CLIPS...")
@click.option(
    "--held-out",
    type=opt.EXISTING,
    metavar="PATH",
    help="Clips to measure the accuracy on.  [default: a tenth of CLIPS, by speaker where known]",
)
@opt.expert(
    "--updates",
    type=COUNT,
    metavar="N",
    help="Minimum of updates, in whole epochs; the same for classifiers of different sets to compare.",
)
@opt.threads
def classifier(*, output: Path, clips: Sequence[Path], held_out: Path | None, updates: int | None) -> None:
    """Train a classifier for `audiodiff evaluate sets`.

    CLIPS are folders or manifests of labelled recordings.
    """
    with loading("the classifier"):
        from audiodiff.evaluation.classifier import save_classifier, train_classifier

    length: dict[str, Any] = {} if updates is None else {"epochs": 1, "min_updates": updates}
    with progress_bar(1, "training") as bar:
        trained = train_classifier(clips, held_out=held_out, on_progress=bar.update, **length)
    save_classifier(output, trained)
    config = trained.config
    click.echo(f"{output}: {len(config.labels)} labels, accuracy {config.accuracy:.3f} on {config.measured_on}")


@command.command("metrics")
def metrics() -> None:
    """List the metrics: what each measures, costs, and where it misleads; and how to add your own."""
    from audiodiff.evaluation import plugin
    from audiodiff.evaluation.scoring import METRICS

    directions = {"higher": "higher is better", "lower": "lower is better", "neither": "near the best is better"}
    for name, metric in METRICS.items():
        best = "" if metric.best is None else f"; a recording against itself {metric.best:g}"
        click.echo(f"{name}  {metric.title} (set {metric.belongs_to}{'' if metric.installed else ', not installed'})")
        click.echo(f"    range    {metric.range}; {directions[metric.better]}{best}")
        click.echo(f"    cost     {metric.cost:g} s per second of audio")
        click.echo(textwrap.indent(metric.description, "    "))
    click.echo(f"MODULE:FUNCTION\n{textwrap.indent(inspect.cleandoc(plugin.__doc__ or ''), '    ')}")


@command.command("show")
@_latex
@click.argument("files", nargs=-1, required=True, type=opt.EXISTING_FILE, metavar="FILES.json...")
def show(*, files: Sequence[Path], latex: bool) -> None:
    """Print the tables of results that --json stored."""
    from audiodiff.evaluation.results import read_json

    for path in files:
        _print(read_json(path), latex=latex)


@command.command("tables")
@click.argument("markdown", type=opt.EXISTING_FILE, metavar="FILE.md")
def tables(*, markdown: Path) -> None:
    """Rewrite the marked tables of a Markdown file from stored results.

    A line `<!-- scores: results/*.json | pesq_wb estoi -->` begins a table, `<!-- /scores -->` ends it.
    """
    from audiodiff.evaluation.tables import rewrite_tables

    n_tables = rewrite_tables(markdown)
    click.echo(f"{markdown}: {n_tables} table{'s' if n_tables > 1 else ''} written")


@command.command("ratings")
@click.argument("files", nargs=-1, required=True, type=opt.EXISTING_FILE, metavar="FILES.csv...")
def ratings(*, files: Sequence[Path]) -> None:
    """Print the results of listening tests.

    FILES are what listeners downloaded from the page of `audiodiff evaluate pairs --report`.
    """
    from audiodiff.evaluation.listening_test import rating_tables, read_ratings

    click.echo(rating_tables(read_ratings(files)))


def _systems(name: str, generated: Path, others: Sequence[str]) -> dict[str, Path]:
    systems = {name: generated}
    for other in others:
        label, equals, path = other.rpartition("=")
        label = label if equals else Path(path).stem
        if not path:
            raise click.UsageError(f"--compare {other!r} has no path. Write --compare NAME=PATH.")
        if label in systems:
            raise click.UsageError(f"two systems are called {label}. Name them: --name NAME, --compare NAME=PATH.")
        systems[label] = Path(os.path.expanduser(path))
    return systems


def _finish(
    evaluation: Evaluation,
    json_path: Path | None,
    *,
    latex: bool,
    csv_path: Path | None = None,
    report: Path | None = None,
    report_items: int = 0,
) -> None:
    """Print and store an evaluation and how it was made; problems make the exit code 1."""
    from audiodiff.benchmark.machine import commit_of_checkout, cpu_name
    from audiodiff.evaluation.listening_test import write_report
    from audiodiff.evaluation.results import write_csv, write_json

    command = shlex.join(["audiodiff", *sys.argv[1:]])
    made = {"command": command, "commit": commit_of_checkout(), "machine": cpu_name()}
    evaluation.settings.update({name: value for name, value in made.items() if value})
    _print(evaluation, latex=latex)
    if json_path:
        write_json(json_path, evaluation)
    if csv_path:
        write_csv(csv_path, evaluation)
    if report:
        page = report / "index.html"
        with progress_bar(1, "writing the report") as bar:
            write_report(page, evaluation, report_items, bar.update)
        click.echo(f"report: {click.format_filename(page)}", err=True)
    if evaluation.problems:
        click.get_current_context().exit(1)


def _print(evaluation: Evaluation, *, latex: bool) -> None:
    """Print tables on stdout; notes and problems on stderr."""
    from audiodiff.evaluation.tables import latex_summary, note_lines, text_summary

    click.echo((latex_summary if latex else text_summary)(evaluation))
    for note in note_lines(evaluation):
        click.echo(f"note: {note}", err=True)
    if evaluation.problems:
        click.echo(f"{len(evaluation.problems)} problems, in no mean:", err=True)
    for problem in evaluation.problems:
        click.echo(f"  {problem}", err=True)
