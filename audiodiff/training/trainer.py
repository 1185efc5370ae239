"""Training, from a configuration to a folder of checkpoints: the loop and what happens between its steps."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from audiodiff.config import ModelConfig, RunConfig
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.dataset import CropDataset, batches, validation_crops
from audiodiff.data.manifest import Recording
from audiodiff.data.source import open_recordings
from audiodiff.errors import TrainingError
from audiodiff.training.events import Event, Listener
from audiodiff.training.interruption import Interruption
from audiodiff.training.learner import Learner
from audiodiff.training.reporting import progress, tensorboard
from audiodiff.training.run_folder import RunFolder
from audiodiff.training.samples import choose_samples, make_clips
from audiodiff.training.start import start
from audiodiff.training.validation import Validator

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: Steps done, over all processes of the run.
        skipped: How many of them were skipped because loss or gradient was not finite.
        best_loss: Lowest validation loss, infinite if there was no validation yet.
        best_step: When that was.
        stopped_by: The signal that ended the run early, or None.
    """

    step: int
    skipped: int
    best_loss: float
    best_step: int
    stopped_by: signal.Signals | None


def train(
    config: RunConfig, run_dir: str | Path, resume: str | Path = "auto", on_event: Listener | None = None
) -> Outcome:
    """Train a model, or go on training it.

    Randomness is a function of the seed and the step alone, so a run that was interrupted and resumed ends with the
    weights of one that was not: on the CPU to the last bit.

    Args:
        config: The run.
        run_dir: Its folder, made if it is not there; see `audiodiff.training.run_folder`.
        resume: "auto" goes on from the newest checkpoint in `run_dir` if there is one; "never" refuses if there is;
            else the folder of a checkpoint, or of a run, to go on from.
        on_event: Called with what happens.

    Returns:
        How it ended. SIGTERM and SIGINT end it between two steps, after saving.

    Raises:
        AudiodiffError: If data, model or checkpoint cannot be used; a `TrainingError` if the loss stays non-finite.
    """
    train_recordings, valid_recordings = open_recordings(config.data)
    reader = CropReader.for_model(config.model, config.data)
    dataset = CropDataset(train_recordings, reader, config.data, config.training.seed)
    crops = validation_crops(valid_recordings, reader, config.training.validation_crops)
    folder = RunFolder(run_dir)
    learner = start(config, folder, resume, dataset)
    folder.save_config(config)
    samples_per_step, step = config.training.batch_size * reader.n_samples, learner.progress.step
    with ExitStack() as stack:
        listeners = [stack.enter_context(progress(step, config.training.steps, samples_per_step))]
        listeners.append(
            stack.enter_context(tensorboard(folder.tensorboard, step, samples_per_step, reader.sample_rate))
        )
        listeners += [on_event] if on_event else []
        interruption = stack.enter_context(Interruption())
        trainer = Trainer(config, learner, folder, dataset, (valid_recordings, crops), listeners)
        trainer.run(interruption)
    done = learner.progress
    return Outcome(done.step, done.skipped, done.best_loss, done.best_step, interruption.received)


