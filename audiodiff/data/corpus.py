"""What a run trains on and what it is validated on."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple, Protocol

from audiodiff.config import RunConfig
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.dataset import SINGLE_PROCESS, CropDataset, OnFailure, Replica
from audiodiff.data.manifest import Recording
from audiodiff.data.shards import INDEX_SUFFIX, ShardStream
from audiodiff.data.source import open_recordings, open_source
from audiodiff.errors import DataError


class CropStream(Protocol):
    """An endless stream of training batches.

    Attributes:
        reader: Length and rate of a crop.
        recordings: What is cropped, where single recordings can be opened; else nothing.
    """

    reader: CropReader
    recordings: Sequence[Recording]

    @property
    def n_recordings(self) -> int:
        """Number of recordings."""

    @property
    def seconds(self) -> float:
        """Length of all recordings."""

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
        """Yield the batches from one step on; see `CropDataset.batches`."""


class Corpus(NamedTuple):
    """The training stream, and the recordings to validate on."""

    training: CropStream
    validation: list[Recording]


def open_corpus(config: RunConfig) -> Corpus:
    """Open the data of a run.

    Args:
        config: The run.

    Returns:
        The training stream, and the recordings to validate on.

    Raises:
        DataError: If there is nothing to train or validate on, or it does not fit the model.
        ConfigError: If an augmentation cannot be had.
    """
    reader = CropReader.for_model(config.model, config.data)
    data = config.data
    if data.train.endswith(INDEX_SUFFIX):
        if data.valid is None:
            raise DataError(f"{data.train} is an index of shards, of which none is held out: set data.valid.")
        return Corpus(ShardStream(data.train, reader, data, config.training.seed), open_source(data.valid))
    training, validation = open_recordings(data)
    return Corpus(CropDataset(training, reader, config.data, config.training.seed), validation)
