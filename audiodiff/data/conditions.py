"""What manifests give of whole recordings: the index of a name that the model has, and vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from torch import Tensor

from audiodiff.data.manifest import Recording
from audiodiff.errors import DataError


def check_given(recordings: Sequence[Recording], labels: Sequence[str], speakers: Sequence[str], width: int) -> None:
    """Refuse recordings that do not fit the conditions of a model; files of vectors are not opened.

    Args:
        recordings: At least one.
        labels: Class names of the model.
        speakers: Names of the model's speakers.
        width: Length of the vector that the model takes, 0 for none.

    Raises:
        DataError: If a name is unknown, or the model has a condition that no recording has.
    """
    for recording in recordings:
        name_index(recording, "label", labels)
        name_index(recording, "speaker", speakers)
        if isinstance(recording.vector, tuple):
            read_vector(recording, width)
    for name, wanted in (("label", ", ".join(labels)), ("speaker", ", ".join(speakers)), ("vector", str(width or ""))):
        if wanted and all(getattr(recording, name) is None for recording in recordings):
            raise DataError(
                f"the model has {name}s ({wanted}), but none of {len(recordings)} recordings has one. "
                f"Give each line of the manifest a `{name}`."
            )


def name_index(recording: Recording, field: str, names: Sequence[str]) -> int:
    """Return the index of a recording's label or speaker; the number of names where it has none, or there are none.

    Args:
        recording: The recording.
        field: "label" or "speaker".
        names: Those of the model.

    Raises:
        DataError: If the model has names, but not this one.
    """
    name = getattr(recording, field)
    if not names or name is None:
        return len(names)
    if name not in names:
        raise DataError(
            f"{recording.audio} has {field} {name!r}, which is not one of the model's {field}s: {', '.join(names)}."
        )
    return names.index(name)


def read_vector(recording: Recording, width: int) -> Tensor:
    """Return the vector of a recording `(width,)`, float32; NaN where it has none.

    Args:
        recording: The recording.
        width: The model's vector_width; 0 reads nothing.

    Raises:
        DataError: If there is another number of values, one is not finite, or the file cannot be read.
    """
    if not width or recording.vector is None:
        return torch.full((width,), torch.nan)
    if isinstance(recording.vector, Path):
        return load_vector(recording.vector, width)
    return _checked(np.array(recording.vector), width, f"the vector of {recording.audio}")


def load_vector(path: str | Path, width: int | None = None) -> Tensor:
    """Read a vector from a .npy file.

    Args:
        path: The file.
        width: The model's vector_width; None takes any.

    Returns:
        The vector `(width,)`, float32.

    Raises:
        DataError: If there is another number of values, one is not finite, or the file cannot be read.
    """
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, or a header could ask for any memory
        if not isinstance(values, np.ndarray):
            raise ValueError(f"it holds a {type(values).__name__}")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:
        raise DataError(
            f"{path} cannot be read as a .npy file of numbers: {error}. Write it with numpy.save."
        ) from error
    return _checked(values, values.size if width is None else width, str(path))


def _checked(values: np.ndarray, width: int, what: str) -> Tensor:
    if values.size != width or values.dtype.kind not in "fiu":
        raise DataError(
            f"{what} has shape {values.shape} and type {values.dtype}; the model takes {width} numbers (vector_width)."
        )
    vector = torch.from_numpy(values.astype(np.float32)).flatten()
    if not bool(vector.isfinite().all()):
        raise DataError(f"{what} holds values that are not finite. Leave the vector out where there is none.")
    return vector
