"""A hundred clips of each bundled generator are usable as they come: level, ends, clicks after the decay, lines."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from audiodiff import Generator, load_audio

PEAK = 10 ** (-1 / 20)
BLOCK, WINDOW, PATCH = 64, 2048, 8


def decibels(amplitude):
    return 20 * np.log10(np.maximum(amplitude, 1e-9))


def has_click(clip, sample_rate):
    """Tell whether a block of 64 samples after the decay is above -60 dBFS and 12 dB above those within 30 ms."""
    envelope = decibels(np.abs(clip[: len(clip) // BLOCK * BLOCK]).reshape(-1, BLOCK).max(1))
    near = int(0.03 * sample_rate / BLOCK)
    for i in range(np.nonzero(envelope > envelope.max() - 30)[0][-1] + near + 1, len(envelope)):
        sides = (envelope[i - near : i - 1], envelope[min(i + 2, len(envelope) - 1) : i + near + 2])
        if envelope[i] > max(-60, 12 + max(np.median(side) for side in sides)):
            return True
    return False


def lines(clips):
    """Return the lines at 1/8, 2/8 and 3/8 of the rate over their neighbours, in quiet windows of the clips."""
    power = []
    for clip in clips:
        windows = clip[: len(clip) // WINDOW * WINDOW].reshape(-1, WINDOW)
        for window in windows[np.argsort((windows**2).mean(1))[:2]]:
            spectrum = np.abs(np.fft.rfft(window * np.hanning(WINDOW))) ** 2
            power.append(spectrum / spectrum.mean())
    mean = 10 * np.log10(np.mean(power, 0) + 1e-12)
    places = [WINDOW // PATCH * k for k in (1, 2, 3)]
    return [mean[i - 1 : i + 2].max() - np.median(mean[i - 24 : i + 25]) for i in places]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "at_level", "clicking"), [("words-16k", 0.75, 0.1), ("drums-22k", 0.9, 0.02)])
def test_a_hundred_clips_are_usable_as_they_come(name, at_level, clicking):
    """The shares are bounds around those measured; egs/*/README.md tell what falls short."""
    generator = Generator.from_pretrained(name, "cpu")
    labels = generator.config.labels
    batches = [generator.generate(label, -(-100 // len(labels)), level=-1)[:, 0].numpy() for label in labels]
    clips = np.concatenate(batches)
    peaks = np.abs(clips).max(1)
    assert peaks.max() <= PEAK * 1.0001
    assert (peaks > PEAK * 0.999).mean() >= at_level
    assert decibels(peaks.min()) > -25
    ends = np.abs(clips[:, [0, -1]]) / peaks[:, None]
    assert ends.max() < 1e-3
    assert np.mean([has_click(clip, generator.sample_rate) for clip in clips]) <= clicking
    assert max(lines(clips)) <= 3


@pytest.mark.slow
def test_the_drum_loop_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "egs/drums/generation/README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code.count("\n") <= 12
    exec(code, {})
    loop = load_audio("loop.wav")
    assert loop.shape[1] == 64 * 3006 + 16538
    assert 0.1 < float(loop.abs().max()) < 1
    assert float(loop[0, :500].abs().max()) > 0.05
