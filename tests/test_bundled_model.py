"""The bundled model turns a real recording into itself, well above what chance or a broken pipeline would score."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from audiodiff import Vocoder, load_audio
from audiodiff.audio.resample import resample
from audiodiff.evaluation.scoring import score

CLIP = Path(str(files("audiodiff"))) / "assets" / "clips" / "sense-and-sensibility.flac"


@pytest.fixture(scope="module")
def vocoder():
    return Vocoder.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def audio(vocoder):
    return load_audio(CLIP, sample_rate=vocoder.sample_rate)


def test_speech_survives_the_round_trip(vocoder, audio):
    made = vocoder(vocoder.mel(audio))[:, : audio.shape[1]]
    made, audio = (resample(sound, vocoder.sample_rate, 16000) for sound in (made, audio))  # the recording's own band
    scores = score(made, audio, 16000)
    assert scores["m_stft"] < 1.0
    assert abs(scores["rms_ratio_db"]) < 1.5
    if "pesq_wb" in scores:
        assert scores["pesq_wb"] > 3.2


def test_the_network_improves_on_its_starting_estimate(vocoder, audio):
    mel = vocoder.mel(audio)
    estimate = vocoder.initialisation.estimate(mel, [0], vocoder.settings({}))
    started = vocoder.colour(estimate, mel)[0, :, : audio.shape[1]]
    made = vocoder(mel)[:, : audio.shape[1]]
    made, started, audio = (resample(sound, vocoder.sample_rate, 16000) for sound in (made, started, audio))
    distances = [score(sound, audio, 16000, ["mcd"])["mcd"] for sound in (made, started)]
    assert distances[0] < 0.97 * distances[1]


def test_silence_stays_silent(vocoder):
    assert vocoder(vocoder.mel(torch.zeros(1, 22050))).abs().max() < 1e-3
