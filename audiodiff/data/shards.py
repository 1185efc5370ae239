"""Shards: recordings in a few large tar files (WebDataset), for corpora of millions of files, on disk or over http.

    train.shards.json        how many recordings each shard holds, and their lengths
    train-00000.tar ...      per recording its audio file as it was, its line of the manifest as JSON, and any mel

Shards are read from front to back. In what order, and which crops are cut, is a function of the seed, the epoch, and
the number of the process and of its worker; so a resumed run continues where it was, as long as
their numbers stay the same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterator, Sequence
from io import BytesIO
from itertools import count, islice
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from pydantic import ValidationError
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from audiodiff.audio.io import replacing
from audiodiff.config import DataConfig
from audiodiff.data.augment import Augmenter, draw_speed
from audiodiff.data.conditions import load_vector
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.dataset import (
    SINGLE_PROCESS,
    Failure,
    OnFailure,
    ReadResult,
    Replica,
    collate,
    examples_of,
    leave_interruptions_to_the_parent,
)
from audiodiff.data.manifest import Recording
from audiodiff.data.mels import load_mel
from audiodiff.data.shard_files import DAMAGED, LARGEST, SCHEMES, members, open_shard
from audiodiff.errors import AudioError, DataError, MelError, needed

INDEX_SUFFIX = ".shards.json"
MEL_SUFFIX = "mel.npy"
"""What the name of a mel in a shard ends in."""
LONGEST = 1e7
"""Seconds that one recording may last."""
SHUFFLED = 1000
"""Crops among which the next is chosen; the recordings they are cut from are in memory."""

_BESIDE = ("json", MEL_SUFFIX)

_LOG = logging.getLogger(__name__)


def write_shards(recordings: Sequence[Recording], index: str | Path, n_shards: int) -> list[Path]:
    """Pack recordings into shards, each about as large as the others.

    Args:
        recordings: What to pack, in any order.
        index: The index to write, `NAME.shards.json`; the shards go beside it.
        n_shards: How many. Each process that reads takes whole shards, so there must be as many of these at least.

    Returns:
        The shards.

    Raises:
        DataError: If there are fewer recordings than shards, the name does not end as it should, or webdataset is not
            installed.
    """
    index, wds = Path(index), _webdataset()
    if not index.name.endswith(INDEX_SUFFIX):
        raise DataError(f"{index} must be named like train{INDEX_SUFFIX}, by which training knows it.")
    if not 0 < n_shards <= len(recordings):
        raise DataError(f"cannot pack {len(recordings)} recordings into {n_shards} shards. Ask for fewer.")
    name = index.name.removesuffix(INDEX_SUFFIX)
    shards, paths = [], []
    order = np.random.default_rng(0).permutation(len(recordings))
    for number in range(n_shards):
        path = index.with_name(f"{name}-{number:05d}.tar")
        mine = [recordings[i] for i in order[number::n_shards]]
        with replacing(path) as part, part.open("wb") as file, wds.TarWriter(file, mtime=0) as tar:
            for place, recording in enumerate(mine):
                if recording.audio.stat().st_size > LARGEST:
                    raise DataError(f"{recording.audio} is larger than {LARGEST:,} bytes. Cut it into shorter files.")
                line = _line(recording)
                suffix = recording.audio.suffix.lstrip(".").lower()
                key = f"{number:05d}-{place:07d}"
                mel = {MEL_SUFFIX: _packed_mel(recording.mel)} if recording.mel else {}
                tar.write({"__key__": key, suffix: recording.audio.read_bytes(), "json": json.dumps(line), **mel})
        shards.append({"name": path.name, "seconds": [recording.seconds for recording in mine]})
        paths.append(path)
    document = {"audiodiff_shards": 1, "shards": shards, "mels": sum(one.mel is not None for one in recordings)}
    with replacing(index) as part:
        part.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return paths


def _packed_mel(path: Path) -> bytes:
    """Return the content of a .npy file with a mel."""
    file = BytesIO()
    try:
        np.save(file, load_mel(path).numpy())
    except MelError as error:
        raise DataError(str(error)) from error
    return file.getvalue()


def _line(recording: Recording) -> dict[str, Any]:
    """Return the line of a manifest that goes beside a recording; of files that it names, vectors are put in."""
    line = recording.model_dump(mode="json", exclude_none=True, exclude={"mel"})
    if isinstance(recording.vector, Path):
        line["vector"] = load_vector(recording.vector).tolist()
    return line


def _webdataset() -> Any:
    with needed("shards", "reading or writing shards"):
        import webdataset
        from webdataset import utils
    utils.enforce_security = True  # no `pipe:`, which runs a shell; no unpickling
    return webdataset


def _beside(index: str, name: object) -> str:
    """Return the place of a shard that an index names, which is below the folder of the index."""
    parts = str(name).split("/")
    if not isinstance(name, str) or {"", ".", ".."} & set(parts) or not name.isprintable() or set(name) & set(":\\"):
        raise ValueError(f"a shard is called {name!r}; expected the name of a file beside the index")
    folder = index[: index.rfind("/") + 1]
    return folder + (quote(name) if index.lower().startswith(SCHEMES) else name)


def _seconds(shard: dict[str, Any]) -> tuple[float, ...]:
    seconds = tuple(map(float, shard["seconds"]))
    if not seconds or not all(0 < value < LONGEST for value in seconds):
        raise ValueError(f"shard {shard['name']!r} has no lengths in seconds for its recordings, above 0")
    return seconds


class _Shard(NamedTuple):
    url: str
    seconds: tuple[float, ...]


class _Cut(NamedTuple):
    """One crop to come: of which file's content, where, and how it is augmented."""

    line: bytes
    suffix: str
    content: bytes
    mel: bytes | None
    key: str
    number: int


