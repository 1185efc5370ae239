"""The conventions that a mel may follow: those of the table, and what else toolkits make of the same filter bank."""

from __future__ import annotations

import math
import warnings
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audiodiff.audio.mel import mel_filterbank, mel_range
from audiodiff.audio.transforms import Array, as_given, as_tensor
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError

Values = NDArray[np.float32]

_VALUE_FIELDS = (
    *("power", "full_scale", "magnitude_floor", "window_norm", "dynamic_range", "log", "floor", "guard"),
    *("multiplier", "offset", "clip", "mean", "std"),
)
"""Of `MelConfig`: what becomes of a filtered spectrum."""


class Candidate(NamedTuple):
    """A convention that a mel may follow.

    Attributes:
        name: For messages.
        config: It.
        to_fit: Whether its mean and standard deviation are unknown: "" if not; "standardised" if they are those of all
            values, "standardised by bin" if each bin has its own; "relative" if its loudest value is 0.
    """

    name: str
    config: MelConfig
    to_fit: str = ""

    @property
    def affine(self) -> tuple[float, float]:
        """Factor and offset such that a value is factor * ln(mel magnitude) + offset; linear ones after a logarithm."""
        config = self.config
        if self.to_fit.startswith("standardised"):
            return 1.0, 0.0
        scale = config.multiplier / (math.log(10) if config.log == "log10" else 1.0)
        factor = scale * config.power
        if config.log == "none":
            return float(config.power), math.log(config.multiplier) + factor * math.log(config.full_scale)
        norm = config.full_scale / (config.hann_norm if config.window_norm else 1.0)
        offset = config.offset + factor * math.log(norm)
        if isinstance(config.mean, tuple) or isinstance(config.std, tuple):
            return factor, offset  # of values that `plain_values` has freed of them
        return factor / config.std, (offset - config.mean) / config.std

    @property
    def factor_and_level(self) -> tuple[float, float]:
        """Factor and offset of the logarithm of the spectrum's magnitude: with the sums of the filters, roughly."""
        factor, offset = self.affine
        return factor, offset + factor / self.config.power * filter_level(self.config)

    @property
    def entry(self) -> str | None:
        """The statistics that are meant, if they are not those of the nearest floor."""
        if self.to_fit:
            return self.to_fit
        return "clipped" if self.config.dynamic_range is not None else None

    @property
    def entry_of_values(self) -> str | None:
        """The same, where one known mean and standard deviation are "standardised" too."""
        return self.entry or (None if (self.config.mean, self.config.std) == (0, 1) else "standardised")

    def plain_values(self, mel: Values) -> Values:
        """Return values without mean and standard deviation of each bin; the logarithm of linear ones that sound."""
        config, heard = self.config, heard_bins(self.config)
        if config.log == "none":
            return logarithm(mel if heard.all() else mel[heard])
        if isinstance(config.mean, tuple) or isinstance(config.std, tuple):
            mean, deviation = (np.array(each, np.float32).reshape(-1, 1) for each in (config.mean, config.std))
            return np.asarray(mel * deviation + mean, np.float32)
        return mel

    @property
    def limits(self) -> tuple[float, float]:
        """Lowest value, and the highest that samples in [-1, 1] can have; infinite where that depends."""
        config = self.config
        if self.entry or config.log == "none":
            return -math.inf, math.inf
        by_bin = isinstance(config.mean, tuple) or isinstance(config.std, tuple)
        return mel_range(config.model_copy(update={"mean": 0.0, "std": 1.0}) if by_bin else config)


def candidates(n_mels: int, base: MelConfig) -> list[Candidate]:
    """Return the conventions that a mel may follow.

    Args:
        n_mels: Its number of bins.
        base: The convention that is wanted; variants of it are among them, first itself.
    """
    named = [config for config in MEL_CONVENTIONS.values() if config.n_mels == n_mels]
    if base.n_mels != n_mels:
        new = {"n_mels": n_mels, "name": f"{base.name} of {n_mels} bins", "mean": 0.0, "std": 1.0}
        base = named[0] if named else base.model_copy(update=new)
    first = [Candidate(base.name, base)]
    first += [Candidate(config.name, config) for config in named if not same(config, base)]
    if base.f_max <= 8000 < base.sample_rate / 2:
        first.append(Candidate(f"{base.name} of audio at 16 kHz", base.model_copy(update={"sample_rate": 16000})))
    return first + variants(base)


