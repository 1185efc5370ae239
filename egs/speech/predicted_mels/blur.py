"""Blur mels as an acoustic model does that was trained with a mean squared error.

Such a model predicts the mean of all mels that fit the text: detail in time and frequency is averaged away, and every
bin varies less than in recordings. Here a mel is smoothed by a Gaussian over frames and bins, and the deviation of each
bin from its mean over the recording is shrunk. This stands in for a text-to-speech model, so that anyone can repeat the
experiment.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray


def gaussian(length: int, deviation: float) -> NDArray[np.float32]:
    """Return the matrix `(length, length)` that smooths by a Gaussian; at the ends it averages what is there."""
    index = np.arange(length)
    weights = np.exp(-0.5 * ((index[:, None] - index) / deviation) ** 2)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def blurred(mel: NDArray[np.float32], frames: float, bins: float, shrinkage: float) -> NDArray[np.float32]:
    """Blur a mel.

    Args:
        mel: Log mel `(n_mels, frames)`.
        frames: Standard deviation of the Gaussian over time, in frames.
        bins: Likewise over frequency, in bins.
        shrinkage: Fraction of each bin's deviation from its mean that is taken away.

    Returns:
        A mel of the same shape.
    """
    smooth = gaussian(len(mel), bins) @ mel @ gaussian(mel.shape[1], frames).T
    mean = smooth.mean(1, keepdims=True)
    result: NDArray[np.float32] = mean + np.float32(1 - shrinkage) * (smooth - mean)
    return result


@click.command()
@click.argument("true", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("predicted", type=click.Path(file_okay=False, path_type=Path))
@click.option("--frames", default=1.0, show_default=True, help="Smoothing over time, in frames.")
@click.option("--bins", default=0.5, show_default=True, help="Smoothing over frequency, in bins.")
@click.option("--shrinkage", default=0.1, show_default=True, help="Fraction of each bin's deviation that is lost.")
def main(true: Path, predicted: Path, frames: float, bins: float, shrinkage: float) -> None:
    """Write a blurred mel into the folder PREDICTED for every .npy in the folder TRUE."""
    for path in sorted(true.rglob("*.npy")):
        target = predicted / path.relative_to(true)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mel(target, blurred(np.load(path).astype(np.float32), frames, bins, shrinkage))


def write_mel(path: Path, mel: NDArray[np.float32]) -> None:
    """Write a .npy file; a half-written one is found by the next stage."""
    np.save(path, mel)


if __name__ == "__main__":
    main()
