"""Training, from a configuration to a folder of checkpoints: the loop, and what happens between its steps."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from audiodiff.checkpoint import is_damaged
from audiodiff.config import RunConfig, TrainingConfig
from audiodiff.config.base import flattened
from audiodiff.data.corpus import Corpus, open_corpus
from audiodiff.data.crops import Example
from audiodiff.data.dataset import BadRecordings, validation_crops
from audiodiff.data.manifest import Recording
from audiodiff.errors import AudiodiffError, TrainingError
from audiodiff.networks.base import isolated
from audiodiff.training.callbacks import Callback, TrainEvent, preparing, progress, tensorboard
from audiodiff.training.checkpoints import Checkpointer, RunFolder
from audiodiff.training.distributed import init_distributed
from audiodiff.training.initialisation import resume_or_initialise
from audiodiff.training.loss_curve import LossCurve, LossMonitor, LossPoint, check_terminal_snr
from audiodiff.training.post_hoc_ema import save_snapshot, snapshot_path
from audiodiff.training.state import StepResult, TrainState
from audiodiff.training.stopping import Clock, StopSignal, TimeBudget
from audiodiff.training.trackers import trackers
from audiodiff.training.utilisation import full_speed
from audiodiff.training.validation import Validator, choose_samples, make_clips

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: Steps done, over all processes of the run.
        skipped: How many of them were skipped because loss or gradient was not finite.
        best_loss: Lowest validation loss, infinite if there was no validation yet.
        best_step: When that was.
        stopped_by: The signal that ended the run early, or None.
        bad_recordings: How many recordings could not be read.
        ran_out_of_patience: Whether validation had not improved for `training.patience`.
        is_main_process: Whether this process has rank 0.
    """

    step: int
    skipped: int
    best_loss: float
    best_step: int
    stopped_by: signal.Signals | None
    bad_recordings: int = 0
    ran_out_of_patience: bool = False
    is_main_process: bool = True


@isolated("on")
def train(
    config: RunConfig,
    run_dir: str | Path,
    resume: str | Path = "auto",
    callback: Callback | None = None,
    reference: LossCurve | None = None,
    clock: Clock = time.monotonic,
    *,
    allow_changes: bool = False,
) -> TrainResult:
    """Train a model, or resume training it.

    Randomness is a function of the seed and the step alone, so a run that was interrupted and resumed ends with the
    weights of one that was not: on the CPU to the last bit. Started several times by `accelerate launch`, it trains one
    model in all of these processes.

    Args:
        config: The run.
        run_dir: Its folder, made if it is not there; see `audiodiff.training.checkpoints`.
        resume: "auto" resumes from the newest checkpoint in `run_dir` if there is one; "never" refuses if there is;
            else the folder of a checkpoint, or of a run, to resume from.
        callback: Called with what happens.
        reference: A loss curve to compare with.
        clock: What `training.minutes` are measured by, in seconds.
        allow_changes: Whether a resumed run may have other settings than before; the folder's history.jsonl says which.

    Returns:
        How it ended. SIGTERM, SIGUSR1, SIGHUP and SIGINT end it between two steps, after saving.

    Raises:
        AudiodiffError: If data, model or checkpoint cannot be used, or another process trains in the folder; a
            `TrainingError` if the loss stays non-finite. Where the run has begun, it saves first.
    """
    began = clock()
    with ExitStack() as stack:
        stop_signal = stack.enter_context(StopSignal())
        distributed = stack.enter_context(init_distributed(config.training.device))
        corpus = preparing()(open_corpus)(config, distributed.device)
        folder = RunFolder(run_dir)
        if distributed.is_main_process:
            stack.enter_context(folder.claimed())
        n_recordings = corpus.training.n_recordings + len(corpus.validation)
        bad = BadRecordings(
            folder.bad_recordings, n_recordings, config.data.max_bad_fraction, write=distributed.is_main_process
        )
        start = (config, folder, resume, corpus.training, distributed, bad.note)
        state = preparing()(resume_or_initialise)(*start, allow_changes=allow_changes)
        budget = TimeBudget(config.training.minutes, state.progress.seconds, clock, began)
        callbacks: list[Callback] = []
        if distributed.is_main_process:
            callbacks += [*_reporters(stack, config, folder, corpus, state, budget)] + ([callback] if callback else [])
        trainer = Trainer(config, state, folder, corpus, bad, callbacks, reference, budget)
        early = trainer.run(stop_signal)
    done = state.progress
    return TrainResult(
        *(done.step, done.skipped, done.best_loss, done.best_step, stop_signal.received),
        bad_recordings=len(bad.reasons),
        ran_out_of_patience=early,
        is_main_process=distributed.is_main_process,
    )


