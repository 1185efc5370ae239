"""`audiodiff search schedule`: the noise levels at which a vocoder takes few steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.options import DTYPES, SAMPLERS, STARTS, changes, progress_bar, study_options, warnings_logged

if TYPE_CHECKING:
    from audiodiff.search.judge import Judge
    from audiodiff.search.proposals import Levels
    from audiodiff.search.schedule import Found


def parse_counts(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Turn 4, or 1,2,4, or 1-12 into rising numbers.

    Raises:
        click.BadParameter: If there are none, or one is below 1.
    """
    try:
        ends = [[int(end) for end in word.split("-")] for word in value.split(",")]
        found = sorted({n for pair in ends for n in range(pair[0], pair[-1] + 1)})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise click.BadParameter(f"{value!r} is no number of steps such as 4, nor several such as 1-12 or 1,2,4")
    return tuple(found)


@click.command("schedule")
@click.argument("model", metavar="NAME|FOLDER")
@click.option("--data", required=True, metavar="FOLDER|MANIFEST", help="Validation recordings; not those of a test.")
@click.option("--steps", callback=parse_counts, default="4", show_default=True, metavar="N|N-N", help="How many.")
@click.option(
    "--method",
    type=click.Choice(["grid", "random", "coordinate"]),
    default="coordinate",
    show_default=True,
    help="grid: all ends, evenly and unevenly spaced between. random: anything. coordinate: a coarse grid of ends, "
    "then one level at a time.",
)
@click.option(
    "--trials", type=click.IntRange(min=2), default=60, show_default=True, metavar="N", help="For each number of steps."
)
@click.option("--metric", metavar="NAME", help="What is to be best; PESQ-WB if it is installed, else M-STFT.")
@click.option("--start", type=click.Choice(STARTS), help="As in vocode.")
@click.option("--sampler", type=click.Choice(SAMPLERS), help="As in vocode.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="So much of each recording."
)
@click.option("--resample", is_flag=True, help="Resample recordings whose rate is not the model's.")
@study_options
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="A copy of the model that gets the levels; without it the model's own folder does.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw score against steps and real-time factor.",
)
@click.option("--device", default="auto", metavar="DEVICE", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
@click.option("--dtype", type=click.Choice(DTYPES), default="auto", show_default=True, help="As in vocode.")
def schedule(
    *, model: str, steps: tuple[int, ...], output: Path | None, picture: Path | None, study: Path, **options: Any
) -> None:
    """Search the noise levels at which a vocoder takes its steps, by a score on validation recordings.

    The search begins with evenly spaced levels, between the model's own ends and over all it was trained on, so it
    never ends worse than these on the recordings it is made on. The best levels go into the model's folder, one entry
    per number of steps, start and sampler; `audiodiff vocode --schedule searched` takes them.
    """
    from audiodiff.search.schedule import Wanted, as_searched, search_levels, store
    from audiodiff.search.study import Study

    folder, target = _folders(model, output)
    wanted = {name: options.pop(name) for name in ("method", "trials")}
    with warnings_logged():
        judge, words = _judge(folder, **options)
        trials = Study(study, judge.subject(folder))
        found: dict[int, Found] = {}
        best: Levels = ()
        with progress_bar(len(steps) * wanted["trials"]) as bar:
            for number, n in enumerate(steps):
                more = [_stretched(best, n)] if best else []
                found[n] = search_levels(judge, Wanted(n, seed=options["seed"], **wanted), trials, more, bar.update)
                best = found[n].best.levels
                store(folder, target, as_searched(found[n], judge, words))
                bar.update((number + 1) * wanted["trials"] - bar.n)
                with bar.external_write_mode():
                    click.echo(_line(found[n], judge))
    if picture is not None:
        _draw(found, judge, picture)
    click.echo(click.format_filename(target))


def _folders(model: str, output: Path | None) -> tuple[Path, Path]:
    """Return the model's folder, and where the result goes."""
    from audiodiff.checkpoint import bundled_models, find_model
    from audiodiff.errors import ModelError

    folder = find_model(model)
    if output is None and (folder != Path(model) or folder.resolve() in map(Path.resolve, bundled_models().values())):
        raise ModelError(
            f"{model} belongs to everyone who uses it here, and stays as it is. Give --output DIR, a folder for a copy."
        )
    return folder, output or folder


def _judge(
    folder: Path,
    *,
    data: str,
    metric: str | None,
    seconds: float | None,
    resample: bool,
    seed: int,
    device: str,
    dtype: Any,
    **wanted: Any,
) -> tuple[Judge, str]:
    """Return what scores levels, and what it scores them on, in words."""
    from audiodiff.data.corpus import open_source
    from audiodiff.errors import ConfigError
    from audiodiff.evaluation.registry import METRICS
    from audiodiff.evaluation.scoring import resolve_metrics
    from audiodiff.pipelines import Vocoder
    from audiodiff.search.judge import Judge, read_clips

    metric = metric or ("pesq_wb" if METRICS["pesq_wb"].installed else "m_stft")
    resolve_metrics([metric])
    if metric not in METRICS or METRICS[metric].better == "neither" or METRICS[metric].belongs_to == "timing":
        raise ConfigError(f"{metric!r} does not say which of two recordings is better. Choose one such as m_stft.")
    vocoder = Vocoder.from_pretrained(folder, device, dtype)
    clips = read_clips(open_source(data), vocoder.sample_rate, seconds=seconds, resample=resample)
    length = sum(clip.audio.shape[-1] for clip in clips) / vocoder.sample_rate
    words = f"{len(clips)} recordings, {length:.0f} s, of {Path(data).name}"
    return Judge(vocoder, clips, metric, changes(**wanted), seed), words


def _stretched(levels: tuple[float, ...], steps: int) -> tuple[float, ...]:
    """Return as many levels on the broken line through those that were found for another number."""
    import numpy as np

    from audiodiff.search.proposals import rounded

    if len(levels) == 1:
        return rounded(levels[0] + 0.5 * n for n in range(steps))
    return rounded(np.interp(np.linspace(0, len(levels) - 1, steps), range(len(levels)), levels))


def _line(found: Found, judge: Judge) -> str:
    best, uniform, trained = found.best, found.uniform, found.trained
    levels = ",".join(f"{level:g}" for level in best.levels)
    scores = [f"{'none' if trial.score is None else f'{trial.score:.3f}'}" for trial in (best, uniform, trained)]
    return (
        f"{len(best.levels)} steps  {judge.metric} {scores[0]}  evenly spaced {scores[1]}, over all levels {scores[2]}"
        f"  {found.n_trials} trials  --levels {levels}"
    )


def _draw(found: Mapping[int, Found], judge: Judge, picture: Path) -> None:
    from matplotlib.figure import Figure

    from audiodiff.audio.plots import save_figure
    from audiodiff.evaluation.plots import plot_score_by_steps

    named = {"searched": "best", "evenly spaced, the model's ends": "uniform", "evenly spaced, all levels": "trained"}
    trials = {name: {n: getattr(each, kind).score for n, each in found.items()} for name, kind in named.items()}
    curves = {name: {n: score for n, score in each.items() if score is not None} for name, each in trials.items()}
    timed = judge.real_time_factors([each.best.levels for each in found.values()])
    factors = dict(zip(found, timed, strict=True))
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_score_by_steps(left, curves, judge.metric)
    plot_score_by_steps(right, curves, judge.metric, factors)
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, picture)
    click.echo(click.format_filename(picture))
