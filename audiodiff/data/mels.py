"""Mels in files, and those that manifests name beside their recordings, such as a text-to-speech model predicted."""

from __future__ import annotations

import math
import pickle
import tokenize
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.mel import align_to_hops, check_mel
from audiodiff.audio.mel_candidates import clipped, same
from audiodiff.audio.mel_convention_files import named_convention
from audiodiff.audio.mel_conversion import mel_converter
from audiodiff.audio.mel_matching import refuse_unlikely
from audiodiff.audio.transforms import as_tensor, stored_tensor
from audiodiff.config import DataConfig, MelConfig
from audiodiff.data.manifest import Recording, list_folder
from audiodiff.data.parallel import default_workers, parallel_map
from audiodiff.errors import ConfigError, DataError, MelError
from audiodiff.text import what_came_instead

_Value = TypeVar("_Value")

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
DEFAULT_CONVENTION = "hifigan-22k"
"""What a mel follows of which nothing is said: that of the bundled vocoders."""
FRAMES_OFF = 2
"""Frames by which a mel may be longer or shorter than its recording: toolkits pad the ends differently."""


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


def read_mel(path: Path, config: MelConfig, convention: MelConfig | None = None, *, resample: bool = False) -> Tensor:
    """Read a mel, check it, and convert it.

    Args:
        path: As of `load_mel`.
        config: The convention that is wanted.
        convention: The one that the mel should follow; None is the same.
        resample: Whether another sample rate or hop is converted too.

    Returns:
        The mel `(n_mels, frames)` of the convention that is wanted.

    Raises:
        MelError: If the file cannot be read, or the mel cannot be of this convention; the message names the file.
    """
    mel = load_mel(path)
    try:
        checked = check_mel(mel, convention or config)
        return mel_converter(convention, config, resample=resample)(checked) if convention else checked
    except MelError as error:
        raise MelError(f"{path}: {error}") from error


def read_likely_mel(path: Path, config: MelConfig, *, force: bool = False) -> Tensor:
    """Read a mel that is to be vocoded.

    Args:
        path: As of `load_mel`.
        config: The convention it should follow.
        force: Whether it is taken even if it looks like another one; values beyond the range of this are clipped.

    Returns:
        The mel `(n_mels, frames)`.

    Raises:
        MelError: If the file cannot be read, or the mel does not look like one of this convention.
    """
    mel = load_mel(path)
    try:
        if not force:
            refuse_unlikely(mel, config)
        return check_mel(clipped(mel, config) if force else mel, config)
    except MelError as error:
        raise MelError(f"{path}: {error}") from error


