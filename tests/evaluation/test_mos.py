"""Opinions equal the packages they come from, called directly; the extra `eval-mos` must be installed."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from audiodiff.audio.io import load_audio
from audiodiff.audio.resample import import_torchaudio
from audiodiff.errors import AudioError
from audiodiff.evaluation import speech as metrics
from audiodiff.evaluation.pair import Pair

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return load_audio(CLIP, n_samples=3 * RATE)


@pytest.fixture(scope="module")
def noisy(speech) -> torch.Tensor:
    return speech + 0.02 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))


def test_distillmos_is_that_of_its_package_and_hears_noise(speech, noisy):
    import_torchaudio()  # which distillmos imports, and which may need help
    pytest.importorskip("distillmos")
    from distillmos import ConvTransformerSQAModel

    with torch.inference_mode():
        expected = float(ConvTransformerSQAModel().eval()(noisy))
    assert metrics.distillmos(Pair(noisy, speech, RATE)) == pytest.approx(expected, abs=1e-6)
    assert expected < metrics.distillmos(Pair(speech, speech, RATE)) - 0.5


@pytest.mark.slow
def test_dnsmos_is_that_of_its_package_and_is_run_once(speech, noisy, monkeypatch):
    pytest.importorskip("onnxruntime")
    dnsmos = pytest.importorskip("speechmos.dnsmos")
    expected = dnsmos.run(noisy[0].double().numpy(), RATE)
    calls, run = [], dnsmos.run
    monkeypatch.setattr(dnsmos, "run", lambda *arguments: calls.append(1) or run(*arguments))
    pair = Pair(noisy, speech, RATE)
    assert metrics.dnsmos_overall(pair) == pytest.approx(expected["ovrl_mos"], abs=1e-6)
    assert metrics.dnsmos_p808(pair) == pytest.approx(expected["p808_mos"], abs=1e-6)
    assert len(calls) == 1
    with pytest.raises(AudioError, match="DNSMOS takes nothing beyond 1"):
        metrics.dnsmos_overall(Pair(3 * speech / speech.abs().max(), speech, RATE))


@pytest.mark.slow
def test_speaker_similarity_is_that_of_its_package(speech, noisy):
    pytest.importorskip("webrtcvad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resemblyzer = pytest.importorskip("resemblyzer")
        encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)
        voices = [encoder.embed_utterance(resemblyzer.preprocess_wav(audio[0].numpy())) for audio in (noisy, speech)]
    assert metrics.speaker_similarity(Pair(noisy, speech, RATE)) == pytest.approx(float(np.dot(*voices)), abs=1e-5)
    assert metrics.speaker_similarity(Pair(speech, speech, RATE)) == pytest.approx(1, abs=1e-5)
