"""Mel conventions as users name them: by name or in a YAML file, with the statistics files of other toolkits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from audiodiff.config import MelConfig, mel_convention, parse_config
from audiodiff.errors import DataError
from audiodiff.text import read_yaml


def named_convention(name: str) -> MelConfig:
    """Return the mel convention that a user or a manifest gave.

    Args:
        name: As of `audiodiff.config.mel_convention`; or a .yaml file with the fields of `MelConfig`: all of them, or
            those that differ from `base: NAME`. There, `statistics: FILE` stands for `mean` and `std`, as of
            `read_statistics`; the file is looked for beside the YAML file.

    Raises:
        DataError: If no convention has that name, or the file is not one.
    """
    if not name.lower().endswith((".yaml", ".yml")):
        return _published(name)
    values = read_yaml(name)
    if not isinstance(values, dict):
        raise DataError(f"{name} holds no fields of a mel convention, such as `base: parallel_wavegan`.")
    base = _published(str(values.pop("base"))).model_dump() if "base" in values else {}
    if "statistics" in values:
        base |= read_statistics(Path(name).parent / str(values.pop("statistics")))
    return parse_config(MelConfig, base | {"name": Path(name).stem} | values, name)


def _published(name: str) -> MelConfig:
    try:
        return mel_convention(name)
    except ValueError as error:
        raise DataError(f"{error}.") from error


def read_statistics(path: Path) -> dict[str, tuple[float, ...]]:
    """Read the mean and standard deviation of each bin.

    Args:
        path: A .npy file of shape (2, n_mels), mean and deviation, as parallel_wavegan writes; or .npz with `count`,
            `sum` and `sum_square`, as ESPnet does.

    Returns:
        Fields `mean` and `std` of `MelConfig`.

    Raises:
        DataError: If the file holds no such statistics.
    """
    try:
        content = np.load(path, allow_pickle=False)
        mean, std = _from_sums(content) if path.suffix == ".npz" else content
        if mean.ndim != 1 or not np.isfinite([mean, std]).all():
            raise ValueError
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} holds no statistics of a mel: expected .npy of shape (2, n_mels), mean and deviation, or .npz "
            "with count, sum and sum_square. Save others with numpy.save('stats.npy', [mean, deviation])."
        ) from error
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std))}


def _from_sums(sums: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    mean = sums["sum"] / sums["count"]
    return mean, np.sqrt(np.maximum(sums["sum_square"] / sums["count"] - mean**2, 1e-20))
