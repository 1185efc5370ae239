"""What tests of recipes share: short sounds on disk, and a recipe run on a fabricated corpus."""

from collections import defaultdict

import numpy as np
import pytest
import soundfile

from audiodiff.data.manifest import read_manifest


@pytest.fixture(scope="session")
def save_tone():
    """Give a function (path, sample_rate, seconds, channels) that writes a sound unlike that of any other path."""

    def save(path, sample_rate=16000, seconds=0.1, channels=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(sum(map(ord, path.as_posix())))
        soundfile.write(path, 0.1 * random.standard_normal((round(seconds * sample_rate), channels)), sample_rate)
        return path

    return save


@pytest.fixture
def prepare(tmp_path):
    """Give a function (recipe, corpus_dir, **options) that returns the recordings of each part by file name."""

    def run(recipe, corpus_dir, **options):
        recipe.prepare(corpus_dir, tmp_path / "lists", workers=1, **options)
        parts = defaultdict(dict)
        for part in ("train", "valid", "test"):
            for recording in read_manifest(tmp_path / "lists" / f"{part}.jsonl"):
                assert recording.audio.is_file()
                parts[part][recording.audio.stem] = recording
        return parts

    return run
