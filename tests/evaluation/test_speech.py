"""Metrics of speech equal the packages they come from, called directly, and their definitions."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from audiodiff.audio.io import load_audio
from audiodiff.errors import AudioError
from audiodiff.evaluation import speech as metrics
from audiodiff.evaluation.pair import Pair

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"


def noise(n_samples: int) -> torch.Tensor:
    return torch.randn(1, n_samples, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Two seconds of speech, with a little noise, at 16 kHz."""
    speech = load_audio(CLIP, n_samples=2 * RATE)
    return Pair(speech + 0.003 * noise(2 * RATE), speech, RATE)


@pytest.fixture(scope="module")
def world():
    pytest.importorskip("pyworld")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pyworld
    return pyworld


def channels(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    return pair.generated[0].double().numpy(), pair.reference[0].double().numpy()


def test_pesq_is_that_of_its_package(pair):
    pesq = pytest.importorskip("pesq").pesq
    generated, reference = channels(pair)
    assert metrics.pesq_wb(pair) == pytest.approx(pesq(RATE, reference, generated, "wb"), abs=1e-9)
    import soxr

    generated, reference = (soxr.resample(audio, RATE, 8000, quality="VHQ") for audio in (generated, reference))
    assert metrics.pesq_nb(pair) == pytest.approx(pesq(8000, reference, generated, "nb"), abs=1e-9)


def test_many_utterances_do_not_crash():
    """The C code of PESQ overruns its tables at 50 utterances, which takes the process with it."""
    pytest.importorskip("pesq")
    burst = torch.cat([0.1 * noise(4800), torch.zeros(1, 4800)], 1)
    speech_like = burst.repeat(1, 70)
    assert 1 < metrics.pesq_wb(Pair(0.9 * speech_like, speech_like, RATE)) <= 4.65


def test_a_pause_of_half_a_minute_counts_for_nothing(pair):
    pytest.importorskip("pesq")
    reference = torch.cat([pair.reference, torch.zeros(1, 30 * RATE)], 1)
    generated = (reference + 0.002 * noise(32 * RATE)).clamp(-1, 1)
    assert 1 < metrics.pesq_wb(Pair(generated, reference, RATE)) < 4.6


def test_stoi_and_estoi_are_those_of_their_package(pair):
    stoi = pytest.importorskip("pystoi").stoi
    generated, reference = channels(pair)
    assert metrics.stoi(pair) == stoi(reference, generated, RATE)
    assert metrics.estoi(pair) == stoi(reference, generated, RATE, extended=True)


def test_pitch_and_voicing_are_those_of_pyworld(pair, world):
    def track(samples):
        rough, time = world.dio(samples, RATE)
        return world.stonemask(samples, rough, time, RATE)

    generated, reference = map(track, channels(pair))
    both = (generated > 0) & (reference > 0)
    cents = 1200 * np.log2(generated[both] / reference[both])
    assert metrics.f0_rmse_cents(pair) == pytest.approx(np.sqrt((cents**2).mean()), rel=1e-12)
    hits = int(both.sum())
    misses = int(((generated > 0) != (reference > 0)).sum())
    assert metrics.vuv_f1(pair) == pytest.approx(2 * hits / (2 * hits + misses))


def test_a_tone_a_semitone_higher_is_100_cents_off(world):
    time = torch.arange(RATE) / RATE

    def buzz(hertz):
        return 0.1 * sum(torch.sin(2 * torch.pi * hertz * k * time) for k in range(1, 15))[None]

    pair = Pair(buzz(200 * 2 ** (1 / 12)), buzz(200), RATE)
    assert metrics.f0_rmse_cents(pair) == pytest.approx(100, abs=5)  # its first and last frames are less sure
    assert metrics.vuv_f1(pair) > 0.99
    hiss = 0.1 * noise(RATE)
    with pytest.raises(AudioError, match="no frame is voiced"):
        metrics.f0_rmse_cents(Pair(0.001 * hiss, buzz(200), RATE))


def test_mcd_is_its_definition(pair, world):
    """Mel cepstra by the definition of the warped axis: the log spectrum, sampled at bilinear-warped frequencies."""
    cepstra = []
    for samples in channels(pair):
        rough, time = world.dio(samples, RATE)
        pitch = world.stonemask(samples, rough, time, RATE)
        log_magnitude = np.log(world.cheaptrick(samples, pitch, time, RATE) + 1e-8) / 2
        omega = np.linspace(0, np.pi, log_magnitude.shape[1])
        warped = omega + 2 * np.arctan(0.65 * np.sin(omega) / (1 - 0.65 * np.cos(omega)))
        weights = np.gradient(warped)  # integrate over the warped axis
        weights[[0, -1]] /= 2
        basis = np.cos(np.outer(np.arange(1, 14), warped)) * weights * 2 / np.pi
        cepstra.append(log_magnitude @ basis.T)
    difference = cepstra[0] - cepstra[1]
    expected = 10 / math.log(10) * np.sqrt(2 * (difference**2).sum(1)).mean()
    assert metrics.mcd(pair) == pytest.approx(expected, rel=0.01)


def test_gain_does_not_change_mcd_and_alignment_lowers_it(pair, world):
    louder = Pair(2 * pair.generated, pair.reference, RATE)
    assert metrics.mcd(louder) == pytest.approx(metrics.mcd(pair), abs=0.05)
    late = Pair(pair.reference.roll(480, 1), pair.reference, RATE)
    assert metrics.mcd(late, "dtw") < 0.6 * metrics.mcd(late)
