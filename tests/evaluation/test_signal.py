"""Level, lag and periodicity have their known values on signals of known level, lag and periodicity."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audiodiff.audio.io import load_audio
from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.signal import lag_ms, periodicity, periodicity_rmse, real_time_factor

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n_samples)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("milliseconds", [-120, -1, 0, 3, 400])
def test_a_lag_is_found_whatever_the_phase(rate, milliseconds):
    """Every harmonic of the late copy is turned by 90 degrees, so the waveforms do not correlate."""
    original = load_audio(CLIP, rate)[0, : 3 * rate].double().numpy()
    turned = np.fft.irfft(-1j * np.fft.rfft(original), len(original))
    assert abs(np.corrcoef(original, turned)[0, 1]) < 0.01
    late = np.roll(turned, round(milliseconds * rate / 1000))
    pair = Pair(torch.from_numpy(late)[None], torch.from_numpy(original)[None], rate)
    assert lag_ms(pair) == pytest.approx(milliseconds, abs=1 + 0.003 * abs(milliseconds))


@pytest.mark.parametrize("n_samples", [1, 7, 16])
def test_a_few_samples_have_no_lag_from_themselves(n_samples):
    audio = torch.from_numpy(noise(n_samples))[None]
    assert lag_ms(Pair(audio, audio, RATE)) == 0


def test_silence_has_no_lag():
    audio = torch.from_numpy(noise(RATE)).float()[None]
    with pytest.raises(AudioError, match="one of the recordings is silent"):
        lag_ms(Pair(0 * audio, audio, RATE))


def test_periodicity_is_one_for_a_tone_and_low_for_noise():
    time = np.arange(RATE) / RATE
    buzz = sum(np.sin(2 * np.pi * 130 * k * time) for k in range(1, 20))
    assert periodicity(buzz).min() > 0.98
    assert periodicity(noise(RATE)).max() < 0.5
    half = periodicity(buzz / buzz.std() + noise(RATE))
    assert 0.4 < half.mean() < 0.65  # half the power is periodic
    with pytest.raises(AudioError, match="too short"):
        periodicity(noise(1000))


def test_hoarse_speech_differs_in_periodicity(voice):
    clean = torch.from_numpy(voice(1.0, RATE))[None]
    hoarse = [clean + gain * torch.from_numpy(noise(RATE)).float() for gain in (0, 0.01, 0.1)]
    errors = [periodicity_rmse(Pair(audio, clean, RATE)) for audio in hoarse]
    assert errors[0] == 0
    assert errors[1] < errors[2]


def test_nobody_but_the_maker_knows_the_real_time_factor():
    with pytest.raises(AudioError, match="--timings"):
        real_time_factor(Pair(torch.ones(1, 9), torch.ones(1, 9), RATE))
