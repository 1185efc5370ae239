"""A copy of a training clip is found, whatever its level and start."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from audiodiff.errors import DataError
from audiodiff.evaluation.memorisation import NearestClipSearch

RATE = 8000


@pytest.fixture
def clips(tmp_path, save_voice):
    return [save_voice(tmp_path / f"{seed}.wav", 0.6, RATE, seed) for seed in range(6)]


def test_a_copy_is_found_though_quieter_and_later(clips, tmp_path):
    samples = soundfile.read(clips[3])[0]
    soundfile.write(tmp_path / "copy.wav", 0.2 * np.concatenate([np.zeros(800), samples[:-800]]), RATE, subtype="FLOAT")
    nearest = NearestClipSearch(clips, RATE, 0.6)
    found = nearest(tmp_path / "copy.wav")
    assert found.path == clips[3]
    assert found.similarity > max(0.8, *nearest.leave_one_out())  # a sixth of it was cut off


def test_itself_is_one_and_others_are_less(clips):
    nearest = NearestClipSearch(clips, RATE, 0.6)
    assert nearest(clips[2]).similarity == pytest.approx(1, abs=1e-4)
    among = nearest.leave_one_out()
    assert len(among) == len(clips)
    assert max(among) < 0.98
    assert nearest(clips[2], exclude=2).similarity == pytest.approx(among[2])
    assert NearestClipSearch(clips[:1], RATE, 0.6).leave_one_out() == []


def test_the_length_that_is_compared_counts(clips):
    assert NearestClipSearch(clips, RATE, 0.2)(clips[0], exclude=0).similarity != pytest.approx(
        NearestClipSearch(clips, RATE, 0.6)(clips[0], exclude=0).similarity
    )


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(DataError, match="no training clips"):
        NearestClipSearch([], RATE, 0.5)
