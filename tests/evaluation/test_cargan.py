"""Voicing and periodicity are those of CARGAN's procedure, step by step with torchcrepe's own functions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from audiodiff.audio.io import load_audio
from audiodiff.audio.resample import import_torchaudio
from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.results import FileResult, SystemResult
from audiodiff.evaluation.scoring import score_pair

import_torchaudio()  # which torchcrepe imports, and which may need help
torchcrepe = pytest.importorskip("torchcrepe")

from audiodiff.evaluation import cargan  # noqa: E402

RATE = 22050
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"
NAMES = ("vuv_f1_cargan", "periodicity_cargan")


@pytest.fixture(scope="module")
def pair() -> Pair:
    """0.4 s of speech with a little noise."""
    speech = load_audio(CLIP, RATE)[:, RATE // 2 :][:, : RATE * 4 // 10]
    return Pair(speech + 0.02 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0)), speech, RATE)


@pytest.mark.slow
def test_the_procedure_is_that_of_the_paper(pair):
    tracks = []
    for audio in pair.resampled(16000):
        padded = np.pad(audio[0], 419, mode="reflect")
        wave = torch.from_numpy(padded).float()[None]
        pitch, periodicity = torchcrepe.predict(
            wave, 16000, 185, 50.0, 550.0, "full", return_periodicity=True, batch_size=1024, pad=False
        )
        periodicity = torchcrepe.threshold.Silence()(periodicity, wave, 16000, 185, pad=False)
        n_frames = RATE * 4 // 10 // 256
        position = (np.arange(n_frames) + 0.5) * pitch.shape[1] / n_frames - 0.5
        position = position.clip(0, pitch.shape[1] - 1)
        known = np.arange(pitch.shape[1])
        hertz = 2 ** np.interp(position, known, pitch[0].log2().numpy())
        strength = np.interp(position, known, periodicity[0].numpy()).astype(np.float32)
        voiced = torchcrepe.threshold.Hysteresis()(torch.from_numpy(hertz)[None], torch.from_numpy(strength)[None])
        tracks.append((strength, ~np.isnan(voiced[0].numpy())))
    (strength, voiced), (true_strength, true_voiced) = tracks
    scores = score_pair(pair, NAMES)
    expected = np.sqrt(np.square(strength - true_strength).mean())
    assert scores.values["periodicity_cargan"] == pytest.approx(expected, abs=1e-4)
    precision, recall = ((voiced & true_voiced).sum() / of.sum() for of in (voiced, true_voiced))
    # The dither of the pitch, which is left out here, may move a frame over the threshold.
    assert scores.values["vuv_f1_cargan"] == pytest.approx(2 * precision * recall / (precision + recall), abs=0.06)
    assert scores.weights == {"vuv_f1_cargan": cargan.n_voiced(pair), "periodicity_cargan": RATE * 4 // 10 // 256}


def test_a_recording_against_itself_is_perfect_and_gives_the_same_each_time():
    speech = load_audio(CLIP, RATE)[:, RATE * 8 // 10 :][:, : RATE // 10]  # 0.1 s of a vowel
    scores = [score_pair(Pair(speech, speech, RATE), NAMES) for _ in range(2)]
    assert scores[0].values == {"vuv_f1_cargan": 1, "periodicity_cargan": 0}
    assert scores[0] == scores[1]


def test_what_is_too_short_or_silent_says_so():
    hiss = 0.1 * torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    short = score_pair(Pair(hiss, hiss, RATE), NAMES).failures
    assert short == dict.fromkeys(NAMES, "0.023 s is too short; CREPE needs 0.027 s.")
    silent = score_pair(Pair(torch.zeros(1, 2000), torch.zeros(1, 2000), RATE), NAMES).failures
    assert silent == dict.fromkeys(NAMES, "there is nothing but silence.")
    faint = 1e-6 * torch.ones(1, 700)
    faint[:, ::2] *= -1
    with pytest.raises(AudioError, match="no frame is voiced in either"):
        cargan.vuv_f1_cargan(Pair(faint, faint, RATE))
    assert cargan.periodicity_cargan(Pair(faint, faint, RATE)) == 0


def test_means_are_those_of_all_frames_together():
    counts = [(0.9, 10, 4, 2), (0.1, 30, 20, 1)]  # squares, frames, hits, wrong
    files = [
        FileResult(
            name=str(i),
            generated="",
            reference="",
            seconds=1,
            sample_rate=RATE,
            scores={"periodicity_cargan": (squares / frames) ** 0.5, "vuv_f1_cargan": 2 * hits / (2 * hits + wrong)},
            weights={"periodicity_cargan": frames, "vuv_f1_cargan": 2 * hits + wrong},
        )
        for i, (squares, frames, hits, wrong) in enumerate(counts)
    ]
    system = SystemResult(name="s", path="", files=files)
    assert system.summary("periodicity_cargan").mean == pytest.approx((1.0 / 40) ** 0.5)
    assert system.summary("vuv_f1_cargan").mean == pytest.approx(48 / 51)
    assert system.summary("periodicity_cargan").high > system.summary("periodicity_cargan").mean
