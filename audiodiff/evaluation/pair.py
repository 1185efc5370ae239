"""Two recordings to compare, with what several metrics need of both: resampled audio, silence, WORLD's analysis."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.errors import AudioError

Samples = NDArray[np.float64]
_T = TypeVar("_T")

POCKETSPHINX = "audiodiff.evaluation.recognition:pocketsphinx"
"""The default recogniser, named as your own would be."""

WORLD_FRAME_SECONDS = 0.005
"""Hop of WORLD's analysis, its default."""


class World(NamedTuple):
    """WORLD's analysis of one channel (Morise, Yokomori and Ozawa 2016), a frame every 5 ms.

    Attributes:
        f0: F0 in Hz by DIO, refined by StoneMask; 0 where unvoiced `(frames,)`.
        envelope: Power spectrum by CheapTrick `(frames, bins)`.
    """

    f0: Samples
    envelope: Samples


class Pair:
    """A generated recording and its original, at one rate and of one length.

    Args:
        generated: Samples in [-1, 1] `(channels, time)`.
        reference: The original, of the same shape.
        sample_rate: In Hz.
        text: What is said, if that is known.
        recogniser: MODULE:FUNCTION of what recognises speech; see `audiodiff.evaluation.plugin`.

    Raises:
        AudioError: If the shapes differ or are not `(channels, time)`.
    """

    def __init__(
        self,
        generated: Tensor,
        reference: Tensor,
        sample_rate: int,
        *,
        text: str | None = None,
        recogniser: str = POCKETSPHINX,
    ) -> None:
        if generated.ndim != 2 or generated.shape != reference.shape or not generated.numel():
            shapes = f"{tuple(generated.shape)} and {tuple(reference.shape)}"
            raise AudioError(f"recordings have shapes {shapes}; expected the same, (channels, time), not empty.")
        self.generated = generated.detach().cpu().float()
        self.reference = reference.detach().cpu().float()
        self.sample_rate = sample_rate
        self.text = text
        self.recogniser = recogniser
        self._cache: dict[str, object] = {}

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.reference.shape[1] / self.sample_rate

    @cached_property
    def silent(self) -> bool:
        """Whether a channel of either recording holds nothing but zeros."""
        return not all(bool(audio.any(1).all()) for audio in (self.generated, self.reference))

    def resampled(self, sample_rate: int) -> tuple[Samples, Samples]:
        """Return generated and reference `(channels, time)` in float64, resampled by soxr at its highest quality."""
        return self.cached(
            f"at {sample_rate} Hz",
            lambda: (
                _resample(self.generated, self.sample_rate, sample_rate),
                _resample(self.reference, self.sample_rate, sample_rate),
            ),
        )

    def cached(self, name: str, compute: Callable[[], _T]) -> _T:
        """Return `compute()`, called the first time only; metrics share the value by its name."""
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]  # type: ignore[return-value]

    def mean_over_channels(self, sample_rate: int, metric: Callable[[Samples, Samples], float]) -> float:
        """Return the mean over channels of a metric of (generated, reference), each `(time,)` at a rate in Hz."""
        return float(np.mean([metric(*channel) for channel in zip(*self.resampled(sample_rate), strict=True)]))

    @cached_property
    def world(self) -> list[tuple[World, World]]:
        """The analyses of generated and reference, channel by channel, at the recordings' own rate."""
        channels = self.resampled(self.sample_rate)
        return [
            (_analyse(generated, self.sample_rate), _analyse(reference, self.sample_rate))
            for generated, reference in zip(*channels, strict=True)
        ]


def _resample(audio: Tensor, from_rate: int, to_rate: int) -> Samples:
    samples: Samples = audio.double().numpy()
    if from_rate == to_rate:
        return samples
    import soxr  # type: ignore[import-untyped]

    resampled: Samples = np.ascontiguousarray(soxr.resample(samples.T, from_rate, to_rate, quality="VHQ").T)
    return resampled


def _analyse(samples: Samples, sample_rate: int) -> World:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the way it finds its own version
        import pyworld

    coarse_f0, time = pyworld.dio(samples, sample_rate, frame_period=1000 * WORLD_FRAME_SECONDS)
    f0 = pyworld.stonemask(samples, coarse_f0, time, sample_rate)
    return World(f0, pyworld.cheaptrick(samples, f0, time, sample_rate))
