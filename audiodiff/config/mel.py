"""Mel conventions, as values: two toolkits that differ in one of them make noise of each other's mels."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from audiodiff.choices import FRACTION, SAMPLE_RATE, WINDOW, Number
from audiodiff.config.base import Config

_MelValue = Annotated[float, Number(float, low=-1e6, high=1e6)]
_Statistics = _MelValue | tuple[_MelValue, ...]

_OF_MODELS = {
    "full_scale": 1.0, "guard": "clamp", "dynamic_range": None, "mean": 0.0, "std": 1.0
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
    win_length: Annotated[int, WINDOW] = Field(description="samples; the Hann window is centred in n_fft")
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


def _convention(name: str, sample_rate: int, n_mels: int, **values: Any) -> MelConfig:
    values = {"n_fft": 1024, "hop_length": 256, "f_min": 0.0, "f_max": sample_rate / 2} | values
    values.setdefault("win_length", values["n_fft"])
    return MelConfig(name=name, sample_rate=sample_rate, n_mels=n_mels, **values)


_80_TO_7600 = {"f_min": 80.0, "f_max": 7600.0, "centre": "frame", "log": "log10", "floor": 1e-10}
_LIBROSA = {"n_fft": 2048, "hop_length": 512, "centre": "frame", "padding": "constant"}

MEL_CONVENTIONS: dict[str, MelConfig] = {
    convention.name: convention
    for convention in (
        _convention("hifigan-22k", 22050, 80, f_max=8000.0, magnitude_floor=1e-9),
        _convention("tacotron2", 22050, 80, f_max=8000.0, centre="frame"),
        _convention(
            "lmnt", 22050, 80, f_min=20.0, scale="htk", norm="none", centre="frame", window_norm=True,
            log="log10", multiplier=0.2, offset=0.8, clip=(0.0, 1.0),
        ),
        _convention("vocos-24k", 24000, 100, scale="htk", norm="none", centre="frame", floor=1e-7),
        _convention("bigvgan-24k", 24000, 100, magnitude_floor=1e-9),
        _convention("bigvgan-44k", 44100, 128, n_fft=2048, hop_length=512, magnitude_floor=1e-9),
        _convention("f5-tts", 24000, 100, scale="htk", norm="none", centre="frame"),
        _convention("univnet", 24000, 100, magnitude_floor=1e-9),
        _convention("matcha", 22050, 80, f_max=8000.0, magnitude_floor=1e-9, mean=-5.536622, std=2.116101),
        _convention("speechbrain", 22050, 80, f_max=8000.0, centre="frame"),
        _convention("nemo", 22050, 80, f_max=8000.0, centre="frame", guard="add", padding="constant"),
        _convention("parallel_wavegan", 22050, 80, **_80_TO_7600),
        _convention("espnet", 22050, 80, magnitude_floor=1e-10, **_80_TO_7600),
        _convention("speecht5", 16000, 80, **_80_TO_7600),
        _convention("coqui", 22050, 80, centre="frame", log="log10", multiplier=1.6, offset=2.4, clip=(-4.0, 4.0)),
        _convention(
            "whisper", 16000, 80, n_fft=400, hop_length=160, power=2, centre="frame", log="log10", floor=1e-10,
            dynamic_range=8.0, mean=-4.0, std=4.0,
        ),
        _convention("librosa", 22050, 128, power=2, log="none", **_LIBROSA),
        _convention(
            "librosa-db", 22050, 128, power=2, log="log10", multiplier=10.0, floor=1e-10, dynamic_range=80.0, **_LIBROSA
        ),
        _convention(
            "torchaudio", 16000, 128, n_fft=400, hop_length=200, scale="htk", norm="none", power=2, centre="frame",
            log="none",
        ),
    )
}  # fmt: skip
"""Mels of common toolkits, by name: as in their code by default, or in their recipes for LJ Speech.

