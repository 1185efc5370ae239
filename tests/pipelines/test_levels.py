"""Noise levels that someone chose, that a search found, or that reach down to zero SNR."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from audiodiff import Vocoder
from audiodiff.config import SearchedLevels, SynthesisConfig, parse_config
from audiodiff.diffusion.schedules import wavegrad
from audiodiff.errors import ConfigError
from audiodiff.pipelines.rtf import within_rtf

FOUND = SearchedLevels(log_snrs=(-5.0, 1.0, 6.5), start="noise", sampler="ddim", metric="m_stft", score=1.0)


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder):
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def searched(vocoder):
    own = vocoder.config.synthesis.model_copy(update={"searched": (FOUND,)})
    return Vocoder(vocoder.network, vocoder.config.model_copy(update={"synthesis": own}))


@pytest.fixture(scope="module")
def mel(vocoder, voice):
    return vocoder.mel(torch.from_numpy(voice(0.2, 8000, 1))[None])


def test_given_levels_are_those_of_a_schedule_with_the_same_levels(vocoder, mel):
    plain = vocoder(mel, steps=4)
    assert torch.equal(vocoder(mel, log_snrs=[-8.0, -2.0, 4.0, 10.0]), plain)
    assert not torch.equal(vocoder(mel, log_snrs=[-8.0, -2.0, 4.0, 9.0]), plain)
    assert vocoder.settings({"log_snrs": (-8.0, 1.0, 5.0)}).steps == 3
    assert vocoder.latency(0.5, log_snrs=(-8.0, 1.0, 5.0)) == vocoder.latency(0.5, steps=3)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_levels_may_be_an_array(vocoder, mel, kind):
    assert torch.equal(vocoder(mel, log_snrs=kind([-2.0, 3.0])), vocoder(mel, log_snrs=(-2, 3)))


def test_the_old_name_of_given_levels_still_works_and_warns(vocoder, mel, caplog):
    assert torch.equal(vocoder(mel, levels=[-8.0, 4.0]), vocoder(mel, log_snrs=[-8.0, 4.0]))
    assert caplog.messages == ["synthesis settings: levels is deprecated; use log_snrs"]


def test_a_model_may_state_its_levels_and_a_user_may_ask_for_others(vocoder):
    own = parse_config(SynthesisConfig, {"log_snrs": [-6.0, 2.0, 7.0]}, "a test")
    assert own.steps == 3
    stated = Vocoder(vocoder.network, vocoder.config.model_copy(update={"synthesis": own}))
    assert stated.noise_levels(stated.settings({}))[:-1].tolist() == [-6.0, 2.0, 7.0]
    assert stated.noise_levels(stated.settings({"sampler": "ddpm"}))[:-1].tolist() == [-6.0, 2.0, 7.0]
    for other in ({"steps": 2}, {"schedule": "uniform", "steps": 2}, {"end_log_snr": 10.0, "steps": 2}):
        assert stated.noise_levels(stated.settings(other))[:-1].tolist() == [-8.0, 10.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"log_snrs": (1.0, 1.0)},
            r"^invalid configuration \(synthesis settings\):\n  "
            r"log_snrs \(--log-snrs\) must be finite and increasing, noisiest first; got 1, 1$",
        ),
        ({"log_snrs": (1.0, float("inf"))}, "log_snrs.1: inf is not a number from -50 to 50"),
        ({"log_snrs": (1.0, 2.0), "steps": 3}, "2 log_snrs are as many steps, not 3; leave steps out"),
        (
            {"schedule": "searched", "steps": 2},
            "no searched schedule of 2 steps from noise by ddim; .* has 3 from noise",
        ),
        ({"schedule": "searched", "steps": 3, "sampler": "ddpm"}, "no searched schedule of 3 steps from noise by ddpm"),
    ],
)
def test_impossible_levels_are_refused(searched, changes, message):
    with pytest.raises(ConfigError, match=message):
        searched.settings(changes)


def test_searched_levels_are_found_by_the_number_of_steps(searched, mel):
    made = searched(mel, schedule="searched", steps=3)
    assert torch.equal(made, searched(mel, log_snrs=FOUND.log_snrs))
    assert not torch.equal(made, searched(mel, steps=3))


def test_searched_levels_survive_json(searched):
    config = searched.config
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_any_schedule_that_does_not_begin_with_noise_is_named(vocoder, searched, mel):
    with pytest.warns(UserWarning, match=r"a schedule of given log-SNRs with 2 steps begins at log-SNR 1.0"):
        vocoder(mel, log_snrs=(1.0, 3.0))
    late = FOUND.model_copy(update={"log_snrs": (2.0, 3.0, 4.0)})
    own = searched.config.synthesis.model_copy(update={"searched": (late,)})
    with pytest.warns(UserWarning, match=r"schedule 'searched' with 3 steps begins at log-SNR 2.0"):
        Vocoder(searched.network, searched.config.model_copy(update={"synthesis": own}))(
            mel, schedule="searched", steps=3
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vocoder(mel, log_snrs=(-5.0, 3.0))
        searched(mel, schedule="searched", steps=3)


def test_zero_terminal_stretches_a_schedule_down_to_the_lowest_trained_level(vocoder, mel):
    settings = vocoder.settings({"schedule": "wavegrad", "steps": 6, "zero_terminal": True})
    levels = vocoder.noise_levels(settings)
    assert levels[0] == vocoder.config.diffusion.log_snr_min
    assert levels[-2] == wavegrad(6)[-2]
    with pytest.warns(UserWarning, match="'wavegrad' with 6 steps begins"):
        plain = vocoder(mel, schedule="wavegrad", steps=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not torch.equal(vocoder(mel, schedule="wavegrad", steps=6, zero_terminal=True), plain)


@pytest.mark.parametrize("changes", [{"log_snrs": (-8.0, 1.0)}, {"schedule": "searched", "steps": 3}])
def test_a_budget_of_time_needs_a_free_number_of_steps(searched, changes):
    with pytest.raises(ConfigError, match="the number of steps must be free"):
        within_rtf(searched, 1.0, "auto", changes)
