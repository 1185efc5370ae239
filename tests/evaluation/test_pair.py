"""A pair serves what metrics need of it, once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiodiff.evaluation.pair import Pair

RATE = 22050


@pytest.fixture
def pair(voice) -> Pair:
    audio = torch.from_numpy(voice(0.5, RATE))[None]
    return Pair(0.5 * audio, audio, RATE)


def test_resampling_is_soxrs_and_happens_once(pair):
    import soxr

    generated, reference = pair.resampled(16000)
    expected = soxr.resample(pair.reference[0].double().numpy(), RATE, 16000, quality="VHQ")
    np.testing.assert_allclose(reference[0], expected, atol=1e-6)
    np.testing.assert_allclose(2 * generated, reference, atol=1e-6)
    assert pair.resampled(16000)[0] is generated
    assert np.array_equal(pair.resampled(RATE)[1], pair.reference.double().numpy())


def test_what_is_found_is_found_once(pair):
    calls = []
    for _ in range(2):
        assert pair.cached("number", lambda: calls.append(1) or 7) == 7
    assert len(calls) == 1


def test_one_silent_channel_is_silence(pair):
    assert not pair.silent
    both = torch.cat([pair.reference, torch.zeros_like(pair.reference)])
    assert Pair(both, both, RATE).silent
