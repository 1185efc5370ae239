"""The validation loss of a training run by noise level: at the levels it was trained on, and between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from audiodiff.config import DiffusionConfig, load_run_config
from audiodiff.errors import DataError
from audiodiff.evaluation.plots import COLOURS, read_curves, tidy

_PREFIX = "validation/loss_at_"
_ROUNDING = 0.051
"""What a level in the name of a curve may be off by, in log-SNR; names have one digit after the point."""


@dataclass(frozen=True)
class LevelLosses:
    """Where a model errs.

    Attributes:
        step: Training steps done.
        by_level: Log-SNR to validation loss, from most to least noise.
        trained: Those of the levels that training was confined to; all where it was not.
    """

    step: int
    by_level: Mapping[float, float]
    trained: frozenset[float]

    def in_words(self) -> str:
        """Say the mean loss, and where training was confined to a grid also the means on it and between."""
        said = f"step {self.step}, mean {fmean(self.by_level.values()):.4f}"
        inside, between = (
            [loss for level, loss in self.by_level.items() if (level in self.trained) == wanted]
            for wanted in (True, False)
        )
        if not inside or not between:
            return said
        said += f"; at the training levels {fmean(inside):.4f}, between them {fmean(between):.4f}"
        return said if self.excess is None else f"{said}, {self.excess:+.4f} beside the means of their neighbours"

    @property
    def excess(self) -> float | None:
        """How much larger the loss is between two training levels than the mean of theirs; None where none is between.

        A loss that is a smooth curve of the noise level has an excess near zero, whatever its slope.
        """
        every = list(self.by_level.items())
        beside = [
            here[1] - (left[1] + right[1]) / 2
            for left, here, right in zip(every, every[1:], every[2:], strict=False)
            if here[0] not in self.trained and {left[0], right[0]} <= self.trained
        ]
        return fmean(beside) if beside else None


def read_level_losses(run_dir: Path) -> LevelLosses:
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
        raise DataError(f"{run_dir} has not been validated yet. Let the run go on to training.validate_every steps.")
    step = max(steps[-1] for steps, _ in curves.values())
    last = {float(name): values[-1] for name, (steps, values) in curves.items() if steps[-1] == step}
    by_level = dict(sorted(last.items()))
    return LevelLosses(step, by_level, frozenset(_trained(by_level, diffusion)))


def _trained(levels: Mapping[float, float], diffusion: DiffusionConfig) -> list[float]:
    if not diffusion.levels:
        return list(levels)
    grid = [diffusion.log_snr_at(i / (diffusion.levels - 1)) for i in range(diffusion.levels)]
    return [level for level in levels if min(abs(level - known) for known in grid) < _ROUNDING]


def plot_level_losses(axes: Axes, runs: Mapping[str, LevelLosses]) -> None:
    """Draw loss over noise level, a line per run; dots are levels of a grid that training was confined to.

    Args:
        axes: Where to draw.
        runs: Label to losses.
    """
    for i, (label, losses) in enumerate(runs.items()):
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(list(losses.by_level), list(losses.by_level.values()), color=colour, linewidth=1.2, label=label)
        if len(losses.trained) < len(losses.by_level):
            dots = [level for level in losses.by_level if level in losses.trained]
            axes.plot(dots, [losses.by_level[level] for level in dots], "o", color=colour, markersize=4)
    axes.legend(frameon=False)
    tidy(axes, "log-SNR", "validation loss")
