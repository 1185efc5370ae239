"""Mels as other toolkits make them, written down apart from the tables that name them."""

import math
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from audiodiff.audio.mel import MelSpectrogram, check_mel
from audiodiff.audio.mel_matching import likeliest, match, refuse_unlikely
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError
from mel_cases.recordings import at_level, excerpt, with_silence

HIFIGAN = MEL_CONVENTIONS["hifigan-22k"]


class Case(NamedTuple):
    """What another toolkit does: a filter bank, its values made of mel magnitudes, the names that are right for it.

    `usable` ones are to be vocoded. Others sound `tolerable` if they are: with 13 % less contrast (PESQ 3.4 in place of
    4.0), or as fast speech.
    """

    name: str
    right: tuple[str, ...]
    values: Any
    bank: Any = MappingProxyType({})
    usable: bool = False
    tolerable: bool = False


def _log(floor=1e-5):
    return lambda mel: np.log(np.maximum(mel, floor))


def _log10(floor=1e-5):
    return lambda mel: np.log10(np.maximum(mel, floor))


def _decibels(mel):
    return 20 * np.log10(np.maximum(mel, 1e-5))


def _scaled(low, high):
    return lambda mel: np.clip(low + (high - low) * (_decibels(mel) + 80) / 100, low, high)


def _by_bin(values):
    def standardised(mel):
        mel = values(mel)
        return (mel - mel.mean(1, keepdims=True)) / (mel.std(1, keepdims=True) + 1e-3)

    return standardised


def _whisper(energy):
    log = np.log10(np.maximum(energy, 1e-10))
    return (np.maximum(log, log.max() - 8) + 4) / 4


PWG = {"sample_rate": 24000, "n_fft": 2048, "hop_length": 300, "win_length": 1200, "f_min": 80.0, "f_max": 7600.0}
SPEECHT5 = {"sample_rate": 16000, "f_min": 80.0, "f_max": 7600.0}
WHISPER = {"sample_rate": 16000, "n_fft": 400, "hop_length": 160, "win_length": 400, "power": 2, "centre": "frame"}
VOCOS = {"sample_rate": 24000, "n_mels": 100, "f_max": 12000.0, "scale": "htk", "norm": "none", "centre": "frame"}
BIGVGAN = {"sample_rate": 24000, "n_mels": 100, "f_max": 12000.0}
BIGVGAN_44K = {
    "sample_rate": 44100,
    "n_mels": 128,
    "f_max": 22050.0,
    "n_fft": 2048,
    "win_length": 2048,
    "hop_length": 512,
}
POWER = {"power": 2, "centre": "frame"}
STANDARDISED = "natural logarithm standardised by one mean and standard deviation"
BY_BIN = "natural logarithm standardised bin by bin"
CASES = (
    Case("hifigan-22k", ("hifigan-22k",), _log(), usable=True),
    Case("tacotron2", ("tacotron2", "speechbrain"), _log(), {"centre": "frame"}, usable=True),
    Case("log10", ("log10",), _log10()),
    Case("parallel_wavegan", ("parallel_wavegan", "espnet", "log10 with floor 1e-10"), _log10(1e-10), PWG),
    Case("SpeechT5", ("speecht5",), _log10(1e-10), SPEECHT5),
    Case("log10, mean and variance of each bin", (BY_BIN,), _by_bin(_log10(1e-10))),
    Case("natural log, mean and variance of each bin", (BY_BIN,), _by_bin(_log())),
    Case("Matcha (LJ Speech)", (STANDARDISED, "matcha"), lambda mel: (_log()(mel) + 5.536622) / 2.116101),
    Case("Matcha (VCTK)", (STANDARDISED,), lambda mel: (_log()(mel) + 6.630575) / 2.482914),
    Case("Tacotron, -4 to 4", ("decibels scaled to -4..4", "coqui"), _scaled(-4, 4)),
    Case("Tacotron, 0 to 1", ("decibels scaled to 0..1",), _scaled(0, 1)),
    Case("log power", ("log power",), _log(1e-10), POWER),
    Case("log power, floor 1e-5", ("log power with floor 1e-5",), _log(), POWER),
    Case("log10 power", ("log10 power",), _log10(1e-10), POWER, tolerable=True),
    Case("decibels", ("decibels",), _decibels),
    Case("power_to_db(ref=max)", ("decibels below the loudest value",),
         lambda mel: 10 * np.log10(np.maximum(mel / mel.max(), 1e-8)), POWER),
    Case("16-bit samples", ("natural logarithm of 16-bit samples",),
         lambda mel: _log()(mel * 32768)),
    Case("16-bit samples, log10", ("log10 of 16-bit samples",), lambda mel: _log10(1e-10)(mel * 32768)),
    Case("Whisper", ("whisper",), _whisper, WHISPER),
    Case("16 kHz", ("hifigan-22k of audio at 16 kHz",), _log(), {"sample_rate": 16000}, tolerable=True),
    Case("linear magnitude", ("linear magnitudes",), lambda mel: mel),
    Case("linear power", ("linear power",), lambda mel: mel, POWER),
    Case("transposed", ("hifigan-22k transposed",), lambda mel: _log()(mel).T),
    Case("transposed log10", ("log10 transposed",), lambda mel: _log10()(mel).T),
    Case("Vocos", ("vocos-24k", "f5-tts"), _log(1e-7), VOCOS),
    Case("Vocos, transposed", ("vocos-24k transposed", "f5-tts transposed"), lambda mel: _log(1e-7)(mel).T, VOCOS),
    Case("BigVGAN", ("bigvgan-24k", "univnet"), _log(), BIGVGAN),
    Case("BigVGAN 44 kHz", ("bigvgan-44k",), _log(), BIGVGAN_44K),
)  # fmt: skip


