"""`audiodiff search`: the noise levels of few steps, the embedding of the noise level, or the width of the EMA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audiodiff.choices import COUNT, EMA_WIDTH, SECONDS, SEED, STEPS, Number, Numbers, shown
from audiodiff.cli import options as opt
from audiodiff.cli.progress import above_the_line, loading, progress_bar
from audiodiff.cli.verbs import VerbGroup

if TYPE_CHECKING:
    from audiodiff.search.rbf import SearchResult as RBFSearchResult
    from audiodiff.search.schedule import SearchResult
    from audiodiff.search.study import Levels, Scorer


@click.group("search", cls=VerbGroup)
def command() -> None:
    """Search the noise levels of few steps, the embedding of the noise level, or the width of the EMA.

    `audiodiff search COMMAND --help` explains one.
    """


class StepCounts(Numbers):
    """Numbers of steps: 4, or 1,2,4, or 1-12."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return them, rising."""
        try:
            ends = [[self.kinds[0].parse(end) for end in word.split("-")] for word in value.split(",")]
        except ValueError as error:
            self.fail(f"{shown(value)}: {error}, as in {self.example}.", param, ctx)
        if any(len(pair) > 2 or pair[0] > pair[-1] for pair in ends):
            self.fail(f"{shown(value)} is not like {self.example}.", param, ctx)
        return tuple(sorted({n for pair in ends for n in range(pair[0], pair[-1] + 1)}))


@command.command(
    "schedule",
    examples=("audiodiff search schedule exp/vocoder/best --data data/valid.jsonl --steps 1-8 --study trials.jsonl",),
)
@click.argument("model", metavar="NAME|FOLDER")
@click.option("--data", required=True, metavar="FOLDER|MANIFEST", help="Validation recordings, none of the test set.")
@click.option(
    "--steps",
    type=StepCounts(STEPS, example="4, 1,2,4 or 1-12"),
    default="4",
    show_default=True,
    metavar="N|N-N",
    help="Numbers of denoising steps to find levels for.",
)
@opt.study
@click.option(
    "--output",
    "-o",
    type=opt.FOLDER,
    metavar="DIR",
    help="Folder for a copy of the model with the levels.  [default: MODEL itself gets them]",
)
@opt.resample
@opt.expert(
    "--method",
    type=click.Choice(["grid", "random", "coordinate"]),
    default="coordinate",
    show_default=True,
    help="grid and random search all levels; coordinate takes a coarse grid of ends, then one level at a time.",
)
@opt.expert(
    "--trials",
    type=Number(int, low=2, high=100_000),
    default=60,
    show_default=True,
    metavar="N",
    help="Trials for each number of steps.",
)
@opt.expert("--metric", metavar="NAME", help="Metric to optimise.  [default: PESQ-WB if installed, else M-STFT]")
@opt.expert("--seconds", type=SECONDS, metavar="SECONDS", help="Use the beginning of each recording only.")
@opt.sampler
@opt.start
@opt.expert(
    "--plot",
    type=opt.FILE,
    metavar="FILE",
    callback=opt.need_plots,
    help="Plot the score against steps and real-time factor.",
)
@opt.device
@opt.dtype
def schedule(
    *, model: str, steps: tuple[int, ...], output: Path | None, plot: Path | None, study: Path, **options: Any
) -> None:
    """Search the noise levels of a vocoder for the best score.

    The search begins with evenly spaced log-SNRs, so on these recordings it never ends worse. The best levels are
    stored in the model's folder per number of steps, start and sampler; `vocode --schedule searched` uses them.
    """
    with loading("the metrics"):
        from audiodiff.search.schedule import SearchConfig, as_searched, search_levels, store
        from audiodiff.search.study import Study

    folder, target = _folders(model, output)
    chosen = {name: options.pop(name) for name in ("method", "trials")}
    scorer, words = _scorer(folder, **options)
    trials = Study(study, scorer.fingerprint(folder))
    found: dict[int, SearchResult] = {}
    best: Levels = ()
    with progress_bar(len(steps) * chosen["trials"], "searching") as bar:
        for number, n in enumerate(steps):
            more = [_stretched(best, n)] if best else []
            found[n] = search_levels(scorer, SearchConfig(n, seed=options["seed"], **chosen), trials, more, bar.update)
            best = found[n].best.levels
            store(folder, target, as_searched(found[n], scorer, words))
            bar.set((number + 1) * chosen["trials"], bar.total)
            with above_the_line():
                click.echo(_line(found[n], scorer))
    if plot is not None:
        _draw(found, scorer, plot)
    click.echo(click.format_filename(target))


def _folders(model: str, output: Path | None) -> tuple[Path, Path]:
    """Return the model's folder, and where the result goes."""
    from audiodiff.checkpoint import bundled_models, find_model
    from audiodiff.errors import ModelError

    folder = find_model(model)
    if output is None and (folder != Path(model) or folder.resolve() in map(Path.resolve, bundled_models().values())):
        raise ModelError(f"{model} is a shared model, which is not changed. Give --output DIR, a folder for a copy.")
    return folder, output or folder


