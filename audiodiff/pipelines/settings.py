"""The settings of a reverse process: a model's own with a caller's changes, and what samplers make of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor
from typing_extensions import TypedDict

from audiodiff.choices import ANY_SEED
from audiodiff.config import DiffusionConfig, SynthesisConfig, parse_config, searched_levels
from audiodiff.diffusion.guidance import Guidance
from audiodiff.diffusion.samplers import Clamp, Corrector, Langevin
from audiodiff.diffusion.schedules import from_log_snrs, make_schedule, rescale_zero_terminal_snr
from audiodiff.errors import ConfigError

_INSTEAD_OF_LOG_SNRS = {"steps", "schedule", "start", "start_log_snr", "end_log_snr"}
"""Changes that ask for other log-SNRs than those a model states one by one."""


SETTINGS = "synthesis settings"
"""Where the values are from, for messages."""


class SynthesisChanges(TypedDict, total=False):
    """What a caller may change of the reverse process; the fields are those of `audiodiff.config.SynthesisConfig`."""

    steps: int
    sampler: str
    corrector_steps: int
    corrector_snr: float
    clamp: bool
    schedule: str
    start: str
    start_log_snr: float
    end_log_snr: float
    zero_terminal: bool
    log_snrs: Sequence[float]
    griffin_lim_iterations: int
    mel_consistency: bool
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None


def noise_levels(settings: SynthesisConfig, diffusion: DiffusionConfig) -> Tensor:
    """Return the log-SNR `(steps + 1,)` of a reverse process.

    Args:
        settings: The reverse process.
        diffusion: How the network was trained: how low its levels go.

    Raises:
        ConfigError: If there is no such schedule.
    """
    levels = _levels(settings)
    return rescale_zero_terminal_snr(levels, floor=diffusion.log_snr_min) if settings.zero_terminal else levels


def _levels(settings: SynthesisConfig) -> Tensor:
    ends = {"log_snr_min": settings.start_log_snr, "log_snr_max": settings.end_log_snr}
    if settings.log_snrs:
        return from_log_snrs(settings.log_snrs)
    if settings.schedule == "searched":
        return from_log_snrs(searched_levels(settings.searched, settings.steps, settings.start, settings.sampler))
    return make_schedule(settings.schedule, settings.steps, **ends)


def merged(own: SynthesisConfig, changes: SynthesisChanges, lowest: float) -> SynthesisConfig:
    """Return a reverse process with changes; what they make meaningless of the rest does not stay."""
    values, changes = own.model_dump(), migrated(changes)
    if changes.get("start", own.start) != own.start:  # the model's own first level is for its own start
        values["start_log_snr"] = lowest
    if isinstance(log_snrs := changes.get("log_snrs"), np.ndarray | Tensor):
        changes["log_snrs"] = tuple(log_snrs.tolist())
    if changes.get("log_snrs"):
        del values["steps"]
    elif _INSTEAD_OF_LOG_SNRS & changes.keys():
        values["log_snrs"] = ()
    return parse_config(SynthesisConfig, values | changes, SETTINGS)


def migrated(changes: SynthesisChanges) -> SynthesisChanges:
    """Return changes with deprecated names replaced, with a warning."""
    return cast(SynthesisChanges, SynthesisConfig.migrate(changes, f"{SETTINGS}: "))


def make_corrector(settings: SynthesisConfig) -> Corrector | None:
    """Return what is done at every level of a reverse process before the step from there, if anything."""
    langevin = Langevin(settings.corrector_steps, settings.corrector_snr) if settings.corrector_steps else None
    return Clamp(langevin) if settings.clamp else langevin


def make_guidance(settings: SynthesisConfig) -> Guidance:
    """Return how strongly the conditions of a reverse process steer it, and where."""
    return Guidance(settings.guidance, settings.guidance_rescale, settings.guidance_interval)


def seeds_of(seed: int | Sequence[int], count: int) -> list[int]:
    """Return the seeds of so many waveforms, given one for all or one for each.

    Raises:
        ConfigError: If there are not as many seeds as waveforms, or one is impossible.
    """
    try:
        seeds = [ANY_SEED.check("seed", one) for one in seed]  # type: ignore[union-attr]  # or a TypeError
    except TypeError:
        seeds = [ANY_SEED.check("seed", seed)] * count
    if len(seeds) != count:
        raise ConfigError(f"{len(seeds)} seeds for {count} waveforms; give one seed, or one for each.")
    return seeds
