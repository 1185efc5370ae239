"""A study, from which a killed search resumes, and the score of noise levels.

A study is a file with one JSON line per trial. Noise levels are scored by what a vocoder makes of validation recordings
with them.
"""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audiodiff.audio.io import load_audio, make_folder, writable
from audiodiff.checkpoint import WEIGHTS, load_config
from audiodiff.config import SynthesisConfig
from audiodiff.data.manifest import Recording
from audiodiff.errors import AudioError, ConfigError, OutputError
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.scoring import METRICS, TITLES, score_pair
from audiodiff.pipelines import SynthesisChanges, Vocoder
from audiodiff.pipelines.mel_initialisation import MelInitialisation


class Study:
    """The trials of a search, kept in a file from the moment they are done.

    The first line says what the trials belong to. A line is appended in one piece and flushed to the disk; what a kill
    left of a last one is cut off.

    Args:
        path: The file; made if it is not there.
        fingerprint: What the results depend on, as plain values; a file that belongs to something else is refused.
        old_fingerprint: The same as files from earlier versions have it.

    Raises:
        ConfigError: If the file cannot be read, or belongs to another search.
    """

    def __init__(
        self, path: Path, fingerprint: Mapping[str, Any], old_fingerprint: Mapping[str, Any] | None = None
    ) -> None:
        self._path = path
        self._trials: list[dict[str, Any]] = []
        plain = json.loads(json.dumps(dict(fingerprint)))
        if not path.is_file() or not path.stat().st_size:
            make_folder(path.parent)
            self._append(plain)
            return
        first, *self._trials = self._read()
        differing = sorted(name for name in plain.keys() | first.keys() if plain.get(name) != first.get(name))
        if differing and first != old_fingerprint:
            what = "; ".join(f"{name} is {first.get(name)!r} there and {plain.get(name)!r} here" for name in differing)
            raise ConfigError(f"{path} belongs to another search: {what}. Choose another --study file.")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Go through the trials, oldest first."""
        return iter(self._trials)

    def add(self, trial: Mapping[str, Any]) -> None:
        """Keep a trial, given as plain values."""
        self._append(trial)
        self._trials.append(dict(trial))

    def _append(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        try:
            with writable(self._path).open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError.of(self._path, error) from error

    def _read(self) -> list[dict[str, Any]]:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            if not lines or not all(isinstance(line, dict) for line in lines):
                raise ValueError("its lines are no JSON objects")
        except ValueError as error:
            raise ConfigError(
                f"{self._path} is no study of audiodiff: {error}. Choose another --study file."
            ) from error
        return lines


Levels = tuple[float, ...]
"""Log-SNR of each step, noisiest first."""


_ROUNDS = 6
"""Rounds of timing: enough to meet a quiet moment where others use the machine too."""


class Clip(NamedTuple):
    """A validation recording.

    Attributes:
        name: For messages.
        audio: `(1, time)` at the model's rate.
    """

    name: str
    audio: Tensor


def read_clips(
    recordings: Sequence[Recording], sample_rate: int, *, seconds: float | None = None, resample: bool = False
) -> list[Clip]:
    """Read validation recordings.

    Args:
        recordings: Which.
        sample_rate: Of the model, in Hz.
        seconds: So much of each, from its beginning; None takes all.
        resample: Whether recordings at another rate are resampled; if not, they are refused.

    Returns:
        The recordings, several channels mixed to one.

    Raises:
        AudioError: If one cannot be read, or has another rate.
    """
    if any(recording.mel for recording in recordings):
        warnings.warn(
            "the mels that the manifest names are not used here: all are computed from the recordings.", stacklevel=2
        )
    clips = []
    for recording in recordings:
        if recording.sample_rate != sample_rate and not resample:
            raise AudioError(
                f"{recording.audio} is {recording.sample_rate} Hz; this model needs {sample_rate} Hz. Use --resample."
            )
        n_samples = None if seconds is None else round(min(seconds, recording.seconds) * recording.sample_rate)
        clips.append(Clip(recording.audio.name, load_audio(recording.audio, sample_rate, n_samples=n_samples)))
    return clips


class _RememberingInitialisation(MelInitialisation):
    """Makes the estimate of a mel once: it does not depend on noise levels, and costs more than a step."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._known: dict[tuple[object, ...], Tensor | None] = {}

    def estimate(self, mel: Tensor, seeds: Sequence[int], settings: SynthesisConfig) -> Tensor | None:
        content = blake2b(mel.cpu().numpy().tobytes()).hexdigest()
        key = (content, tuple(seeds), settings.start, settings.griffin_lim_iterations)
        if key not in self._known:
            self._known[key] = super().estimate(mel, seeds, settings)
        return self._known[key]