class Outcome(NamedTuple):
    """What was said of a case: its names, and whether the mel would be vocoded."""

    case: Case
    names: list[str]
    accepted: bool
    separable: bool
    audio: str


def mel_of(case, audio):
    """Return the mel of a case."""
    plain = {"log": "natural", "floor": 1e-30, "magnitude_floor": 0.0}
    config = MelConfig(**HIFIGAN.model_dump() | plain | dict(case.bank))
    return case.values(np.exp(MelSpectrogram(config)(torch.from_numpy(audio)).double().numpy())).astype(np.float32)


def run(corpora, count, rng):
    """Yield outcomes of mels of recordings at many levels, one case after the other."""
    for index in range(count):
        case = CASES[index % len(CASES)]
        name, audio = excerpt(corpora, case.bank.get("sample_rate", 22050), rng)
        audio = at_level(audio, rng)
        mel = mel_of(case, audio)
        best = likeliest(match(mel, HIFIGAN))
        names = [found.candidate.name + " transposed" * found.transposed for found in best]
        level = 20 * math.log10(float(np.sqrt(np.mean(np.square(audio)))) + 1e-9)
        yield Outcome(case, names, accepted(mel, HIFIGAN), len(names) == 1, f"{name} {level:.0f} dB {mel.shape}")


def accepted(mel, config):
    """Return whether a mel would be vocoded."""
    try:
        refuse_unlikely(mel, config)
        check_mel(mel, config)
    except MelError:
        return False
    return True


def false_refusals(corpora, count, rng):
    """Yield (convention, recording, what was said) of right mels that are refused."""
    configs = [config for config in MEL_CONVENTIONS.values() if not config.only_given]
    for index in range(count):
        config = HIFIGAN if index % 2 else configs[index // 2 % len(configs)]
        name, audio = excerpt(corpora, config.sample_rate, rng, seconds=(0.5, 10))
        audio = at_level(audio, rng, 20 if rng.random() < 0.7 else 50)
        if rng.random() < 0.3:
            audio = with_silence(audio, config.sample_rate, rng)
        try:
            mel = MelSpectrogram(config)(torch.from_numpy(audio))
            refuse_unlikely(mel, config)
            check_mel(mel, config)
        except MelError as error:
            yield config.name, name, str(error)
