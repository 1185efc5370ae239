"""Plots of models, runs and results.

Reverse process, learned RBFs and where they began, schedules, training curves, loss by noise level, score by speed.

Every function draws into axes of matplotlib that it is given; `audiodiff.audio.plots.save_figure` writes PNG and SVG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from matplotlib.axes import Axes
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.plots import plot_mel, plot_waveform
from audiodiff.config import DiffusionConfig, MelConfig, load_run_config
from audiodiff.diffusion.process import alpha_sigma
from audiodiff.diffusion.schedules import SCHEDULES, make_schedule
from audiodiff.errors import DataError
from audiodiff.evaluation.results import Evaluation
from audiodiff.evaluation.scoring import METRICS
from audiodiff.networks.embeddings import RadialBasis

COLOURS = ("#31688e", "#a8327d", "#35b779", "#e8871e", "#5d3a9b", "#777777", "#b5b52f")
_POINTS = 400


def style_axes(axes: Axes, xlabel: str, ylabel: str) -> None:
    """Label the axes of a panel, with a light grid and no frame."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot_reverse_process(
    axes: Sequence[Sequence[Axes]], states: Sequence[tuple[float, Tensor]], mel_config: MelConfig
) -> None:
    """Draw the signal before and after every step of a sampler, as waveform and mel spectrogram.

    Args:
        axes: Two rows with one column per state.
        states: Log-SNR and audio `(time,)` or `(1, time)`, in the order of the steps; an infinite log-SNR is clean.
        mel_config: The mel convention to draw in.

    Raises:
        DataError: If there are not two rows of one panel per state.
    """
    if len(axes) != 2 or any(len(row) != len(states) for row in axes):
        shape = f"{len(axes)} x {len(axes[0])}" if len(axes) else "no"
        raise DataError(f"{shape} panels for {len(states)} states; expected 2 x {len(states)}.")
    spectrogram = MelSpectrogram(mel_config)
    mels = [spectrogram(audio.detach().cpu().float().reshape(1, -1)) for _, audio in states]
    peak_db = 20 * math.log10(float(spectrogram.to_magnitude(mels[-1]).max()))
    for column, ((log_snr, audio), mel) in enumerate(zip(states, mels, strict=True)):
        waveform, spectrogram_axes = axes[0][column], axes[1][column]
        plot_waveform(waveform, audio.reshape(1, -1), mel_config.sample_rate)
        plot_mel(spectrogram_axes, mel, mel_config, peak_db=peak_db)  # all in the colours of the result
        level = "clean" if math.isinf(log_snr) else f"log-SNR {log_snr:.1f}"
        waveform.set_title(f"{'start' if column == 0 else f'step {column}'}, {level}")
        waveform.label_outer()
        spectrogram_axes.label_outer()


