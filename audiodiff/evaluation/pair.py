"""Two recordings to compare, and what several metrics need of both: another rate, silence, the analysis by WORLD."""

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
_Found = TypeVar("_Found")

WORLD_FRAME_SECONDS = 0.005
"""Hop of WORLD's analysis, its default."""


class World(NamedTuple):
    """What WORLD (Morise, Yokomori and Ozawa 2016) finds in one channel, a frame every 5 ms.

    Attributes:
        pitch: F0 in Hz by DIO, refined by StoneMask; 0 where unvoiced `(frames,)`.
        envelope: Power spectrum by CheapTrick `(frames, bins)`.
    """

    pitch: Samples
    envelope: Samples


class Pair:
    """A generated recording and its original, at one rate and of one length.

    Args:
        generated: Samples in [-1, 1] `(channels, time)`.
        reference: The original, of the same shape.
        sample_rate: In Hz.

    Raises:
        AudioError: If the shapes differ or are not `(channels, time)`.
    """

    def __init__(self, generated: Tensor, reference: Tensor, sample_rate: int) -> None:
        if generated.ndim != 2 or generated.shape != reference.shape or not generated.numel():
            shapes = f"{tuple(generated.shape)} and {tuple(reference.shape)}"
            raise AudioError(f"recordings have shapes {shapes}; expected the same, (channels, time), not empty.")
        self.generated = generated.detach().cpu().float()
        self.reference = reference.detach().cpu().float()
        self.sample_rate = sample_rate
        self._found: dict[str, object] = {}

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.reference.shape[1] / self.sample_rate

    @cached_property
    def silent(self) -> bool:
        """Whether a channel of either recording holds nothing but zeros."""
        return not all(bool(audio.any(1).all()) for audio in (self.generated, self.reference))

    def at(self, sample_rate: int) -> tuple[Samples, Samples]:
        """Return generated and reference `(channels, time)` in float64, resampled by soxr at its highest quality."""
        return self.once(
            f"at {sample_rate} Hz",
            lambda: (
                _at(self.generated, self.sample_rate, sample_rate),
                _at(self.reference, self.sample_rate, sample_rate),
            ),
        )

    def once(self, name: str, find: Callable[[], _Found]) -> _Found:
        """Return what `find` returns, which is asked the first time only; several metrics share it by its name."""
        if name not in self._found:
            self._found[name] = find()
        return self._found[name]  # type: ignore[return-value]

    def mean_of_channels(self, sample_rate: int, metric: Callable[[Samples, Samples], float]) -> float:
        """Return the mean over channels of a metric of (generated, reference), each `(time,)` at a rate in Hz."""
        return float(np.mean([metric(*channel) for channel in zip(*self.at(sample_rate), strict=True)]))

    @cached_property
    def world(self) -> list[tuple[World, World]]:
        """The analyses of generated and reference, channel by channel, at the recordings' own rate."""
        own = self.at(self.sample_rate)
        return [
            (_analyse(generated, self.sample_rate), _analyse(reference, self.sample_rate))
            for generated, reference in zip(*own, strict=True)
        ]


def _at(audio: Tensor, from_rate: int, to_rate: int) -> Samples:
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

    rough, time = pyworld.dio(samples, sample_rate, frame_period=1000 * WORLD_FRAME_SECONDS)
    pitch = pyworld.stonemask(samples, rough, time, sample_rate)
    return World(pitch, pyworld.cheaptrick(samples, pitch, time, sample_rate))
