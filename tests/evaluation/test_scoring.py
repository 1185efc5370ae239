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
from audiodiff.errors import AudioError, ConfigError
from audiodiff.evaluation import scoring
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.scoring import METRICS, TITLES, resolve_metrics, score, score_pair

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"
CHEAP = {"m_stft", "log_mel", "rms_ratio_db", "peak"}


@pytest.fixture(scope="module")
def speech() -> Tensor:
    """Two seconds of speech: (1, 32000)."""
    return load_audio(CLIP, n_samples=2 * RATE)


def noise(n_samples: int) -> Tensor:
    return torch.randn(1, n_samples, generator=torch.Generator().manual_seed(0))


def test_a_recording_against_itself_has_the_best_value_of_the_table(speech):
    """Which is also what the table says of it; those with tests of their own are left out."""
    elsewhere = ("bands", "eval-pitch", "eval-asr", "eval-mos")
    usual = [(name, metric) for name, metric in METRICS.items() if metric.belongs_to not in elsewhere]
    names = [name for name, metric in usual if metric.installed and metric.best is not None]
    scores = score(speech, speech, RATE, names)
    assert scores == {name: pytest.approx(METRICS[name].best, abs=0.001) for name in names}
    assert score(speech, speech, RATE, ["peak"])["peak"] == float(speech.abs().max())


def test_every_metric_says_what_it_is():
    for name, metric in METRICS.items():
        assert all((metric.title, metric.range, "." in metric.description)), name
        assert (
            metric.belongs_to in ("default", "bands", "timing")
            or metric.packages
            or metric.measure.__module__.endswith("signal")
        )


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
    monkeypatch.setattr(scoring, "find_spec", lambda package: package in ("pesq", "pystoi"))
    with caplog.at_level(logging.WARNING, "audiodiff"):
        scores = score(generated, reference, RATE)
    assert f"no {absent}" in caplog.text
    titles = absent.partition(":")[0].split(", ")
    assert all(math.isnan(scores[name]) for name, title in TITLES.items() if title in titles)
    assert math.isfinite(scores["rms_ratio_db"])


def test_without_the_extra_the_cheap_scores_remain(speech, monkeypatch):
    monkeypatch.setattr(scoring, "find_spec", lambda package: None)
    assert score(speech, speech, RATE).keys() == CHEAP


@pytest.mark.parametrize("shapes", [((1, 9), (1, 8)), ((9,), (9,)), ((1, 0), (1, 0))])
def test_what_does_not_belong_together_is_refused(shapes):
    with pytest.raises(AudioError, match="expected the same"):
        score(*(torch.zeros(shape) for shape in shapes), RATE)


def test_sets_and_names_choose_metrics_in_the_order_of_the_table():
    assert resolve_metrics(["peak", "m_stft"])[0] == ["m_stft", "peak"]
    assert set(resolve_metrics(["default"])[0]) == CHEAP | {"lag_ms"}
    with pytest.raises(
        ConfigError,
        match="no metric 'mos'; choose from the sets default, bands, timing, eval, eval-pitch, eval-asr, eval-mos, or",
    ):
        resolve_metrics(["mos"])


def test_a_missing_extra_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(scoring, "find_spec", lambda package: None)
    chosen, notes = resolve_metrics(["default", "eval", "eval-mos"])
    assert set(chosen) == CHEAP | {"lag_ms", "periodicity_rmse"}
    assert len(notes) == 2
    assert notes[0].startswith("PESQ-WB, PESQ-NB, STOI")
    assert "pip install 'audiodiff[eval]'" in notes[0]
    assert "pip install 'audiodiff[eval-mos]'" in notes[1]
    with pytest.raises(ConfigError, match=r"MCD13 \(dB\) needs `pip install 'audiodiff\[eval\]'`"):
        resolve_metrics(["mcd"])


def test_reasons_stand_in_place_of_scores(speech):
    scores = score_pair(Pair(0 * speech, speech, RATE), ["rms_ratio_db", "lag_ms"])
    assert scores.values.keys() == {"rms_ratio_db"}
    assert scores.failures == {"lag_ms": "there is nothing but silence."}
    assert score_pair(Pair(speech, speech, RATE), ["peak"], peak=lambda pair: math.inf).failures == {
        "peak": "it is inf."
    }