def variants(base: MelConfig) -> list[Candidate]:
    """Return what other toolkits make of the same filter bank."""
    plain = {name: MelConfig.model_fields[name].default for name in _VALUE_FIELDS} | {"name": "custom"}

    def variant(name: str, to_fit: str = "", **fields: object) -> Candidate:
        return Candidate(name, base.model_copy(update=plain | fields), to_fit)

    decibels: dict[str, Any] = {"log": "log10", "power": 2, "multiplier": 10.0, "floor": 1e-10}
    scaled: dict[str, Any] = {"log": "log10", "floor": 1e-5, "clip": (0.0, 1.0), "multiplier": 0.2, "offset": 0.8}
    return [
        variant("natural logarithm", floor=1e-5),
        variant("log10", log="log10", floor=1e-5),
        variant("log10 with floor 1e-10", log="log10", floor=1e-10),
        variant("natural logarithm standardised by one mean and standard deviation", "standardised"),
        variant("natural logarithm standardised bin by bin", "standardised by bin"),
        variant("decibels scaled to -4..4", **scaled | {"clip": (-4.0, 4.0), "multiplier": 1.6, "offset": 2.4}),
        variant("decibels scaled to 0..1", **scaled),
        variant("log power", power=2, floor=1e-10),
        variant("log power with floor 1e-5", power=2, floor=1e-5),
        variant("log10 power", power=2, log="log10", floor=1e-10),
        variant("decibels", **decibels),
        variant("decibels, at most 80 below the loudest value", **decibels, dynamic_range=80.0),
        variant("decibels below the loudest value", "relative", **decibels),
        variant("natural logarithm of 16-bit samples", full_scale=32768.0),
        variant("log10 of 16-bit samples", full_scale=32768.0, log="log10", floor=1e-10),
        variant("linear magnitudes", log="none"),
        variant("linear power", log="none", power=2),
    ]


def may_be_linear(mel: Values) -> bool:
    """Return whether values are none of a logarithm: mostly far below the largest, and 0 in frames of silence alone."""
    if mel.min() < 0 or not mel.any():
        return False
    values = mel[mel.any(1)][:, np.ptp(mel, axis=0) > 0]
    return bool((values == 0).sum() < 0.001 * mel.size and np.quantile(values, 0.25) < 0.1 * values.max())


def logarithm(mel: Values) -> Values:
    """Return the natural logarithm of linear values, which are at least 0."""
    return np.log(np.maximum(mel, 1e-8))


@lru_cache(maxsize=64)
def heard_bins(config: MelConfig) -> NDArray[np.bool_]:
    """Return which bins have a filter that reaches a bin of the STFT, `(n_mels,)`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heard: NDArray[np.bool_] = mel_filterbank(config).max(1) > 0
    return heard


@lru_cache(maxsize=64)
def filter_level(config: MelConfig) -> float:
    """Return the mean logarithm of the sums of the filters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sums = mel_filterbank(config).sum(1)
    return float(np.log(sums[sums > 0]).mean())


def bank_name(config: MelConfig) -> str:
    """Return what the statistics of a filter bank are stored under."""
    emphasis = f"-{config.pre_emphasis:g}" if config.pre_emphasis else ""
    return (
        f"{config.sample_rate}-{config.n_fft}-{config.hop_length}-{config.win_length}-{config.n_mels}-"
        f"{config.f_min:g}-{config.f_max:g}-{config.scale}-{config.norm}-{config.power}{emphasis}"
    )


@cache
def reference_banks() -> dict[str, MelConfig]:
    """Return the conventions whose filter banks have statistics, by `bank_name`: those of the table, some of power."""
    power = [MEL_CONVENTIONS[name].model_copy(update={"power": 2}) for name in ("hifigan-22k", "bigvgan-24k")]
    return {bank_name(config): config for config in (*MEL_CONVENTIONS.values(), *power)}


def clipped(mel: Array, config: MelConfig) -> Array:
    """Return a mel with its values brought into the range of a convention; NaN and infinities stay."""
    low, high = Candidate("", config).limits
    values = as_tensor(mel, "mel", MelError)
    return as_given(torch.where(values.isfinite(), values.clamp(low, high), values), mel)


def same(one: MelConfig, other: MelConfig) -> bool:
    """Return whether two conventions are the same but for their names."""
    return one.model_dump(exclude={"name"}) == other.model_dump(exclude={"name"})
