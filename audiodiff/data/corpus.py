"""What a run trains on and what it is validated on: manifests, folders and shards, opened as the configuration says."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from audiodiff.config import DataConfig, RunConfig
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.dataset import SINGLE_PROCESS, CropDataset, OnFailure, Replica
from audiodiff.data.manifest import Recording, read_manifest, scan_folder
from audiodiff.data.mels import check_given_mels
from audiodiff.data.resident import ResidentCorpus, is_resident
from audiodiff.data.shards import INDEX_SUFFIX, ShardStream
from audiodiff.data.splits import split
from audiodiff.errors import ConfigError, DataError

_NAMED = 3
"""How many files a message names before it only counts."""

_LOG = logging.getLogger(__name__)


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


def open_corpus(config: RunConfig, device: torch.device | str = "cpu") -> Corpus:
    """Open the data of a run.

    Args:
        config: The run.
        device: Where it trains.

    Returns:
        The training stream, and the recordings to validate on.

    Raises:
        DataError: If there is nothing to train or validate on, or it does not fit the model.
        ConfigError: If an augmentation cannot be had, or the corpus cannot be resident although it is to be.
    """
    reader = CropReader.for_model(config.model, config.data)
    data = config.data
    if data.train.endswith(INDEX_SUFFIX):
        if data.resident == "on":
            raise ConfigError(
                f"data.resident is 'on', but {data.train} is an index of shards, which are streamed. Set it to 'auto'."
            )
        if data.valid is None:
            raise DataError(f"{data.train} is an index of shards, of which none is held out: set data.valid.")
        shards = ShardStream(data.train, reader, data, config.training.seed)
        validation = open_source(data.valid)
        if reader.mel:
            check_given_mels(validation, data, in_training=shards.has_mels)
        return Corpus(shards, validation)
    training, validation = open_recordings(data)
    if reader.mel:
        check_given_mels([*training, *validation], data, in_training=any(one.mel for one in training))
    seed, device = config.training.seed, torch.device(device)
    if is_resident(training, reader, data, device):
        return Corpus(ResidentCorpus(training, reader, data, seed, device), validation)
    return Corpus(CropDataset(training, reader, data, seed), validation)


def open_recordings(config: DataConfig) -> tuple[list[Recording], list[Recording]]:
    """Find the recordings of a run.

    Args:
        config: Names a manifest or a folder for training, and perhaps for validation. Without the latter a fraction
            of the former is held out, always the same files.

    Returns:
        The recordings to train on and those to validate on.

    Raises:
        DataError: If either is empty, files are missing, or a file is in both.
    """
    train = open_source(config.train, "data.train: ")
    if config.valid is not None:
        valid = open_source(config.valid, "data.valid: ")
        both = {_identity(recording) for recording in train} & {_identity(recording) for recording in valid}
        if both:
            raise DataError(
                f"{_some(sorted(both))} in both {config.train} and {config.valid}: validation would mean nothing. "
                "Give other recordings, or leave out data.valid to hold out a fraction of data.train."
            )
        return train, valid
    source = Path(config.train)
    parts = split(train, config.valid_fraction, root=source if source.is_dir() else source.parent)
    if not parts.train:
        raise DataError(
            f"{config.train} has too few recordings ({len(train)}) to hold some out for validation. "
            "Give more, cut a long recording into several files, or set data.valid."
        )
    return parts.train, parts.valid


def open_source(source: str, key: str = "") -> list[Recording]:
    """Return the recordings of a manifest or a folder; `key` says in messages what setting names it.

    Raises:
        DataError: If there are none, or files are missing.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir() and source.strip():
        return _open_folder(path)
    if not path.is_file():
        raise DataError(
            f"{key}{source if source.strip() else repr(source)} does not exist (from {Path.cwd()}); expected a "
            "manifest (.jsonl) or a folder of audio."
        )
    if path.suffix != ".jsonl":
        raise DataError(
            f"{key}{source} is neither a manifest (.jsonl) nor a folder. Give the folder, or run `audiodiff prepare`."
        )
    recordings = read_manifest(path)
    if not recordings:
        raise DataError(
            f"{source} lists no recordings. Write it again by `audiodiff prepare` with a "
            "--valid-fraction above 0, if it is to validate on."
        )
    if missing := [str(recording.audio) for recording in recordings if not recording.audio.is_file()]:
        raise DataError(f"{_some(missing)} in {source} but not there. Restore the files or write the manifest again.")
    return recordings


def _open_folder(folder: Path) -> list[Recording]:
    recordings, unreadable = scan_folder(folder)
    if unreadable:
        names = _some([str(path) for path, _ in unreadable])
        _LOG.warning("%s unreadable and left out (the first because: %s)", names, unreadable[0][1])
    if not recordings:
        raise DataError(f"{folder} holds no readable audio. Give a folder with recordings (wav, flac, ogg, mp3 ...).")
    return recordings


def _identity(recording: Recording) -> str:
    return os.path.realpath(recording.audio)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {'files are' if len(names) > 1 else 'file is'} ({shown})"
