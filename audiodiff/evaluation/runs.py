"""Training runs compared over their seeds: means, deviations, and which differences are larger than the seeds make."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from audiodiff.errors import ConfigError, DataError
from audiodiff.evaluation.results import Difference, compare
from audiodiff.evaluation.scoring import METRICS
from audiodiff.text import read_json, read_yaml

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS = "loss"
"""The metric of a run that is always there: the lowest validation loss."""
_SEED = "training.seed"
_NOT_SETTINGS = ("data.train", "data.valid", "data.workers", "training.device")
"""Where a run found its data, and what it ran on."""
# Where one of these differs, validation losses are of different things.
_LOSS_DEPENDS_ON = (
    "model.sample_rate",
    "model.whitening",
    "model.diffusion",
    "data.crop_seconds",
    "data.mask_bandwidth",
)


class Run(NamedTuple):
    """A training run.

    Attributes:
        folder: Where it is.
        settings: Dotted key to value, without those of the machine.
        steps: At which it was validated.
        losses: There.
    """

    folder: Path
    settings: Mapping[str, Any]
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.settings[_SEED])

    def score(self, metric: str) -> float:
        """Return the lowest validation loss, or the last score of another metric that it wrote for TensorBoard.

        Raises:
            DataError: If it has no such score.
        """
        if metric == LOSS:
            return min(self.losses)
        from audiodiff.evaluation.plots import read_curves

        curves = read_curves(self.folder)
        if f"scores/{metric}" not in curves:
            raise DataError(f"{self.folder} has no {metric}. Is training.sample_every more than its steps?")
        return curves[f"scores/{metric}"][1][-1]

    def __str__(self) -> str:
        best = int(np.argmin(self.losses))
        return f"validation loss {self.losses[best]:.4f} at step {self.steps[best]} of {self.steps[-1]}"


class Group(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
        name: What is special about them, as KEY=VALUE.
        runs: The runs, by seed.
        scores: A score for each.
        difference: Of the scores to those of the first group, seed by seed; None for the first, or without any.
    """

    name: str
    runs: tuple[Run, ...]
    scores: tuple[float, ...]
    difference: Difference | None = None


