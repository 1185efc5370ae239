"""The mel conventions of published toolkits, one table; by name, at another sample rate, or from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from audiodiff.config.mel import MelConfig, hertz_to_mels


@dataclass(frozen=True)
class PublishedConvention:
    """A convention and who uses it.

    Attributes:
        mel: The convention.
        used_by: Toolkits that make such mels.
        checked: The code that was run and gave the same, with its version (`tests/audio/test_toolkit_mels.py`).
        aliases: Other names of it.
    """

    mel: MelConfig
    used_by: str
    checked: str
    aliases: tuple[str, ...] = ()


def _entry(
    name: str, sample_rate: int, n_mels: int, used_by: str, checked: str, *aliases: str, **values: Any
) -> PublishedConvention:
    values = {"n_fft": 1024, "hop_length": 256, "f_min": 0.0, "f_max": sample_rate / 2} | values
    values.setdefault("win_length", values["n_fft"])
    mel = MelConfig(name=name, sample_rate=sample_rate, n_mels=n_mels, **values)
    return PublishedConvention(mel, used_by, checked, aliases)


_HIFIGAN: dict[str, Any] = {"f_max": 8000.0, "magnitude_floor": 1e-9}
_KAN_BAYASHI: dict[str, Any] = {"f_min": 80.0, "f_max": 7600.0, "centre": "frame", "log": "log10", "floor": 1e-10}
_WHISPER: dict[str, Any] = {
    **{"n_fft": 400, "hop_length": 160, "centre": "frame", "power": 2, "log": "log10", "floor": 1e-10},
    **{"dynamic_range": 8.0, "mean": -4.0, "std": 4.0},
}
_LIBROSA: dict[str, Any] = {"n_fft": 2048, "hop_length": 512, "power": 2, "centre": "frame", "padding": "constant"}
_POWER_TO_DB: dict[str, Any] = {"log": "log10", "multiplier": 10.0, "floor": 1e-10, "dynamic_range": 80.0}
_HTK: dict[str, Any] = {"scale": "htk", "norm": "none", "centre": "frame"}
_NEMO: dict[str, Any] = {"centre": "frame", "padding": "constant", "window": "hann-symmetric", "guard": "add"}

PUBLISHED_CONVENTIONS = (
    _entry("hifigan-22k", 22050, 80, "HiFi-GAN, Grad-TTS, VITS; the bundled vocoders", "bigvgan 2.4.1", **_HIFIGAN),
    _entry("tacotron2", 22050, 80, "NVIDIA Tacotron 2, WaveGlow, FastSpeech 2, speechbrain at 22 kHz, philsyn",
           "speechbrain 1.1.2", "speechbrain", "philsyn", f_max=8000.0, centre="frame"),
    _entry("matcha", 22050, 80, "Matcha-TTS inside, trained on LJ Speech (its output is hifigan-22k)",
           "matcha-tts 0.0.7.2; statistics by its configuration", mean=-5.536622, std=2.116101, **_HIFIGAN),
    _entry("hifigan-22k-int16", 22050, 80, "HiFi-GAN's function on samples that are not divided by 32768",
           "bigvgan 2.4.1", full_scale=32768.0, **_HIFIGAN),
    _entry("nemo", 22050, 80, "NVIDIA NeMo: FastPitch, Tacotron 2, HiFi-GAN", "nemo_toolkit 3.0.0",
           f_max=8000.0, **_NEMO),
    _entry("coqui", 22050, 80, "coqui-TTS by default: decibels, normalised to -4..4", "coqui-tts 0.28.0",
           centre="frame", log="log10", floor=1e-8, multiplier=1.6, offset=2.4, clip=(-4.0, 4.0)),
    _entry("parallel_wavegan", 22050, 80, "parallel_wavegan: LJ Speech; set mean and std to those of its stats",
           "parallel_wavegan 0.6.1", **_KAN_BAYASHI),
    _entry("parallel_wavegan-24k", 24000, 80, "parallel_wavegan and ESPnet: LibriTTS, VCTK, JSUT at 24 kHz",
           "parallel_wavegan 0.6.1", n_fft=2048, hop_length=300, win_length=1200, **_KAN_BAYASHI),
    _entry("espnet", 22050, 80, "ESPnet 2 TTS: LJ Speech (its output is denormalised)", "espnet 202511",
           magnitude_floor=1e-10, **_KAN_BAYASHI),
    _entry("speecht5", 16000, 80, "SpeechT5; ESPnet at 16 kHz, but for digital silence", "transformers 5.24.0",
           **_KAN_BAYASHI),
    _entry("speechbrain-16k", 16000, 80, "speechbrain HiFi-GAN: LibriTTS at 16 kHz", "speechbrain 1.1.2",
           f_max=8000.0, centre="frame"),
    _entry("vocos-24k", 24000, 100, "Vocos", "vocos 0.1.0", floor=1e-7, **_HTK),
    _entry("f5-tts", 24000, 100, "F5-TTS, E2-TTS (vocos)", "f5-tts 1.1.22", **_HTK),
    _entry("bigvgan-24k", 24000, 100, "BigVGAN, UnivNet, F5-TTS (bigvgan)", "bigvgan 2.4.1, transformers 5.24.0",
           "univnet", magnitude_floor=1e-9),
    _entry("bigvgan-44k", 44100, 128, "BigVGAN", "bigvgan 2.4.1", n_fft=2048, hop_length=512, magnitude_floor=1e-9),
    _entry("lmnt", 22050, 80, "lmnt-com/diffwave", "diffwave 0.1.7", f_min=20.0, window_norm=True, log="log10",
           multiplier=0.2, offset=0.8, clip=(0.0, 1.0), **_HTK),
    _entry("whisper", 16000, 80, "Whisper (one frame fewer)", "openai-whisper 20250625",
           **_WHISPER),
    _entry("whisper-v3", 16000, 128, "Whisper large-v3 and turbo", "openai-whisper 20250625", **_WHISPER),
    _entry("nemo-asr", 16000, 80, "NVIDIA NeMo ASR, before its normalisation", "nemo_toolkit 3.0.0", n_fft=512,
           hop_length=160, win_length=400, power=2, pre_emphasis=0.97, floor=2.0**-24, **_NEMO),
    _entry("librosa", 22050, 128, "librosa.feature.melspectrogram", "librosa 0.11.0", log="none", **_LIBROSA),
    _entry("librosa-db", 22050, 128, "that through librosa.power_to_db", "librosa 0.11.0", **_LIBROSA, **_POWER_TO_DB),
    _entry("librosa-db-max", 22050, 128, "that with ref=numpy.max", "librosa 0.11.0", reference="max",
           **_LIBROSA, **_POWER_TO_DB),
    _entry("torchaudio", 16000, 128, "torchaudio.transforms.MelSpectrogram", "torchaudio 2.11.0", n_fft=400,
           hop_length=200, power=2, log="none", **_HTK),
)  # fmt: skip
"""What the toolkits compute, and how far that was checked."""

MEL_CONVENTIONS: dict[str, MelConfig] = {published.mel.name: published.mel for published in PUBLISHED_CONVENTIONS}
_ALIASES = {alias: published.mel.name for published in PUBLISHED_CONVENTIONS for alias in published.aliases}


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
    base_name = _ALIASES.get(base_name, base_name)
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
