"""Two folders of recordings to compare: originals, and systems that add a little noise or much."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from audiodiff.evaluation.evaluate import evaluate
from audiodiff.evaluation.results import Evaluation

RATE = 16000


class Folders(NamedTuple):
    """Folders of `clip0.wav` to `clip3.wav`, 1 s each at 16 kHz."""

    reference: Path
    good: Path
    bad: Path


@pytest.fixture(scope="session")
def folders(tmp_path_factory, voice) -> Folders:
    """Give originals and two systems, one better than the other on every recording; do not write into them."""
    root = tmp_path_factory.mktemp("systems")
    for name in Folders._fields:
        (root / name).mkdir()
    for i in range(4):
        original = voice(1.0, RATE, i)
        noise = np.random.default_rng(i).standard_normal(RATE).astype(np.float32)
        soundfile.write(root / "reference" / f"clip{i}.wav", original, RATE)
        soundfile.write(root / "good" / f"clip{i}.wav", original + 0.001 * noise, RATE)
        soundfile.write(root / "bad" / f"clip{i}.wav", 0.5 * original + (0.01 + 0.002 * i) * noise, RATE)
    return Folders(*(root / name for name in Folders._fields))


@pytest.fixture(scope="session")
def evaluation(folders) -> Evaluation:
    """Give the evaluation of both systems by the default metrics."""
    from audiodiff.evaluation.scoring import resolve_metrics

    metrics, _ = resolve_metrics(["default"])
    return evaluate({"good": folders.good, "bad": folders.bad}, folders.reference, metrics, jobs=1)