def recording_mel(recording: Recording, config: MelConfig, *, resample: bool = False) -> Tensor | None:
    """Read the mel that a manifest names beside a recording, check that it is the recording's, and convert it.

    Args:
        recording: The recording.
        config: The convention of the model.
        resample: Whether mels of another sample rate or hop are converted too.

    Returns:
        The mel `(n_mels, frames)`, float32; None if the manifest names none.

    Raises:
        DataError: If the file cannot be read, the mel is of another convention, or has another length.
    """
    if recording.mel is None:
        return None
    stated = check_stated_convention(recording, config, resample=resample)
    try:
        mel = read_mel(recording.mel, config, stated, resample=resample)
    except MelError as error:
        raise DataError(str(error)) from error
    n_samples = recording.n_samples or round(recording.seconds * recording.sample_rate)
    n_samples = -(-n_samples * config.sample_rate // recording.sample_rate)
    expected = -(-n_samples // config.hop_length) + (config.centre == "frame")
    if abs(mel.shape[-1] - expected) > FRAMES_OFF:
        raise DataError(
            f"{recording.mel} has {mel.shape[-1]} frames; {recording.audio} of {recording.seconds:.2f} s has "
            f"{expected} in convention {config.name!r} (one per {config.hop_length} samples at {config.sample_rate} "
            "Hz). Align the mel with the recording (teacher forcing), or name that of this recording."
        )
    return mel.float()


def check_stated_convention(recording: Recording, config: MelConfig, *, resample: bool = False) -> MelConfig | None:
    """Return the convention that a manifest says a mel is of, where it has to be converted; else None.

    Raises:
        DataError: If it cannot be, or no convention has that name.
    """
    if recording.mel is None or recording.mel_convention is None:
        return None
    stated = _stated_convention(recording.mel_convention)
    if same(stated, config):
        return None
    try:
        mel_converter(stated, config, resample=resample)
    except MelError as error:
        raise DataError(
            f"{recording.mel} is a mel of convention {stated.name!r}, as its manifest says; the model takes "
            f"{config.name!r}, of another sample rate or hop. Give mels of that convention, set data.given_mels to "
            "false to compute them in training, or use `audiodiff vocode --resample`."
        ) from error
    return stated


@lru_cache(maxsize=32)
def _stated_convention(name: str) -> MelConfig:
    return named_convention(name)


def check_given_mels(recordings: Sequence[Recording], config: DataConfig, *, in_training: bool) -> None:
    """Refuse mels whose files are not there, and augmentations that a mel not computed from the audio cannot follow.

    Args:
        recordings: Of training and validation.
        config: Which augmentations.
        in_training: Whether recordings that are augmented have mels.

    Raises:
        DataError: If files are missing.
        ConfigError: If such an augmentation is switched on.
    """
    if missing := [str(recording.mel) for recording in recordings if recording.mel and not recording.mel.is_file()]:
        raise DataError(
            f"mels that {config.train} or its validation list names are not there: {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}. Restore them, or set data.given_mels to "
            "false to compute them."
        )
    names = ("speed", "time_reversal", "peak_db", "fade_seconds", "transforms")
    changed = [f"data.{name}" for name in names if getattr(config, name) != DataConfig.model_fields[name].default]
    if changed and in_training:
        raise ConfigError(
            f"{' and '.join(changed)} would change the recordings, and not the mels that the manifest names beside "
            "them. Leave it out, or set data.given_mels to false to compute the mels."
        )


def unfit_mels(
    recordings: Sequence[Recording],
    config: MelConfig | None,
    workers: int = 1,
    on_file: Callable[[], object] = lambda: None,
) -> list[tuple[Recording, str]]:
    """Read all mels that a manifest names, and return the recordings whose mel cannot be used, with the reason.

    Args:
        recordings: Those of the manifest.
        config: The convention that they should follow; None: what the manifest states, else `DEFAULT_CONVENTION`.
        workers: Files read at once.
        on_file: Called after each file.
    """

    def reason(recording: Recording) -> str | None:
        try:
            stated = config or named_convention(recording.mel_convention or DEFAULT_CONVENTION)
            recording_mel(recording, stated)
        except DataError as error:
            return str(error)
        return None

    unfit = []
    with_mel = [recording for recording in recordings if recording.mel]
    for recording, said in zip(with_mel, parallel_map(reason, with_mel, workers), strict=True):
        if said:
            unfit.append((recording, said))
        on_file()
    return unfit


class Pairing(NamedTuple):
    """Recordings, and mels of the same names.

    Attributes:
        recordings: Those with a mel, which they name.
        without: Those without.
        left_over: Mels without a recording.
    """

    recordings: list[Recording]
    without: list[Recording]
    left_over: list[Path]


def pair_mels(recordings: Mapping[Path, Recording], folder: Path, convention: str) -> Pairing:
    """Find the mel of each recording in a folder and its subfolders: a/b.npy or a/b.pt for a/b.wav.

    Args:
        recordings: By their path in their own folder.
        folder: The folder with mels.
        convention: What these follow, to be noted.

    Raises:
        DataError: If there is no pair, or a name stands for two files.
    """
    mels = _by_name({path.relative_to(folder): path for path in list_folder(folder, MEL_EXTENSIONS).files})
    named = _by_name(recordings)
    pairs = [
        recording.model_copy(update={"mel": mels[name], "mel_convention": convention})
        for name, recording in named.items()
        if name in mels
    ]
    if not pairs:
        example = next(iter(recordings)).with_suffix(".npy")
        raise DataError(
            f"no recording has a mel of its name in {folder}, which holds {len(mels)} mels; looked for "
            f"{folder / example} and the like. Give the mels the names and subfolders of the recordings."
        )
    without = [recording for name, recording in named.items() if name not in mels]
    return Pairing(pairs, without, [path for name, path in mels.items() if name not in named])


def _by_name(files: Mapping[Path, _Value]) -> dict[Path, _Value]:
    """Return what belongs to paths, by path without extension.

    Raises:
        DataError: If two differ in their extension alone.
    """
    by_name: dict[Path, _Value] = {}
    paths: dict[Path, Path] = {}
    for path, value in files.items():
        name = path.with_suffix("")
        if name in paths:
            raise DataError(f"{paths[name]} and {path} have the same name, so which has the mel? Rename one.")
        paths[name], by_name[name] = path, value
    return by_name


def check_mels(recordings: Sequence[Recording], config: MelConfig) -> None:
    """Read all mels that a manifest names, and refuse them if one cannot be used.

    Raises:
        DataError: With how many there are, and the reason of the first.
    """
    if unfit := unfit_mels(recordings, config, default_workers()):
        raise DataError(f"{len(unfit)} mels cannot be used; the first: {unfit[0][1]} `audiodiff doctor` lists them.")


class HopMel:
    """A mel with one frame per hop, from which crops are cut; there is none (NaN) where it ends.

    Args:
        mel: As read `(n_mels, frames)`.
        config: Its convention.

    Attributes:
        values: One frame per hop `(n_mels, n_hops)`.
        hop_length: Samples between two frames.
        n_samples: Length of the audio that it describes.
    """

    def __init__(self, mel: Tensor, config: MelConfig) -> None:
        self.values = align_to_hops(mel, config)
        self.hop_length = config.hop_length
        self.n_samples = self.values.shape[-1] * config.hop_length

    def crop(self, first_sample: int, n_samples: int) -> Tensor:
        """Return the frames of some samples, whole hops, `(n_mels, n_frames)`; NaN outside of the mel."""
        first, n_frames = first_sample // self.hop_length, n_samples // self.hop_length
        low, high = max(first, 0), min(first + n_frames, self.values.shape[-1])
        if low >= high:
            return self.values.new_full((len(self.values), n_frames), torch.nan)
        return functional.pad(self.values[:, low:high], (low - first, first + n_frames - high), value=torch.nan)


def value_per_db(config: MelConfig) -> float:
    """Return how much a mel value of a convention grows where the audio is 1 dB louder."""
    return config.multiplier * config.power * (math.log(10) if config.log == "natural" else 1.0) / 20


def value_range(config: MelConfig) -> tuple[float, float]:
    """Return the lowest and the highest value of a convention; the latter is infinite where it does not clip."""
    logarithm = math.log if config.log == "natural" else math.log10
    low, high = config.clip or (-math.inf, math.inf)
    return max(low, config.multiplier * logarithm(config.floor) + config.offset), high


def amplified(mel: Tensor, gain: Tensor, config: MelConfig) -> Tensor:
    """Return the mel of the same audio played louder: its logarithm moves by a constant.

    Exact within the range of the convention. What is at its floor stays there, and nothing leaves the range.

    Args:
        mel: Mel values `(..., n_mels, frames)`.
        gain: Factor of the samples, not 0; broadcast.
        config: The convention.
    """
    low, high = value_range(config)
    moved = mel + value_per_db(config) * 20 * gain.abs().log10()
    return torch.where(mel <= low, mel, moved.clamp(low, high))
