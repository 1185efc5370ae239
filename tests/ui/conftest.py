"""A studio with tiny models, and recordings of every odd kind."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

pytest.importorskip("matplotlib")

from audiodiff.ui.models import Models
from audiodiff.ui.studio import Studio


@pytest.fixture(scope="session")
def models(tiny_vocoder_folder, tiny_generator_folder):
    return Models([str(tiny_vocoder_folder), str(tiny_generator_folder)], "cpu")


@pytest.fixture(scope="session")
def vocoder(tiny_vocoder_folder):
    return str(tiny_vocoder_folder)


@pytest.fixture(scope="session")
def generator(tiny_generator_folder):
    return str(tiny_generator_folder)


@pytest.fixture
def studio(models, tmp_path):
    folder = tmp_path / "lent"
    folder.mkdir()
    return Studio(models, folder, max_seconds=2.0)


@pytest.fixture
def record(tmp_path, voice):
    """Give a function that writes a voice, or given samples `(time,)` or `(time, channels)`, and returns the path."""

    def write(samples=None, rate=8000, subtype="PCM_16", seconds=0.5, name="in.wav"):
        samples = voice(seconds, rate) if samples is None else np.asarray(samples)
        soundfile.write(tmp_path / name, samples, rate, subtype)
        return str(tmp_path / name)

    return write
