"""`audiodiff vocode`: recordings or mel spectrograms in, audio out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.jobs import Job, collect_jobs
from audiodiff.cli.options import (
    VOCODING,
    changes,
    file_arguments,
    progress_bar,
    synthesis_options,
    vocoder_options,
    warnings_logged,
)

if TYPE_CHECKING:
    from audiodiff.cli.vocoding import Wishes
    from audiodiff.engine.choose import Dtype
    from audiodiff.pipelines import Vocoder


@click.command("vocode", short_help="Turn recordings or mel spectrograms into audio.")
@file_arguments
@vocoder_options
@synthesis_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="CLIPS",
    help="Clips synthesised together, of those with equally many frames; changes the speed only.",
)
@click.option(
    "--chunk",
    "chunk_seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Length of the chunks that long audio is made in; changes memory and speed, not the result.",
)
@click.option(
    "--rtf",
    type=click.FloatRange(min=0, min_open=True),
    metavar="FACTOR",
    help="Keep this real-time factor: times a short piece, then takes fewer steps or a faster dtype if it must.",
)
@click.option("--resample", is_flag=True, help="Resample recordings whose rate is not the model's.")
@click.option("--picture", is_flag=True, help="Draw input and output (their first channel) into a .png beside it.")
@click.option("--score", is_flag=True, help="Score each output against its recording.")
def command(*, inputs: tuple[Path, ...], output: Path, overwrite: bool, **options: Any) -> None:
    """Turn recordings or mel spectrograms into audio.

    INPUTS are audio files, mels (.npy, or .pt with one tensor, of shape (n_mels, frames)), folders of both, whose
    subfolders are kept, or manifests (.jsonl). A recording is turned into a mel and back, channel by channel. Files
    that are there already are skipped. If some inputs fail, the others are done, the failed are listed, and the exit
    code is 1.
    """
    jobs = collect_jobs(inputs, output)
    if options["picture"]:
        _refuse_pictures_of_mels(jobs)
    waiting = [job for job in jobs if overwrite or not job.target.is_file()]
    for job in jobs:
        if job not in waiting:
            click.echo(f"{_arrow(job)}  skipped: it is there already")
    failures = _vocode(waiting, **options) if waiting else []
    _say_how_it_went(len(jobs), len(jobs) - len(waiting), failures)
    if failures:
        click.get_current_context().exit(1)


def _refuse_pictures_of_mels(jobs: Sequence[Job]) -> None:
    mels = [job.source for job in jobs if job.is_mel]
    if mels:
        raise click.UsageError(f"--picture compares with a recording, and {mels[0]} is a mel. Leave --picture out.")


def _arrow(job: Job) -> str:
    return f"{click.format_filename(job.source)} -> {click.format_filename(job.target)}"


def _vocode(
    jobs: Sequence[Job], *, model: str | None, device: str, dtype: Dtype, rtf: float | None, **options: Any
) -> list[str]:
    """Vocode, print a line per result, and return the reasons of those that failed."""
    from audiodiff.cli.vocoding import Wishes
    from audiodiff.pipelines import Vocoder
    from audiodiff.pipelines.rtf import within_rtf

    settings = changes(**{name: options.pop(name) for name in VOCODING})
    with warnings_logged():
        vocoder = Vocoder.from_pretrained(model, device, dtype)
        if rtf is not None:
            vocoder, settings["steps"], choice = within_rtf(vocoder, rtf, dtype, settings)
            click.echo(choice, err=True)
    wishes = Wishes(changes=settings, **options)
    if wishes.score and not (find_spec("pesq") and find_spec("pystoi")):
        click.echo("PESQ-WB and ESTOI are left out: they need `pip install 'audiodiff[eval]'`", err=True)
    with warnings_logged():
        return _run(vocoder, jobs, wishes)


def _run(vocoder: Vocoder, jobs: Sequence[Job], wishes: Wishes) -> list[str]:
    from audiodiff.cli.vocoding import vocode_files

    failures, scored = [], []
    with progress_bar(len(jobs)) as bar:
        for outcome in vocode_files(vocoder, jobs, wishes, bar.update):
            if outcome.failed:
                failures.append(outcome.text)
                continue
            scored += [outcome.scores] if outcome.scores else []
            with bar.external_write_mode():
                click.echo(f"{_arrow(outcome.job)}  {outcome.text}")
    if len(scored) > 1:
        click.echo(f"mean of {len(scored)}  {_means(scored)}")
    return failures


def _means(scored: Sequence[dict[str, float]]) -> str:
    """Return the mean of each score in words; n/a where one of the files cannot have it."""
    from audiodiff.cli.vocoding import scores_in_words

    return scores_in_words({name: sum(scores[name] for scores in scored) / len(scored) for name in scored[0]})


def _say_how_it_went(n_jobs: int, n_skipped: int, failures: Sequence[str]) -> None:
    if n_skipped:
        click.echo(f"{n_skipped} of {n_jobs} skipped; --overwrite makes them anew", err=True)
    if failures:
        click.echo(f"{len(failures)} of {n_jobs} failed:", err=True)
        for reason in failures:
            click.echo(f"  {reason}", err=True)
