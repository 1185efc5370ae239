"""Checkpoints and everything else in a run's folder.

    config.yaml                  what `audiodiff train` was asked for when the run began
    history.jsonl                settings that changed since, and after which step; absent if none did
    checkpoints/step-00001000/   a model folder (the averaged weights), and training.pt with all that resuming needs
    best/  last/                 model folders
    snapshots/step-00001000.safetensors    averages that `audiodiff search ema` combines; absent without post_hoc_ema
    tensorboard/                 curves, pictures and sounds
    curve.json                   validation losses, and the settings they belong to
    bad_recordings.jsonl         recordings that could not be read, and why; absent if there are none
    lock                         held while a process trains here

A checkpoint is written under a temporary name, flushed to disk and renamed, so it is there as a whole or not at all. A
list of checksums tells one that was damaged later.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from audiodiff.audio.io import flush_to_disk, replacing
from audiodiff.checkpoint import is_damaged, load_model, save_model
from audiodiff.config import ModelConfig, RunConfig, TrainingConfig
from audiodiff.data.corpus import CropStream
from audiodiff.data.parallel import locked
from audiodiff.errors import AudiodiffError, TrainingError, explain_os_error
from audiodiff.networks import Network
from audiodiff.training.callbacks import Callback, TrainEvent
from audiodiff.training.loss_curve import measured_settings, read_history
from audiodiff.training.state import TrainState

STATE = "training.pt"
CHECKSUMS = "checksums.json"
FAILED_SAVES = 10
"""Failed attempts to save in a row that stop a run; they are spread over one interval between checkpoints."""
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, SyntaxError, MemoryError),
    *(zipfile.BadZipFile, pickle.PickleError),
)
"""What reading a damaged checkpoint raises."""
_STEP = re.compile(r"step-\d{8,}")
_LOG = logging.getLogger(__name__)


class DamagedError(TrainingError):
    """A checkpoint cannot be read."""


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        path: Its folder.
        ema: A network with the averaged weights.
        config: The model, calibrated.
        state: What `TrainState.state_dict` returned.
    """

    path: Path
    ema: Network
    config: ModelConfig
    state: dict[str, Any]


