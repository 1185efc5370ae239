"""Scores of a repair look where the damage was, and have the values that can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from audiodiff.evaluation.restoration import log_spectral_distance, snr_db

AUDIO = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
ALL = torch.ones(8000, dtype=torch.bool)


def test_halving_is_6_db_in_both():
    assert snr_db(0.5 * AUDIO, AUDIO, ALL) == pytest.approx(6.02, abs=0.01)
    assert log_spectral_distance(0.5 * AUDIO, AUDIO, ALL) == pytest.approx(6.02, abs=0.05)
    assert snr_db(torch.zeros_like(AUDIO), AUDIO, ALL) == pytest.approx(0)


def test_only_what_is_asked_for_counts():
    first = torch.arange(8000) < 2000
    spoilt = torch.where(first, AUDIO, 0)
    assert snr_db(spoilt, AUDIO, first) == math.inf
    assert snr_db(spoilt, AUDIO, ~first) == pytest.approx(0)
    assert log_spectral_distance(spoilt, AUDIO, torch.arange(8000) < 1000) == 0
    assert math.isnan(snr_db(spoilt, AUDIO, ~ALL))


def test_phases_do_not_matter_to_the_spectral_distance():
    assert log_spectral_distance(-AUDIO, AUDIO, ALL) == 0
    assert snr_db(-AUDIO, AUDIO, ALL) == pytest.approx(-6.02, abs=0.01)