class ShardStream:
    """Random crops from shards, augmented: in an epoch as many from a recording as fit into it, one at least.

    Args:
        index: Path or URL of what `write_shards` wrote.
        reader: Length and rate of a crop.
        config: Which augmentations.
        seed: The seed of the stream.

    Attributes:
        reader: As given.
        recordings: Empty; single recordings cannot be opened.
        has_mels: Whether shards hold mels beside recordings.

    Raises:
        DataError: If the index cannot be read.
        ConfigError: If an augmentation cannot be had.
    """

    def __init__(self, index: str, reader: CropReader, config: DataConfig, seed: int) -> None:
        self.reader = reader
        self.recordings: Sequence[Recording] = ()
        self.index = index
        self.shards, self.has_mels = _read_index(index)
        self.config = config
        self.augment = Augmenter(config, reader.sample_rate, reader.mel)
        self.seed = seed % 2**64

    @property
    def n_recordings(self) -> int:
        """Number of recordings."""
        return sum(len(shard.seconds) for shard in self.shards)

    @property
    def seconds(self) -> float:
        """Length of all recordings."""
        return sum(sum(shard.seconds) for shard in self.shards)

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
        """Yield the batches from one step on; see `CropDataset.batches`. Here `workers` decides the order too."""
        n_lanes = replica.world_size * max(workers, 1)
        if n_lanes > len(self.shards):
            raise DataError(
                f"{self.index} has {len(self.shards)} shards, too few for {replica.world_size} processes with "
                f"{max(workers, 1)} data workers each. Write more shards, or set data.workers lower."
            )
        loader = DataLoader(
            _Lanes(self, start_step, batch_size, replica, max(workers, 1)),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=leave_interruptions_to_the_parent,
            generator=torch.Generator(),
        )
        yield from examples_of(loader, on_failure)

    def n_crops(self, seconds: float) -> int:
        """Return how many crops an epoch takes from a recording."""
        return 1 if self.reader.one_shots else max(1, round(seconds * self.reader.sample_rate / self.reader.n_samples))

    def cuts(self, lane: int, n_lanes: int, n_skipped: int) -> Iterator[_Cut]:
        """Yield the crops of one lane, without end; those that are skipped are not decoded, nor whole epochs read."""
        for epoch in count():
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
            mine = [self.shards[i] for i in order[lane::n_lanes]]
            n_here = sum(self.n_crops(seconds) for shard in mine for seconds in shard.seconds)
            if n_skipped >= n_here:
                n_skipped -= n_here
                continue
            generator = np.random.default_rng([self.seed, epoch, lane])
            yield from islice(_shuffled(self._in_order(mine, epoch), generator), n_skipped, None)
            n_skipped = 0

    def _in_order(self, shards: Sequence[_Shard], epoch: int) -> Iterator[_Cut]:
        for shard in shards:
            for place, sample in enumerate(_samples(shard)):
                suffix = next((name for name in sample if name not in _BESIDE and not name.startswith("__")), "")
                key = f"{shard.url}/{sample['__key__']}.{suffix}"
                for number in range(self.n_crops(shard.seconds[place])):
                    data = (sample.get("json", b""), suffix, sample.get(suffix, b""), sample.get(MEL_SUFFIX))
                    yield _Cut(*data, key, epoch * 2**20 + number)

    def read(self, cut: _Cut) -> Example:
        """Decode and augment one crop."""
        entropy = [self.seed, *cut.key.rsplit("/", 1)[-1].encode(), cut.number]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
        # libsndfile's checks of damaged files want a file.
        suffix = f".{cut.suffix}" if cut.suffix.isalnum() and len(cut.suffix) < 8 else ""
        with NamedTemporaryFile(suffix=suffix) as file, NamedTemporaryFile(suffix=f".{MEL_SUFFIX}") as mel:
            for each, content in ((file, cut.content), (mel, cut.mel or b"")):
                each.write(content)
                each.flush()
            update = {"audio": Path(file.name), "mel": None if cut.mel is None else Path(mel.name)}
            recording = _recording(cut).model_copy(update=update)
            try:
                example = self.reader.read(recording, generator.random(), draw_speed(self.config, generator))
            except (AudioError, DataError) as error:
                mel_key = f"{cut.key.removesuffix(cut.suffix)}{MEL_SUFFIX}"
                said = str(error).replace(file.name, cut.key).replace(mel.name, mel_key)
                raise type(error)(said) from error
        return self.augment.example(example, generator)