class Comparison(NamedTuple):
    """Groups of runs and the metric that they are compared by; the first group is what others are compared with."""

    metric: str
    groups: tuple[Group, ...]


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of training runs among folders and within them, in order.

    Raises:
        DataError: If there are none in one of them.
    """
    found: list[Path] = []
    for folder in folders:
        runs = sorted(path.parent for path in folder.rglob("config.yaml") if (path.parent / "curve.json").is_file())
        if not runs:
            raise DataError(
                f"{folder} holds no training run that was validated. Give what `audiodiff train --run` wrote."
            )
        found += runs
    return list(dict.fromkeys(found))


def read_run(folder: Path) -> Run:
    """Read a run's settings and losses.

    Raises:
        DataError: If it has none.
    """
    settings = read_yaml(folder / "config.yaml", DataError)
    curve = read_json(folder / "curve.json", DataError)
    try:
        points = [(int(step), float(valid)) for step, valid, _ in curve["points"]]
        flat = {key: value for key, value in _flat(settings) if not key.startswith(_NOT_SETTINGS)}
        if not points or _SEED not in flat:
            raise ValueError("it was not validated yet")
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(f"{folder} is no training run that was validated: {error}.") from error
    steps, losses = zip(*points, strict=True)
    return Run(folder, flat, steps, losses)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compare_runs(folders: Sequence[Path], metric: str = LOSS) -> Comparison:
    """Group runs that differ in their seed alone, and compare the groups with the first.

    Args:
        folders: Folders of runs, or folders of such.
        metric: "loss", or a metric of `audiodiff.evaluation.scoring` that the runs wrote for TensorBoard.

    Returns:
        The groups, in the order of their first run.

    Raises:
        ConfigError: If there is no such metric, or losses do not compare.
        DataError: If a folder holds no run, or a run lacks the metric.
    """
    if metric != LOSS and metric not in METRICS:
        raise ConfigError(f"no metric {metric!r}; choose {LOSS}, or of {', '.join(METRICS)}.")
    runs = [read_run(folder) for folder in find_runs(folders)]
    keys = sorted({key for run in runs for key in run.settings if key != _SEED and _varies(runs, key)})
    if metric == LOSS and (wrong := [key for key in keys if key.startswith(_LOSS_DEPENDS_ON)]):
        raise ConfigError(
            f"validation losses of runs that differ in {', '.join(wrong)} do not compare. "
            "Compare scores: --metric m_stft."
        )
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        name = ", ".join(f"{key}={run.settings.get(key)}" for key in keys) or "all"
        grouped.setdefault(name, []).append(run)
    groups: list[Group] = []
    for name, members in grouped.items():
        ordered = tuple(sorted(members, key=lambda run: run.seed))
        group = Group(name, ordered, tuple(run.score(metric) for run in ordered))
        groups.append(group._replace(difference=_difference(groups[0], group)) if groups else group)
    return Comparison(metric, tuple(groups))


def _varies(runs: Sequence[Run], key: str) -> bool:
    return any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)


def _difference(first: Group, other: Group) -> Difference | None:
    own, theirs = (
        {run.seed: score for run, score in zip(group.runs, group.scores, strict=True)} for group in (first, other)
    )
    common = sorted(own.keys() & theirs.keys())
    return compare([own[seed] for seed in common], [theirs[seed] for seed in common]) if common else None


def verdict(group: Group, metric: str) -> str:
    """Say whether a group is better or worse than the first, or neither by more than the seeds make differ.

    The 95 % interval of the paired difference decides (Student's t); without two common seeds there is none.
    """
    difference = group.difference
    if difference is None or difference.low is None or difference.high is None:
        return "needs seeds in common"
    if difference.low <= 0 <= difference.high:
        return "within seed noise"
    better = "lower" if metric == LOSS else METRICS[metric].better
    if better == "neither":
        return "different"
    return "better" if (difference.mean > 0) == (better == "higher") else "worse"


def comparison_rows(comparison: Comparison) -> list[list[str]]:
    """Return a heading, and one row per group: mean and standard deviation over seeds, difference, and verdict."""
    title = "validation loss" if comparison.metric == LOSS else METRICS[comparison.metric].title
    rows = [["", "seeds", f"{title}, mean ± sd", "difference to the first, 95 % interval", "verdict"]]
    for number, group in enumerate(comparison.groups):
        mean, n = float(np.mean(group.scores)), len(group.scores)
        deviation = f" ± {np.std(group.scores, ddof=1):.4f}" if n > 1 else ""
        difference = group.difference
        interval = ""
        if difference is not None:
            interval = f"{difference.mean:+.4f}"
            if difference.low is not None and difference.high is not None:
                interval += f" ({difference.low:+.4f} to {difference.high:+.4f})"
        said = verdict(group, comparison.metric) if number else ""
        rows.append([group.name, str(n), f"{mean:.4f}{deviation}", interval, said])
    return rows


def plot_runs(axes: Axes, comparison: Comparison) -> None:
    """Draw the validation losses of each group over steps: the mean over seeds, in a band of one standard deviation."""
    from audiodiff.evaluation.plots import COLOURS, style_axes

    for number, group in enumerate(comparison.groups):
        steps = sorted(set.intersection(*(set(run.steps) for run in group.runs)))
        losses = np.array(
            [[dict(zip(run.steps, run.losses, strict=True))[step] for step in steps] for run in group.runs]
        )
        mean = losses.mean(0)
        deviation = losses.std(0, ddof=1) if len(losses) > 1 else np.full(len(steps), math.nan)
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(steps, mean, color=colour, linewidth=1.2, label=group.name)
        axes.fill_between(steps, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
    axes.legend(frameon=False, fontsize="small")
    style_axes(axes, "step", "validation loss")
