"""Mels of other toolkits become those of a model: exactly, or as near as filters and frames allow."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_conversion import MelConverter
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError

sys.path.append(str(Path(__file__).parents[1]))
from mel_signals import voice_like

CLIP = Path(__file__).parents[2] / "audiodiff" / "assets" / "clips" / "sense-and-sensibility-0920.flac"
HIFIGAN = MEL_CONVENTIONS["hifigan-22k"]
EXACT = [
    {"log": "log10", "multiplier": 20.0, "offset": -20.0},
    {"log": "none"},
    {"guard": "add"},
    {"norm": "none"},
    {"full_scale": 32768.0, "magnitude_floor": 1.0},
    {"window_norm": True, "floor": 1e-9},
    {"padding": "constant", "floor": 1e-7},
    {"log": "log10", "mean": tuple(range(-40, 40)), "std": tuple(range(1, 81))},
]


def variant(**changes: object) -> MelConfig:
    return MelConfig(**HIFIGAN.model_dump() | {"name": "other", **changes})


@pytest.mark.parametrize("changes", EXACT, ids=lambda changes: "-".join(changes))
def test_what_acts_on_single_values_is_converted_exactly(changes: dict[str, object]) -> None:
    source, audio = variant(**changes), voice_like(22050)
    converter = MelConverter(source, HIFIGAN)
    assert (converter.exact, converter.look_ahead) == (True, 0)
    assert converter.description == "mels of convention 'other' are converted to 'hifigan-22k', exactly"
    converted, direct = converter(MelSpectrogram(source)(audio)), MelSpectrogram(HIFIGAN)(audio)
    floored = {"guard", "magnitude_floor", "window_norm"} & set(changes)  # near silence they differ in what they keep
    sound = direct > (-6 if floored else -99)
    inner = slice(4, -4) if "padding" in changes else slice(None)
    torch.testing.assert_close(
        converted[..., inner][sound[..., inner]], direct[..., inner][sound[..., inner]], atol=5e-3, rtol=0
    )


@pytest.mark.parametrize("source", MEL_CONVENTIONS)
@pytest.mark.parametrize("target", ["hifigan-22k", "tacotron2"])
def test_pieces_convert_to_what_the_whole_converts_to(source: str, target: str) -> None:
    mel = MelSpectrogram(MEL_CONVENTIONS[source])(voice_like(MEL_CONVENTIONS[source].sample_rate))
    converter = MelConverter(MEL_CONVENTIONS[source], MEL_CONVENTIONS[target], resample=True)
    whole = converter(mel)
    pieces = list(converter.stream(mel.split([1, 2, 0, 5, mel.shape[-1] - 8], dim=-1)))
    torch.testing.assert_close(torch.cat(pieces, -1), whole, atol=1e-4, rtol=0)
    n_frames = MelSpectrogram(MEL_CONVENTIONS[target])(voice_like(22050)).shape[-1]
    assert abs(whole.shape[-1] - n_frames) <= 1
    assert whole.dtype == torch.float32
    assert whole.isfinite().all()


def test_frames_come_as_soon_as_the_look_ahead_allows() -> None:
    converter = MelConverter(MEL_CONVENTIONS["tacotron2"], HIFIGAN)
    assert converter.look_ahead == 2
    mel = MelSpectrogram(MEL_CONVENTIONS["tacotron2"])(voice_like(22050))
    assert [piece.shape[-1] for piece in converter.stream(mel[..., :12].split(4, dim=-1))] == [2, 4, 4, 1]


def test_a_constant_sound_has_the_same_mel_wherever_frames_are_centred() -> None:
    audio = 0.5 * torch.sin(torch.arange(22050) * 0.2)[None]
    for centre in ("frame", "window"):
        source = variant(centre=centre)
        converted = MelConverter(source, HIFIGAN)(MelSpectrogram(source)(audio))[..., 8:-8]
        direct = MelSpectrogram(HIFIGAN)(audio)[..., 8:-8][..., : converted.shape[-1]]
        loud = direct > -3
        assert (converted - direct)[loud].abs().max() < 0.05


REACHED_DB = {
    **{"tacotron2": 0.05, "matcha": 0.05, "hifigan-22k-int16": 0.05, "nemo": 0.05, "bigvgan-44k": 0.5},
    **{"coqui": 0.9, "parallel_wavegan": 0.9, "espnet": 0.9, "lmnt": 0.9, "bigvgan-24k": 1.0, "vocos-24k": 1.0},
    **{"f5-tts": 1.0, "parallel_wavegan-24k": 1.3, "speechbrain-16k": 1.3, "speecht5": 1.8},
    **{"whisper": 2.8, "whisper-v3": 2.8, "nemo-asr": 2.8, "torchaudio": 2.8, "librosa": 2.8, "librosa-db": 2.8},
}
"""Mean absolute error that conversion to hifigan-22k stays below, where the speech is within 60 dB of its loudest."""


@pytest.mark.parametrize("name", [name for name in MEL_CONVENTIONS if name not in ("hifigan-22k", "librosa-db-max")])
def test_speech_is_converted_with_about_the_error_that_is_said(name: str) -> None:
    converter = MelConverter(MEL_CONVENTIONS[name], HIFIGAN, resample=True, keep_centres=True)
    audio = {rate: load_audio(CLIP, rate) for rate in (22050, converter.source.sample_rate)}
    centred = {"centre": converter.source.centre} if converter.delay else {}
    direct = MelSpectrogram(variant(**centred))(audio[22050])
    converted = converter(MelSpectrogram(converter.source)(audio[converter.source.sample_rate]))
    n_frames = min(direct.shape[-1], converted.shape[-1])
    inner = slice(2, n_frames - 2)
    heard = direct[..., inner] > direct.max() - 6.9
    error = (converted - direct[..., :n_frames])[..., inner][heard] * 20 / math.log(10)
    assert error.abs().mean() < REACHED_DB[name]
    assert abs(error.abs().mean() - converter.error_db) < 0.05 + 0.2 * converter.error_db
    assert abs(error.mean()) < 0.5


def test_a_mel_whose_level_is_unknown_becomes_as_loud_as_usual_speech() -> None:
    converter = MelConverter(MEL_CONVENTIONS["librosa-db-max"], HIFIGAN, resample=True)
    assert "level is unknown" in converter.description
    mel = MelSpectrogram(MEL_CONVENTIONS["librosa-db-max"])(0.01 * load_audio(CLIP, 22050))
    loudness = converter(mel).max() - MelSpectrogram(HIFIGAN)(load_audio(CLIP, 22050)).max()
    assert abs(loudness) < 0.7


def test_another_rate_or_hop_is_converted_on_request_only() -> None:
    with pytest.raises(MelError, match=r"frame per 160 samples at 16000 Hz.*one per 256 at 22050 Hz.*--resample"):
        MelConverter(MEL_CONVENTIONS["whisper"], HIFIGAN)
    assert "nothing is known above" not in MelConverter(MEL_CONVENTIONS["whisper"], HIFIGAN, resample=True).description
