"""Waveforms from a class label, or from nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import Unpack

from audiodiff.audio.whitening import Whitening
from audiodiff.checkpoint import choose_device, find_model, load_model
from audiodiff.config import ModelConfig, SynthesisConfig
from audiodiff.diffusion.samplers import StepCallback
from audiodiff.engine.choose import Dtype
from audiodiff.errors import ConfigError, ModelError
from audiodiff.networks.build import Network
from audiodiff.pipelines.base import Pipeline, SynthesisChanges


class Generator(Pipeline):
    """Make waveforms from a class label, or from nothing.

    Args:
        network: A network without a mel condition.
        config: Its configuration.
        dtype: Precision of the network's matrix products, see `Pipeline`.

    Raises:
        ModelError: If the model needs a mel.
    """

    def __init__(self, network: Network, config: ModelConfig, dtype: Dtype = "auto") -> None:
        super().__init__(network, config, dtype)
        if config.mel is not None:
            raise ModelError("this model needs a mel spectrogram, so it cannot generate from nothing. Use Vocoder.")
        self._whitening = Whitening(config.whitening, None).to(self.device)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto", dtype: Dtype = "auto") -> Generator:
        """Load a generator; arguments and errors as in `Vocoder.from_pretrained`."""
        return cls(*load_model(find_model(name), choose_device(device)), dtype)

    @torch.inference_mode()
    def generate(
        self,
        label: str | None = None,
        count: int = 1,
        seconds: float | None = None,
        *,
        seed: int = 0,
        on_step: StepCallback | None = None,
        **changes: Unpack[SynthesisChanges],
    ) -> Tensor:
        """Generate clips.

        Args:
            label: One of the model's labels; None for a model without labels, or, where training dropped some, for a clip
                of no class.
            count: How many clips.
            seconds: Length of each; None means the model's own.
            seed: Clip i is made from seed + i, so it is the same whatever the count.
            on_step: Called with (step, x) after every step of every piece of the signals.
            **changes: What is to differ from the model's own `SynthesisConfig`, for example `steps=50`.

        Returns:
            Waveforms `(count, 1, time)`, float32 on the model's device.

        Raises:
            ConfigError: If the label is unknown, or the length, the count or a setting impossible.
        """
        settings = self.settings(changes)
        n_samples = self.n_samples(seconds)
        if settings.start != "noise":
            raise ConfigError(f"start {settings.start!r} needs a mel, which this model has not; use 'noise'.")
        if count < 1:
            raise ConfigError(f"count is {count}; it must be at least 1.")
        index = self._label_index(label)
        batch = self.engine.largest_batch or count
        clips = []
        for first in range(0, count, batch):
            seeds = range(seed + first, seed + min(count, first + batch))
            clips.append(torch.cat(list(self._pieces(seeds, n_samples, index, settings, on_step)), dim=-1))
        return self._whitening.colour(torch.cat(clips), None)[..., :n_samples]

    def _pieces(
        self,
        seeds: Sequence[int],
        n_samples: int,
        label: int | None,
        settings: SynthesisConfig,
        on_step: StepCallback | None,
    ) -> Iterator[Tensor]:
        block = self.config.block_length
        whole, piece = -(-n_samples // block) * block, self.engine.piece_blocks * block
        labels = None if label is None else torch.full((len(seeds),), label, device=self.device)
        front = self._wavefront(settings, on_step, label=labels)
        for start in range(0, whole, piece):
            stop = min(start + piece, whole)
            walk = self._walk(None, seeds, settings, start=start, n_samples=stop - start)
            yield from front.push(walk, None, last=stop == whole)

    def n_samples(self, seconds: float | None = None) -> int:
        """Return the length of a clip in samples; None is the model's own length.

        Raises:
            ConfigError: If the model has none, or there would be no sample.
        """
        seconds = self.config.clip_seconds if seconds is None else seconds
        if seconds is None:
            raise ConfigError("this model states no length of its own; give seconds.")
        n_samples = round(seconds * self.sample_rate)
        if n_samples < 1:
            raise ConfigError(f"seconds is {seconds}; at {self.sample_rate} Hz that is no sample.")
        return n_samples

    def _label_index(self, label: str | None) -> int | None:
        labels = self.config.labels
        if label is None:
            if labels and not self.config.condition_dropout:
                raise ConfigError(
                    f"this model needs a label; choose from {', '.join(labels)}. Only one trained with "
                    "training.condition_dropout can do without."
                )
            return None
        if label not in labels:
            raise ConfigError(f"unknown label {label!r}; this model knows {', '.join(labels) or 'none'}.")
        return labels.index(label)
