"""The whole corpus in the memory of one device, where crops are cut a batch at a time: no files are read in training.

Recordings are decoded once, resampled to the model's rate, averaged to one channel and held as 16-bit integers, one
behind the other; so are the mels that manifests name, as they are. Where a speed is drawn, there is a copy for each of
the speeds that `CropReader.read` rounds to. The examples are those of `CropDataset`, to the rounding of 16 bits, in the
same order.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from audiodiff.config import DataConfig
from audiodiff.data.augment import speed_at
from audiodiff.data.crops import SPEEDS, CropReader, Example
from audiodiff.data.dataset import ATTEMPTS, SINGLE_PROCESS, Failure, OnFailure, Replica, recording_ends
from audiodiff.data.draws import example_generator, uniform_draws
from audiodiff.data.manifest import Recording, amount
from audiodiff.data.mels import amplified
from audiodiff.data.parallel import default_workers, parallel_map
from audiodiff.errors import AudiodiffError, AudioError, ConfigError, DataError

MOST_ON_CPU = 2**29
"""Bytes of a corpus that 'auto' puts into the memory of a computer: 3.4 hours at 22,050 Hz."""
_FULL_SCALE = 2**15

_Files = tuple[Path, Path | None]
"""The audio and the mel of a recording."""

_LOG = logging.getLogger(__name__)


class _Slot(NamedTuple):
    """One recording at one speed in memory.

    Attributes:
        first: Index of its first sample.
        n_samples: Length.
        scale: What 16-bit full scale stands for: 1, or the peak of a recording that is louder.
        first_frame: Index of the first frame of its mel.
        n_frames: How many the mel has; 0 where it is to be computed.
    """

    first: int
    n_samples: int
    scale: float
    first_frame: int = 0
    n_frames: int = 0


class _Drawn(NamedTuple):
    """What was drawn for a batch, each `(batch,)`."""

    recording: NDArray[np.int64]
    position: NDArray[np.float64]
    speed: NDArray[np.int64]
    reverse: NDArray[np.bool_]
    gain: NDArray[np.float64]


def speeds(config: DataConfig) -> list[float]:
    """Return the speeds that recordings are played at, rounded as `CropReader.read` rounds them."""
    low, high = (round(speed * SPEEDS) for speed in config.speed)
    return [number / SPEEDS for number in range(low, high + 1)]


def resident_bytes(recordings: Sequence[Recording], reader: CropReader, config: DataConfig) -> int:
    """Return how much memory a corpus takes, from its manifest alone."""
    seconds = sum({recording.audio: recording.seconds for recording in recordings}.values())
    audio = 2 * seconds * reader.sample_rate * sum(1 / speed for speed in speeds(config))
    if reader.mel is None:
        return round(audio)
    frames = {recording.mel: recording.seconds for recording in recordings if recording.mel}
    return round(audio + 4 * sum(frames.values()) * reader.sample_rate / reader.mel.hop_length * reader.mel.n_mels)


def is_resident(recordings: Sequence[Recording], reader: CropReader, config: DataConfig, device: torch.device) -> bool:
    """Decide whether a corpus is held in memory; see `DataConfig.resident`.

    Raises:
        ConfigError: If it is asked for and cannot be.
    """
    if config.resident == "off":
        return False
    wanted, needed = config.resident == "on", resident_bytes(recordings, reader, config)
    if config.transforms:
        if wanted:
            raise ConfigError(
                "data.resident is 'on', but data.transforms run on the CPU, one crop at a time. Leave out one of them."
            )
        return False
    memory, limit = _memory(device)
    if wanted and needed > memory:
        raise ConfigError(
            f"data.resident is 'on', but the corpus takes {needed / 1e9:.1f} GB; {device} has {memory / 1e9:.1f} GB. "
            "Set it to 'off', give fewer recordings, or a narrower range of data.speed."
        )
    return wanted or needed <= limit


def _memory(device: torch.device) -> tuple[int, int]:
    """Return the bytes that a device has, and those that 'auto' may take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free, free // 4
    if not hasattr(os, "sysconf"):
        return MOST_ON_CPU, MOST_ON_CPU
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return memory, min(memory // 4, MOST_ON_CPU)


class ResidentCorpus:
    """Random crops as of `CropDataset`, cut on a device that holds all recordings.

    Args:
        recordings: What to crop from.
        reader: Length and rate of a crop.
        config: Which augmentations; no transforms.
        seed: The seed of the stream.
        device: Where the corpus is held, and the audio of batches is made.

    Raises:
        DataError: If the recordings cannot be used; see `CropReader.check`.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        reader: CropReader,
        config: DataConfig,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        reader.check(recordings)
        self.recordings: Sequence[Recording] = list(recordings)
        self.reader = reader
        self.config = config
        self.seed = seed
        self.device = torch.device(device)
        self._ends = recording_ends(recordings, reader)
        self._speeds = speeds(config)
        self._failed: dict[int, Failure] = {}
        began = time.monotonic()
        self._load()
        _LOG.info(
            "%s, in memory on %s: %.0f MB, read in %.1f s",
            amount(len(self.recordings), self.seconds),
            self.device,
            1e-6 * (self._samples.nbytes + self._frames.nbytes),
            time.monotonic() - began,
        )

    @property
    def n_recordings(self) -> int:
        """Number of recordings."""
        return len(self.recordings)

    @property
    def seconds(self) -> float:
        """Length of all recordings."""
        return sum(recording.seconds for recording in self.recordings)

    def _load(self) -> None:
        """Read all files, several at a time; one that several recordings share is held once."""
        unique = {_files(recording): recording for recording in self.recordings}
        pieces: list[Tensor] = []
        mels: list[Tensor] = [torch.empty(0, self.reader.mel.n_mels if self.reader.mel else 0)]
        slots: dict[_Files, list[_Slot]] = {}
        failures: dict[_Files, Failure] = {}
        end, n_frames = self.reader.context, 0
        silence = torch.zeros(self.reader.context, dtype=torch.int16)
        for files, read in zip(unique, parallel_map(self._read, unique.values(), default_workers()), strict=True):
            if isinstance(read, AudiodiffError):
                failures[files] = Failure(files[0], read)
                continue
            slots[files] = []
            for samples, scale, overhang, mel in read:  # each has silence on both sides, as far as a context reaches
                frames = (0, 0) if mel is None else (n_frames, mel.shape[-1])
                slots[files].append(_Slot(end + overhang, len(samples) - 2 * overhang, scale, *frames))
                if mel is not None:
                    mels.append(mel.T)
                    n_frames += mel.shape[-1]
                missing = max(self.reader.n_samples + 2 * overhang - len(samples), 0)
                samples = functional.pad(samples, (0, missing))
                pieces += [silence, samples]
                end += len(samples) + len(silence)
        self._samples = torch.cat([*pieces, silence]).to(self.device)
        self._frames = torch.cat(mels).to(self.device)
        nothing = [_Slot(0, 0, 1.0)] * len(self._speeds)
        rows = [slots.get(_files(recording), nothing) for recording in self.recordings]
        self._first, self._n_samples, self._scale, self._first_frame, self._n_frames = (
            np.array([[slot[field] for slot in row] for row in rows]) for field in range(5)
        )
        self._describe(failures)

    def _read(self, recording: Recording) -> list[tuple[Tensor, float, int, Tensor | None]] | AudiodiffError:
        try:
            whole = self.reader.read_whole(recording, self._speeds)
        except (AudioError, DataError) as error:
            return error
        except OSError as error:
            return AudioError(f"{recording.audio} cannot be read: {error}.")
        return [(*_quantised(samples), overhang, mel) for samples, overhang, mel in whole]

    def _describe(self, failures: dict[_Files, Failure]) -> None:
        """Gather what goes with the audio of each recording at each speed."""
        examples = []
        for index, recording in enumerate(self.recordings):
            try:
                row = [self.reader.conditions(recording, speed) for speed in self._speeds]
            except DataError as error:
                self._failed[index] = Failure(recording.audio, error)
                row = []
            if _files(recording) in failures:
                self._failed[index] = failures[_files(recording)]
            examples.append(row)
        filler = next((row for row in examples if row), None)
        if filler is None:
            raise DataError(f"nothing can be read; the first failure: {self._failed[0].error}")
        rows = [row or filler for row in examples]
        self._bandwidth = torch.stack([torch.stack([example.bandwidth for example in row]) for row in rows])
        self._label, self._speaker, self._vector = (
            torch.stack([getattr(row[0], field) for row in rows]) for field in ("label", "speaker", "vector")
        )

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
        """Yield the batches of a run from one step on, without end; see `CropDataset.batches`.

        The audio is on the device of the corpus, all else on the host, as it is where files are read. `workers` has no
        effect: there is nothing to read.
        """
        step = start_step
        while True:
            first = (step * replica.world_size + replica.rank) * batch_size
            drawn = self._draw(range(first, first + batch_size), on_failure)
            recording = torch.from_numpy(drawn.recording)
            start = self._starts(drawn)
            rest = [
                self._label[recording],
                self._bandwidth[recording, torch.from_numpy(drawn.speed)],
                self._speaker[recording],
                self._vector[recording],
            ]
            if pin_memory:
                rest = [values.pin_memory() for values in rest]
            rest.append(self._cut_mels(drawn, start) if len(self._frames) else torch.empty(batch_size, 0, 0))
            yield Example(self._cut(drawn, start), *rest)
            step += 1

    def _draw(self, indices: range, on_failure: OnFailure | None) -> _Drawn:
        """Draw what `CropDataset` draws for these examples."""
        with_speed = self.config.speed != (1.0, 1.0)
        draws = uniform_draws(self.seed, indices, 5 + with_speed)
        recording = self._found(draws[:, 0])
        if self._failed:
            for row in np.flatnonzero(np.isin(recording, list(self._failed))):
                draws[row] = self._draw_again(indices[row], draws.shape[1], on_failure)
            recording = self._found(draws[:, 0])
        position, (flip, place, turn) = draws[:, 1], draws[:, -3:].T
        speed = np.zeros(len(draws), dtype=np.int64)
        if with_speed:
            played = [round(speed_at(self.config, value) * SPEEDS) for value in draws[:, 2]]
            speed = np.array(played) - round(self._speeds[0] * SPEEDS)
        low, high = self.config.gain_db
        gain = np.array([10 ** ((low + (high - low) * value) / 20) for value in place.tolist()])
        if self.config.polarity:
            gain = np.where(flip < 0.5, -gain, gain)
        return _Drawn(recording, position, speed, (turn < 0.5) & self.config.time_reversal, gain)

    def _found(self, draws: NDArray[np.float64]) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.searchsorted(self._ends[:-1], draws * self._ends[-1], side="right")
        return found

    def _draw_again(self, index: int, count: int, on_failure: OnFailure | None) -> NDArray[np.float64]:
        """Draw other recordings for an example until one is readable."""
        failure: Failure | None = None
        for attempt in range(ATTEMPTS):
            draws = example_generator(self.seed, index, attempt).random(count)
            failure = self._failed.get(int(self._found(draws[:1])[0]))
            if failure is None:
                return draws
            if on_failure is None:
                raise failure.error
            on_failure(failure)
        why = failure.error if failure else ""
        raise DataError(f"nothing can be read any more; the last of many failures: {why} Are the files whole?")

    def _starts(self, drawn: _Drawn) -> NDArray[np.int64]:
        """Return the first samples of the crops of a batch, in their recordings."""
        which, hop_length = (drawn.recording, drawn.speed), self.reader.mel.hop_length if self.reader.mel else 1
        grid = np.where(self._n_frames[which] > 0, hop_length, 1)
        return self.reader.first_samples(self._n_samples[which], drawn.position, grid)

    def _cut(self, drawn: _Drawn, start: NDArray[np.int64]) -> Tensor:
        """Return the audio of a batch `(batch, 1, context + time + context)`; the host does not wait for the device."""
        reader, which = self.reader, (drawn.recording, drawn.speed)
        integers = np.stack(
            [self._first[which] + start - reader.context, self._n_samples[which] - start, drawn.reverse]
        )
        factors = np.stack([self._scale[which] / _FULL_SCALE, drawn.gain]).astype(np.float32)
        (first, n_there, reverse), (scale, gain) = (self._sent(values) for values in (integers, factors))
        index = torch.arange(reader.n_samples + 2 * reader.context, device=self.device)
        audio = self._samples[first.unsqueeze(1) + index] * scale.unsqueeze(1)
        audio = reader.shape(audio, n_there.clamp_max(reader.n_samples))
        if self.config.time_reversal:
            audio = torch.where(reverse.bool().unsqueeze(1), audio.flip(-1), audio)
        batch: Tensor = audio.unsqueeze(1) * gain.view(-1, 1, 1)
        return batch

    def _cut_mels(self, drawn: _Drawn, start: NDArray[np.int64]) -> Tensor:
        """Return the mels of a batch, as loud as its audio `(batch, n_mels, frames)`; NaN where none is given."""
        if self.reader.mel is None:
            raise TypeError("a reader without a convention reads no mels")
        which, hop_length = (drawn.recording, drawn.speed), self.reader.mel.hop_length
        integers = np.stack(
            [(start - self.reader.context) // hop_length, self._first_frame[which], self._n_frames[which]]
        )
        first, begin, count = self._sent(integers).unsqueeze(-1)
        index = first + torch.arange(
            (self.reader.n_samples + 2 * self.reader.context) // hop_length, device=self.device
        )
        inside = ((index >= 0) & (index < count)).unsqueeze(-1)
        values = self._frames[(begin + index).clamp(0, len(self._frames) - 1)]
        gain = self._sent(drawn.gain.astype(np.float32)).view(-1, 1, 1)
        return amplified(torch.where(inside, values, torch.nan).mT, gain, self.reader.mel)

    def _sent(self, values: NDArray[np.generic]) -> Tensor:
        """Return an array on the device, whose copy is not waited for."""
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _files(recording: Recording) -> _Files:
    return recording.audio, recording.mel


def _quantised(samples: Tensor) -> tuple[Tensor, float]:
    """Return samples as 16-bit integers, and what their full scale stands for."""
    low, high = (float(value) for value in samples.aminmax())
    scale = max(1.0, high * _FULL_SCALE / (_FULL_SCALE - 1), -low)
    return (samples * (_FULL_SCALE / scale)).round_().to(torch.int16), scale
