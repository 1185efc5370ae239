"""`audiodiff bench`: speed and memory of synthesis and training on this machine, also against another package."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.choices import COUNT, SECONDS, STEPS, Number, Numbers, StreamPath
from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, progress_bar
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.benchmark.results import Report
    from audiodiff.benchmark.suite import Plan
    from audiodiff.engine.choose import Dtype

QUICK = {
    "lengths": (1.0,),
    "batches": (1,),
    "stream_chunks": (100.0,),
    "row_seconds": 1.0,
    "step_seconds": 1.0,
    "square": 1024,
}
USUAL = {
    "lengths": (5.0, 30.0, 600.0),
    "batches": (1, 16),
    "stream_chunks": (20.0, 100.0, 500.0),
    "row_seconds": 5.0,
    "step_seconds": 1.0,
    "square": None,
}
"""Defaults with and without --quick."""
COMPARING = USUAL | {"lengths": (5.0,), "batches": (1,), "row_seconds": 20.0, "step_seconds": 5.0}
"""Defaults with --against."""

MILLISECONDS = Number(float, above=0, high=60_000, unit="milliseconds")


def _dtype(word: str) -> str:
    if word not in opt.DTYPES[1:]:
        raise ValueError(word)
    return word


@click.command(
    "bench",
    cls=Verb,
    examples=(
        "audiodiff bench --quick",
        "audiodiff bench --against vocos --threads 1 --json speed.json",
        "audiodiff bench --json speed.jsonl --compare speed.jsonl",
    ),
)
@click.argument("models", nargs=-1, metavar="[MODEL ...]")
@click.option("--quick", is_flag=True, help="Take half a minute: one short clip, small training batches, few repeats.")
@click.option(
    "--against",
    multiple=True,
    type=click.Choice(["diffwave", "vocos"]),
    help="Compare with the network of this PyPI package: of diffwave on the same weights, of vocos with the same mels. "
    "May be repeated; without MODEL, nothing else is measured.",
)
@opt.expert("--memory/--no-memory", default=True, show_default=True, help="Measure memory in comparisons too.")
@click.option("--training/--no-training", default=True, show_default=True, help="Benchmark training steps too.")
@click.option("--streaming/--no-streaming", default=True, show_default=True, help="Benchmark streams too.")
@click.option(
    "--json",
    "json_path",
    type=StreamPath(dir_okay=False, path_type=Path),
    metavar="FILE|-",
    help="Write everything as JSON, after every row; .jsonl keeps earlier runs, - is stdout in place of tables.",
)
@click.option(
    "--compare",
    type=opt.FILE,
    metavar="OLD.json",
    help="Compare with what --json wrote (.jsonl: the last run): the ratio of every row, and whether it is noise.",
)
@click.option(
    "--table", type=opt.FILE, metavar="FILE.json", help="Measure nothing; print what --json wrote as Markdown tables."
)
@opt.expert(
    "--lengths",
    type=Numbers(SECONDS, example="5,60"),
    metavar="SECONDS,...",
    help="Lengths of the clips.  [default: 5,30,600; quick: 1; --against: 5]",
)
@opt.expert(
    "--batches",
    type=Numbers(COUNT, example="1,16"),
    metavar="CLIPS,...",
    help="Batch sizes.  [default: 1,16; quick and --against: 1]",
)
@opt.expert(
    "--stream-chunks",
    type=Numbers(MILLISECONDS, example="20,100,500"),
    metavar="MS,...",
    help="Chunks of streams, in milliseconds.  [default: 20,100,500; quick: 100]",
)
@opt.expert(
    "--steps",
    type=Numbers(STEPS, example="6,50"),
    metavar="N,...",
    help="Denoising steps.  [default: the model's own]",
)
@opt.expert(
    "--dtype",
    "dtypes",
    callback=opt.values(_dtype, "fp32, bf16 or both with a comma"),
    metavar="fp32|bf16,...",
    help="Precisions of matrix products.  [default: fp32, and bf16 where the hardware has it]",
)
@opt.expert("--all", "every_combination", is_flag=True, help="Measure every combination, not one varied at a time.")
@opt.device
@opt.expert(
    "--repeats",
    type=COUNT,
    default=5,
    show_default=True,
    metavar="N",
    help="Repeats of a measurement at most.",
)
def command(
    *, models: tuple[str, ...], json_path: Path | None, table: Path | None, compare: Path | None, **options: Any
) -> None:
    """Benchmark synthesis and training on this machine. Stop other programs first.

    MODEL is a name, a folder, or diffwave-base: DiffWave BASE as lmnt-com/diffwave published it, with random weights.
    Without MODEL, the bundled vocoder is measured. Of lengths, batches and steps, one is varied at a time from the
    first of each. Clips longer than 10 s take turns with clips of 10 s; streams, of 2 s, with calls on the whole mel.

    Each row runs in its own process, is printed as soon as it is measured and written to --json: a run that is
    interrupted loses nothing. Figures are medians, with minimum and maximum. Utilisation is relative to the rate of a
    large matrix product, measured between the repeats of the row; more than 100 % is noise. With --threads 1 on a CPU
    seconds are CPU time, which other programs disturb less.
    """
    from audiodiff.benchmark.history import read_report, write_report

    old = None if compare is None else read_report(compare)
    if table is not None:
        if models:
            raise click.UsageError("--table measures nothing. Leave the models out.")
        _print(read_report(table), old, markdown=True)
        return
    from audiodiff.benchmark.suite import run_benchmark

    reports: list[Report]
    to_stdout, reports = json_path == Path("-"), []

    def save(report: Report) -> None:
        reports[:] = [report]
        if json_path is not None and not to_stdout:
            write_report(report, json_path)

    plan, title = _plan(models, **options), shlex.join(["audiodiff", *sys.argv[1:]])
    with progress_bar(0, "starting") as bar:

        def progress(name: str, number: int, total: int) -> None:
            bar.what = name
            bar.set(number - 1, total)

        try:
            save(run_benchmark(plan, title, progress, _say, save))
        finally:
            for report in reports:  # as far as it came
                with above_the_line():
                    _print_json(report) if to_stdout else _print(report, old, markdown=False)


def _say(line: str) -> None:
    with above_the_line():
        click.echo(line, err=True)


def _plan(
    models: tuple[str, ...],
    *,
    against: tuple[str, ...],
    quick: bool,
    device: str,
    training: bool,
    streaming: bool,
    memory: bool,
    **options: Any,
) -> Plan:
    import torch

    from audiodiff.benchmark.baseline import check_baseline
    from audiodiff.benchmark.inputs import BASE
    from audiodiff.benchmark.jobs import Environment
    from audiodiff.benchmark.machine import has_bf16
    from audiodiff.benchmark.suite import Plan
    from audiodiff.benchmark.timing import TimingOptions
    from audiodiff.benchmark.training import TrainingLimits
    from audiodiff.benchmark.vocos import check_vocos
    from audiodiff.checkpoint import DEFAULT_MODEL, choose_device, find_model, load_config

    if "diffwave" in against:
        check_baseline()
    if "vocos" in against:
        check_vocos()
    for model in models:
        if model != BASE:
            load_config(find_model(model))  # an error now, not after minutes
    usual: dict[str, Any] = QUICK if quick else COMPARING if against else USUAL
    where = choose_device(device)
    timing = TimingOptions(options["repeats"], usual["row_seconds"])
    dtypes: tuple[Dtype, ...] = ("fp32", "bf16") if has_bf16(where) else ("fp32",)
    measured = models or (() if against else (DEFAULT_MODEL,))
    return Plan(
        Environment(str(where), torch.get_num_threads(), timing),
        measured,
        lengths=options["lengths"] or usual["lengths"],
        batches=options["batches"] or usual["batches"],
        steps=options["steps"] or (None,),
        dtypes=options["dtypes"] or dtypes,
        every_combination=options["every_combination"],
        memory=memory,
        streams=measured if streaming else (),
        stream_chunks=tuple(ms / 1000 for ms in options["stream_chunks"] or usual["stream_chunks"]),
        training=TrainingLimits(seconds=usual["step_seconds"]) if training else None,
        against=against,
        vocoders=models or (DEFAULT_MODEL,),
        square=usual["square"] if where.type == "cpu" else None,
    )


def _print(report: Report, old: Report | None, *, markdown: bool) -> None:
    from audiodiff.benchmark.history import changes
    from audiodiff.benchmark.tables import as_markdown, as_text, report_tables

    tables = report_tables(report) + ([] if old is None else [changes(old, report)])
    click.echo((as_markdown if markdown else as_text)(tables), nl=False)


def _print_json(report: Report) -> None:
    from audiodiff.text import printable_json

    click.echo(printable_json(report.model_dump(mode="json")))
