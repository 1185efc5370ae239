"""Post-hoc EMA (Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", section 3).

An exponential average has a length that must be chosen before training. Here two averages with power-function profiles
are kept and stored every so often; after training, a combination of them is the average of any other width. The
profile of width sigma_rel and power gamma, after t updates, weighs the weights of time tau by

    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1),  0 <= tau <= t

and its standard deviation is sigma_rel t. Integrated over each update, this is the weight of that update's result.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from audiodiff.audio.io import flush_to_disk, replacing
from audiodiff.errors import TrainingError
from audiodiff.training.optimiser import update_ema

_NAME = re.compile(r"step-\d{8,}\.safetensors")
_LEAST = 1e-12
"""Directions of profiles that are told apart by less than this are left out, or rounding would decide them."""


def power_of(width: float) -> float:
    """Return the power gamma of a relative width (Algorithm 2).

    The variance of the profile is (gamma + 1) / ((gamma + 2)^2 (gamma + 3)). The largest gamma for which it is width^2
    is a root of a cubic polynomial.

    Example:
        >>> [round(power_of(width), 2) for width in (0.05, 0.1)]
        [16.97, 6.94]
    """
    inverse = width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


class PowerAverages:
    """Averages of a network's weights with power-function profiles, updated along with training.

    Args:
        network: Without adapters; its parameters say what is averaged. After the first update nothing of it is left.
        widths: Relative widths.

    Attributes:
        widths: Those.
        averages: Parameter names to averages, for each of them.
    """

    def __init__(self, network: nn.Module, widths: Sequence[float]) -> None:
        self.widths = tuple(widths)
        self._powers = [power_of(width) for width in widths]
        self.averages = [{name: value.clone() for name, value in network.named_parameters()} for _ in widths]

    def update(self, network: nn.Module, n_updates: Tensor, finite: Tensor) -> None:
        """Take an update of the weights into account: the decay is (1 - 1 / t)^(gamma + 1).

        Args:
            network: The network in training.
            n_updates: Its number t, from 1 on, float64, a scalar on the device.
            finite: Whether there was one, likewise.
        """
        for power, averages in zip(self._powers, self.averages, strict=True):
            decay = (1 - 1 / n_updates.clamp_min(1)) ** (power + 1)
            update_ema(averages, network, (1 - decay) * finite)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds."""
        return {"widths": list(self.widths), "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            TrainingError: If the run has not kept averages of these widths from its beginning.
        """
        theirs = tuple(state["widths"]) if state else ()
        if state is None or theirs != self.widths:
            raise TrainingError(
                f"training.post_hoc_ema has the widths {', '.join(map(str, self.widths))}, and the checkpoint averages "
                f"of {', '.join(map(str, theirs)) or 'none'}: they begin with the run. Keep its setting."
            )
        for ours, stored in zip(self.averages, state["averages"], strict=True):
            for name, value in stored.items():
                ours[name].copy_(value)


# --- snapshots --------------------------------------------------------------------------------------------------------


class Snapshot(NamedTuple):
    """Averages after some updates.

    Attributes:
        path: The file.
        n_updates: Updates of the weights until then.
        widths: Relative widths of the averages.
    """

    path: Path
    n_updates: int
    widths: tuple[float, ...]


def snapshot_path(folder: Path, step: int) -> Path:
    """Return the file of the snapshot of a step."""
    return folder / f"step-{step:08d}.safetensors"


def list_snapshots(folder: Path) -> list[Path]:
    """Return the files of the snapshots in a folder, oldest first."""
    paths = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_file()]
    return sorted(paths, key=_step_of)


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def save_snapshot(path: Path, averages: PowerAverages, n_updates: int) -> None:
    """Write the averages; they are on the disk when this returns.

    Raises:
        OutputError: If there is no room, or the like.
    """
    tensors = {"n_updates": torch.tensor(n_updates), "widths": torch.tensor(averages.widths, dtype=torch.float64)}
    for number, average in enumerate(averages.averages):
        tensors |= {f"{number}.{name}": value.detach().cpu().contiguous() for name, value in average.items()}
    with replacing(path) as part:
        part.write_bytes(save(tensors))
        flush_to_disk(part)
    flush_to_disk(path.parent)


def keep_snapshots(source: Path, folder: Path, step: int) -> None:
    """Leave in a folder the snapshots up to a step, those of the run that is resumed among them.

    Later ones, of a run that went on from there, are written anew; so is what a killed process left half-written.

    Args:
        source: Snapshots of the run that is resumed; may be the same folder.
        folder: Snapshots of the run that goes on.
        step: Where it goes on.
    """
    for path in [*folder.glob(".*.part"), *(path for path in list_snapshots(folder) if _step_of(path) > step)]:
        path.unlink()
    for path in list_snapshots(source):
        if _step_of(path) <= step and not (folder / path.name).exists():
            with replacing(folder / path.name) as part:
                shutil.copyfile(path, part)


def read_snapshot(path: Path) -> tuple[Snapshot, list[dict[str, Tensor]]]:
    """Read what `save_snapshot` wrote.

    Returns:
        What it is, and the averages of each width.

    Raises:
        TrainingError: If the file is damaged.
    """
    try:
        tensors = load(path.read_bytes())
        widths = tuple(tensors.pop("widths").tolist())
        snapshot = Snapshot(path, int(tensors.pop("n_updates")), widths)
        averages: list[dict[str, Tensor]] = [{} for _ in widths]
        for key, value in tensors.items():
            number, _, name = key.partition(".")
            averages[int(number)][name] = value
    except (SafetensorError, OSError, LookupError, ValueError) as error:
        raise TrainingError(f"{path} is damaged or no snapshot: {error}. Remove it to do without.") from error
    return snapshot, averages


# --- reconstruction ---------------------------------------------------------------------------------------------------


class Profiles(NamedTuple):
    """Profiles of averages: powers and times of their ends, in updates, both `(n,)` float64."""

    powers: NDArray[np.float64]
    ends: NDArray[np.float64]

    @classmethod
    def of(cls, widths: Sequence[float], ends: Sequence[float]) -> Profiles:
        """Return those of given relative widths."""
        return cls(np.array([power_of(width) for width in widths]), np.array(ends, dtype=np.float64))

    def products(self, other: Profiles) -> NDArray[np.float64]:
        """Return the integrals of each of these times each of the others `(n, n_others)`, in closed form.

        With m the earlier end, M the later and G the power of the one that ends later, the integral is
        (g1 + 1) (g2 + 1) / (g1 + g2 + 1) (m / M)^G / M.
        """
        (powers, ends), (their_powers, their_ends) = (part[:, None] for part in self), other
        later = np.where(ends < their_ends, their_powers, powers)
        first, last = np.minimum(ends, their_ends), np.maximum(ends, their_ends)
        factor = (powers + 1) * (their_powers + 1) / (powers + their_powers + 1)
        return np.asarray(factor * (first / last) ** later / last)


def combination(stored: Profiles, wanted: Profiles) -> tuple[NDArray[np.float64], float]:
    """Return how to combine stored averages to one that is wanted, by least squares (Algorithm 3).

    The coefficients add up to 1, which the algorithm leaves out: with few snapshots it would scale the weights.

    Args:
        stored: The profiles there are.
        wanted: One profile.

    Returns:
        A coefficient for each stored average `(n,)`, and the error of the combined profile relative to the wanted one,
        in L2: 0 is exact.
    """
    scale = np.sqrt(stored.ends)  # so that all products are of the same size
    gram = stored.products(stored) * scale[:, None] * scale
    right = stored.products(wanted)[:, 0] * scale
    bordered = np.block([[gram, scale[:, None]], [scale, np.zeros(1)]])  # with a Lagrange multiplier
    solution = np.linalg.lstsq(bordered, np.append(right, 1.0), rcond=_LEAST)[0][:-1]
    size = float(wanted.products(wanted)[0, 0])
    error = size + solution @ (gram @ solution - 2 * right)
    return solution * scale, float(np.sqrt(max(error, 0.0) / size))


def reconstruct(snapshots: Sequence[Snapshot], width: float) -> tuple[dict[str, Tensor], float]:
    """Put together the average of any width, as of the last snapshot.

    Args:
        snapshots: Those of a run, oldest first.
        width: Relative width.

    Returns:
        Parameter names to float32 averages, and the relative error of the profile; see `combination`.

    Raises:
        TrainingError: If a snapshot is damaged.
    """
    stored = Profiles.of(
        [width for snapshot in snapshots for width in snapshot.widths],
        [snapshot.n_updates for snapshot in snapshots for _ in snapshot.widths],
    )
    coefficients, error = combination(stored, Profiles.of([width], [snapshots[-1].n_updates]))
    remaining = iter(coefficients.tolist())
    total: dict[str, Tensor] = {}
    for snapshot in snapshots:
        for average in read_snapshot(snapshot.path)[1]:
            coefficient = next(remaining)
            for name, value in average.items():
                total[name] = total.get(name, 0) + coefficient * value.double()
    return {name: value.float() for name, value in total.items()}, error
