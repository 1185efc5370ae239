"""`audiodiff evaluate`: scores, listening pages, ratings, and tables from stored results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from audiodiff.cli import evaluating

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
@click.option(
    "--classifier",
    type=EXISTING_FILE,
    metavar="FILE",
    help="Compare sets of clips without pairs: accuracy, inception score, diversity, bins, nearest training clip.",
)
@click.option("--frechet", is_flag=True, help="With it, or with --embedder: the Fréchet distance of the sets.")
@click.option(
    "--embedder",
    type=EXISTING_FILE,
    metavar="FILE",
    help="For it, a TorchScript model from (1, time) at 16 kHz to features.",
)
@click.option(
    "--force", is_flag=True, help="Allow a Fréchet distance on fewer than 1,000 clips, which is mostly noise."
)
@click.option("--music", is_flag=True, help="Compare sets of clips by their onsets and pitches.")
@click.option(
    "--train-classifier",
    type=FILE,
    metavar="FILE",
    help="Train a classifier on the PATHS, folders or manifests of labelled clips, and write it.",
)
@click.option(
    "--held-out",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="With it: other clips to measure its accuracy on, else a tenth is held out (by speaker, where known).",
)
@click.option(
    "--updates",
    type=click.IntRange(min=1),
    metavar="N",
    help="With it: updates at least, in whole passes; give the same to compare classifiers of unlike sets.",
)
@click.option("--ratings", is_flag=True, help="FILES are CSV from the page's listening tests: print what they say.")
@click.option("--table", type=EXISTING_FILE, metavar="FILE.md", help="Rewrite the marked tables of a Markdown file.")
@click.pass_context
def command(context: click.Context, /, *, paths: tuple[Path, ...], **options: Any) -> None:
    """Score the recordings of GENERATED against those of REFERENCE that have the same name.

    Both are folders, manifests (.jsonl) or single files. Recordings are brought to the reference's rate and the shorter
    one's length; what cannot be compared is listed with its reason, is in no mean, and makes the exit code 1. With
    FILES that --json wrote, their tables are printed again.

    With --classifier, --frechet or --music, GENERATED is a set of clips that is compared with REFERENCE, the clips that
    were trained on, as a whole; real clips given with --compare tell what can be reached.

    A table in a Markdown file is marked by a line `<!-- scores: results/*.json | pesq_wb estoi -->` before it and
    `<!-- /scores -->` after it; --table writes what the stored results say between the two.
    """
    given = {name for name in options if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    if evaluating.run(paths, options, given):
        context.exit(1)