def _reporters(
    stack: ExitStack, config: RunConfig, folder: RunFolder, corpus: Corpus, state: TrainState, budget: TimeBudget
) -> Iterator[Callback]:
    step = state.progress.step
    reader, settings = corpus.training.reader, flattened(config.model_dump(mode="json"))
    size = state.distributed.world_size * config.training.crops_per_step * reader.n_samples
    speed = full_speed(state, reader.n_samples)
    yield stack.enter_context(progress(step, config.training.steps, size, lambda: budget.left, speed))
    yield stack.enter_context(tensorboard(folder.tensorboard, step, size, reader.sample_rate, settings, speed))
    if config.training.trackers:
        yield stack.enter_context(trackers(config.training.trackers, folder.path, settings, size, speed))


class Trainer:
    """The training loop, with validation, audio samples and checkpoints between the steps.

    Args:
        config: The run.
        state: Network, EMA and optimiser.
        folder: Where checkpoints go.
        corpus: The training stream, and what validation is done on.
        bad: The recordings that cannot be read.
        callbacks: Called with what happens, in the main process.
        reference: A loss curve to compare with.
        budget: How long the run may take.
    """

    def __init__(
        self,
        config: RunConfig,
        state: TrainState,
        folder: RunFolder,
        corpus: Corpus,
        bad: BadRecordings,
        callbacks: Sequence[Callback],
        reference: LossCurve | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        self._budget = budget or TimeBudget(None)
        self._config = config.training
        self._workers = config.data.workers
        self._state = state
        self._corpus = corpus
        self._bad = bad
        self._callbacks = callbacks
        self._folder = folder
        self._checkpointer = Checkpointer(folder, state, config.training, corpus.training, self._notify)
        self._last_step = config.training.steps
        self._validated_step = state.progress.step
        if not state.distributed.is_main_process:
            return
        reader = corpus.training.reader
        self._samples = choose_samples(corpus.validation, reader, config.model.hop_length, bad.note)
        self._validate = self._validator(corpus.validation, config.training)
        without_bits = config.training.model_copy(update={"validation_bits": False})
        train_recordings = corpus.training.recordings  # none where single recordings cannot be opened
        self._validate_training = self._validator(train_recordings, without_bits) if train_recordings else None
        self._loss_monitor = LossMonitor(folder.curve, config, state.progress.step, reference)
        for level, said in check_terminal_snr(state.config):
            _LOG.log(level, "%s", said)

    def _validator(self, recordings: Sequence[Recording], config: TrainingConfig) -> Validator:
        crops = validation_crops(recordings, self._corpus.training.reader, config.validation_crops, self._bad.note)
        return Validator(crops, self._state.objective, config, self._state.few_step)

    def run(self, stop_signal: StopSignal) -> bool:
        """Train until the last step, a signal, the end of time or of patience; a checkpoint is written in any case.

        Returns:
            Whether it was the end of patience.
        """
        done = self._state.progress
        if math.isfinite(done.best_loss) and is_damaged(self._folder.best):
            done.best_loss = math.inf
            _LOG.warning("%s is damaged. The next validation writes it anew; until then use last.", self._folder.best)
        if done.step >= self._config.steps:
            _LOG.info("%d steps are done, training.steps is %d: nothing to do", done.step, self._config.steps)
        elif self._budget.is_over:
            _LOG.info("training.minutes is %g, all of it used: nothing to do", self._config.minutes)
        elif not self._ran_out_of_patience():
            _LOG.info("training on %s, steps %d to %d", self._state.distributed.device, done.step, self._config.steps)
            self._train(stop_signal)
        if self._state.distributed.is_main_process:
            finished = done.step >= self._config.steps or self._budget.is_over or self._ran_out_of_patience()
            if finished:
                self._save_snapshot()
            else:
                stop_signal.received = stop_signal.received or signal.SIGTERM  # which another process has received
            self._save_last()
        if stop_signal.received:
            _LOG.info("%s: stopped after step %d, saved", stop_signal.received.name, done.step)
        elif self._ran_out_of_patience():
            _LOG.info("no better validation for %d steps: stopped after step %d", done.step - done.best_step, done.step)
            return True
        return False

    def _train(self, stop_signal: StopSignal) -> None:
        try:
            with closing(self._batches()) as stream:
                self._loop(stream, stop_signal)
        except TrainingError:  # weights that cannot be trained or saved
            raise
        except (AudiodiffError, OSError, RuntimeError):  # such as lost data, or a full GPU
            if self._state.distributed.is_main_process:
                self._flush()
                self._checkpointer.save_after_error()
            raise

    def _batches(self) -> Generator[Example, None, None]:
        state = self._state
        return self._corpus.training.batches(
            state.progress.step,
            self._config.crops_per_step,
            self._workers,
            replica=state.distributed.replica,
            pin_memory=state.distributed.device.type == "cuda",
            on_failure=self._bad.note,
        )

    def _loop(self, stream: Iterator[Example], stop_signal: StopSignal) -> None:
        state = self._state
        while state.progress.step < self._last_step:
            finished = state.distributed.is_main_process and (self._ran_out_of_patience() or self._budget.is_over)
            stop = finished or stop_signal.received is not None
            if stop and state.distributed.world_size == 1:
                break
            self._report(state.step(next(stream), stop=stop, elapsed=self._budget.fraction))
            self._between_steps()
        self._flush()

    def _between_steps(self) -> None:
        step, config = self._state.progress.step, self._config
        last = step == config.steps
        validate, sample = (last or step % every == 0 for every in (config.validate_every, config.sample_every))
        save = self._checkpointer.is_due
        snapshot = config.post_hoc_ema is not None and step % config.post_hoc_ema.snapshot_every == 0
        if not (validate or sample or save or snapshot) or not self._state.distributed.is_main_process:
            return
        self._flush()
        if snapshot:
            self._save_snapshot()  # before a checkpoint, from which a resumed run would not come by here again
        if validate:
            self._validate_and_keep_best()
        if sample and self._budget.allows("samples"):
            self._sample(step)
        if save:
            self._state.progress.seconds = self._budget.seconds
            with self._budget.measured("checkpoint"):
                self._checkpointer.try_to_save()

    def _validate_and_keep_best(self) -> None:
        with self._budget.measured("validation"):
            done, ema = self._state.progress, self._state.ema
            self._validated_step = done.step
            result = self._validate(ema)
            on_training = None if self._validate_training is None else self._validate_training(ema).loss
            figures = {
                "loss": result.loss,
                "few_step": result.few_step,
                "bits_per_sample": result.bits,
                "loss_on_training_crops": on_training,
                **{f"loss_at_{log_snr:+.1f}": loss for log_snr, loss in result.by_log_snr.items()},
            }
            values = {name: value for name, value in figures.items() if value is not None}
            self._notify(TrainEvent("validated", done.step, values))
            self._loss_monitor.add(LossPoint(done.step, result.loss, on_training))
            if result.loss < done.best_loss:
                done.best_loss, done.best_step = result.loss, done.step
                self._checkpointer.save_best(result.loss)

    def _save_snapshot(self) -> None:
        done, averages = self._state.progress, self._state.power_averages
        if averages is None or done.step == done.skipped:
            return
        try:
            save_snapshot(snapshot_path(self._folder.snapshots, done.step), averages, done.step - done.skipped)
        except OSError as error:
            _LOG.warning("step %d: %s `search ema` will do without this snapshot.", done.step, error)

    def _ran_out_of_patience(self) -> bool:
        done, patience = self._state.progress, self._config.patience
        return patience is not None and done.step - done.best_step >= patience * self._config.validate_every

    def _sample(self, step: int) -> None:
        state = self._state
        with self._budget.measured("samples"):
            clips = make_clips(state.ema, state.config, self._samples)
            self._notify(TrainEvent("sampled", step, clips=clips))

    def _save_last(self) -> None:
        """Write the last checkpoint; then, where the time ended the run, validate that too."""
        done = self._state.progress
        done.seconds = self._budget.seconds
        self._checkpointer.save()
        if self._budget.is_over and self._validated_step < done.step:
            self._validate_and_keep_best()

    def _flush(self) -> None:
        self._report(self._state.flush())

    def _report(self, results: Sequence[StepResult]) -> None:
        for result in results:
            if result.stop:  # all processes have read it by then, and all stop at the same step
                self._last_step = min(self._last_step, result.step + self._state.lag)
            if not result.finite:
                self._report_skipped(result)
                continue
            names = ("loss", "gradient_norm", "learning_rate")
            self._notify(TrainEvent("step", result.step, {name: getattr(result, name) for name in names}))

    def _report_skipped(self, result: StepResult) -> None:
        self._notify(TrainEvent("skipped", result.step, {"skipped": result.skipped}))
        if result.skipped_in_a_row >= self._config.max_bad_steps:
            raise TrainingError(
                f"loss or gradient was not finite for {result.skipped_in_a_row} steps in a row, up to step "
                f"{result.step}. Lower training.learning_rate, or set training.precision to fp32; then resume from the "
                "last checkpoint."
            )

    def _notify(self, event: TrainEvent) -> None:
        for callback in self._callbacks:
            callback(event)
