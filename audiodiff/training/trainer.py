"""Training, from a configuration to a folder of checkpoints: the loop and what happens between its steps."""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from audiodiff.config import RunConfig
from audiodiff.data.corpus import Corpus, open_corpus
from audiodiff.data.crops import Example
from audiodiff.data.dataset import validation_crops
from audiodiff.errors import AudiodiffError, TrainingError
from audiodiff.training.bad_recordings import BadRecordings
from audiodiff.training.events import Event, Listener
from audiodiff.training.interruption import Interruption
from audiodiff.training.learner import Learner, StepResult
from audiodiff.training.reporting import progress, tensorboard
from audiodiff.training.run_folder import RunFolder
from audiodiff.training.samples import choose_samples, make_clips
from audiodiff.training.saving import Saver
from audiodiff.training.start import start
from audiodiff.training.team import join_team
from audiodiff.training.validation import Validator
from audiodiff.training.watch import Curve, Point, Watch, terminal_snr

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
        bad_recordings: How many recordings could not be read.
        ran_out_of_patience: Whether validation had not improved for `training.patience`.
        spokesman: Whether this process is the only one of the run, or the one that speaks for all.
    """

    step: int
    skipped: int
    best_loss: float
    best_step: int
    stopped_by: signal.Signals | None
    bad_recordings: int = 0
    ran_out_of_patience: bool = False
    spokesman: bool = True


def train(
    config: RunConfig,
    run_dir: str | Path,
    resume: str | Path = "auto",
    on_event: Listener | None = None,
    reference: Curve | None = None,
) -> Outcome:
    """Train a model, or go on training it.

    Randomness is a function of the seed and the step alone, so a run that was interrupted and resumed ends with the
    weights of one that was not: on the CPU to the last bit. Started several times by `accelerate launch`, it trains one
    model in all of these processes.

    Args:
        config: The run.
        run_dir: Its folder, made if it is not there; see `audiodiff.training.run_folder`.
        resume: "auto" goes on from the newest checkpoint in `run_dir` if there is one; "never" refuses if there is;
            else the folder of a checkpoint, or of a run, to go on from.
        on_event: Called with what happens.
        reference: A loss curve to compare with.

    Returns:
        How it ended. SIGTERM and SIGINT end it between two steps, after saving.

    Raises:
        AudiodiffError: If data, model or checkpoint cannot be used, or another process trains in the folder; a
            `TrainingError` if the loss stays non-finite. Where the run has begun, it saves first.
    """
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        team = stack.enter_context(join_team(config.training.device))
        corpus = open_corpus(config)
        folder = RunFolder(run_dir)
        if team.is_main:
            stack.enter_context(folder.claimed())
        n_recordings = corpus.training.n_recordings + len(corpus.validation)
        bad = BadRecordings(folder.bad_recordings, n_recordings, config.data.max_bad_share, write=team.is_main)
        learner = start(config, folder, resume, corpus.training, team, bad.note)
        listeners: list[Listener] = []
        if team.is_main:
            folder.save_config(config)
            listeners += [*_reporters(stack, config, folder, corpus, learner)] + ([on_event] if on_event else [])
        trainer = Trainer(config, learner, folder, corpus, bad, listeners, reference)
        early = trainer.run(interruption)
    done = learner.progress
    return Outcome(
        *(done.step, done.skipped, done.best_loss, done.best_step, interruption.received),
        bad_recordings=len(bad.reasons),
        ran_out_of_patience=early,
        spokesman=team.is_main,
    )


def _reporters(
    stack: ExitStack, config: RunConfig, folder: RunFolder, corpus: Corpus, learner: Learner
) -> Iterator[Listener]:
    step = learner.progress.step
    samples_per_step = learner.team.share.world * config.training.batch_size * corpus.training.reader.n_samples
    yield stack.enter_context(progress(step, config.training.steps, samples_per_step))
    yield stack.enter_context(
        tensorboard(folder.tensorboard, step, samples_per_step, corpus.training.reader.sample_rate)
    )


class Trainer:
    """The loop over the steps, and validation, pictures and checkpoints between them.

    Args:
        config: The run.
        learner: What learns.
        folder: Where checkpoints go.
        corpus: The training stream, and what validation is done on.
        bad: Told of recordings that cannot be read.
        listeners: Who is told what happens; in a team, those of the main process.
        reference: A loss curve to compare with.
    """

    def __init__(
        self,
        config: RunConfig,
        learner: Learner,
        folder: RunFolder,
        corpus: Corpus,
        bad: BadRecordings,
        listeners: Sequence[Listener],
        reference: Curve | None = None,
    ) -> None:
        self._config = config.training
        self._workers = config.data.workers
        self._learner = learner
        self._corpus = corpus
        self._bad = bad
        self._listeners = listeners
        self._saver = Saver(folder, learner, config.training, corpus.training, self._tell)
        self._last_step = config.training.steps
        if not learner.team.is_main:
            return
        reader, count = corpus.training.reader, config.training.validation_crops
        self._samples = choose_samples(corpus.validation, reader, config.model.block_length, bad.note)
        self._validate, self._validate_training = (
            Validator(
                validation_crops(recordings, reader, count, bad.note), learner.objective, settings, learner.few_step
            )
            for recordings, settings in (
                (corpus.validation, config.training),
                (
                    corpus.training.recordings or corpus.validation,
                    config.training.model_copy(update={"validation_bits": False}),
                ),
            )
        )
        self._watch = Watch(folder.curve, config, learner.progress.step, reference)
        for level, said in terminal_snr(learner.model_config()):
            _LOG.log(level, "%s", said)

    def run(self, interruption: Interruption) -> bool:
        """Train until the last step, an interruption, or the end of patience; a checkpoint is written in any case.

        Returns:
            Whether it was the end of patience.
        """
        done = self._learner.progress
        if done.step >= self._config.steps:
            _LOG.info("%d steps are done, training.steps is %d: nothing to do", done.step, self._config.steps)
        elif not self._ran_out_of_patience():
            _LOG.info("training on %s, steps %d to %d", self._learner.team.device, done.step, self._config.steps)
            self._train(interruption)
        if self._learner.team.is_main:
            self._saver.save()
        if interruption.received:
            _LOG.info("%s: stopped after step %d, saved", interruption.received.name, done.step)
        elif self._ran_out_of_patience():
            _LOG.info("no better validation for %d steps: stopped after step %d", done.step - done.best_step, done.step)
            return True
        return False

    def _train(self, interruption: Interruption) -> None:
        try:
            with closing(self._batches()) as stream:
                self._loop(stream, interruption)
        except TrainingError:  # weights that cannot be trained or saved
            raise
        except (AudiodiffError, OSError, RuntimeError):  # such as lost data, or a full GPU
            if self._learner.team.is_main:
                self._settle()
                self._saver.rescue()
            raise

    def _batches(self) -> Generator[Example, None, None]:
        learner = self._learner
        return self._corpus.training.batches(
            learner.progress.step,
            self._config.batch_size,
            self._workers,
            share=learner.team.share,
            pin_memory=learner.team.device.type == "cuda",
            on_failure=self._bad.note,
        )

    def _loop(self, stream: Iterator[Example], interruption: Interruption) -> None:
        learner = self._learner
        while learner.progress.step < self._last_step:
            stop = interruption.received is not None or (learner.team.is_main and self._ran_out_of_patience())
            if stop and learner.team.is_alone:
                break
            self._step(stream, stop)
            self._between_steps()
        self._settle()

    def _step(self, stream: Iterator[Example], stop: bool) -> None:
        self._report(self._learner.step(next(stream), stop=stop))

    def _settle(self) -> None:
        self._report(self._learner.settle())

    def _report(self, results: Sequence[StepResult]) -> None:
        for result in results:
            if result.stop:  # all processes have read it by then, and none may go on without the others
                self._last_step = min(self._last_step, result.step + self._learner.lag)
            if not result.finite:
                self._report_skipped(result)
                continue
            names = ("loss", "gradient_norm", "learning_rate")
            self._tell(Event("step", result.step, {name: getattr(result, name) for name in names}))

    def _report_skipped(self, result: StepResult) -> None:
        self._tell(Event("skipped", result.step, {"skipped": result.skipped}))
        if result.skipped_in_a_row >= self._config.max_bad_steps:
            raise TrainingError(
                f"loss or gradient was not finite for {result.skipped_in_a_row} steps in a row, up to step "
                f"{result.step}. Lower training.learning_rate, or set training.precision to fp32; then go on from the "
                "last checkpoint."
            )

    def _between_steps(self) -> None:
        step, config = self._learner.progress.step, self._config
        last = step == config.steps
        validate, sample = (last or step % every == 0 for every in (config.validate_every, config.sample_every))
        save = self._saver.is_due
        if not (validate or sample or save) or not self._learner.team.is_main:
            return
        self._settle()
        if validate:
            self._validate_and_keep_best()
        if sample:
            learner = self._learner
            self._tell(Event("sampled", step, clips=make_clips(learner.average, learner.model_config(), self._samples)))
        if save:
            self._saver.try_to_save()

    def _validate_and_keep_best(self) -> None:
        done, learner = self._learner.progress, self._learner
        result, on_training = self._validate(learner.average), None
        values = {"loss": result.loss}
        more = {"few_step": result.few_step, "bits_per_sample": result.bits}
        values |= {name: value for name, value in more.items() if value is not None}
        if self._corpus.training.recordings:
            values["loss_on_training_crops"] = on_training = self._validate_training(learner.average).loss
        levels = {f"loss_at_{level:+.1f}": loss for level, loss in result.by_level.items()}
        self._tell(Event("validated", done.step, values | levels))
        self._watch.add(Point(done.step, result.loss, on_training))
        if result.loss < done.best_loss:
            done.best_loss, done.best_step = result.loss, done.step
            self._saver.save_best(result.loss)

    def _ran_out_of_patience(self) -> bool:
        done, patience = self._learner.progress, self._config.patience
        return patience is not None and done.step - done.best_step >= patience * self._config.validate_every

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)
