"""One mel convention, as values: two toolkits that differ in one of them make noise of each other's mels."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from audiodiff.choices import FRACTION, SAMPLE_RATE, WINDOW, Number
from audiodiff.config.base import Config

_MelValue = Annotated[float, Number(float, low=-1e6, high=1e6)]
_Statistics = _MelValue | tuple[_MelValue, ...]

_OF_MODELS = {
    "window": "hann", "full_scale": 1.0, "pre_emphasis": 0.0, "reference": "absolute", "guard": "clamp",
    "dynamic_range": None, "mean": 0.0, "std": 1.0,
}  # fmt: skip
"""What the mels of a model have in common; those of others are converted to them."""


class MelConfig(Config):
    """One mel convention: everything that decides how samples become a mel spectrogram.

    Two toolkits that differ in any of these make mels that sound like noise in each other's vocoder.
    """

    name: str = "custom"
    sample_rate: Annotated[int, SAMPLE_RATE] = Field(description="Hz")
    n_fft: Annotated[int, WINDOW] = Field(description="samples")
    hop_length: Annotated[int, WINDOW] = Field(description="samples between frames")
    win_length: Annotated[int, WINDOW] = Field(description="samples; the window is centred in n_fft")
    window: Literal["hann", "hann-symmetric"] = Field(
        "hann", description="periodic, as for spectral analysis, or symmetric, as NeMo has it"
    )
    n_mels: Annotated[int, Number(int, low=1, high=4096)] = Field(description="number of bins")
    f_min: Annotated[float, Number(float, low=0, high=384_000, unit="Hz")] = Field(description="Hz")
    f_max: Annotated[float, Number(float, above=0, high=384_000, unit="Hz")] = Field(description="Hz")
    scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney", "none"] = "slaney"
    power: Literal[1, 2] = 1
    centre: Literal["frame", "hop", "window"] = Field(
        "hop",
        description="where frame i is centred: 'frame' at i * hop (n_fft / 2 padded, one frame more), "
        "'hop' at (i + 1/2) * hop ((n_fft - hop) / 2 padded), 'window' at i * hop + n_fft / 2 (nothing padded)",
    )
    pairing: Literal["midpoint", "frame"] = Field(
        "midpoint",
        description="centre 'frame' only: what a block of hop samples is conditioned on. 'midpoint' is the mean of the "
        "frames at its two ends; 'frame' is the one at its beginning, as lmnt-com/diffwave and "
        "philsyn/DiffWave-Vocoder train and synthesise, and the last frame has a block too",
    )
    padding: Literal["reflect", "constant"] = "reflect"
    magnitude_floor: Annotated[float, FRACTION] = Field(
        0.0, description="added to the squared magnitude before its root"
    )
    window_norm: bool = Field(False, description="divide the spectrum by the L2 norm of the window")
    full_scale: Annotated[float, Number(float, above=0, high=2**31)] = Field(
        1.0, description="what the loudest sample is multiplied by before all else: 32768 for audio in int16"
    )
    pre_emphasis: Annotated[float, Number(float, low=0, below=1)] = Field(
        0.0, description="fraction of the sample before that is subtracted from each, before all else"
    )
    reference: Literal["absolute", "max"] = Field(
        "absolute", description="'max' divides by the largest mel value of the clip, so its level is lost"
    )
    log: Literal["natural", "log10", "none"] = "natural"
    floor: Annotated[float, Number(float, low=1e-30, high=1e6)] = Field(
        1e-5, description="mel values are clamped to this before the logarithm"
    )
    guard: Literal["clamp", "add"] = Field("clamp", description="'add' adds the floor instead: log(mel + floor)")
    multiplier: Annotated[float, Number(float, low=1e-3, high=1000)] = Field(
        1.0, description="value = (clip(multiplier * log(mel) + offset) - mean) / std"
    )
    offset: _MelValue = 0.0
    dynamic_range: Annotated[float, Number(float, above=0, high=1e6)] | None = Field(
        None,
        description="what is further than this below the loudest value of the whole mel is raised to it, before clip: "
        "top_db of librosa where the values are dB",
    )
    clip: tuple[_MelValue, _MelValue] | None = None
    mean: _Statistics = Field(0.0, description="subtracted last: one number, or one for each bin")
    std: _Statistics = Field(1.0, description="divided by last: one number, or one for each bin")

    @property
    def hann_norm(self) -> float:
        """L2 norm of the plain Hann window: what white noise of unit variance reads as in each bin of the STFT."""
        return math.sqrt(0.375 * self.win_length)

    @model_validator(mode="after")
    def _check(self) -> MelConfig:
        self._check_statistics()
        if self.f_max > self.sample_rate / 2:
            raise ValueError(
                f"f_max {self.f_max:g} Hz is above half of sample_rate {self.sample_rate} Hz; "
                f"at most {self.sample_rate / 2:g} Hz can be heard at that rate"
            )
        if self.f_min >= self.f_max:
            raise ValueError(f"f_min {self.f_min} Hz must be below f_max {self.f_max} Hz")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip must be (low, high), got {self.clip}")
        if self.f_max - self.f_min < self.sample_rate / self.n_fft:
            raise ValueError(
                f"f_min {self.f_min:g} Hz to f_max {self.f_max:g} Hz is less than one bin of the FFT, "
                f"{self.sample_rate / self.n_fft:g} Hz"
            )
        if not self.hop_length <= self.win_length <= self.n_fft:
            raise ValueError(
                f"need hop_length <= win_length <= n_fft, got {self.hop_length}, {self.win_length}, {self.n_fft}"
            )
        if self.centre != "frame" and self.pairing != "midpoint":
            raise ValueError(
                f"pairing {self.pairing!r} is for centre 'frame'; with centre {self.centre!r} leave it out"
            )
        if self.centre == "hop" and (self.n_fft - self.hop_length) % 2:
            raise ValueError(
                f"centre 'hop' needs n_fft - hop_length even, got {self.n_fft} - {self.hop_length}; "
                f"n_fft {self.n_fft + 1} or hop_length {self.hop_length - 1 or 2} would do"
            )
        return self

    @property
    def frames_beyond_hops(self) -> int:
        """How many frames more than hops a signal of whole hops has, where frames are centred on its ends."""
        return int(self.centre == "frame" and self.pairing == "midpoint")

    def _check_statistics(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.n_mels:
                raise ValueError(f"{name} has {len(value)} values; expected one number, or {self.n_mels}, one per bin")
        if min(self.std if isinstance(self.std, tuple) else (self.std,)) <= 0:
            raise ValueError("std must be above 0")

    @property
    def only_given(self) -> list[str]:
        """Fields that no model's own mel may have: such mels are only converted to another convention."""
        names = [name for name, value in _OF_MODELS.items() if getattr(self, name) != value]
        names += ["log"] if self.log == "none" else []
        return names + (["centre"] if self.centre == "window" else [])


SLANEY_LOG_STEP = math.log(6.4) / 27
"""Slaney's scale from 1000 Hz (15 mels) on: a mel multiplies the frequency by exp(this)."""


def hertz_to_mels(frequency: float, scale: str) -> float:
    """Return a frequency in Hz in mels: HTK's, or those of Slaney's Auditory Toolbox (1998), linear below 1 kHz."""
    if scale == "htk":
        return 2595 * math.log10(1 + frequency / 700)
    return frequency / (200 / 3) if frequency < 1000 else 15 + math.log(frequency / 1000) / SLANEY_LOG_STEP