class Trainer:
    """The loop over the steps, and validation, pictures and checkpoints between them.

    Args:
        config: The run.
        learner: What learns.
        folder: Where checkpoints go.
        dataset: The training stream.
        validation: The validation recordings, and the crops from them.
        listeners: Who is told what happens.
    """

    def __init__(
        self,
        config: RunConfig,
        learner: Learner,
        folder: RunFolder,
        dataset: CropDataset,
        validation: tuple[Sequence[Recording], Sequence[Example]],
        listeners: Sequence[Listener],
    ) -> None:
        self._config = config.training
        self._workers = config.data.workers
        self._learner = learner
        self._folder = folder
        self._dataset = dataset
        recordings, crops = validation
        self._samples = choose_samples(recordings, dataset.reader, config.model.block_length)
        self._validate = Validator(crops, learner.objective, config.training, learner.few_step)
        self._listeners = listeners
        self._saved_step = learner.progress.step

    def run(self, interruption: Interruption) -> None:
        """Train until the last step or an interruption; a checkpoint is written at the end of either."""
        done = self._learner.progress
        if done.step >= self._config.steps:
            _LOG.info("%d steps are done, training.steps is %d: nothing to do", done.step, self._config.steps)
        else:
            _LOG.info("training on %s, steps %d to %d", self._learner.objective.device, done.step, self._config.steps)
            with closing(self._batches()) as stream:
                self._loop(stream, interruption)
        if done.step > self._saved_step:
            self._save()
        if interruption.received:
            _LOG.info("%s: stopped after step %d, saved", interruption.received.name, done.step)

    def _batches(self) -> Generator[Example, None, None]:
        pin_memory = self._learner.objective.device.type == "cuda"
        first, size = self._learner.progress.step, self._config.batch_size
        return batches(self._dataset, first, size, self._workers, pin_memory=pin_memory)

    def _loop(self, stream: Iterator[Example], interruption: Interruption) -> None:
        while self._learner.progress.step < self._config.steps:
            self._step(next(stream))
            self._between_steps()
            if interruption.received:
                return

    def _step(self, batch: Example) -> None:
        result = self._learner.step(batch)
        done = self._learner.progress
        if result.finite:
            values = {
                "loss": result.loss,
                "gradient_norm": result.gradient_norm,
                "learning_rate": result.learning_rate,
            }
            self._tell(Event("step", done.step, values))
            return
        self._tell(Event("skipped", done.step, {"skipped": done.skipped}))
        if done.skipped_in_a_row >= self._config.max_bad_steps:
            raise TrainingError(
                f"loss or gradient was not finite for {done.skipped_in_a_row} steps in a row, up to step {done.step}. "
                "Lower training.learning_rate, or set training.precision to fp32; then go on from the last checkpoint."
            )

    def _between_steps(self) -> None:
        done, config = self._learner.progress, self._config
        last = done.step == config.steps
        if last or done.step % config.validate_every == 0:
            self._validate_and_keep_best()
        if last or done.step % config.sample_every == 0:
            self._tell(
                Event(
                    "sampled", done.step, clips=make_clips(self._learner.average, self._learner.config, self._samples)
                )
            )
        if done.step % config.checkpoint_every == 0:
            self._save()

    def _validate_and_keep_best(self) -> None:
        done, learner = self._learner.progress, self._learner
        result = self._validate(learner.average)
        levels = {f"loss_at_{level:+.1f}": loss for level, loss in result.by_level.items()}
        few_step = {} if result.few_step is None else {"few_step": result.few_step}
        self._tell(Event("validated", done.step, {"loss": result.loss} | few_step | levels))
        if result.loss < done.best_loss:
            done.best_loss, done.best_step = result.loss, done.step
            self._folder.save_best(learner.average.state_dict(), self._described(validation_loss=result.loss))

    def _save(self) -> None:
        done, learner = self._learner.progress, self._learner
        self._folder.save(done.step, learner.state(), learner.average, self._described())
        self._folder.prune(self._config.keep)
        self._saved_step = done.step
        self._tell(Event("saved", done.step))

    def _described(self, **more: object) -> ModelConfig:
        """Return the model's configuration with what it was trained on and how long."""
        recordings = self._dataset.recordings
        training = {
            "steps": self._learner.progress.step,
            "batch_size": self._config.batch_size,
            "crop_samples": self._dataset.reader.n_samples,
            "seed": self._config.seed,
            "recordings": len(recordings),
            "hours_of_recordings": round(sum(recording.seconds for recording in recordings) / 3600, 3),
            "initial_model": self._config.initial_model,
        }
        config = self._learner.config
        return config.model_copy(update={"provenance": config.provenance | {"training": training | more}})

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)
