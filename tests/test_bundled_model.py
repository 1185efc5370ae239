"""The bundled model turns a real recording into itself, well above what chance or a broken pipeline would score."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from audiodiff import Vocoder, load_audio
from audiodiff.audio.mel_inversion import waveform_from_mel
from audiodiff.diffusion.noise import position_noise
from audiodiff.evaluation.scoring import score

CLIP = Path(str(files("audiodiff"))) / "assets" / "clips" / "sense-and-sensibility.flac"


@pytest.fixture(scope="module")
def vocoder():
    return Vocoder.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def audio(vocoder):
    return load_audio(CLIP, sample_rate=vocoder.sample_rate)


def test_speech_survives_the_round_trip(vocoder, audio):
    scores = score(vocoder(vocoder.mel(audio))[:, : audio.shape[1]], audio, vocoder.sample_rate)
    assert scores["m_stft"] < 1.0
    assert abs(scores["rms_ratio_db"]) < 1.5
    if "pesq_wb" in scores:
        assert scores["pesq_wb"] > 3.2


def test_the_network_improves_on_its_starting_estimate(vocoder, audio):
    mel = vocoder.mel(audio)
    noise = position_noise([0], -1, n_samples=mel.shape[-1] * vocoder.mel_config.hop_length)
    rounds = vocoder.config.synthesis.griffin_lim_iterations
    estimate = waveform_from_mel(mel, noise, vocoder.spectrogram, iterations=rounds)[0, :, : audio.shape[1]]
    made = vocoder(mel)[:, : audio.shape[1]]
    distances = [score(sound, audio, vocoder.sample_rate)["m_stft"] for sound in (made, estimate)]
    assert distances[0] < 0.9 * distances[1]


def test_silence_stays_silent(vocoder):
    assert vocoder(vocoder.mel(torch.zeros(1, 22050))).abs().max() < 1e-3


def test_its_searched_levels_beat_evenly_spaced_ones_on_a_recording_they_were_not_searched_on(vocoder, audio):
    pytest.importorskip("pesq")
    mel = vocoder.mel(audio)
    made = (vocoder(mel, steps=4, schedule=schedule)[:, : audio.shape[1]] for schedule in ("searched", "uniform"))
    searched, even = (score(sound, audio, vocoder.sample_rate, ["pesq_wb"])["pesq_wb"] for sound in made)
    assert searched > even + 0.02
