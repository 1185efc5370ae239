"""The validation loss of a training run by noise level: at the log-SNRs it was trained at, and between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from matplotlib.axes import Axes

from audiodiff.config import DiffusionConfig, load_run_config
from audiodiff.errors import DataError
from audiodiff.evaluation.plots import COLOURS, read_curves, style_axes

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
        raise DataError(f"{run_dir} has not been validated yet. Let the run go on to training.validate_every steps.")
    step = max(steps[-1] for steps, _ in curves.values())
    last = {float(name): values[-1] for name, (steps, values) in curves.items() if steps[-1] == step}
    losses = dict(sorted(last.items()))
    return LossByNoiseLevel(step, losses, frozenset(_trained(losses, diffusion)))


def _trained(log_snrs: Mapping[float, float], diffusion: DiffusionConfig) -> list[float]:
    if not diffusion.levels:
        return list(log_snrs)
    grid = [diffusion.log_snr_quantile(i / (diffusion.levels - 1)) for i in range(diffusion.levels)]
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
