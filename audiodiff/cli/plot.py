"""`audiodiff plot`: figures of audio, models, training runs and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from audiodiff.choices import LOG_SNR, SECONDS, STEPS
from audiodiff.cli import options as opt
from audiodiff.cli.progress import loading, progress_bar
from audiodiff.cli.verbs import VerbGroup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])


def output_option(function: _Function) -> _Function:
    """Add --output."""
    return click.option(
        "--output",
        "-o",
        required=True,
        type=opt.FILE,
        metavar="FILE",
        callback=opt.need_plots,
        help="The figure: .png, .svg or .pdf.",
    )(function)


@click.group("plot", cls=VerbGroup)
def command() -> None:
    """Plot audio, a model, a training run or results, as PNG, SVG or PDF.

    `audiodiff plot COMMAND --help` explains one.
    """


@command.command("waveform")
@click.argument("recording", type=opt.EXISTING)
@output_option
def waveform(*, recording: Path, output: Path) -> None:
    """Plot the waveform of a recording, channel by channel."""
    with loading("the plots"):
        from audiodiff.audio.io import audio_info, load_audio
        from audiodiff.audio.plots import plot_waveform

    audio = load_audio(recording, mono=False)
    figure, rows = _figure(len(audio), 1, (10, 2.5 * len(audio)))
    for (axes,), channel in zip(rows, audio, strict=True):
        plot_waveform(axes, channel, audio_info(recording).sample_rate)
    rows[-1][0].set_xlabel("time (s)")
    _save(figure, output)


@command.command("mel")
@click.argument("recording", type=opt.EXISTING)
@click.option(
    "--mel",
    "convention",
    metavar="NAME",
    help="Mel convention, such as hifigan-22k; resamples to its rate.  [default: 80 bins up to Nyquist]",
)
@output_option
def mel(*, recording: Path, convention: str | None, output: Path) -> None:
    """Plot the mel spectrogram of a recording, channel by channel."""
    with loading("the plots"):
        from audiodiff.audio.io import audio_info, load_audio
        from audiodiff.audio.mel import MelSpectrogram
        from audiodiff.audio.plots import display_mel, plot_mel
        from audiodiff.config import MEL_CONVENTIONS
        from audiodiff.errors import AudioError

    if convention is not None and convention not in MEL_CONVENTIONS:
        raise click.UsageError(f"no mel convention {convention!r}; choose from {', '.join(MEL_CONVENTIONS)}.")
    config = MEL_CONVENTIONS[convention] if convention else display_mel(audio_info(recording).sample_rate)
    audio = load_audio(recording, config.sample_rate, mono=False)
    figure, rows = _figure(len(audio), 1, (10, 4 * len(audio)))
    try:
        mels = MelSpectrogram(config)(audio)
    except AudioError as error:
        raise AudioError(f"{recording}: {error}") from error
    for (axes,), channel in zip(rows, mels, strict=True):
        image = plot_mel(axes, channel, config)
        figure.colorbar(image, ax=axes, pad=0.01, label="mel magnitude (dB)")
    _save(figure, output)


@command.command("steps")
@click.argument("recording", type=opt.EXISTING)
@output_option
@opt.model
@opt.steps
@click.option(
    "--seconds",
    type=SECONDS,
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="Length of the plot, from the beginning of the recording.",
)
@opt.seed()
@opt.sampler
@opt.schedule
@opt.start
@opt.threads
def steps(*, recording: Path, model: str | None, seed: int, seconds: float, output: Path, **options: Any) -> None:
    """Plot the reverse process of a vocoder step by step."""
    with loading("the plots"):
        from audiodiff.audio.io import audio_info, load_audio
        from audiodiff.evaluation.plots import plot_reverse_process
        from audiodiff.pipelines import Vocoder
        from audiodiff.pipelines.reverse_states import reverse_states

    n_samples = min(round(seconds * audio_info(recording).sample_rate), audio_info(recording).n_samples)
    if n_samples < 1:
        raise click.UsageError(f"--seconds {seconds:g} is less than a sample.")
    with loading(model or "the bundled vocoder"):
        vocoder = Vocoder.from_pretrained(model)
    audio = load_audio(recording, vocoder.sample_rate, n_samples=n_samples)
    states: list[tuple[float, Tensor]] = []
    with progress_bar(0, "vocoding"):
        clean = reverse_states(vocoder, audio, seed, lambda *state: states.append(state), **opt.changes(**options))
    states.append((float("inf"), clean))
    figure, rows = _figure(
        2, len(states), (3.6 * len(states) + 1, 5), height_ratios=(1, 1.6), sharex=True, sharey="row"
    )
    plot_reverse_process(rows, states, vocoder.mel_config)
    _save(figure, output)


@command.command("rbf")
@click.argument("models", nargs=-1, metavar="[NAME|FOLDER]...")
@output_option
def rbf(*, models: Sequence[str], output: Path) -> None:
    """Plot the RBF noise-level embeddings of models, before and after training.

    Without a model, that of the bundled vocoder. Where the centres began is not known if they were drawn at random.
    """
    with loading("the plots"):
        from audiodiff.checkpoint import find_model, load_model
        from audiodiff.errors import ModelError
        from audiodiff.evaluation.plots import plot_centres, plot_radial_basis
        from audiodiff.networks.embeddings import RadialBasis

    found = [find_model(name) for name in models or (None,)]
    figure, rows = _figure(len(found), 2, (12, 3 * len(found)), width_ratios=(3, 2))
    for (axes, movement), folder in zip(rows, found, strict=True):
        network, config = load_model(folder)
        basis = [module for module in network.modules() if isinstance(module, RadialBasis)]
        if not basis:
            raise ModelError(
                f"{folder} has no radial basis functions: its embedding is {config.network.embedding.kind}."
            )
        ends = {"log_snr_min": config.diffusion.log_snr_min, "log_snr_max": config.diffusion.log_snr_max}
        plot_radial_basis(axes, basis[0].centres.detach(), basis[0].spread.detach(), **ends)
        if basis[0].domain.domain != "log-snr":
            axes.set_xlabel(f"{basis[0].domain.domain}, stretched to the trained range of log-SNR (shaded)")
        axes.set_title("/".join(folder.parts[-4:]), fontsize="small")
        is_drawn = config.network.embedding.initialisation in ("k-means", "random")
        plot_centres(movement, basis[0], None if is_drawn else RadialBasis(config.network.embedding, config.diffusion))
    _save(figure, output)


@command.command("schedule")
@click.argument("names", nargs=-1, type=click.Choice(opt.SCHEDULES), metavar="[SCHEDULE]...")
@output_option
@click.option("--steps", type=STEPS, default=12, show_default=True, metavar="N", help="Steps of each schedule.")
@opt.expert(
    "--log-snr-min",
    type=LOG_SNR,
    default=-8.0,
    show_default=True,
    metavar="LOG_SNR",
    help="Lower end of the schedules.",
)
@opt.expert(
    "--log-snr-max",
    type=LOG_SNR,
    default=10.0,
    show_default=True,
    metavar="LOG_SNR",
    help="Upper end of the schedules.",
)
def schedule(*, names: Sequence[str], steps: int, log_snr_min: float, log_snr_max: float, output: Path) -> None:
    """Plot noise schedules, and the scales of signal and noise over log-SNR.

    SCHEDULE is a name that `audiodiff vocode --help` lists; all are plotted unless some are named. Dots on the
    right are the steps of the first schedule.
    """
    with loading("the plots"):
        from audiodiff.diffusion.schedules import make_schedule
        from audiodiff.evaluation.plots import plot_scales, plot_schedules

    if log_snr_min >= log_snr_max:
        raise click.UsageError(f"--log-snr-min {log_snr_min:g} must be below --log-snr-max {log_snr_max:g}.")
    names = names or opt.SCHEDULES
    ends = {"log_snr_min": log_snr_min, "log_snr_max": log_snr_max}
    figure, ((left, right),) = _figure(1, 2, (11, 4))
    plot_schedules(left, steps, **ends, names=names)
    plot_scales(right, **ends, marks=make_schedule(names[0], steps, **ends))
    _save(figure, output)


@command.command("training")
@click.argument("runs", nargs=-1, required=True, type=opt.EXISTING)
@output_option
def training(*, runs: Sequence[Path], output: Path) -> None:
    """Plot the losses and scores of a training run.

    RUNS are run folders; of several, the losses are plotted side by side.
    """
    with loading("the plots"):
        from audiodiff.evaluation.plots import group_curves, plot_curves, read_curves

    if len(runs) > 1:
        read = {run: read_curves(run) for run in runs}
        figure, (row,) = _figure(1, 2, (11, 4))
        for axes, name in zip(row, ("training/loss", "validation/loss"), strict=True):
            curves = {str(run): found[name] for run, found in read.items() if name in found}
            plot_curves(axes, curves, list(curves), name.replace("/", " "))
    else:
        found = read_curves(runs[0])
        groups = group_curves(found)
        n_rows = -(-len(groups) // 2)
        figure, rows = _figure(n_rows, 2, (11, 3.2 * n_rows))
        panels = [axes for row in rows for axes in row]
        for axes, (label, names) in zip(panels, groups, strict=False):
            plot_curves(axes, found, names, label)
        for axes in panels[len(groups) :]:
            axes.set_axis_off()
    _save(figure, output)


@command.command("loss-by-noise-level")
@click.argument("runs", nargs=-1, required=True, type=opt.EXISTING)
@output_option
def loss_by_noise_level(*, runs: Sequence[Path], output: Path) -> None:
    """Plot the validation loss of runs by noise level, and print the means.

    Where training used a grid of noise levels (model.diffusion.n_levels), dots mark them, and the means on the grid and
    between its levels are printed. With training.validation_levels = 2 * grid - 1, those between lie halfway.
    """
    with loading("the plots"):
        from audiodiff.evaluation.plots import plot_loss_by_noise_level, read_loss_by_noise_level

    read = {str(run): read_loss_by_noise_level(run) for run in runs}
    figure, ((axes,),) = _figure(1, 1, (8, 4.5))
    plot_loss_by_noise_level(axes, read)
    for run, losses in read.items():
        click.echo(f"{run}: {losses.summary()}")
    _save(figure, output)


@command.command("quality")
@click.argument("evaluations", nargs=-1, required=True, type=opt.EXISTING)
@output_option
@click.option("--metric", default="pesq_wb", show_default=True, metavar="NAME", help="Metric of the vertical axis.")
def quality(*, evaluations: Sequence[Path], metric: str, output: Path) -> None:
    """Plot a metric against the real-time factor.

    EVALUATIONS are files that `audiodiff evaluate pairs --timings --json` stored.
    """
    with loading("the plots"):
        from audiodiff.evaluation.plots import plot_score_by_speed
        from audiodiff.evaluation.results import read_json

    figure, ((axes,),) = _figure(1, 1, (7, 4.5))
    plot_score_by_speed(axes, [read_json(path) for path in evaluations], metric)
    _save(figure, output)


def _figure(n_rows: int, n_columns: int, size: tuple[float, float], **more: Any) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure and its panels, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, squeeze=False, **more).tolist()


def _save(figure: Figure, output: Path) -> None:
    from audiodiff.audio.plots import save_figure

    save_figure(figure, output)
    click.echo(click.format_filename(output))
