"""`audiodiff bench`: speed and memory of synthesis and training on this machine, also against another package."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.choices import COUNT, SECONDS, STEPS, Number, Numbers
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
    "repeats": 2,
    "row_seconds": 1.0,
    "step_seconds": 2.0,
    "square": 1024,
}
USUAL = {
    "lengths": (5.0, 60.0),
    "batches": (1, 16),
    "stream_chunks": (20.0, 100.0, 500.0),
    "repeats": 5,
    "row_seconds": 10.0,
    "step_seconds": 5.0,
    "square": None,
}
"""Defaults with and without --quick."""

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
        "audiodiff bench speech-22k --lengths 1,10 --json speed.json",
    ),
)
@click.argument("models", nargs=-1, metavar="[MODEL ...]")
@click.option("--quick", is_flag=True, help="Take half a minute: one short clip, small training batches, few repeats.")
@click.option("--against", type=click.Choice(["diffwave"]), help="Compare with this PyPI package on the same weights.")
@opt.expert("--memory/--no-memory", default=True, show_default=True, help="Measure memory in comparisons too.")
@click.option("--training/--no-training", default=True, show_default=True, help="Benchmark training steps too.")
@click.option("--streaming/--no-streaming", default=True, show_default=True, help="Benchmark streams too.")
@click.option(
    "--json", "json_path", metavar="FILE|-", help="Write everything as JSON; - is stdout, in place of tables."
)
@click.option(
    "--table", type=opt.FILE, metavar="FILE.json", help="Measure nothing; print what --json wrote as Markdown tables."
)
@opt.expert(
    "--lengths",
    type=Numbers(SECONDS, example="5,60"),
    metavar="SECONDS,...",
    help="Lengths of the clips.  [default: 5,60; quick: 1]",
)
@opt.expert(
    "--batches",
    type=Numbers(COUNT, example="1,16"),
    metavar="CLIPS,...",
    help="Batch sizes.  [default: 1,16; quick: 1]",
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
    "--repeats", type=COUNT, metavar="N", help="Maximum number of repeats of a measurement.  [default: 5; quick: 2]"
)
def command(*, models: tuple[str, ...], json_path: str | None, table: Path | None, **options: Any) -> None:
    """Benchmark synthesis and training on this machine. Stop other programs first.

    MODEL is a name, a folder, or diffwave-base: DiffWave BASE as lmnt-com/diffwave published it, with random weights.
    Without MODEL, the bundled vocoder and diffwave-base are measured, and streams of all bundled vocoders (--quick: of
    one). Of lengths, batches and steps, one is varied at a time from the first of each. Streams of 2 s are timed in
    turns with calls on the whole mel, with one thread and with --threads.

    Each row runs in its own process. Figures are medians, with minimum and maximum. Utilisation is relative to the rate
    of a large matrix product, measured in the same run.
    """
    if table is not None:
        if models:
            raise click.UsageError("--table measures nothing. Leave the models out.")
        from audiodiff.benchmark.results import read_report

        click.echo(_rendered(read_report(table), markdown=True), nl=False)
        return
    from audiodiff.benchmark.suite import run_benchmark

    def save(report: Report) -> None:
        if json_path is not None and json_path != "-":
            _write(report, json_path)

    with progress_bar(0, "starting") as bar:

        def show(name: str, number: int, total: int) -> None:
            with above_the_line():
                click.echo(f"{number} of {total}: {name}", err=True)
            bar.what = "measuring"
            bar.set(number - 1, total)

        report = run_benchmark(_plan(models, **options), shlex.join(["audiodiff", *sys.argv[1:]]), show, save)
    if json_path is not None:
        _write(report, json_path)
    if json_path != "-":
        click.echo(_rendered(report, markdown=False), nl=False)


def _plan(
    models: tuple[str, ...],
    *,
    against: str | None,
    quick: bool,
    device: str,
    repeats: int | None,
    training: bool,
    streaming: bool,
    memory: bool,
    **options: Any,
) -> Plan:
    import torch

    from audiodiff.benchmark.baseline import check_baseline
    from audiodiff.benchmark.inputs import BASE
    from audiodiff.benchmark.jobs import Environment, TrainingLimits
    from audiodiff.benchmark.machine import has_bf16
    from audiodiff.benchmark.suite import Plan
    from audiodiff.benchmark.timing import TimingOptions
    from audiodiff.checkpoint import DEFAULT_MODEL, bundled_models, choose_device, find_model, load_config

    if against:
        check_baseline()
    for model in models:
        if model != BASE:
            load_config(find_model(model))  # an error now, not after minutes
    vocoders = [name for name, folder in bundled_models().items() if load_config(folder).mel]
    usual: dict[str, Any] = QUICK if quick else USUAL
    where = choose_device(device)
    timing = TimingOptions(repeats or usual["repeats"], usual["row_seconds"])
    dtypes: tuple[Dtype, ...] = ("fp32", "bf16") if has_bf16(where) else ("fp32",)
    return Plan(
        Environment(str(where), torch.get_num_threads(), timing),
        models or (DEFAULT_MODEL, BASE),
        lengths=options["lengths"] or usual["lengths"],
        batches=options["batches"] or usual["batches"],
        steps=options["steps"] or (None,),
        dtypes=options["dtypes"] or dtypes,
        every_combination=options["every_combination"],
        memory=memory,
        streams=(models or ((DEFAULT_MODEL,) if quick else tuple(vocoders))) if streaming else (),
        stream_chunks=tuple(ms / 1000 for ms in options["stream_chunks"] or usual["stream_chunks"]),
        training=TrainingLimits(seconds=usual["step_seconds"]) if training else None,
        against=against is not None,
        square=usual["square"] if where.type == "cpu" else None,
    )


def _rendered(report: Report, *, markdown: bool) -> str:
    from audiodiff.benchmark.tables import as_markdown, as_text, report_tables

    return (as_markdown if markdown else as_text)(report_tables(report))


def _write(report: Report, path: str) -> None:
    text = report.model_dump_json(indent=1) + "\n"
    if path == "-":
        from audiodiff.text import printable_json

        click.echo(printable_json(report.model_dump(mode="json")))
        return
    from audiodiff.audio.io import replacing

    with replacing(Path(os.path.expanduser(path))) as part:
        part.write_text(text, encoding="utf-8")
