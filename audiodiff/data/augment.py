"""Augmentation: what may be done to a crop of audio without making it another sound."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from audiodiff.config import DataConfig


def augment(audio: Tensor, generator: np.random.Generator, config: DataConfig) -> Tensor:
    """Apply every augmentation that the configuration asks for.

    Args:
        audio: A crop `(1, time)`.
        generator: The source of randomness; it is advanced alike whatever the configuration, so that switching one
            augmentation off leaves the others as they are.
        config: Which augmentations, and how strong.

    Returns:
        A new crop of the same shape; it may exceed [-1, 1], and is not clipped.
    """
    return random_gain(random_polarity(audio, generator, config), generator, config)


def random_polarity(audio: Tensor, generator: np.random.Generator, config: DataConfig) -> Tensor:
    """Flip the sign of half the crops, which nobody hears; arguments and result as in `augment`."""
    flip = generator.random() < 0.5
    return -audio if flip and config.polarity else audio


def random_gain(audio: Tensor, generator: np.random.Generator, config: DataConfig) -> Tensor:
    """Change the level by a random number of dB within `config.gain_db`; arguments and result as in `augment`."""
    low, high = config.gain_db
    decibels = low + (high - low) * generator.random()
    return audio * float(10 ** (decibels / 20))
