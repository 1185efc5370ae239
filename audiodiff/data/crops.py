"""Crops of recordings at the model's sample rate, read by seeking: nothing is read that is not needed."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate

from audiodiff.audio.finishing import fades
from audiodiff.audio.io import AudioInfo, audio_info, load_audio
from audiodiff.audio.resample import resample
from audiodiff.config import DataConfig, MelConfig, ModelConfig
from audiodiff.data.conditions import check_given, name_index, read_vector
from audiodiff.data.manifest import Recording
from audiodiff.data.mels import HopMel, check_stated_convention, recording_mel
from audiodiff.errors import DataError

FULL_BAND = 0.45
"""A recording that reaches up to this fraction of the sample rate counts as full band."""

SPEEDS = 50
"""Different speeds between a halt and the recording's own: enough for the ear, few enough for filters to be kept."""

_RESAMPLING_REACH = 160
"""Samples, at the lower of two rates, that a resampled sample depends on to either side; a little more than that."""

_LOG = logging.getLogger(__name__)


class Example(NamedTuple):
    """What training sees of one crop; a batch has one more dimension in front of each.

    Attributes:
        audio: Samples `(1, context + time + context)`, float32.
        label: Index of the class `()`, int64; the number of classes where a recording has none.
        bandwidth: Hz above which the recording has nothing `()`, float32; infinite for a full-band recording.
        speaker: Index of the speaker `()`, int64; the number of speakers where a recording names none.
        vector: Any vector `(vector_width,)`, float32; NaN where a recording has none.
        mel: The mel that the manifest names, one frame per hop of `audio` `(n_mels, frames)`, float32; NaN where it
            has no frame; empty `(0, 0)` where the mel is to be computed.
    """

    audio: Tensor
    label: Tensor
    bandwidth: Tensor
    speaker: Tensor
    vector: Tensor
    mel: Tensor = torch.empty(0, 0)


def stack(examples: Sequence[Example]) -> Example:
    """Make a batch; where some of its mels are given, the others are NaN."""
    shapes = {example.mel.shape for example in examples}
    if len(shapes) > 1:
        missing = torch.full(max(shapes), torch.nan)
        examples = [example if example.mel.numel() else example._replace(mel=missing) for example in examples]
    batch: Example = default_collate(list(examples))
    return batch


class WholeRecording(NamedTuple):
    """A recording at the rate of the crops.

    Attributes:
        samples: `(overhang + time + overhang,)`, float32.
        overhang: Samples before its start and after its end, which a resampling filter rings into.
        mel: The mel that the manifest names, one frame per hop `(n_mels, n_hops)`; None where it names none.
    """

    samples: Tensor
    overhang: int
    mel: Tensor | None = None


def context_frames(model: ModelConfig) -> int:
    """Return how many frames beyond either end of a crop its mel and its whitening depend on.

    They are read with the crop and cut off when both are computed, because the recording continues beyond a crop: the
    sharp edge would put dozens of times the usual power into the last whitened frame.
    """
    if model.mel is None:
        return 0
    return math.ceil(model.mel.n_fft / 2 / model.mel.hop_length) + 1