def _scorer(
    folder: Path,
    *,
    data: str,
    metric: str | None,
    seconds: float | None,
    resample: bool,
    seed: int,
    device: str,
    dtype: Any,
    **chosen: Any,
) -> tuple[Scorer, str]:
    """Return what scores levels, and what it scores them on, in words."""
    from audiodiff.data.corpus import open_source
    from audiodiff.errors import ConfigError
    from audiodiff.evaluation.scoring import METRICS, resolve_metrics
    from audiodiff.pipelines import Vocoder
    from audiodiff.search.study import Scorer, read_clips

    metric = metric or ("pesq_wb" if METRICS["pesq_wb"].installed else "m_stft")
    resolve_metrics([metric])
    if metric not in METRICS or METRICS[metric].better == "neither" or METRICS[metric].belongs_to == "timing":
        raise ConfigError(f"{metric!r} cannot rank recordings. Choose a metric such as m_stft.")
    with loading(folder.name):
        vocoder = Vocoder.from_pretrained(folder, device, dtype)
    clips = read_clips(open_source(data), vocoder.sample_rate, seconds=seconds, resample=resample)
    length = sum(clip.audio.shape[-1] for clip in clips) / vocoder.sample_rate
    words = f"{len(clips)} recordings, {length:.0f} s, of {Path(data).name}"
    return Scorer(vocoder, clips, metric, opt.changes(**chosen), seed), words


def _stretched(levels: tuple[float, ...], steps: int) -> tuple[float, ...]:
    """Return as many levels on the broken line through those that were found for another number."""
    import numpy as np

    from audiodiff.search.schedule import round_levels

    if len(levels) == 1:
        return round_levels(levels[0] + 0.5 * n for n in range(steps))
    return round_levels(np.interp(np.linspace(0, len(levels) - 1, steps), range(len(levels)), levels))


def _line(found: SearchResult, scorer: Scorer) -> str:
    best, uniform, trained = found.best, found.uniform, found.trained
    levels = ",".join(f"{level:g}" for level in best.levels)
    scores = [f"{'none' if trial.score is None else f'{trial.score:.3f}'}" for trial in (best, uniform, trained)]
    return (
        f"{len(best.levels)} steps  {scorer.metric} {scores[0]}  evenly spaced {scores[1]}, over all levels {scores[2]}"
        f"  {found.n_trials} trials  --log-snrs {levels}"
    )


def _draw(found: Mapping[int, SearchResult], scorer: Scorer, plot: Path) -> None:
    from matplotlib.figure import Figure

    from audiodiff.audio.plots import save_figure
    from audiodiff.evaluation.plots import plot_score_by_steps

    named = {"searched": "best", "evenly spaced, the model's ends": "uniform", "evenly spaced, all levels": "trained"}
    trials = {name: {n: getattr(each, kind).score for n, each in found.items()} for name, kind in named.items()}
    curves = {name: {n: score for n, score in each.items() if score is not None} for name, each in trials.items()}
    timed = scorer.real_time_factors([each.best.levels for each in found.values()])
    factors = dict(zip(found, timed, strict=True))
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_score_by_steps(left, curves, scorer.metric)
    plot_score_by_steps(right, curves, scorer.metric, factors)
    save_figure(figure, plot)
    click.echo(click.format_filename(plot))


