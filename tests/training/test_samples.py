"""Clips are made as a user would make them."""

import numpy as np
import pytest
import torch

from audiodiff.audio.io import save_audio
from audiodiff.config import DataConfig, ModelConfig, NetworkConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.manifest import scan_folder
from audiodiff.evaluation.evaluate import AlignmentOptions, Task, score_files
from audiodiff.evaluation.listing import Match
from audiodiff.networks import build_network
from audiodiff.pipelines import Vocoder
from audiodiff.training.callbacks import _picture
from audiodiff.training.validation import choose_samples, make_clips


@pytest.fixture(scope="module")
def recordings(speech_folder):
    return scan_folder(speech_folder).recordings


def samples_for(recordings, config, seconds=0.25):
    reader = CropReader.for_model(config, DataConfig(train="x", crop_seconds=seconds))
    return choose_samples(recordings, reader, config.hop_length)


def test_beginnings_of_three_recordings_are_chosen(recordings, tiny_model_config):
    samples = samples_for(recordings, tiny_model_config)
    assert len(samples) == 3
    for (name, audio, *_), recording in zip(samples, (recordings[0], recordings[2], recordings[5]), strict=True):
        assert name == recording.audio.stem
        assert audio.shape == (1, recording.n_samples // 64 * 64)
    assert len(samples_for(recordings[:1], tiny_model_config)) == 1
    assert samples_for(recordings, tiny_model_config, seconds=2.0)[0][1].shape == (1, 16000)


def test_a_vocoder_vocodes_them(recordings, tiny_model_config):
    network = build_network(tiny_model_config).eval()
    samples = samples_for(recordings, tiny_model_config)
    clips = make_clips(network, tiny_model_config, samples)
    vocoder = Vocoder(network, tiny_model_config)
    for clip, (name, audio, *_) in zip(clips, samples, strict=True):
        assert clip.name == name
        assert torch.equal(clip.reference, audio)
        assert torch.equal(clip.generated, vocoder(vocoder.mel(audio)))
        assert clip.scores.keys() >= {"m_stft", "log_mel", "rms_ratio_db", "peak"}
        picture = _picture(clip, 8000)
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert picture.std() > 10


def test_scores_are_those_of_evaluate(recordings, tiny_model_config, tmp_path):
    """The clips, saved and evaluated as files, have the scores that validation writes for TensorBoard."""
    samples = samples_for(recordings, tiny_model_config)[:1]
    (clip,) = make_clips(build_network(tiny_model_config).eval(), tiny_model_config, samples)
    for name, audio in (("generated", clip.generated), ("reference", clip.reference)):
        save_audio(tmp_path / f"{name}.wav", audio, 8000, "FLOAT")
    match = Match("clip", tmp_path / "generated.wav", tmp_path / "reference.wav")
    result = score_files(Task(match, tuple(clip.scores), AlignmentOptions(max_lag_ms=1000)))
    expected = {name: value for name, value in clip.scores.items() if np.isfinite(value)}
    assert result.scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "names"), [(("yes", "no"), ["yes", "no", "yes"]), ((), ["sample 0", "sample 1", "sample 2"])]
)
def test_a_generator_generates(recordings, labels, names):
    config = ModelConfig(sample_rate=8000, labels=labels, network=NetworkConfig(channels=16, layers=2, patch=8))
    samples = samples_for(recordings, config)
    clips = make_clips(build_network(config).eval(), config, samples)
    assert [clip.name for clip in clips] == names
    assert not any(clip.scores for clip in clips)  # it follows no recording
    assert all(clip.generated.shape == clip.reference.shape for clip in clips)