class RunFolder:
    """The folder of one training run.

    Args:
        path: Where it is or shall be.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best = self.path / "best"
        self.last = self.path / "last"
        self.snapshots = self.path / "snapshots"
        self.tensorboard = self.path / "tensorboard"
        self.config = self.path / "config.yaml"
        self.curve = self.path / "curve.json"
        self.bad_recordings = self.path / "bad_recordings.jsonl"
        self._checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.jsonl"

    def checkpoints(self) -> list[Path]:
        """Return the folders of the checkpoints, oldest first."""
        if not self._checkpoints.is_dir():
            return []
        paths = (path for path in self._checkpoints.iterdir() if _STEP.fullmatch(path.name))
        return sorted(paths, key=lambda path: int(path.name.removeprefix("step-")))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out, and tidy up after one that was killed; the folder is made if it is not there.

        Raises:
            TrainingError: If another process trains in it.
        """
        with locked(self.path / "lock"):
            self._tidy()
            yield

    def _tidy(self) -> None:
        for model in (self.best, self.last):
            for rest in self.path.glob(f".{model.name}.*"):
                whole = rest / "new"  # complete, or the older one would still be in its place
                if not model.exists() and (rest / "old").is_dir() and whole.is_dir():
                    os.rename(whole, model)
                shutil.rmtree(rest)
        for rest in self.path.glob(".*.part"):
            rest.unlink()
        for rest in self._checkpoints.glob(".*"):
            shutil.rmtree(rest)

    def save_config(self, config: RunConfig) -> None:
        """Write the whole configuration as YAML."""
        with replacing(self.config) as part:
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
            part.write_text(text, encoding="utf-8")

    def save(self, step: int, state: dict[str, Any], ema: Network, config: ModelConfig) -> Path:
        """Write a checkpoint; one of the same step is replaced.

        Args:
            step: Number of steps done.
            state: Tensors and plain values.
            ema: The network with averaged weights.
            config: The model.

        Returns:
            The checkpoint's folder.

        Raises:
            TrainingError: If it cannot be written, as on a full disk, or a weight is not finite; what was there before
                is left as it was.
        """
        final = self._checkpoints / f"step-{step:08d}"
        _refuse_non_finite({"weights": state.get("network", {}), "EMA": ema.state_dict()}, final)
        try:
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".", dir=self._checkpoints) as temporary:
                fresh = Path(temporary) / "new"
                _write_checkpoint(fresh, state, ema, config)
                if final.exists():
                    os.rename(final, Path(temporary) / "old")
                os.rename(fresh, final)
            flush_to_disk(self._checkpoints)
        except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
            raise _cannot_write(final, error) from error
        try:
            save_model(self.last, ema.state_dict(), config)
        except OSError as error:
            _LOG.warning("%s %s is whole.", _cannot_write(self.last, error), final)
        return final

    def save_best(self, weights: dict[str, Tensor], config: ModelConfig) -> None:
        """Write the model that did best in validation.

        Raises:
            TrainingError: If it cannot be written, or a weight is not finite; the one before is then still there.
        """
        _refuse_non_finite({"EMA": weights}, self.best)
        try:
            save_model(self.best, weights, config)
        except OSError as error:
            raise _cannot_write(self.best, error) from error

    def prune(self, keep: int) -> None:
        """Delete all but the newest checkpoints, and what a killed process left half-written."""
        for path in self.checkpoints()[:-keep]:
            os.rename(path, path.with_name(f".{path.name}"))  # a kill must not leave half a checkpoint under its name
        for path in self._checkpoints.glob(".*"):
            shutil.rmtree(path)

    def newest(self, check: Callable[[dict[str, Any]], object] | None = None) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; damaged ones are named and put aside.

        Args:
            check: Called with the state; what it raises of `UNREADABLE` means that this one is damaged too.

        Returns:
            The checkpoint, or None if there never was one.

        Raises:
            TrainingError: If there are checkpoints, and all are damaged.
        """
        for path in reversed(self.checkpoints()):
            try:
                return load_checkpoint(path, check)
            except DamagedError as error:
                aside = path.with_name(f"{path.name}.damaged")
                try:
                    shutil.rmtree(aside, ignore_errors=True)
                    os.rename(path, aside)
                    _LOG.warning("%s The one before is used; this one is now %s", error, aside.name)
                except OSError:
                    _LOG.warning("%s The one before is used", error)
        if n_damaged := sum(1 for _ in self._checkpoints.glob("step-*")):
            raise TrainingError(
                f"all {n_damaged} checkpoints in {self._checkpoints} are damaged. Remove that folder to start again."
            )
        return None


class Checkpointer:
    """Writes the checkpoints and the best model of a run.

    Args:
        folder: Where to.
        state: What is saved; its last step is flushed.
        config: How often, and how many are kept.
        data: What it is trained on, for the record.
        callback: Called after each checkpoint.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: TrainState,
        config: TrainingConfig,
        data: CropStream,
        callback: Callback,
    ) -> None:
        self._folder = folder
        self._state = state
        self._config = config
        self._data = data
        self._callback = callback
        self._saved_step = state.progress.step
        self._saved_at = time.monotonic()
        self._failures = 0

    @property
    def is_due(self) -> bool:
        """Whether the step just done is to be saved."""
        step, every = self._state.progress.step, self._config.checkpoint_every
        again = self._failures > 0 and step % max(every // FAILED_SAVES, 1) == 0
        minutes = self._config.checkpoint_minutes
        old = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        return again or old or step % every == 0

    def save(self) -> None:
        """Write a checkpoint, unless this step has one and the model of it, `last`, is whole.

        Raises:
            TrainingError: If it cannot be written.
        """
        done, state = self._state.progress, self._state
        if done.step == self._saved_step and (done.step == 0 or not is_damaged(self._folder.last)):
            return
        self._folder.save(done.step, state.state_dict(), state.ema, self._model_config())
        self._saved_step, self._failures, self._saved_at = done.step, 0, time.monotonic()
        self._callback(TrainEvent("saved", done.step))
        self._folder.prune(self._config.keep)

    def try_to_save(self) -> None:
        """Write a checkpoint; if that fails, say so, and fail only if it has failed too often.

        Raises:
            TrainingError: If it cannot be written, for the last of `FAILED_SAVES` times.
        """
        try:
            self.save()
        except TrainingError as error:
            self._failures += 1
            if self._failures == FAILED_SAVES or error.__cause__ is None:  # only a disk can be better the next time
                raise
            _LOG.warning("step %d: %s Training continues, and tries again soon.", self._state.progress.step, error)

    def save_after_error(self) -> None:
        """Write a checkpoint before an error ends the run, if there is anything whole to save."""
        step = self._state.progress.step
        for _ in range(2):  # once more, because torch raises the loss of a data process wherever it comes to know of it
            try:
                self.save()
            except (AudiodiffError, RuntimeError) as error:
                _LOG.warning("step %d: %s", step, error)
            else:
                _LOG.info("an error ends the run; step %d is saved", step)
                return

    def save_best(self, validation_loss: float) -> None:
        """Write the best model so far; if that fails, say so."""
        weights = self._state.ema.state_dict()
        try:
            self._folder.save_best(weights, self._model_config(validation_loss=validation_loss))
        except TrainingError as error:
            _LOG.warning("step %d: %s", self._state.progress.step, error)

    def _model_config(self, **more: object) -> ModelConfig:
        """Return the model's configuration with what it was trained on and how long."""
        training = {
            "steps": self._state.progress.step,
            **measured_settings(self._data, self._config.crops_per_step * self._state.distributed.world_size),
            "crop_samples": self._data.reader.n_samples,
            "seed": self._config.seed,
            "initial_model": self._config.initial_model,
        }
        if history := read_history(self._folder.history):
            training["history"] = history
        config = self._state.config
        return config.model_copy(update={"provenance": config.provenance | {"training": training | more}})


def _write_checkpoint(folder: Path, state: dict[str, Any], ema: Network, config: ModelConfig) -> None:
    save_model(folder, ema.state_dict(), config)
    with (folder / STATE).open("wb") as file:
        torch.save(state, file)
    checksums = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS).write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")
    for path in (folder / STATE, folder / CHECKSUMS, folder):
        flush_to_disk(path)


