"""Scores have their known values on known changes, and what cannot be scored is named, not a crash."""

from __future__ import annotations

import logging
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from audiodiff.audio.io import load_audio
from audiodiff.audio.resample import resample
from audiodiff.errors import AudioError
from audiodiff.evaluation import metrics
from audiodiff.evaluation.metrics import TITLES, score

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"
CHEAP = {"m_stft", "log_mel", "rms_ratio_db", "peak"}


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Two seconds of speech: (1, 32000)."""
    return load_audio(CLIP, n_samples=2 * RATE)


def noise(n_samples: int) -> Tensor:
    return torch.randn(1, n_samples, generator=torch.Generator().manual_seed(0))


def test_a_recording_against_itself(speech):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    scores = score(speech, speech, RATE)
    assert scores.keys() | {"distillmos"} == TITLES.keys()
    assert scores["pesq_wb"] == pytest.approx(4.644, abs=0.001)  # the best that P.862.2 can give
    assert scores["estoi"] == pytest.approx(1, abs=1e-6)
    assert (scores["m_stft"], scores["log_mel"], scores["rms_ratio_db"]) == (0, 0, 0)
    assert scores["peak"] == float(speech.abs().max())


def test_more_noise_is_worse_in_every_score(speech):
    little, much = (score(speech + gain * noise(2 * RATE), speech, RATE) for gain in (0.002, 0.02))
    assert little["m_stft"] < much["m_stft"]
    assert little["log_mel"] < much["log_mel"]
    for name in {"pesq_wb", "estoi"} & little.keys():
        assert little[name] > much[name]


def test_level_is_in_decibels(speech):
    assert score(speech / 2, speech, RATE)["rms_ratio_db"] == pytest.approx(-6.02, abs=0.01)


def test_channels_are_averaged(speech):
    noisy = speech + 0.01 * noise(2 * RATE)
    one, other = score(noisy, speech, RATE), score(speech, speech, RATE)
    both = score(torch.cat([noisy, speech]), torch.cat([speech, speech]), RATE)
    for name in both.keys() - {"rms_ratio_db", "peak"}:
        assert both[name] == pytest.approx((one[name] + other[name]) / 2, abs=1e-5)


def test_speech_scores_at_another_rate_are_those_at_16_khz(speech):
    muffled = noise(2 * RATE) + noise(2 * RATE).roll(1, 1)  # has nothing where resampling cuts
    noisy = speech + 0.005 * muffled
    at_16, at_24 = score(noisy, speech, RATE), score(resample(noisy, RATE, 24000), resample(speech, RATE, 24000), 24000)
    for name in {"pesq_wb", "estoi"} & at_16.keys():
        assert at_24[name] == pytest.approx(at_16[name], abs=0.03)


def test_many_utterances_do_not_crash():
    """The C code of PESQ overruns its tables at 50 utterances, which takes the process with it."""
    pytest.importorskip("pesq")
    burst = torch.cat([0.1 * noise(4800), torch.zeros(1, 4800)], 1)
    speech_like = burst.repeat(1, 70)
    assert 1 < metrics._pesq_wb((0.9 * speech_like).double().numpy()[0], speech_like.double().numpy()[0]) <= 4.65


@pytest.mark.parametrize(
    ("generated", "reference", "absent"),
    [
        (torch.zeros(1, RATE), torch.zeros(1, RATE), "PESQ-WB, ESTOI: there is nothing but silence"),
        (torch.zeros(1, RATE), noise(RATE), "PESQ-WB, ESTOI: there is nothing but silence"),
        (noise(RATE), torch.zeros(1, RATE), "PESQ-WB, ESTOI: there is nothing but silence"),
        (noise(2000), noise(2000), "PESQ-WB: Buffer needs to be at least 1/4 of a second long"),
        (noise(2000), noise(2000), "ESTOI: "),
        (noise(500), noise(500), "M-STFT: clips have 500 samples"),
        (noise(100), noise(100), "log-mel: audio of 100 samples is too short"),
    ],
)
def test_what_cannot_be_scored_is_named(generated, reference, absent, caplog, monkeypatch):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    monkeypatch.setattr(metrics, "find_spec", lambda package: package in ("pesq", "pystoi"))
    with caplog.at_level(logging.WARNING, "audiodiff"):
        scores = score(generated, reference, RATE)
    assert f"no {absent}" in caplog.text
    titles = absent.partition(":")[0].split(", ")
    assert all(math.isnan(scores[name]) for name, title in TITLES.items() if title in titles)
    assert math.isfinite(scores["rms_ratio_db"])


def test_a_pause_of_half_a_minute_counts_for_nothing(speech):
    pytest.importorskip("pesq")
    reference = torch.cat([speech, torch.zeros(1, 30 * RATE)], 1)
    generated = (reference + 0.002 * noise(32 * RATE)).clamp(-1, 1)
    pieces = metrics._pesq_wb(generated.double().numpy()[0], reference.double().numpy()[0])
    assert 1 < pieces < 4.6


def test_without_the_extra_the_cheap_scores_remain(speech, monkeypatch):
    monkeypatch.setattr(metrics, "find_spec", lambda package: None)
    assert score(speech, speech, RATE).keys() == CHEAP


@pytest.mark.parametrize("shapes", [((1, 9), (1, 8)), ((9,), (9,)), ((1, 0), (1, 0))])
def test_what_does_not_belong_together_is_refused(shapes):
    with pytest.raises(AudioError, match="expected the same"):
        score(*(torch.zeros(shape) for shape in shapes), RATE)


def test_distillmos_hears_noise(speech):
    pytest.importorskip("distillmos")
    clean = score(speech, speech, RATE)["distillmos"]
    noisy = score(speech + 0.1 * noise(speech.shape[-1]), speech, RATE)["distillmos"]
    assert 1 < noisy < clean - 0.5
    assert clean < 5.1
