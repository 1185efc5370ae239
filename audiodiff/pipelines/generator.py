"""Waveforms from a class label, a speaker, any vector, or from nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Unpack

from audiodiff.audio.finishing import FinishedClip, finish_clip, parse_level
from audiodiff.audio.transforms import ArrayLike
from audiodiff.audio.whitening import Whitening
from audiodiff.checkpoint import choose_device, find_model, load_model
from audiodiff.choices import ANY_SEED, COUNT, SECONDS, Level
from audiodiff.config import ModelConfig, SynthesisConfig
from audiodiff.diffusion.samplers import StepCallback
from audiodiff.engine.choose import Dtype
from audiodiff.engine.streaming import Signal
from audiodiff.engine.windows import Length
from audiodiff.errors import ConfigError, ModelError
from audiodiff.networks import Network
from audiodiff.networks.base import isolated
from audiodiff.networks.conditioning import make_conditions
from audiodiff.pipelines.base import Piece, Pipeline
from audiodiff.pipelines.settings import SynthesisChanges


def check_generates(config: ModelConfig) -> None:
    """Refuse a model that needs a mel.

    Raises:
        ModelError: If it does.
    """
    if config.mel is not None:
        raise ModelError("this model is a vocoder and needs a mel spectrogram. Use `audiodiff vocode`.")


class Generator(Pipeline):
    """Make waveforms from a class label, a speaker, any vector, or from nothing.

    Args:
        network: A network without a mel condition.
        config: Its configuration.
        dtype: Precision of the network's matrix products, see `Pipeline`.

    Raises:
        ModelError: If the model needs a mel.
    """

    @isolated("off")
    def __init__(self, network: Network, config: ModelConfig, dtype: Dtype = "auto") -> None:
        super().__init__(network, config, dtype)
        check_generates(config)
        self.whitening = Whitening(config.whitening, None).to(self.device)
        self._warned_of_length = False

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", dtype: Dtype = "auto") -> Generator:
        """Load a generator; arguments and errors as in `Vocoder.from_pretrained`."""
        return cls(*load_model(find_model(name), choose_device(device)), dtype)

    @isolated("inference")
    def generate(
        self,
        label: str | None = None,
        count: int = 1,
        seconds: float | None = None,
        *,
        speaker: str | None = None,
        vector: ArrayLike | None = None,
        seed: int = 0,
        level: Level | float | str | None = None,
        on_step: StepCallback | None = None,
        **changes: Unpack[SynthesisChanges],
    ) -> Tensor:
        """Generate clips.

        Args:
            label: One of the model's labels, whatever the case; None for a model without, or, where training dropped
                some, for any.
            count: How many clips.
            seconds: Length of each; None means the model's own.
            speaker: One of the model's speakers; None as for `label`.
            vector: What the model was trained to follow `(vector_width,)`; None as for `label`.
            seed: Clip i is made from seed + i, so it is the same whatever the count.
            level: Peak of every clip in dBFS, such as -1, or its loudness, such as "-16LUFS": it is brought there, and
                its ends are faded, see `audiodiff.audio.finishing.finish_clip`. None leaves clips as they come, at any
                level and with samples beyond ±1.
            on_step: Called with (step, x) after every step of every piece of the signals.
            **changes: What is to differ from the model's own `SynthesisConfig`, for example `steps=50, guidance=2.0`.

        Returns:
            Waveforms `(count, 1, time)`, float32 on the model's device.

        Raises:
            ConfigError: If a name is unknown, a condition is missing, or the length, the count or a setting impossible.
        """
        settings = self.settings(changes)
        n_samples, level = self.n_samples(seconds), parse_level(level)
        self._warn_of_length(n_samples)
        if settings.start != "noise":
            raise ConfigError(f"start {settings.start!r} needs a mel, which this model has not; use 'noise'.")
        count, seed = COUNT.check("count", count), ANY_SEED.check("seed", seed)
        conditions = make_conditions(self.config, self.device, label=label, speaker=speaker, vector=vector)
        if conditions is None and changes.get("guidance", 1) != 1:
            raise ConfigError("guidance steers towards a label, a speaker or a vector; give one, or use guidance 1.")
        global_condition = None if conditions is None else self.network.embed(conditions)
        batch = self.engine.largest_batch or count
        clips = []
        for first in range(0, count, batch):
            seeds = range(seed + first, seed + min(count, first + batch))
            expanded = None if global_condition is None else global_condition.expand(len(seeds), -1)
            clips.append(self._clips(seeds, n_samples, expanded, settings, on_step))
        audio = self.whitening.colour(torch.cat(clips), None)[..., :n_samples]
        return audio if level is None else torch.stack([self.finish(clip, level).audio for clip in audio])

    def _clips(
        self,
        seeds: Sequence[int],
        n_samples: int,
        global_condition: Tensor | None,
        settings: SynthesisConfig,
        on_step: StepCallback | None,
    ) -> Tensor:
        """Return clips of at least `n_samples` before they are coloured."""
        hop_length = self.config.hop_length
        n_frames = -(-n_samples // hop_length)
        if self._is_whole(n_frames, settings):
            noise = self._noise(seeds, n_frames * hop_length)
            return self._sample_whole(
                noise(0), noise, settings, condition=None, global_condition=global_condition, on_step=on_step
            )
        size = self.engine.piece_frames
        starts = range(0, n_frames, size)
        batches = ([Piece(start * hop_length, min(size, n_frames - start) * hop_length)] for start in starts)
        pieces = Signal(batches, Length(n_frames * hop_length))
        sampled = self._sample_in_pieces(
            pieces,
            seeds,
            settings,
            global_condition=global_condition,
            on_step=on_step,
            chunk=size,
            in_threads=True,
        )
        return torch.cat(list(sampled), dim=-1)

    def finish(self, audio: Tensor, level: Level) -> FinishedClip:
        """Make a clip `(1, time)` ready to use, see `audiodiff.audio.finishing.finish_clip`."""
        return finish_clip(audio, self.sample_rate, level, self.config.network.patch)

    def _warn_of_length(self, n_samples: int) -> None:
        """Say once that clips are longer than those of training."""
        own = self.config.clip_seconds or 0
        trained = max(round(own * self.sample_rate), self.config.provenance.get("training", {}).get("crop_samples", 0))
        if 0 < trained < n_samples and not self._warned_of_length:
            self._warned_of_length = True
            seconds, longest = n_samples / self.sample_rate, own or trained / self.sample_rate
            warnings.warn(
                f"clips of {seconds:g} s are longer than those this model was trained on ({longest:.3g} s); what comes "
                "beyond is seldom of use: echoes, repetitions or noise. Make shorter clips and join them.",
                stacklevel=4,  # the caller of generate, beyond torch's wrapper for inference mode
            )

    def n_samples(self, seconds: float | None = None) -> int:
        """Return the length of a clip in samples; None is the model's own length.

        Raises:
            ConfigError: If the model has none, or there would be no sample.
        """
        seconds = self.config.clip_seconds if seconds is None else seconds
        if seconds is None:
            raise ConfigError("this model states no length of its own; give seconds.")
        n_samples: int = round(SECONDS.check("seconds", seconds) * self.sample_rate)
        if n_samples < 1:
            raise ConfigError(f"seconds is {seconds}; at the model's {self.sample_rate} Hz that is no sample.")
        return n_samples
