"""The endless stream of training crops, in which example number n is always the same, and the fixed validation crops.

An example depends on nothing but the seed and its number. A run that is resumed at step s therefore continues with the
examples from s * batch_size on, as it would have uninterrupted, however many processes read them. Where a recording
cannot be read, the example is one of another recording: the same one every time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from audiodiff.audio.io import replacing
from audiodiff.config import DataConfig
from audiodiff.data.augment import Augmenter, draw_speed
from audiodiff.data.crops import CropReader, Example, stack
from audiodiff.data.draws import example_generator
from audiodiff.data.manifest import Recording
from audiodiff.data.parallel import end_with_parent
from audiodiff.errors import AudiodiffError, AudioError, ConfigError, DataError

ATTEMPTS = 100
"""Recordings in a row that may be unreadable before an example is given up."""


class Failure(NamedTuple):
    """A recording that could not be read.

    Attributes:
        path: The file.
        error: Why.
    """

    path: Path
    error: AudiodiffError


OnFailure = Callable[[Failure], None]


class Replica(NamedTuple):
    """One of several processes that train the same model, each on its part of every step's examples.

    Attributes:
        rank: Number of this process, 0 for the main one.
        world_size: Number of processes.
    """

    rank: int = 0
    world_size: int = 1


SINGLE_PROCESS = Replica()


class ReadResult(NamedTuple):
    """What was read for one example: itself, or None if all attempts failed; and the recordings that failed before."""

    example: Example | None
    failures: tuple[Failure, ...] = ()


def _length(recording: Recording, reader: CropReader) -> float:
    """Return how much of the stream a recording is: its seconds, or one of one-shots, which count alike."""
    return 1.0 if reader.one_shots else recording.seconds


def recording_ends(recordings: Sequence[Recording], reader: CropReader) -> NDArray[np.float64]:
    """Return where each recording ends, were they played one after the other."""
    return np.cumsum([_length(recording, reader) for recording in recordings])


class CropDataset(Dataset[ReadResult]):
    """Random crops, augmented; every second of audio is equally likely to be seen, or every one-shot.

    Args:
        recordings: What to crop from.
        reader: Length and rate of a crop.
        config: Which augmentations.
        seed: The seed of the stream.

    Raises:
        ConfigError: If an augmentation cannot be had.
        DataError: If the recordings cannot be used; see `CropReader.check`.
    """

    def __init__(self, recordings: Sequence[Recording], reader: CropReader, config: DataConfig, seed: int) -> None:
        reader.check(recordings)
        self.recordings: Sequence[Recording] = list(recordings)
        self.reader = reader
        self.config = config
        self.seed = seed
        self._augment = Augmenter(config, reader.sample_rate, reader.mel)
        self._ends = recording_ends(recordings, reader)

    def __getitem__(self, index: int) -> ReadResult:
        """Return example number `index`, of which there are endlessly many; unreadable recordings are replaced."""
        failures: list[Failure] = []
        for attempt in range(ATTEMPTS):
            recording, generator = self._drawn(index, attempt)
            try:
                return ReadResult(self._read(recording, generator), tuple(failures))
            except (AudioError, DataError) as error:
                failures.append(Failure(recording.audio, error))
            except ConfigError as error:  # no recording's fault: another would fare no better
                return ReadResult(None, (Failure(recording.audio, error),))
            except OSError as error:
                failures.append(Failure(recording.audio, AudioError(f"{recording.audio} cannot be read: {error}.")))
        return ReadResult(None, tuple(failures))

    def batches(
        self,
        start_step: int,
        batch_size: int,
        workers: int = 0,
        *,
        replica: Replica = SINGLE_PROCESS,
        pin_memory: bool = False,
        on_failure: OnFailure | None = None,
    ) -> Generator[Example, None, None]:
        """Yield the batches of a run from one step on, without end.

        Args:
            start_step: The first step; step s holds the examples from s * batch_size on.
            batch_size: Examples per step, and process.
            workers: Processes that read audio; 0 reads in this one. They change nothing but the speed.
            replica: Rank and world size; together the processes read what one would with a larger batch.
            pin_memory: Whether batches are put where a GPU can fetch them from.
            on_failure: Called with each recording that could not be read, before the batch that does without it.

        Yields:
            Batches: audio `(batch, 1, time)`, label, bandwidth and speaker `(batch,)`, vector, mel.

        Raises:
            ConfigError: If an augmentation fails.
            AudioError: If a recording cannot be read, and there is no `on_failure`.
            DataError: Likewise if one is not what its manifest says; or if `ATTEMPTS` in a row are of no use.
        """
        loader = DataLoader(
            self,
            batch_sampler=_Steps(start_step, batch_size, replica),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            worker_init_fn=leave_interruptions_to_the_parent,
            generator=torch.Generator(),  # DataLoader draws from it; the global one is not ours to change
        )
        yield from examples_of(loader, on_failure)

    @property
    def n_recordings(self) -> int:
        """Number of recordings."""
        return len(self.recordings)

    @property
    def seconds(self) -> float:
        """Length of all recordings."""
        return sum(recording.seconds for recording in self.recordings)

    def _drawn(self, index: int, attempt: int) -> tuple[Recording, np.random.Generator]:
        generator = example_generator(self.seed, index, attempt)
        second = generator.random() * self._ends[-1]
        return self.recordings[int(np.searchsorted(self._ends[:-1], second, side="right"))], generator

    def _read(self, recording: Recording, generator: np.random.Generator) -> Example:
        example = self.reader.read(recording, generator.random(), draw_speed(self.config, generator))
        return self._augment.example(example, generator)


def validation_crops(
    recordings: Sequence[Recording], reader: CropReader, count: int, on_failure: OnFailure | None = None
) -> list[Example]:
    """Read crops that are spread evenly over all recordings, always the same ones, and not augmented.

    Args:
        recordings: The validation recordings.
        reader: Length and rate of a crop.
        count: How many crops.
        on_failure: Called with each recording that cannot be read; its crops are then left out.

    Returns:
        The crops.

    Raises:
        DataError: If the recordings cannot be used, or none can be read.
        AudioError: If a file cannot be read, and there is no `on_failure`.
    """
    reader.check(recordings)
    ends = recording_ends(recordings, reader)
    crops = []
    for second in (np.arange(count) + 0.5) / count * ends[-1]:
        index = int(np.searchsorted(ends[:-1], second, side="right"))
        fraction = (ends[index] - second) / _length(recordings[index], reader)
        try:
            crops.append(reader.read(recordings[index], float(1 - fraction)))
        except (AudioError, DataError) as error:
            if on_failure is None:
                raise
            on_failure(Failure(recordings[index].audio, error))
    if not crops:
        raise DataError(f"none of {len(recordings)} validation recordings can be read. Give others.")
    return crops


class _Steps(Sampler[list[int]]):
    """The numbers of the examples of every step, from one step on, without end; those of one process."""

    def __init__(self, start_step: int, batch_size: int, replica: Replica) -> None:
        self.start_step = start_step
        self.batch_size = batch_size
        self.replica = replica

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            first = (step * self.replica.world_size + self.replica.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
            step += 1


def collate(draws: Sequence[ReadResult]) -> ReadResult:
    """Make a batch of single examples, and gather the recordings that failed; None if an example is missing."""
    failures = tuple(failure for draw in draws for failure in draw.failures)
    examples = [draw.example for draw in draws if draw.example is not None]
    return ReadResult(stack(examples) if len(examples) == len(draws) else None, failures)


def leave_interruptions_to_the_parent(_worker: int) -> None:
    """Outlive the signals that a terminal or a job scheduler sends to all processes alike, but not the parent.

    The parent then ends its step, saves, and ends the workers; torch would make it fail wherever it is.
    """
    end_with_parent()

    def note_first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))

    signal.signal(signal.SIGTERM, note_first)
    for name in ("SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def examples_of(loader: Iterable[ReadResult], on_failure: OnFailure | None) -> Generator[Example, None, None]:
    """Yield the batches of a loader, and report or raise what failed; see `CropDataset.batches`."""
    for batch in _until_lost(loader):
        for failure in batch.failures:
            if on_failure is None or isinstance(failure.error, ConfigError):
                raise failure.error
            on_failure(failure)
        if batch.example is None:
            raise DataError(
                f"nothing can be read any more; the last of many failures: {batch.failures[-1].error} "
                "Is the disk there, and are the files whole?"
            )
        yield batch.example


def _until_lost(loader: Iterable[ReadResult]) -> Iterator[ReadResult]:
    """Yield what a loader yields, and explain the end of a process that reads for it."""
    iterator = iter(loader)
    while True:
        try:
            draw = next(iterator)
        except (RuntimeError, ConnectionError, EOFError) as error:
            raise DataError(
                f"a process that reads recordings has died ({' '.join(str(error).split())}). Was memory short? "
                "A smaller data.workers needs less of it; 0 reads in the process that trains."
            ) from error
        yield draw


_LOG = logging.getLogger(__name__)


class BadRecordings:
    """The list, one JSON object with `audio` and `reason` per line.

    Args:
        path: Its file, which need not be there; what it lists already counts.
        n_recordings: How many recordings the run has.
        max_bad_fraction: Fraction of them that may be unreadable.
        write: Whether to write the list; the main process does.

    Attributes:
        reasons: File to reason.
    """

    def __init__(self, path: Path, n_recordings: int, max_bad_fraction: float, *, write: bool = True) -> None:
        self.path = path
        self.reasons: dict[str, str] = {}
        self._n_recordings = n_recordings
        self._max_bad_fraction = max_bad_fraction
        self._write = write
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self.reasons[entry["audio"]] = entry["reason"]
            except (ValueError, KeyError, TypeError):  # a kill may have cut off the last line
                continue

    def note(self, failure: Failure) -> None:
        """Take a failure into account, once per recording.

        Raises:
            DataError: If too many of the recordings has failed by now.
        """
        name = str(failure.path)
        if name in self.reasons:
            return
        self.reasons[name] = str(failure.error)
        self._save()
        _LOG.warning("skipped from now on (%d so far): %s", len(self.reasons), failure.error)
        fraction = len(self.reasons) / self._n_recordings
        if fraction > self._max_bad_fraction:
            raise DataError(
                f"{len(self.reasons)} of {self._n_recordings} recordings ({fraction:.1%}) cannot be read; "
                f"data.max_bad_fraction allows {self._max_bad_fraction:.1%}, and {self.path} lists them. "
                "Repair or remove them, or allow more."
            )

    def _save(self) -> None:
        if not self._write:
            return
        lines = (json.dumps({"audio": audio, "reason": reason}) for audio, reason in self.reasons.items())
        try:
            with replacing(self.path) as part:
                part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        except OSError as error:
            _LOG.warning("%s", error)