class Scorer:
    """Says how good noise levels are: the mean of a metric over what a vocoder makes of the mels of recordings.

    Args:
        vocoder: The vocoder; what it estimates before the first step is made once.
        clips: The validation recordings.
        metric: A name of `METRICS` that has a better direction.
        changes: What else differs from the model's own settings, such as start and sampler.
        seed: Of the noise.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        clips: Sequence[Clip],
        metric: str,
        changes: SynthesisChanges | None = None,
        seed: int = 0,
    ) -> None:
        self._vocoder = vocoder
        self.vocoder = vocoder.with_dtype("bf16" if vocoder.dtype == torch.bfloat16 else "fp32")
        self.vocoder.initialisation = _RememberingInitialisation(vocoder.spectrogram, vocoder.whitening)
        self.clips, self.metric, self.seed = clips, metric, seed
        self.changes = changes or SynthesisChanges()
        self.sign = -1 if METRICS[metric].better == "higher" else 1
        self._mels = [vocoder.mel(clip.audio) for clip in clips]

    def settings(self, steps: int) -> SynthesisConfig:
        """Return the model's reverse process of so many evenly spaced steps, its ends those of the model."""
        plain: SynthesisChanges = {"log_snrs": (), "schedule": "uniform", "steps": steps}
        return self.vocoder.settings({**self.changes, **plain})

    def fingerprint(self, folder: Path) -> dict[str, Any]:
        """Return what scores depend on: the model in a folder, the recordings, and how they are made and scored."""
        config = load_config(folder).model_dump(mode="json", exclude={"synthesis", "provenance"}, exclude_defaults=True)
        settings = self.settings(1)
        sound = [_checksum(clip.audio.numpy().tobytes()) for clip in self.clips]
        return {
            "study": "schedule",
            "model": _checksum((folder / WEIGHTS).read_bytes() + json.dumps(config).encode()),
            "data": _checksum("".join(sound).encode()),
            "metric": self.metric,
            "start": settings.start,
            "sampler": settings.sampler,
            "griffin_lim_iterations": settings.griffin_lim_iterations,
            "seed": self.seed,
            "dtype": str(self.vocoder.dtype).removeprefix("torch."),
        }

    def __call__(self, levels: Levels) -> tuple[float | None, str]:
        """Return the mean score; or None and the reason, where a recording cannot have one."""
        total = 0.0
        for clip, mel in zip(self.clips, self._mels, strict=True):
            made = self._make(self.vocoder, mel, levels)
            pair = Pair(made[:, : clip.audio.shape[-1]], clip.audio, self.vocoder.sample_rate)
            scores = score_pair(pair, [self.metric])
            if self.metric not in scores.values:
                return None, f"{clip.name} has no {TITLES[self.metric]}: {scores.failures[self.metric]}"
            total += scores.values[self.metric]
        return total / len(self.clips), ""

    def _make(self, vocoder: Vocoder, mel: Tensor, levels: Levels) -> Tensor:
        changes: SynthesisChanges = {**self.changes, "log_snrs": levels}
        with warnings.catch_warnings():  # a search tries on purpose what a user is warned of
            warnings.simplefilter("ignore", UserWarning)
            return vocoder(mel, seed=self.seed, **changes).cpu()

    def real_time_factors(self, schedules: Sequence[Levels]) -> list[float]:
        """Time the vocoder as users run it, on the longest recording: seconds per second of audio for each schedule.

        Of several rounds through all schedules the fastest counts for each.
        """
        clip, mel = max(zip(self.clips, self._mels, strict=True), key=lambda pair: pair[0].audio.shape[-1])
        fastest = [math.inf] * len(schedules)
        for _ in range(_ROUNDS):
            for place, levels in enumerate(schedules):
                began = time.perf_counter()
                self._make(self._vocoder, mel, levels)
                fastest[place] = min(fastest[place], time.perf_counter() - began)
        return [seconds * self.vocoder.sample_rate / clip.audio.shape[-1] for seconds in fastest]


def _checksum(content: bytes) -> str:
    return blake2b(content, digest_size=8).hexdigest()
