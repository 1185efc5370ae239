"""The band of a recording is found where something has cut it off, and nowhere else."""

import numpy as np
import pytest
import torch

from audiodiff.audio.resample import resample
from audiodiff.data.measure import bandwidth, mean_spectrum


def noise(seconds=2.0, rate=22050, tilt_db_per_octave=0.0, seed=0):
    """Return noise that falls by so many dB per octave above 100 Hz: `(1, time)`."""
    n = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    octaves = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / rate), 100) / 100)
    audio = np.fft.irfft(spectrum * 10 ** (-tilt_db_per_octave * octaves / 20), n)
    return torch.from_numpy(0.1 * audio / audio.std()).float()[None]


def low_pass(audio, rate, edge):
    spectrum = torch.fft.rfft(audio)
    spectrum[..., round(edge / (rate / 2) * (spectrum.shape[-1] - 1)) :] = 0
    return torch.fft.irfft(spectrum, audio.shape[-1])


def rounded(audio, bits=16):
    return (audio * 2 ** (bits - 1)).round() / 2 ** (bits - 1)


def test_the_spectrum_of_white_noise_is_flat_at_its_variance():
    level = mean_spectrum(torch.from_numpy(np.random.default_rng(0).standard_normal((2, 400_000))).float())
    np.testing.assert_allclose(level[2:-2], 0, atol=1.5)
    assert abs(float(level.mean())) < 0.1


def test_the_spectrum_does_not_depend_on_how_it_is_read():
    audio = noise(60)  # more than a block
    parts = torch.stack([10 ** (mean_spectrum(part) / 10) for part in audio.split(audio.shape[-1] // 2, dim=-1)])
    np.testing.assert_allclose(10 * parts.mean(0).log10(), mean_spectrum(audio), atol=0.2)


@pytest.mark.parametrize("tilt", [0, 3, 6])
@pytest.mark.parametrize(("low_rate", "rate"), [(8000, 16000), (16000, 22050), (16000, 44100), (22050, 48000)])
def test_resampled_recordings_are_found(tilt, low_rate, rate):
    audio = rounded(resample(noise(2, low_rate, tilt), low_rate, rate))
    assert bandwidth(audio, rate) == pytest.approx(low_rate / 2, rel=0.05)


@pytest.mark.parametrize("edge", [3400, 5000, 9000])
def test_an_edge_above_a_floor_of_noise_is_found(edge):
    audio = low_pass(noise(2, 22050, 3), 22050, edge) + 0.001 * noise(2, 22050, seed=1)
    assert bandwidth(audio, 22050) == pytest.approx(edge, rel=0.05)


@pytest.mark.parametrize("tilt", [0, 6, 12, 18])
def test_a_sound_that_declines_is_not_cut_off(tilt):
    assert bandwidth(rounded(noise(2, 22050, tilt)), 22050) is None


def test_the_last_partial_of_a_tone_is_no_edge():
    time = torch.arange(44100) / 22050
    tone = sum(0.7**k * torch.sin(2 * torch.pi * 700 * (k + 1) * time) for k in range(8))
    assert bandwidth(rounded(0.1 * tone[None] + 0.0005 * noise(2, 22050)), 22050) is None


def test_an_anti_aliasing_filter_just_below_half_the_rate_is_no_edge():
    assert bandwidth(rounded(resample(noise(2, 44100), 44100, 22050)), 22050) is None


@pytest.mark.parametrize("n_samples", [1, 100, 2048, 5000])
def test_short_and_silent_recordings_have_no_edge(n_samples):
    assert bandwidth(torch.zeros(1, n_samples), 16000) is None
    assert bandwidth(noise(2, 16000)[:, :n_samples], 16000) is None