def plot_radial_basis(axes: Axes, centres: Tensor, spread: Tensor, *, log_snr_min: float, log_snr_max: float) -> None:
    """Draw the radial basis functions of a noise-level embedding over log-SNR.

    Args:
        axes: Where to draw.
        centres: Centres `(K,)`, in log-SNR.
        spread: Widths sigma_k `(K,)`, in log-SNR.
        log_snr_min: Lowest trained noise level.
        log_snr_max: Highest trained noise level.
    """
    low = min(log_snr_min, float(centres.min()))
    high = max(log_snr_max, float(centres.max()))
    log_snrs = torch.linspace(low, high, _POINTS // 2)  # many curves: a small file
    for i, (centre, width) in enumerate(sorted(zip(centres.tolist(), spread.tolist(), strict=True))):
        values = torch.exp(-0.5 * ((log_snrs - centre) / width).square())
        axes.plot(log_snrs.numpy(), values.numpy(), color=COLOURS[i % 2], linewidth=1)
        axes.plot([centre], [0], "|", color=COLOURS[i % 2], markersize=10, clip_on=False)
    axes.axvspan(log_snr_min, log_snr_max, color="#777777", alpha=0.08, linewidth=0)
    axes.set(xlim=(low, high), ylim=(0, 1.05))
    style_axes(axes, "log-SNR (trained range shaded)", "radial basis function")


def plot_centres(axes: Axes, learned: RadialBasis, initial: RadialBasis | None) -> None:
    """Draw the spread of each RBF over its centre, after and before training, and say how far they have moved.

    Args:
        axes: Where to draw.
        learned: What training has made of the functions.
        initial: The same functions before it; None where nobody knows.
    """
    centres, spreads = learned.centres.detach(), learned.spread.detach()
    if initial is not None:
        before, wide = initial.centres.detach(), initial.spread.detach()
        axes.plot(torch.stack([before, centres]), torch.stack([wide, spreads]), color=COLOURS[5], linewidth=0.8)
        axes.plot(before, wide, "o", color=COLOURS[5], markersize=4, markerfacecolor="none", label="before training")
        ratio = spreads / wide
        axes.set_title(
            f"centres moved by {(centres - before).abs().mean():.2g} (mean), {(centres - before).abs().max():.2g} "
            f"(most); spreads × {ratio.min():.2f} to {ratio.max():.2f}",
            fontsize="small",
        )
    axes.plot(centres, spreads, ".", color=COLOURS[1], markersize=5, label="after")
    axes.margins(y=0.2)
    axes.legend(frameon=False, fontsize="small", ncols=2)
    style_axes(axes, "centre", "spread")


def plot_schedules(
    axes: Axes, n_steps: int, *, log_snr_min: float, log_snr_max: float, names: Sequence[str] = tuple(SCHEDULES)
) -> None:
    """Draw at which log-SNR each step of the named schedules is taken.

    Args:
        axes: Where to draw.
        n_steps: Steps of each schedule.
        log_snr_min: Lower end of those that fill a range.
        log_snr_max: Upper end of these.
        names: Keys of `SCHEDULES`.

    Raises:
        ConfigError: If a name is unknown, or a schedule cannot have so many steps.
    """
    for i, name in enumerate(names):
        log_snrs = make_schedule(name, n_steps, log_snr_min=log_snr_min, log_snr_max=log_snr_max)[:-1]
        axes.plot(range(1, n_steps + 1), log_snrs.numpy(), ".-", color=COLOURS[i % len(COLOURS)], label=name)
    axes.legend(frameon=False)
    style_axes(axes, "step", "log-SNR")


def plot_scales(axes: Axes, *, log_snr_min: float, log_snr_max: float, marks: Tensor | None = None) -> None:
    """Draw how much signal (alpha) and noise (sigma) there is over log-SNR.

    Args:
        axes: Where to draw.
        log_snr_min: Left end.
        log_snr_max: Right end.
        marks: Log-SNR of the steps of a schedule, drawn as dots; infinite ones are left out. None draws no dots.
    """
    log_snrs = torch.linspace(log_snr_min, log_snr_max, _POINTS)
    for curve, name, colour in zip(alpha_sigma(log_snrs), ("signal α", "noise σ"), COLOURS, strict=False):
        axes.plot(log_snrs.numpy(), curve.numpy(), color=colour, label=name)
    if marks is not None:
        steps = marks[marks.isfinite()]
        for curve, colour in zip(alpha_sigma(steps), COLOURS, strict=False):
            axes.plot(steps.numpy(), curve.numpy(), "o", color=colour, markersize=4)
    axes.legend(frameon=False)
    style_axes(axes, "log-SNR", "amplitude")


def read_curves(run_dir: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Read the curves of a training run from what it wrote for TensorBoard.

    Args:
        run_dir: The run's folder, or its folder `tensorboard`.

    Returns:
        Steps and values by name, such as `training/loss`.

    Raises:
        DataError: If there are none.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # here: it takes a second

    folder = run_dir / "tensorboard" if (run_dir / "tensorboard").is_dir() else run_dir
    if not any(folder.glob("events.out.tfevents.*")):
        raise DataError(f"{folder} holds no curves. Give the folder that `audiodiff train --run` wrote.")
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    curves = {}
    for name in accumulator.Tags()["scalars"]:
        points = accumulator.Scalars(name)
        curves[name] = ([point.step for point in points], [point.value for point in points])
    if not curves:
        raise DataError(f"{folder} holds no curves yet. Train for a few more steps.")
    return curves


def plot_curves(
    axes: Axes, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], names: Sequence[str], ylabel: str
) -> None:
    """Draw curves over training steps.

    Args:
        axes: Where to draw.
        curves: Steps and values by label.
        names: Which to draw, in order.
        ylabel: What the values are.

    Raises:
        DataError: If there is no curve of a name.
    """
    for i, name in enumerate(names):
        if name not in curves:
            raise DataError(f"there is no curve {name!r}; there are {', '.join(curves)}.")
        steps, values = curves[name]
        mark = "o-" if len(steps) < 30 else "-"
        axes.plot(steps, values, mark, markersize=3, color=COLOURS[i % len(COLOURS)], linewidth=1.2, label=name)
    axes.legend(frameon=False)
    style_axes(axes, "step", ylabel)


def plot_score_by_speed(axes: Axes, evaluations: Sequence[Evaluation], metric: str) -> None:
    """Draw the mean of a metric of every system against its mean real-time factor, with 95 % intervals.

    Args:
        axes: Where to draw.
        evaluations: Stored evaluations that were made with timings.
        metric: A name of `METRICS`.

    Raises:
        DataError: If the metric is unknown, or a system has no score or no timing.
    """
    if metric not in METRICS:
        raise DataError(f"no metric {metric!r}; choose from {', '.join(METRICS)}.")
    systems = [system for evaluation in evaluations for system in evaluation.systems]
    for i, system in enumerate(systems):
        score, rtf = system.summary(metric), system.summary("real_time_factor")
        if score is None or rtf is None:
            missing = METRICS[metric].title if score is None else "real-time factor (evaluate it with --timings)"
            raise DataError(f"{system.name} has no {missing}.")
        half = 0.0 if score.high is None else score.high - score.mean
        colour = COLOURS[i % len(COLOURS)]
        axes.errorbar(rtf.mean, score.mean, yerr=half, fmt="o", color=colour, capsize=3)
        axes.annotate(system.name, (rtf.mean, score.mean), (7, 5), textcoords="offset points", color=colour)
    axes.set_xscale("log")
    axes.margins(0.2)
    better = {"higher": ", higher is better", "lower": ", lower is better", "neither": ""}[METRICS[metric].better]
    style_axes(axes, "real-time factor (seconds per second of audio)", METRICS[metric].title + better)


def plot_score_by_steps(
    axes: Axes, curves: Mapping[str, Mapping[int, float]], metric: str, rtf: Mapping[int, float] | None = None
) -> None:
    """Draw the score of several schedules against the number of steps, or against the real-time factor of so many.

    Args:
        axes: Where to draw.
        curves: Name of a schedule, and number of steps to score.
        metric: A name of `METRICS`.
        rtf: Number of steps to real-time factor, which then is the horizontal axis.
    """
    for i, (name, scores) in enumerate(curves.items()):
        steps = sorted(scores)
        x = steps if rtf is None else [rtf[n] for n in steps]
        axes.plot(x, [scores[n] for n in steps], ".-", color=COLOURS[i % len(COLOURS)], label=name)
        if rtf is not None and i == 0:
            for n, position in zip(steps, x, strict=True):
                axes.annotate(f"{n}", (position, scores[n]), (0, 5), textcoords="offset points", fontsize=8)
    better = {"higher": ", higher is better", "lower": ", lower is better", "neither": ""}[METRICS[metric].better]
    axes.legend(frameon=False)
    xlabel = "steps" if rtf is None else "real-time factor (numbers: steps)"
    style_axes(axes, xlabel, METRICS[metric].title + better)


def group_curves(curves: Mapping[str, object]) -> list[tuple[str, list[str]]]:
    """Sort the curves of a run into panels: losses, scores, and the rest one by one.

    Returns:
        A label of the vertical axis and the names, for each panel.
    """
    losses = [name for name in ("training/loss", "validation/loss") if name in curves]
    by_log_snr = sorted(name for name in curves if name.startswith("validation/loss_at_"))
    rest = [name for name in curves if name not in (*losses, *by_log_snr) and not name.startswith("scores/")]
    groups = [("loss", losses)] + ([("loss by log-SNR", by_log_snr)] if by_log_snr else [])
    groups += [(name.rpartition("/")[2].replace("_", " "), [name]) for name in sorted(rest)]
    groups += [
        (METRICS[name[7:]].title, [name]) for name in curves if name[7:] in METRICS and name.startswith("scores/")
    ]
    return [(label, names) for label, names in groups if names]


_PREFIX = "validation/loss_at_"
_ROUNDING = 0.051
"""Error of the log-SNR in the name of a curve, which has one digit after the point."""


@dataclass(frozen=True)
class LossByNoiseLevel:
    """Validation loss at several noise levels.

    Attributes:
        step: Training steps done.
        losses: Log-SNR to validation loss, from most to least noise.
        trained: The log-SNRs that training was restricted to; all where it was not.
    """

    step: int
    losses: Mapping[float, float]
    trained: frozenset[float]

    def summary(self) -> str:
        """Return the mean loss in words; where training was restricted to a grid, also the means on it and between."""
        text = f"step {self.step}, mean {fmean(self.losses.values()):.4f}"
        on_grid, between = (
            [loss for log_snr, loss in self.losses.items() if (log_snr in self.trained) == inside]
            for inside in (True, False)
        )
        if not on_grid or not between:
            return text
        text += f"; at the training levels {fmean(on_grid):.4f}, between them {fmean(between):.4f}"
        excess = self.interpolation_excess
        return text if excess is None else f"{text}, {excess:+.4f} relative to the mean of their neighbours"

    @property
    def interpolation_excess(self) -> float | None:
        """Mean of loss at an untrained log-SNR minus the mean of its trained neighbours; None where there is none.

        A loss that is a smooth curve of the noise level has an excess near zero, whatever its slope.
        """
        points = list(self.losses.items())
        excess = [
            here[1] - (left[1] + right[1]) / 2
            for left, here, right in zip(points, points[1:], points[2:], strict=False)
            if here[0] not in self.trained and {left[0], right[0]} <= self.trained
        ]
        return fmean(excess) if excess else None


def read_loss_by_noise_level(run_dir: Path) -> LossByNoiseLevel:
    """Read the last validation of a run from what it wrote for TensorBoard.

    Args:
        run_dir: The run's folder.

    Returns:
        The losses.

    Raises:
        DataError: If there was no validation yet.
        ConfigError: If the folder has no valid config.yaml.
    """
    diffusion = load_run_config(run_dir / "config.yaml").model.diffusion
    curves = {name.removeprefix(_PREFIX): at for name, at in read_curves(run_dir).items() if name.startswith(_PREFIX)}
    if not curves:
        raise DataError(f"{run_dir} has not been validated yet. Train up to training.validate_every steps.")
    step = max(steps[-1] for steps, _ in curves.values())
    last = {float(name): values[-1] for name, (steps, values) in curves.items() if steps[-1] == step}
    losses = dict(sorted(last.items()))
    return LossByNoiseLevel(step, losses, frozenset(_trained(losses, diffusion)))


def _trained(log_snrs: Mapping[float, float], diffusion: DiffusionConfig) -> list[float]:
    if not diffusion.n_levels:
        return list(log_snrs)
    grid = [diffusion.log_snr_quantile(i / (diffusion.n_levels - 1)) for i in range(diffusion.n_levels)]
    return [log_snr for log_snr in log_snrs if min(abs(log_snr - known) for known in grid) < _ROUNDING]


def plot_loss_by_noise_level(axes: Axes, runs: Mapping[str, LossByNoiseLevel]) -> None:
    """Draw loss over noise level, a line per run; dots are the grid that training was restricted to.

    Args:
        axes: Where to draw.
        runs: Label to losses.
    """
    for i, (label, run) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(list(run.losses), list(run.losses.values()), color=colour, linewidth=1.2, label=label)
        if len(run.trained) < len(run.losses):
            trained = sorted(run.trained)
            axes.plot(trained, [run.losses[log_snr] for log_snr in trained], "o", color=colour, markersize=4)
    axes.legend(frameon=False)
    style_axes(axes, "log-SNR", "validation loss")
