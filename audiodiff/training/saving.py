"""When and how a run is saved: full disks are waited for, and an error does not take the last steps with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.data.corpus import CropStream
from audiodiff.errors import AudiodiffError, TrainingError
from audiodiff.training.callbacks import TrainEvent
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.state import TrainState

FAILED_SAVES = 10
"""Failed attempts to save in a row that stop a run; they are spread over one interval between checkpoints."""

_LOG = logging.getLogger(__name__)


class Checkpointer:
    """Writes the checkpoints and the best model of a run.

    Args:
        folder: Where to.
        state: What is saved; its last step is flushed.
        config: How often, and how many are kept.
        data: What it is trained on, for the record.
        tell: Told of each checkpoint.
    """

    def __init__(
        self,
        folder: RunFolder,
        state: TrainState,
        config: TrainingConfig,
        data: CropStream,
        tell: Callable[[TrainEvent], object],
    ) -> None:
        self._folder = folder
        self._state = state
        self._config = config
        self._data = data
        self._notify = tell
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
        """Write a checkpoint, unless this step has one.

        Raises:
            TrainingError: If it cannot be written.
        """
        done, state = self._state.progress, self._state
        if done.step == self._saved_step:
            return
        self._folder.save(done.step, state.state_dict(), state.ema, self._described())
        self._saved_step, self._failures, self._saved_at = done.step, 0, time.monotonic()
        self._notify(TrainEvent("saved", done.step))
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
            if self._failures == FAILED_SAVES:
                raise
            _LOG.warning("step %d: %s Training goes on, and tries again soon.", self._state.progress.step, error)

    def rescue(self) -> None:
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
            self._folder.save_best(weights, self._described(validation_loss=validation_loss))
        except TrainingError as error:
            _LOG.warning("step %d: %s", self._state.progress.step, error)

    def _described(self, **more: object) -> ModelConfig:
        """Return the model's configuration with what it was trained on and how long."""
        training = {
            "steps": self._state.progress.step,
            "batch_size": self._config.batch_size * self._state.distributed.world_size,
            "crop_samples": self._data.reader.n_samples,
            "seed": self._config.seed,
            "recordings": self._data.n_recordings,
            "hours_of_recordings": round(self._data.seconds / 3600, 3),
            "initial_model": self._config.initial_model,
        }
        config = self._state.config
        return config.model_copy(update={"provenance": config.provenance | {"training": training | more}})