def _refuse_non_finite(parts: Mapping[str, Mapping[str, Tensor]], path: Path) -> None:
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise TrainingError(
                    f"{path} is not written: {name} of the {part} holds NaN or infinity, and what was saved before "
                    "holds none. Resume from there with a lower training.learning_rate."
                )


def _cannot_write(path: Path, error: Exception) -> TrainingError:
    if isinstance(error, OSError) and error.errno is not None:
        return TrainingError(explain_os_error(error, path))
    return TrainingError(f"{path} cannot be written: {' '.join(str(error).split())}")


def load_checkpoint(path: str | Path, check: Callable[[dict[str, Any]], object] | None = None) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: Its folder.
        check: Called with the state; what it raises of `UNREADABLE` means that it is damaged.

    Returns:
        What it holds, on the CPU.

    Raises:
        DamagedError: If it is none, or cannot be read, for whatever reason.
    """
    path = Path(path)
    try:
        if not (path / CHECKSUMS).is_file():
            raise DamagedError(f"{path} is no checkpoint, or an incomplete one: it has no {CHECKSUMS}.")
        checksums = json.loads((path / CHECKSUMS).read_text(encoding="utf-8"))
        damaged = [name for name, checksum in checksums.items() if _checksum(path / name) != checksum]
        if damaged or STATE not in checksums:
            raise DamagedError(f"{path} is damaged: {', '.join(damaged) or STATE} is not what was written.")
        ema, config = load_model(path)
        state: dict[str, Any] = torch.load(path / STATE, map_location="cpu", weights_only=True)
        if not all(bool(tensor.isfinite().all()) for tensor in _tensors(state)):
            raise DamagedError(f"{path} is damaged: {STATE} holds NaN or infinity.")
        if check is not None:
            check(state)
    except DamagedError:
        raise
    except pickle.UnpicklingError as error:  # whose message advises to run the code in the file
        raise DamagedError(f"{path} is damaged: {STATE} is not what training saved.") from error
    except (AudiodiffError, *UNREADABLE) as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DamagedError(f"{path} is damaged: {reason}.") from error
    return Checkpoint(path, ema, config, state)


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _tensors(inner)


def _checksum(path: Path) -> str:
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
