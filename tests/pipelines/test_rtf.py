"""A real-time factor is kept by fewer steps first, then a faster dtype."""

from __future__ import annotations

import pytest
import torch

from audiodiff import Vocoder
from audiodiff.errors import ConfigError
from audiodiff.pipelines.rtf import TRIAL_SECONDS, within_rtf


class Clock:
    """A clock that only vocoders advance, by a fixed time per call and a time per step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def costs(monkeypatch, tiny_vocoder_folder):
    """Give a vocoder and a clock; a step takes 0.1 of real time in fp32 and 0.04 in bf16, the rest 0.05."""
    clock = Clock()
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu", "bf16")
    seconds = vocoder.mel(torch.zeros(1, round(TRIAL_SECONDS * 8000))).shape[-1] * 64 / 8000

    def call(self, mel, **settings):
        step = 0.04 if self.dtype == torch.bfloat16 else 0.1
        clock.now += (0.05 + step * settings["steps"]) * seconds
        return torch.zeros(1)

    monkeypatch.setattr(Vocoder, "__call__", call)
    return vocoder, clock


@pytest.mark.parametrize(
    ("limit", "steps", "dtype", "factor"),
    [
        (1.0, 6, torch.float32, "0.650"),
        (0.651, 6, torch.float32, "0.650"),
        (0.64, 6, torch.bfloat16, "0.290"),
        (0.28, 5, torch.bfloat16, "0.250"),
        (0.1, 1, torch.bfloat16, "0.090"),
    ],
)
def test_as_many_steps_as_wanted_as_precise_as_possible(costs, limit, steps, dtype, factor):
    vocoder, clock = costs
    picked, taken, said = within_rtf(vocoder, limit, "auto", {"steps": 6}, clock)
    assert (picked.dtype, taken) == (dtype, steps)
    name = "bf16" if dtype == torch.bfloat16 else "fp32"
    assert said == f"for a real-time factor of {limit:g}: {steps} of 6 steps in {name}, expected {factor}"


def test_a_given_precision_is_kept(costs):
    vocoder, clock = costs
    picked, steps, _ = within_rtf(vocoder, 1.0, "bf16", {"steps": 6}, clock)
    assert picked is vocoder
    assert steps == 6


def test_the_steps_of_the_model_are_the_most(costs):
    vocoder, clock = costs
    assert within_rtf(vocoder, 100.0, "auto", {}, clock)[1] == vocoder.config.synthesis.steps


def test_what_is_out_of_reach_is_refused(costs):
    vocoder, clock = costs
    with pytest.raises(ConfigError, match=r"0.05 is out of reach here: a single step takes 0.090"):
        within_rtf(vocoder, 0.05, "auto", {}, clock)