@command.command("rbf", examples=("audiodiff search rbf conf/vocoder.yaml --study trials.db --output conf/best.yaml",))
@click.argument("conf", metavar="CONF.yaml", type=opt.EXISTING_FILE)
@opt.study
@click.option(
    "--output",
    "-o",
    required=True,
    type=opt.FILE,
    metavar="FILE.yaml",
    help="Write the configuration with the best embedding here.",
)
@click.option("--data", metavar="FOLDER|MANIFEST|SHARDS", help="Training data, instead of data.train of the file.")
@opt.settings("training.batch_size=8")
@opt.expert(
    "--method",
    type=click.Choice(["grid", "random", "gradient"]),
    default="random",
    show_default=True,
    help="grid and random draw configurations; gradient trains centres and spreads and writes where they went.",
)
@opt.expert("--trials", type=COUNT, default=20, show_default=True, metavar="N", help="Trials of grid or random.")
@opt.expert(
    "--trial-steps", type=COUNT, default=300, show_default=True, metavar="N", help="Training steps of each run."
)
@opt.expert(
    "--seeds",
    type=Numbers(SEED, example="0,1,2"),
    metavar="N,...",
    help="Training seeds: each trial is trained with each, and ranked by the mean.  [default: training.seed]",
)
@opt.expert("--over", multiple=True, metavar="FIELD", help="Search only this field; may be repeated.")
@opt.threads
def rbf(
    *,
    conf: Path,
    data: str | None,
    study: Path,
    output: Path,
    settings: dict[str, object],
    over: Any,
    seeds: tuple[int, ...] | None,
    **options: Any,
) -> None:
    """Search the RBF noise-level embedding by short training runs.

    Every trial trains fresh weights for --trial-steps steps and is ranked by the validation loss. A crashed trial is
    recorded and does not end the search. With --seeds 0,1,2 the best is called better than the embedding of CONF.yaml
    only if the difference is larger than the seeds make.
    """
    import yaml

    from audiodiff.audio.io import replacing
    from audiodiff.config import load_run_config

    with loading("the search"):
        from audiodiff.search.rbf import SEARCH_PARAMETERS, SearchConfig, search_rbf, with_embedding

    names = [parameter.name for parameter in SEARCH_PARAMETERS]
    if unknown := [name for name in over if name not in names]:
        raise click.UsageError(
            f"--over {unknown[0]} is not a field that can be searched; choose from {', '.join(names)}."
        )
    config = load_run_config(conf, settings | ({"data.train": data} if data else {}))
    steps, trials = options["trial_steps"], 1 if options["method"] == "gradient" else options["trials"]
    over = over or tuple(names)
    search = SearchConfig(config, options["method"], trials, steps, options["seed"], over, seeds or ())
    with progress_bar(trials * steps * len(search.seeds), "searching") as bar:
        found = search_rbf(search, study, lambda: bar.update(1))
    document = with_embedding(config, found.embedding).model_dump(mode="json")
    loss = _mean(found.losses)
    head = f"# audiodiff search rbf --method {search.method}: validation loss {loss} after {steps} steps\n"
    with replacing(output) as part:
        part.write_text(head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    _print_rbf(found, output)


def _print_rbf(found: RBFSearchResult, output: Path) -> None:
    own = f", {_mean(found.own_losses)} with the embedding of the configuration" if found.own_losses else ""
    click.echo(f"validation loss {_mean(found.losses)}{own}; {found.trials} trials, {found.crashed} crashed")
    if found.own_losses:
        click.echo(_verdict(found))
    lists = {name: value for name, value in found.embedding.items() if isinstance(value, list)}
    click.echo(", ".join(f"{name} {value}" for name, value in found.embedding.items() if name not in lists))
    for name, values in lists.items():
        click.echo(f"{name}  {' '.join(f'{value:.3g}' for value in values)}")
    click.echo(click.format_filename(output))


def _mean(losses: Mapping[int, float]) -> str:
    """Return the mean of losses, with the standard deviation over seeds."""
    import numpy as np

    values = list(losses.values())
    deviation = f" ± {np.std(values, ddof=1):.5f}" if len(values) > 1 else ""
    return f"{np.mean(values):.5f}{deviation}"


def _verdict(found: RBFSearchResult) -> str:
    """Say whether the best embedding is better than that of the configuration by more than the seeds make differ."""
    difference = found.difference
    if difference is None or found.losses == found.own_losses:
        return "no trial was better than the embedding of the configuration"
    if difference.low is None or difference.high is None:
        return "one seed cannot tell whether the difference is noise; --seeds 0,1,2 can"
    interval = f"difference {difference.mean:+.5f} ({difference.low:+.5f} to {difference.high:+.5f})"
    if difference.low <= 0 <= difference.high:
        return f"not distinguishable from the embedding of the configuration: {interval} is within seed noise"
    among = f", but it is the best of {found.trials}: compare the two with other seeds" if found.trials > 2 else ""
    return f"better than the embedding of the configuration: {interval}{among}"


@command.command("ema", examples=("audiodiff search ema exp/vocoder --output exp/vocoder/best-ema",))
@click.argument("run", metavar="RUN", type=opt.EXISTING_FOLDER)
@click.option("--output", "-o", required=True, type=opt.FOLDER, metavar="DIR", help="Folder for the best model.")
@click.option(
    "--widths",
    type=Numbers(EMA_WIDTH, example="0.05,0.08,0.1"),
    default="0.015,0.02,0.03,0.04,0.05,0.07,0.1,0.14,0.2,0.25",
    show_default=True,
    metavar="WIDTH,...",
    help="Widths to try: the standard deviation of the average, as a fraction of the steps.",
)
@click.option("--data", metavar="FOLDER|MANIFEST", help="Recordings to validate on.  [default: those of the run]")
@opt.device
def ema(*, run: Path, output: Path, widths: tuple[float, ...], data: str | None, device: str) -> None:
    """Search the width of the EMA of a training run, after training.

    RUN is the folder of a run with training.post_hoc_ema. Its snapshots are combined to an average of each width
    (Karras et al. 2024), and that with the lowest validation loss is written. Widths that the snapshots do not resolve
    are left out.
    """
    from audiodiff.search.ema import LARGEST_ERROR, open_run, search_widths

    with loading(run.name):
        opened = open_run(run, data, device)
    with progress_bar(len(widths), "searching") as bar:
        found = search_widths(opened, widths, output, lambda: bar.update(1))
    for width, error, loss in found.tried:
        said = f"validation loss {loss:.5f}" if error <= LARGEST_ERROR else f"left out: its profile is {error:.0%} off"
        click.echo(f"width {width:<6g} {said}")
    for name, loss in found.plain.items():
        click.echo(f"{name:<12} validation loss {loss:.5f}, the EMA of training")
    if found.best.loss > min(found.plain.values()):
        click.echo("No width is better than the EMA of training.", err=True)
    click.echo(f"{click.format_filename(output)}: width {found.best.width:g}, validation loss {found.best.loss:.5f}")
