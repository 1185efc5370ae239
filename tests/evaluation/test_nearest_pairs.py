"""Each recording is paired with the most similar clip of its label."""

import numpy as np
import pytest
import soundfile

from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.errors import DataError
from audiodiff.evaluation.nearest_pairs import match_nearest


def manifest(path, clips):
    """Write tones of these (name, frequency, seconds, label) and their manifest."""
    recordings = []
    for name, frequency, seconds, label in clips:
        file = path.parent / f"{name}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(file, 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * 16000)) / 16000), 16000)
        recordings.append(Recording(audio=file, seconds=seconds, sample_rate=16000, label=label))
    write_manifest(path, recordings)
    return path


@pytest.fixture
def generated(tmp_path):
    clips = [("a0", 300, 0.5, "a"), ("a1", 900, 0.5, "a"), ("b0", 310, 0.5, "b"), ("b1", 3000, 0.2, "b")]
    return manifest(tmp_path / "generated" / "train.jsonl", clips)


def test_the_nearest_clip_of_the_label_is_found_at_any_length(tmp_path, generated):
    reference = manifest(tmp_path / "real" / "test.jsonl", [("x", 310, 0.8, "a"), ("y", 2900, 0.3, "b")])
    matches, left_over = match_nearest(generated, reference)
    assert {match.name: match.generated.stem for match in matches} == {"x": "a0", "y": "b1"}
    assert not left_over


def test_without_the_label_all_clips_count(tmp_path, generated):
    reference = manifest(tmp_path / "real" / "test.jsonl", [("x", 2900, 0.3, "bell")])
    assert match_nearest(generated, reference)[0][0].generated.stem == "b1"


def test_two_recordings_of_one_name_are_refused(tmp_path, generated):
    reference = manifest(tmp_path / "real" / "test.jsonl", [("x", 300, 0.3, "a"), ("sub/x", 300, 0.3, "a")])
    with pytest.raises(DataError, match="have one name"):
        match_nearest(generated, reference)
