"""What a search for noise levels has found: levels, the score they reached, and what that score belongs to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pydantic import Field, field_validator

from audiodiff.choices import Start
from audiodiff.config.base import Config
from audiodiff.errors import ConfigError


def check_levels(levels: Sequence[float]) -> None:
    """Refuse what no sampler can walk.

    Raises:
        ValueError: If the levels are not finite or do not rise.
    """
    if not all(map(math.isfinite, levels)) or not all(low < high for low, high in pairwise(levels)):
        raise ValueError(
            f"levels must be finite log-SNRs that rise, noisiest first, got {', '.join(f'{x:g}' for x in levels)}"
        )


class SearchedLevels(Config):
    """The best noise levels of one number of steps, for one start and one sampler: `audiodiff search schedule`."""

    levels: tuple[float, ...] = Field(min_length=1, description="log-SNR of each step, noisiest first")
    start: Start = Field(description="what the levels were searched for")
    sampler: str = Field(description="likewise")
    metric: str = Field(description="a name of audiodiff.evaluation.registry")
    score: float = Field(description="mean of the metric over the validation recordings the search was made on")
    uniform_score: float | None = Field(
        None, description="of as many steps, evenly spaced in log-SNR between the ends that the model states"
    )
    data: str = Field("", description="these recordings, in words")

    @field_validator("levels")
    @classmethod
    def _check(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        check_levels(levels)
        return levels

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.levels)


def searched_levels(searched: Sequence[SearchedLevels], steps: int, start: str, sampler: str) -> tuple[float, ...]:
    """Return the searched levels of a number of steps, a start and a sampler.

    Raises:
        ConfigError: If there are none; the message names those that there are.
    """
    for found in searched:
        if (found.steps, found.start, found.sampler) == (steps, start, sampler):
            return found.levels
    known = [f"{found.steps} from {found.start} by {found.sampler}" for found in searched]
    raise ConfigError(
        f"no searched levels of {steps} steps from {start} by {sampler}; this model has {', '.join(known) or 'none'}. "
        "`audiodiff search schedule` finds some."
    )