@dataclass(frozen=True)
class CropReader:
    """How recordings become crops of one length and rate.

    Several channels are averaged into one. A recording shorter than a crop is padded with zeros at its end, and so is
    the context of a crop at either end of its recording.

    Attributes:
        sample_rate: Of the crops, in Hz.
        n_samples: Of a crop, without context.
        context: Samples that are read before and after a crop.
        labels: Class names of the model.
        resample: Whether files at other rates are resampled; otherwise they are refused.
        mask_bandwidth: Whether crops tell the band of their recording; otherwise all count as full band.
        speakers: Names of the model's speakers.
        vector_width: Length of the vector that the model takes, 0 for none.
        one_shots: Whether crops begin where recordings do.
        peak_db: Peak that every crop is brought to, in dB of full scale; None leaves levels as they are.
        fade: Samples that are faded in at the start of a crop, and out at its end.
        mel: The convention of the mels that manifests name; None leaves these alone. A recording with a mel begins and
            ends with it, and its crops begin at hops.
    """

    sample_rate: int
    n_samples: int
    context: int = 0
    labels: tuple[str, ...] = ()
    resample: bool = True
    mask_bandwidth: bool = True
    speakers: tuple[str, ...] = ()
    vector_width: int = 0
    one_shots: bool = False
    peak_db: float | None = None
    fade: tuple[int, int] = (0, 0)
    mel: MelConfig | None = None

    @classmethod
    def for_model(cls, model: ModelConfig, data: DataConfig) -> CropReader:
        """Return the reader that a model and the data section of a run ask for; crops are whole hops."""
        n_frames = math.ceil(data.crop_seconds * model.sample_rate / model.hop_length)
        n_samples, context = (n * model.hop_length for n in (n_frames, context_frames(model)))
        return cls(
            *(model.sample_rate, n_samples, context, model.labels, data.resample, data.mask_bandwidth),
            speakers=model.speakers,
            vector_width=model.vector_width,
            one_shots=data.one_shots,
            peak_db=data.peak_db,
            fade=(round(data.fade_seconds[0] * model.sample_rate), round(data.fade_seconds[1] * model.sample_rate)),
            mel=model.mel if data.given_mels else None,
        )

    def check(self, recordings: Sequence[Recording]) -> None:
        """Refuse recordings that cannot be used, and say how many will be padded, unless they are one-shots.

        Args:
            recordings: What crops will be read from.

        Raises:
            DataError: If there are none, a rate would have to be changed although that is not wanted, or labels,
                speakers or vectors do not fit the model's.
        """
        if not recordings:
            raise DataError("there are no recordings to read crops from.")
        for recording in recordings:
            self._check_rate(recording)
            if self.mel is not None:
                check_stated_convention(recording, self.mel)
        check_given(recordings, self.labels, self.speakers, self.vector_width)
        crop_seconds = self.n_samples / self.sample_rate
        n_short = sum(recording.seconds < crop_seconds for recording in recordings)
        if n_short and not self.one_shots:
            _LOG.warning(
                "%d of %d recordings are shorter than a crop of %.2f s and are padded with zeros",
                n_short,
                len(recordings),
                crop_seconds,
            )

    def read(self, recording: Recording, position: float, speed: float = 1.0) -> Example:
        """Read one crop.

        Args:
            recording: Where from.
            position: Where in it: 0 is the first possible crop, just under 1 the last; of one-shots the first anyway.
            speed: How fast it is played, rounded to 2 %: 2 is an octave higher and half as long.

        Returns:
            The crop, not augmented.

        Raises:
            AudioError: If the file cannot be read.
            DataError: If the file is not what the manifest says.
        """
        info = self._check_file(recording)
        before, after = self._ratio(recording, speed)
        mel = self._hop_mel(recording)
        n_samples = mel.n_samples if mel else math.ceil(info.n_samples * after / before)
        first = int(self.first_samples(np.array(n_samples), np.array(position), mel.hop_length if mel else 1))
        # What is read begins whole periods of the two rates before the crop, so that it falls on samples of the result.
        periods = math.ceil((self.context * before / after + _reach(before, after)) / before)
        start = (first // after - periods) * before
        end = math.ceil((first + self.n_samples) * before / after) + periods * before
        skipped = first % after + periods * after - self.context
        audio = resample(_read_span(recording, info, start, end), before, after)
        audio = audio[:, skipped : skipped + self.n_samples + 2 * self.context]
        if mel:  # beyond which there is nothing to whiten the audio by
            audio[:, : max(self.context - first, 0)] = 0
            audio[:, max(n_samples - first + self.context, 0) :] = 0
        audio = self.shape(audio, torch.tensor([min(self.n_samples, n_samples - first)]))
        example = self._example(recording, speed, audio)
        return example._replace(mel=mel.crop(first - self.context, audio.shape[-1])) if mel else example

    def first_samples(
        self, n_samples: NDArray[np.int64], position: NDArray[np.float64], grid: NDArray[np.int64] | int = 1
    ) -> NDArray[np.int64]:
        """Return where crops begin.

        Args:
            n_samples: Lengths of the recordings at the rate of the crops.
            position: Where in them: 0 is the first possible crop, just under 1 the last; of the same shape.
            grid: Crops begin at multiples of so many samples.

        Returns:
            Indices of the first samples, at the rate of the crops.
        """
        last = np.maximum(n_samples - self.n_samples, 0) * (not self.one_shots) // grid
        index: NDArray[np.int64] = np.minimum((position * (last + 1)).astype(np.int64), last)
        return index * grid

    def read_whole(self, recording: Recording, speeds: Sequence[float] = (1.0,)) -> list[WholeRecording]:
        """Read a whole recording, as crops are cut from it.

        Args:
            recording: Which.
            speeds: How fast it is played, each rounded to 2 %.

        Returns:
            The recording at the rate of the crops, for each speed.

        Raises:
            AudioError: If the file cannot be read.
            DataError: If the file is not what the manifest says.
        """
        self._check_file(recording)
        mel = self._hop_mel(recording)
        audio, wholes = load_audio(recording.audio), []
        for before, after in (self._ratio(recording, speed) for speed in speeds):
            periods = math.ceil(_reach(before, after) / before)
            padded = functional.pad(audio, (periods * before, periods * before))
            whole = WholeRecording(resample(padded, before, after)[0], periods * after)
            if mel:
                samples = whole.samples[whole.overhang :]
                samples = functional.pad(samples, (0, mel.n_samples - len(samples)))  # or cut
                whole = WholeRecording(samples, 0, mel.values)
            wholes.append(whole)
        return wholes

    def _hop_mel(self, recording: Recording) -> HopMel | None:
        mel = None if self.mel is None else recording_mel(recording, self.mel)
        return None if mel is None or self.mel is None else HopMel(mel, self.mel)

    def conditions(self, recording: Recording, speed: float = 1.0) -> Example:
        """Return what training sees of a recording beside its audio, in an example whose audio is empty `(1, 0)`.

        Raises:
            DataError: If it does not fit the model.
        """
        return self._example(recording, speed, torch.empty(1, 0))

    def _example(self, recording: Recording, speed: float, audio: Tensor) -> Example:
        return Example(
            audio,
            label=torch.tensor(name_index(recording, "label", self.labels)),
            bandwidth=torch.tensor(self._bandwidth(recording, speed)),
            speaker=torch.tensor(name_index(recording, "speaker", self.speakers)),
            vector=read_vector(recording, self.vector_width),
        )

    def shape(self, audio: Tensor, n_there: Tensor) -> Tensor:
        """Fade crops and bring them to their peak, as far as that is asked for.

        Args:
            audio: Crops `(batch, context + time + context)`.
            n_there: Samples from the start of each crop to its end or that of its recording `(batch,)`.

        Returns:
            Crops of the same shape; silent ones stay silent.
        """
        if any(self.fade):
            faded = fades(self.n_samples, n_there, *self.fade).to(audio)
            audio = audio * functional.pad(faded, (self.context, self.context), value=1.0)
        if self.peak_db is not None:
            peak = audio.abs().amax(-1, keepdim=True)
            audio = audio * (10 ** (self.peak_db / 20) / torch.where(peak > 0, peak, 1.0))
        return audio

    def _ratio(self, recording: Recording, speed: float) -> tuple[int, int]:
        """Return how many samples of the file become how many of the crop, in lowest terms."""
        played, wanted = recording.sample_rate * round(speed * SPEEDS), self.sample_rate * SPEEDS
        divisor = math.gcd(played, wanted)
        return played // divisor, wanted // divisor

    def _check_file(self, recording: Recording) -> AudioInfo:
        info = audio_info(recording.audio)
        stated = recording.n_samples or info.n_samples
        if info.sample_rate != recording.sample_rate or info.n_samples != stated:
            raise DataError(
                f"{recording.audio} has {info.n_samples} samples at {info.sample_rate} Hz; its manifest says {stated} "
                f"at {recording.sample_rate} Hz. Write the manifest again with `audiodiff prepare`."
            )
        return info

    def _check_rate(self, recording: Recording) -> None:
        if recording.sample_rate != self.sample_rate and not self.resample:
            raise DataError(
                f"{recording.audio} is {recording.sample_rate} Hz; this model needs {self.sample_rate} Hz. "
                "Set data.resample to true, or give recordings at that rate."
            )

    def _bandwidth(self, recording: Recording, speed: float) -> float:
        band = round(speed * SPEEDS) / SPEEDS * min(recording.bandwidth or math.inf, recording.sample_rate / 2)
        return band if self.mask_bandwidth and band < FULL_BAND * self.sample_rate else math.inf


def _reach(before: int, after: int) -> int:
    """Return how many samples of a file a resampled one depends on to either side."""
    return math.ceil(_RESAMPLING_REACH * max(1.0, before / after)) if before != after else 0


def _read_span(recording: Recording, info: AudioInfo, first: int, last: int) -> Tensor:
    """Read samples `first` to `last` at the file's own rate, zeros beyond its ends; shape `(1, last - first)`."""
    begin, end = max(first, 0), min(last, info.n_samples)
    audio = load_audio(recording.audio, start=begin, n_samples=end - begin)
    return functional.pad(audio, (begin - first, last - end))
