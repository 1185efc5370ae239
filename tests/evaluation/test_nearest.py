"""A copy is found whatever its level and start; a clip that is none is told from it."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiodiff.errors import DataError
from audiodiff.evaluation.nearest import NearestClip

RATE = 8000


@pytest.fixture
def clips(tmp_path, save_voice):
    return [save_voice(tmp_path / f"{seed}.wav", 0.6, RATE, seed) for seed in range(6)]


def test_a_copy_is_found_though_quieter_and_later(clips, tmp_path):
    samples = soundfile.read(clips[3])[0]
    soundfile.write(tmp_path / "copy.wav", 0.2 * np.concatenate([np.zeros(800), samples[:-800]]), RATE, subtype="FLOAT")
    nearest = NearestClip(clips, RATE, 0.6)
    found = nearest(tmp_path / "copy.wav")
    assert found.path == clips[3]
    assert found.similarity > max(0.8, *nearest.among_themselves())  # a sixth of it was cut off


def test_itself_is_one_and_others_are_less(clips):
    nearest = NearestClip(clips, RATE, 0.6)
    assert nearest(clips[2]).similarity == pytest.approx(1, abs=1e-4)
    among = nearest.among_themselves()
    assert len(among) == len(clips)
    assert max(among) < 0.98
    assert nearest(clips[2], but=2).similarity == pytest.approx(among[2])
    assert NearestClip(clips[:1], RATE, 0.6).among_themselves() == []


def test_the_length_that_is_compared_counts(clips):
    assert NearestClip(clips, RATE, 0.2)(clips[0], but=0).similarity != pytest.approx(
        NearestClip(clips, RATE, 0.6)(clips[0], but=0).similarity
    )


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(DataError, match="no training clips"):
        NearestClip([], RATE, 0.5)
