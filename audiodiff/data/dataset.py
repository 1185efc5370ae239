"""The endless stream of training crops, in which example number n is always the same, and the fixed validation crops.

An example depends on nothing but the seed and its number. A run that is resumed at step s therefore goes on with the
examples from s * batch_size on, as it would have uninterrupted, however many processes read them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Iterator, Sequence
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from audiodiff.config import DataConfig
from audiodiff.data.augment import augment
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.manifest import Recording
from audiodiff.errors import AudiodiffError


def _ends(recordings: Sequence[Recording]) -> NDArray[np.float64]:
    """Return where each recording ends, in seconds, were they played one after the other."""
    return np.cumsum([recording.seconds for recording in recordings])


class CropDataset(Dataset[Example]):
    """Random crops, augmented; every second of audio is equally likely to be seen.

    Args:
        recordings: What to crop from.
        reader: Length and rate of a crop.
        config: Which augmentations.
        seed: The seed of the stream.

    Raises:
        DataError: If the recordings cannot be used; see `CropReader.check`.
    """

    def __init__(self, recordings: Sequence[Recording], reader: CropReader, config: DataConfig, seed: int) -> None:
        reader.check(recordings)
        self.recordings = list(recordings)
        self.reader = reader
        self.config = config
        self.seed = seed
        self._ends = _ends(recordings)

    def __getitem__(self, index: int) -> Example:
        """Return example number `index`, of which there are endlessly many."""
        entropy = [self.seed % 2**64, index]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        second = generator.random() * self._ends[-1]
        recording = self.recordings[int(np.searchsorted(self._ends[:-1], second, side="right"))]
        example = self.reader.read(recording, generator.random())
        return example._replace(audio=augment(example.audio, generator, self.config))


def validation_crops(recordings: Sequence[Recording], reader: CropReader, count: int) -> list[Example]:
    """Read crops that are spread evenly over all recordings, always the same ones, and not augmented.

    Args:
        recordings: The validation recordings.
        reader: Length and rate of a crop.
        count: How many crops.

    Returns:
        The crops.

    Raises:
        DataError: If the recordings cannot be used.
        AudioError: If a file cannot be read.
    """
    reader.check(recordings)
    ends = _ends(recordings)
    crops = []
    for second in (np.arange(count) + 0.5) / count * ends[-1]:
        index = int(np.searchsorted(ends[:-1], second, side="right"))
        seconds = recordings[index].seconds
        crops.append(reader.read(recordings[index], float(1 - (ends[index] - second) / seconds)))
    return crops


class _Steps(Sampler[list[int]]):
    """The numbers of the examples of every step, from one step on, without end."""

    def __init__(self, start_step: int, batch_size: int) -> None:
        self.start_step = start_step
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start_step * self.batch_size
        while True:
            yield list(range(first, first + self.batch_size))
            first += self.batch_size


class _Guarded(Dataset["Example | AudiodiffError"]):
    """Hand errors on as values: one that is raised in another process would lose its message in a long traceback."""

    def __init__(self, dataset: CropDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Example | AudiodiffError:
        try:
            return self.dataset[index]
        except AudiodiffError as error:
            return error


def _collate(examples: list[Example | AudiodiffError]) -> Example | AudiodiffError:
    for example in examples:
        if isinstance(example, AudiodiffError):
            return example
    batch: Example = default_collate(examples)
    return batch


def _leave_interruptions_to_the_parent(_worker: int) -> None:
    """Outlive Ctrl-C and a first SIGTERM, which a terminal or a job scheduler sends to all processes alike.

    The parent then ends its step, saves, and ends the workers; torch would make it fail wherever it is.
    """

    def note_first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, note_first)


def batches(
    dataset: CropDataset, start_step: int, batch_size: int, workers: int = 0, *, pin_memory: bool = False
) -> Generator[Example, None, None]:
    """Yield the batches of a run from one step on, without end.

    Args:
        dataset: The stream of examples.
        start_step: The first step; step s holds the examples from s * batch_size on.
        batch_size: Examples per step.
        workers: Processes that read audio; 0 reads in this one. They change nothing but the speed.
        pin_memory: Whether batches are put where a GPU can fetch them from.

    Yields:
        Batches: audio `(batch, 1, time)`, label `(batch,)`, bandwidth `(batch,)`.

    Raises:
        AudiodiffError: What reading an example raised.
    """
    loader = DataLoader(
        _Guarded(dataset),
        batch_sampler=_Steps(start_step, batch_size),
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_leave_interruptions_to_the_parent,
        generator=torch.Generator(),  # DataLoader draws from it; the global one is not ours to change
    )
    for batch in loader:
        if isinstance(batch, AudiodiffError):
            raise batch
        yield batch
