"""Mels in files, and those that manifests name beside their recordings, such as a text-to-speech model predicted."""

from __future__ import annotations

import pickle
import tokenize
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from audiodiff.audio.transforms import as_tensor, stored_tensor
from audiodiff.errors import MelError
from audiodiff.text import what_came_instead

MEL_EXTENSIONS = (".npy", ".pt")
OTHER_MELS = (
    *(".npz", ".mel", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".safetensors"),
    *(".h5", ".hdf5", ".mat", ".csv", ".tfrecord", ".spec"),
)
"""What other programs save mels as."""
SAVE_MEL = "Save it with numpy.save('NAME.npy', mel), one mel (n_mels, frames) of numbers."
_DAMAGED = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, SyntaxError),
    *(MemoryError, OverflowError, pickle.UnpicklingError, tokenize.TokenError, zipfile.BadZipFile),
)
"""What the readers of NumPy and PyTorch raise for damaged files."""


def load_mel(path: Path) -> Tensor:
    """Read a mel spectrogram saved by NumPy or PyTorch; no code in the file is run.

    Args:
        path: A .npy file, or a .pt file that holds one tensor.

    Returns:
        The mel `(n_mels, frames)`, not checked against any convention.

    Raises:
        MelError: If the file cannot be read, or holds something other than one mel.
    """
    if not path.is_file():
        found = "is no regular file" if path.exists() else "does not exist"
        raise MelError(f"{path} {found}; expected a mel. Check the path.")
    if said := what_came_instead(path):
        raise MelError(said)
    is_torch = path.suffix.lower() == ".pt"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True) if is_torch else _load_npy(path)
    except _DAMAGED as error:
        saved = "torch.save" if is_torch else "numpy.save"
        raise MelError(
            f"{path} cannot be read as a mel ({type(error).__name__}): it is damaged, or not a tensor saved with "
            f"{saved}. {SAVE_MEL}"
        ) from error
    if not isinstance(content, Tensor | np.ndarray):
        raise MelError(f"{path} holds a {type(content).__name__}; expected one tensor (n_mels, frames). {SAVE_MEL}")
    content = stored_tensor(as_tensor(content, str(path), MelError), str(path), MelError)
    if not content.is_floating_point():
        raise MelError(f"{path} holds {content.dtype}; expected floating point. {SAVE_MEL}")
    if content.ndim == 3 and content.shape[0] == 1:
        content = content[0]
    if content.ndim != 2:
        raise MelError(
            f"{path} has shape {tuple(content.shape)}; expected one mel, (n_mels, frames). Save one at a time."
        )
    return content


def _load_npy(path: Path) -> object:
    return np.load(path, mmap_mode="r", allow_pickle=False)  # mapped, or a damaged header could ask for any memory
