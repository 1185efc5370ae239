"""Metrics by band have the values that follow from how the signals were made."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from audiodiff.errors import AudioError
from audiodiff.evaluation import bands
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.scoring import METRICS

RATE = 22050
TIME = torch.arange(8 * RATE, dtype=torch.float64) / RATE


@cache
def noise(seed: int, low: float = 0.0, high: float = RATE / 2) -> Tensor:
    """Eight seconds of noise from `low` to `high` Hz, of unit density: (1, time)."""
    white = torch.randn(1, len(TIME), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    spectrum = torch.fft.rfft(white)
    frequencies = torch.fft.rfftfreq(len(TIME), 1 / RATE)
    return torch.fft.irfft(torch.where((frequencies >= low) & (frequencies < high), spectrum, 0), len(TIME))


@cache
def pulses(f0: float) -> Tensor:
    """Equal harmonics of a steady pitch, a multiple of 0.125 Hz, of random phases: (1, time)."""
    spectrum = np.zeros(len(TIME) // 2 + 1, complex)
    lines = np.arange(f0, RATE / 2, f0) * len(TIME) / RATE
    spectrum[lines.astype(int)] = np.exp(1j * np.random.default_rng(0).uniform(0, 2 * np.pi, len(lines)))
    return torch.from_numpy(np.fft.irfft(spectrum * len(TIME) / 2, len(TIME))).unsqueeze(0)


def test_a_tone_is_in_its_band_at_its_level():
    tone = 0.1 * torch.sin(2 * torch.pi * 3000 * TIME).unsqueeze(0)
    levels = bands.band_levels(tone, RATE, [0, 2000, 4000, 11025])
    assert levels[1] == pytest.approx(-23.01, abs=0.1)  # of 0.1 / sqrt(2)
    assert max(levels[0], levels[2]) < -90


@pytest.mark.parametrize(
    ("low", "high", "metric"),
    [
        (0, 2000, bands.level_below_2k),
        (2000, 4000, bands.level_2_4k),
        (4000, 8000, bands.level_4_8k),
        (8000, 11025, bands.level_above_8k),
    ],
)
def test_a_gain_in_one_band_is_the_level_of_that_band_only(low, high, metric):
    reference = 0.01 * noise(0)
    band = 0.01 * noise(0, low, high)
    pair = Pair(reference + band, reference, RATE)  # twice the amplitude there
    found = {f: f(pair) for f in (bands.level_below_2k, bands.level_2_4k, bands.level_4_8k, bands.level_above_8k)}
    assert found.pop(metric) == pytest.approx(6.02, abs=0.15)
    assert max(map(abs, found.values())) < 0.15


def test_a_dead_band_is_at_the_floor():
    reference = 0.1 * noise(0)
    assert bands.level_above_8k(Pair(0.1 * noise(0, 0, 7900), reference, RATE)) < -60


def test_distance_above_8k_is_the_gain_in_db_and_that_of_independent_noises():
    reference = 0.01 * noise(0)
    louder = reference + 0.01 * noise(0, 7800, 11025)
    assert bands.lsd_above_8k(Pair(louder, reference, RATE)) == pytest.approx(6.02, abs=0.15)
    # The logarithm of an exponential variable has the deviation pi / sqrt 6.
    expected = math.sqrt(2) * 10 / math.log(10) * math.pi / math.sqrt(6)
    assert bands.lsd_above_8k(Pair(0.01 * noise(1), reference, RATE)) == pytest.approx(expected, abs=0.3)
    assert bands.lsd_above_8k(Pair(reference + 0.1 * noise(2, 0, 7000), reference, RATE)) < 0.5


def test_distance_above_8k_ignores_what_is_silent_in_the_reference():
    reference = 0.01 * noise(0)
    reference[:, len(TIME) // 2 :] *= 1e-4
    worse = reference.clone()
    worse[:, len(TIME) // 2 + RATE :] *= 30
    assert bands.lsd_above_8k(Pair(worse, reference, RATE)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("depth", [0.1, 0.3])
def test_buzz_is_that_of_the_modulation(depth):
    """Noise of bandwidth B has an envelope of spectral density (1 - f / B) / B around its mean (a triangle).

    Amplitude modulation of depth m adds a line of amplitude 2 m / (1 + m^2 / 2) at the frame rate, and a quarter of m
    times that at twice it; a Hann window spreads the power of a line over the five bins of 1 Hz that are averaged.
    """
    width = RATE / 2 - 8000
    reference, carrier = 0.1 * noise(0), 0.1 * noise(1)
    modulated = carrier * (1 + depth * torch.cos(2 * torch.pi * bands.FRAME_RATE * TIME))
    lines = [2 * depth / (1 + depth**2 / 2), depth**2 / 2 / (1 + depth**2 / 2), 0, 0]
    densities = [(1 - multiple * bands.FRAME_RATE / width) / width for multiple in range(1, 5)]
    ratios = [1 + line**2 / 20 / density for line, density in zip(lines, densities, strict=True)]
    assert bands.frame_rate_buzz(Pair(modulated, reference, RATE)) == pytest.approx(
        10 * math.log10(np.mean(ratios)), abs=1.0
    )


def test_buzz_is_the_same_in_loud_and_quiet_passages():
    """Bursts as of consonants, which would hide the modulation in the spectrum of the plain envelope."""
    bursts = (
        (torch.sin(2 * torch.pi * 1.7 * TIME) > 0) * 0.099 + 0.001 + 0.1 * (torch.sin(2 * torch.pi * 0.4 * TIME) > 0)
    )
    modulated = noise(1) * (1 + 0.5 * torch.cos(2 * torch.pi * bands.FRAME_RATE * TIME))
    steady = bands.frame_rate_buzz(Pair(0.1 * modulated, 0.1 * noise(0), RATE))
    assert bands.frame_rate_buzz(Pair(bursts * modulated, bursts * noise(0), RATE)) == pytest.approx(steady, abs=3.0)


def test_equal_noises_and_other_modulations_do_not_buzz():
    reference, other = 0.1 * noise(0), 0.1 * noise(1)
    assert bands.frame_rate_buzz(Pair(other, reference, RATE)) == pytest.approx(0, abs=1.0)
    slow = other * (1 + 0.3 * torch.cos(2 * torch.pi * 61.0 * TIME))
    assert bands.frame_rate_buzz(Pair(slow, reference, RATE)) == pytest.approx(0, abs=1.0)
    below = other + 5 * noise(2, 0, 7000) * (1 + torch.cos(2 * torch.pi * bands.FRAME_RATE * TIME))
    assert bands.frame_rate_buzz(Pair(below, reference, RATE)) == pytest.approx(0, abs=1.0)


@pytest.mark.parametrize("f0", [117.375, 243.875])
@pytest.mark.parametrize(("metric", "low", "high"), [(bands.hnr_2_4k, 2000, 4000), (bands.hnr_4_8k, 4000, 8000)])
def test_harmonic_to_noise_ratio_is_that_of_the_powers(f0, metric, low, high):
    voice = pulses(f0)
    harmonics = float(bands.band_levels(0.001 * voice, RATE, (low, high))[0]) + 60
    hiss = noise(3)
    level = float(bands.band_levels(0.001 * hiss, RATE, (low, high))[0]) + 60

    def at(ratio: float) -> Tensor:
        return 0.01 * (voice + hiss * 10 ** ((harmonics - level - ratio) / 20))

    assert metric(Pair(at(5), at(20), RATE)) == pytest.approx(-15, abs=1.0)
    assert metric(Pair(at(15), at(10), RATE)) == pytest.approx(5, abs=1.0)


def test_noise_in_another_band_leaves_the_ratio_alone():
    voice = pulses(150.0)
    assert bands.hnr_2_4k(Pair(voice + 10 * noise(0, 4200, 8000), voice + 0.1 * noise(1), RATE)) > -0.5


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.belongs_to == "bands"])
def test_what_cannot_be_measured_is_refused(name):
    audio = (pulses(120.0) + noise(0))[:, : 2 * RATE]
    metric = METRICS[name]
    assert metric.measure(Pair(audio, audio, RATE)) == 0
    with pytest.raises(AudioError):
        metric.measure(Pair(audio[:, :200], audio[:, :200], RATE))
    if "below" in name or "2_4" in name:
        return
    with pytest.raises(AudioError, match="Hz"):
        metric.measure(Pair(audio, audio, 8000))


def test_a_reference_without_voice_has_no_harmonics():
    with pytest.raises(AudioError, match="voiced"):
        bands.hnr_2_4k(Pair(noise(0), noise(1), RATE))