def _recording(cut: _Cut) -> Recording:
    try:
        recording = Recording.model_validate_json(cut.line)
    except ValidationError as error:
        raise DataError(f"{cut.key} has no line of a manifest beside it. Copy or write the shard again.") from error
    if isinstance(recording.vector, Path):
        raise DataError(f"{cut.key} names a file, {recording.vector}; a shard holds its vectors. Write it again.")
    return recording


class _Lanes(IterableDataset[ReadResult]):
    """The batches of a process, each worker its own lane; a resumed run finds every lane where it was."""

    def __init__(self, stream: ShardStream, start_step: int, batch_size: int, replica: Replica, n_workers: int) -> None:
        self.stream = stream
        self.start_step = start_step
        self.batch_size = batch_size
        self.replica = replica
        self.n_workers = n_workers

    def __iter__(self) -> Iterator[ReadResult]:
        info = get_worker_info()
        number = info.id if info else 0
        lane = (self.start_step + number) % self.n_workers  # the loader asks worker 0 first, whichever step it is
        n_batches = (self.start_step - lane + self.n_workers - 1) // self.n_workers
        n_lanes = self.replica.world_size * self.n_workers
        cuts = self.stream.cuts(self.replica.rank * self.n_workers + lane, n_lanes, n_batches * self.batch_size)
        while True:
            try:
                yield self._batch(list(islice(cuts, self.batch_size)))
            except DataError as error:  # of a whole shard; raised in another process it would lose its message
                yield ReadResult(None, (Failure(Path(self.stream.index), error),))

    def _batch(self, cuts: Sequence[_Cut]) -> ReadResult:
        """Read a batch; in place of a crop that cannot be read stands the first of the batch that can."""
        draws = [self._draw(cut) for cut in cuts]
        good = [draw.example for draw in draws if draw.example is not None]
        if not good:
            return collate(draws)
        return collate([draw if draw.example is not None else draw._replace(example=good[0]) for draw in draws])

    def _draw(self, cut: _Cut) -> ReadResult:
        try:
            return ReadResult(self.stream.read(cut))
        except (AudioError, DataError) as error:
            return ReadResult(None, (Failure(Path(cut.key), error),))


def _samples(shard: _Shard) -> Iterator[dict[str, Any]]:
    tar = _webdataset().tariterators

    def stop(error: Exception) -> bool:
        reason = str(error.args[0] if error.args else error)
        raise DataError(f"{shard.url} cannot be read: {reason}. Copy or write the shard again.") from error

    n_read, n_listed = 0, len(shard.seconds)
    with open_shard(shard.url) as file:
        samples = islice(tar.group_by_keys(members(file, shard.url), handler=stop), n_listed + 1)
        try:
            for n_read, sample in enumerate(samples, 1):
                if n_read <= n_listed:
                    yield sample
        except DAMAGED as error:
            stop(error)
    if n_read != n_listed:
        more = "more" if n_read > n_listed else str(n_read)
        raise DataError(f"{shard.url} holds {more} recordings, its index says {n_listed}. Copy or write it again.")


def _shuffled(cuts: Iterator[_Cut], generator: np.random.Generator) -> Iterator[_Cut]:
    """Yield crops in random order, as far as a buffer reaches."""
    waiting: list[_Cut] = []
    for cut in cuts:
        waiting.append(cut)
        if len(waiting) == SHUFFLED:
            yield waiting.pop(int(generator.integers(len(waiting))))
    while waiting:
        yield waiting.pop(int(generator.integers(len(waiting))))


def _read_index(index: str) -> tuple[list[_Shard], bool]:
    _webdataset()
    try:
        with open_shard(index) as file:
            document = json.loads(file.read())
        shards = [_Shard(_beside(index, shard["name"]), _seconds(shard)) for shard in document["shards"]]
        if not shards:
            raise ValueError("it lists no shards")
    except (*DAMAGED, TypeError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else repr(error)
        raise DataError(
            f"{index} cannot be read as an index of shards: {reason}. `audiodiff prepare --shards` writes one."
        ) from error
    return shards, bool(document.get("mels"))
