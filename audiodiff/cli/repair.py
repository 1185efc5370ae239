"""`audiodiff repair`: gaps, clipping, noise and bandwidth mended with a model that never learnt to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.jobs import Job, collect_jobs
from audiodiff.cli.options import changes, file_arguments, progress_bar, synthesis_options, warnings_logged

if TYPE_CHECKING:
    from audiodiff.cli.repairing import Wishes

_KINDS = ("gaps", "declip", "denoise", "extend")


def _read_spans(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[float, float], ...]:
    """Read first and end second of gaps, written FROM-TO."""
    spans = []
    for value in values:
        try:
            first, end = map(float, value.split("-"))
        except ValueError:
            raise click.BadParameter(f"{value!r} is not FROM-TO in seconds, such as 1.20-1.25") from None
        spans.append((first, end))
    return tuple(spans)


def _read_level(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | str | None:
    """Read a level of full scale, or auto."""
    if value is None or value == "auto":
        return value
    try:
        level = float(value)
    except ValueError:
        level = 0.0
    if not 0 < level <= 1:
        raise click.BadParameter(f"{value!r} is no level above 0 and up to 1; leave it out for each recording's peak")
    return level


@click.command("repair", short_help="Mend recordings with a model that was not trained to.")
@file_arguments
@click.option("--model", metavar="NAME|FOLDER", help="Any model; the bundled one by default.")
@click.option(
    "--gap",
    "gaps",
    callback=_read_spans,
    multiple=True,
    metavar="FROM-TO",
    help="Seconds that are missing; may be repeated.",
)
@click.option(
    "--declip",
    callback=_read_level,
    is_flag=False,
    flag_value="auto",
    metavar="[LEVEL]",
    help="Samples at this level (1 is full scale) were cut off; without one, at the recording's peak.",
)
@click.option("--denoise", type=float, metavar="SNR_DB", help="White noise is in it, this far below the recording.")
@click.option(
    "--extend",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HZ",
    help="Nothing is left from this frequency on.",
)
@click.option("--label", metavar="NAME", help="What the recordings are, for a model with labels.")
@click.option("--speaker", metavar="NAME", help="Who is to be heard, for a model with speakers.")
@click.option(
    "--start",
    type=click.Choice(["baseline", "griffin-lim", "noise"]),
    default="baseline",
    show_default=True,
    help="What is diffused: a repair without a model; what Griffin-Lim makes of its mel, for long gaps; or nothing.",
)
@click.option(
    "--start-log-snr",
    type=float,
    metavar="LOG_SNR",
    help="How noisy that is made: lower invents more. [0 for gaps, else 4]",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    metavar="N",
    help="Times each step is taken; more make it fit its surroundings better. [2 for gaps, else 1]",
)
@click.option(
    "--dps",
    "dps_strength",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="STRENGTH",
    help="Follow the gradient of the misfit too (diffusion posterior sampling), at twice the cost; try 0.1 to 0.3 "
    "where a seam is heard.",
)
@click.option("--free", is_flag=True, help="Let what is known be changed too, to see what holding on to it brings.")
@synthesis_options
@click.option("--resample", is_flag=True, help="Resample recordings whose rate is not the model's.")
@click.option(
    "--try",
    "attempt",
    is_flag=True,
    help="INPUTS are sound: damage them first, write degraded/, baseline/ and repaired/ into PATH, and measure.",
)
def command(*, inputs: tuple[Path, ...], output: Path, overwrite: bool, **options: Any) -> None:
    """Mend recordings with a model that was not trained to.

    INPUTS are audio files, folders or manifests (.jsonl); give one kind of damage. What is known of a recording is
    kept: the model's reverse process is held to it at every step, and invents the rest. What it starts from is a repair
    without a model: linear prediction for gaps, cubic splines for clipping, a Wiener filter for noise, and nothing for
    bandwidth. With --try both are measured where the damage was: signal-to-noise ratio, log-spectral distance.
    """
    chosen = [kind for kind in _KINDS if options[kind] not in (None, ())]
    if len(chosen) != 1:
        given = ", ".join(chosen) or "none"
        raise click.UsageError(f"give one of --gap, --declip, --denoise and --extend, got {given}.")
    if options["attempt"] and options["declip"] == "auto":
        raise click.UsageError("--try has to be told where to cut off: --declip LEVEL.")
    jobs = _jobs(inputs, output, options["attempt"])
    options["attempt"] = output if options["attempt"] else None
    waiting = [job for job in jobs if overwrite or not job.target.is_file()]
    for job in jobs:
        if job not in waiting:
            click.echo(f"{click.format_filename(job.target)}  skipped: it is there already")
    if waiting and _repair(waiting, **options):
        click.get_current_context().exit(1)


def _jobs(inputs: tuple[Path, ...], output: Path, attempt: bool) -> list[Job]:
    if attempt and output.suffix.lower() in (".wav", ".flac"):
        raise click.UsageError(f"--try writes several files of each recording; --output {output} must be a folder.")
    jobs = collect_jobs(inputs, output / "repaired" if attempt else output)
    mels = [job.source for job in jobs if job.is_mel]
    if mels:
        raise click.UsageError(f"{mels[0]} is a mel; only recordings can be repaired.")
    return jobs


def _repair(jobs: list[Job], *, model: str | None, device: str, dtype: Any, **options: Any) -> int:
    """Repair, print a line per recording, and return how many failed."""
    from audiodiff.cli.repairing import load_pipeline, make_wishes, repair_files

    wishes: Wishes = make_wishes(changes(**options))
    failed = 0
    with warnings_logged(), progress_bar(len(jobs)) as bar:
        pipeline = load_pipeline(model, device, dtype)
        for outcome in repair_files(pipeline, jobs, wishes):
            bar.update(1)
            failed += outcome.failed
            with bar.external_write_mode():
                click.echo(outcome.text, err=outcome.failed)
    return failed