A mel of parallel_wavegan and ESPnet is usually normalised by statistics of the corpus, which come with the model: give
them as `mean` and `std`. The statistics of matcha are those of LJ Speech.
"""


DERIVED_RATES = (8000, 48000)
"""Lowest and highest sample rate that a named convention can be carried over to, in Hz."""

_HOP_UNIT = 16
"""Samples that a derived hop is a multiple of."""


def mel_convention(name: str) -> MelConfig:
    """Return a mel convention by its name, for any sample rate.

    Args:
        name: A name of `MEL_CONVENTIONS`; or NAME@HZ, which is that convention at another rate. Scale, norm
            and logarithm stay. The hop stays as long in seconds, to the nearest multiple of 16 samples, so that patches
            of 2, 4, 8 and 16 samples divide it; window and transform stay as many hops. A full band stays full, any
            other stays as it is in Hz where the rate allows that. The bins stay as dense on the mel scale.

    Returns:
        The convention.

    Raises:
        ValueError: If there is no such convention, or the rate is outside `DERIVED_RATES`.

    Example:
        >>> mel = mel_convention("hifigan-22k@16000")
        >>> mel.sample_rate, mel.hop_length, mel.n_fft, mel.f_max, mel.n_mels
        (16000, 192, 768, 8000.0, 80)
    """
    base_name, at, rate = name.partition("@")
    if base_name not in MEL_CONVENTIONS:
        raise ValueError(
            f"unknown mel convention {name!r}; choose from {', '.join(MEL_CONVENTIONS)}, "
            "or append @ and another sample rate in Hz to one of them"
        )
    base = MEL_CONVENTIONS[base_name]
    if not at:
        return base
    low, high = DERIVED_RATES
    if not rate.isdecimal() or not low <= int(rate) <= high:
        raise ValueError(f"mel convention {name!r}: what follows @ must be a sample rate of {low} to {high} Hz")
    sample_rate = int(rate)
    hop = max(1, round(base.hop_length * sample_rate / base.sample_rate / _HOP_UNIT)) * _HOP_UNIT
    f_max = sample_rate / 2 if base.f_max == base.sample_rate / 2 else min(base.f_max, sample_rate / 2)
    band, base_band = (
        hertz_to_mels(high, base.scale) - hertz_to_mels(base.f_min, base.scale) for high in (f_max, base.f_max)
    )
    values = base.model_dump() | {
        "name": base_name if sample_rate == base.sample_rate else name,
        "sample_rate": sample_rate,
        "hop_length": hop,
        "n_fft": hop * base.n_fft // base.hop_length,
        "win_length": hop * base.win_length // base.hop_length,
        "f_max": f_max,
        "n_mels": round(base.n_mels * band / base_band),
    }
    return MelConfig(**values)


SLANEY_LOG_STEP = math.log(6.4) / 27
"""Slaney's scale from 1000 Hz (15 mels) on: a mel multiplies the frequency by exp(this)."""


def hertz_to_mels(frequency: float, scale: str) -> float:
    """Return a frequency in Hz in mels: HTK's, or those of Slaney's Auditory Toolbox (1998), linear below 1 kHz."""
    if scale == "htk":
        return 2595 * math.log10(1 + frequency / 700)
    return frequency / (200 / 3) if frequency < 1000 else 15 + math.log(frequency / 1000) / SLANEY_LOG_STEP


def _named_mel(value: Any) -> Any:
    return mel_convention(value) if isinstance(value, str) else value


def _of_model(value: MelConfig | None) -> MelConfig | None:
    if value is not None and (names := value.only_given):
        raise ValueError(
            f"mel convention {value.name!r} sets {' and '.join(names)}, with which a model cannot be trained; take a "
            "convention without, such as hifigan-22k, and convert: `audiodiff vocode --mel-convention`"
        )
    return value


MelField = Annotated[MelConfig | None, BeforeValidator(_named_mel), AfterValidator(_of_model)]
