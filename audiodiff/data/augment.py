"""Augmentation: what may be done to a crop of audio so that training sees it in more than one form."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.config import DataConfig, MelConfig, TransformConfig
from audiodiff.data.crops import Example
from audiodiff.data.mels import amplified
from audiodiff.errors import ConfigError, needed

_Transform = Callable[..., NDArray[np.float32]]

_WRONG_USE = (TypeError, ValueError, AssertionError, ImportError, IndexError, ArithmeticError, RuntimeError, OSError)
"""Exceptions that audiomentations raises for invalid parameters or missing dependencies."""


def draw_speed(config: DataConfig, generator: np.random.Generator) -> float:
    """Draw how fast a crop is played, evenly in pitch; where that is not asked for, nothing is drawn."""
    return 1.0 if config.speed == (1, 1) else speed_at(config, generator.random())


def speed_at(config: DataConfig, place: float) -> float:
    """Return the speed at a place between the lowest (0) and the highest (1), evenly in pitch."""
    low, high = config.speed
    return float(low * (high / low) ** place)


class Augmenter:
    """Applies every augmentation that the configuration asks for.

    Args:
        config: Which augmentations, and how strong.
        sample_rate: Of the crops, in Hz.
        mel: The convention of mels that come with crops.

    Raises:
        ConfigError: If a transform of audiomentations is unknown, refuses its parameters, or is not installed.
    """

    def __init__(self, config: DataConfig, sample_rate: int, mel: MelConfig | None = None) -> None:
        self._config = config
        self._mel = mel
        self._sample_rate = sample_rate
        self._transforms = [(transform.name, _build(transform)) for transform in config.transforms]

    def example(self, example: Example, generator: np.random.Generator) -> Example:
        """Augment a crop, and the mel that comes with it; see `__call__`."""
        audio, gain = self._augmented(example.audio, generator)
        if self._mel is None or not example.mel.numel():
            return example._replace(audio=audio)
        return example._replace(audio=audio, mel=amplified(example.mel, torch.tensor(gain), self._mel))

    def __call__(self, audio: Tensor, generator: np.random.Generator) -> Tensor:
        """Augment one crop.

        Args:
            audio: A crop `(1, time)`.
            generator: The source of randomness; it is advanced alike whatever the configuration, so that switching one
                augmentation off leaves the others as they are.

        Returns:
            A new crop of the same shape; it may exceed [-1, 1], and is not clipped.

        Raises:
            ConfigError: If a transform fails, or returns another length, or something that is not finite.
        """
        return self._augmented(audio, generator)[0]

    def _augmented(self, audio: Tensor, generator: np.random.Generator) -> tuple[Tensor, float]:
        """Return the new crop and the gain that it was given last."""
        flip, place, turn = generator.random(3)
        seed = int(generator.integers(2**32))
        if turn < 0.5 and self._config.time_reversal:
            audio = audio.flip(-1)
        if self._transforms:
            audio = self._transformed(audio, seed)
        if flip < 0.5 and self._config.polarity:
            audio = -audio
        low, high = self._config.gain_db
        gain = float(10 ** ((low + (high - low) * place) / 20))
        return audio * gain, gain

    def _transformed(self, audio: Tensor, seed: int) -> Tensor:
        """Run the transforms of audiomentations, which draw from the global generators, on one channel."""
        samples = audio[0].numpy()
        with _global_randomness(seed):
            for name, transform in self._transforms:
                samples = self._run(name, transform, samples)
        return torch.from_numpy(np.ascontiguousarray(samples))[None]

    def _run(self, name: str, transform: _Transform, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            result = np.asarray(transform(samples=samples, sample_rate=self._sample_rate), dtype=np.float32)
        except _WRONG_USE as error:
            raise ConfigError(
                f"data.transforms: {name} fails: {error}. Change its parameters, or leave it out."
            ) from error
        if result.shape != samples.shape or not np.isfinite(result).all():
            raise ConfigError(
                f"data.transforms: {name} made of {len(samples)} samples {result.shape}, "
                f"{int((~np.isfinite(result)).sum())} of them not finite; training needs as many as there were, all "
                "finite. Change its parameters, or leave it out."
            )
        return result


def _build(config: TransformConfig) -> _Transform:
    with needed("augment", "data.transforms"):
        import audiomentations
    kind: Any = getattr(audiomentations, config.name, None)
    if not (isinstance(kind, type) and issubclass(kind, audiomentations.core.transforms_interface.BaseTransform)):
        raise ConfigError(
            f"data.transforms: audiomentations {audiomentations.__version__} has no transform {config.name!r}. Its "
            "documentation lists them, for example AddGaussianSNR, LowPassFilter, PitchShift, RoomSimulator."
        )
    try:
        transform: _Transform = kind(**config.parameters)
    except _WRONG_USE as error:
        raise ConfigError(f"data.transforms: {config.name} with {config.parameters} fails: {error}") from error
    return transform


@contextmanager
def _global_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy, and leave them afterwards as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
