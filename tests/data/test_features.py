"""Mels and waveforms on disk are those of the recording; the recipes' tests hold them against resuming and layouts."""

import numpy as np
import pytest
import soundfile

from audiodiff.audio.io import load_audio
from audiodiff.data.features import add_mel, at_rate, check_convention
from audiodiff.data.manifest import probe
from audiodiff.errors import DataError


def test_a_mel_of_several_channels_is_that_of_their_mean(tmp_path, voice):
    left, right = voice(0.5, 22050, 1), voice(0.5, 22050, 2)
    soundfile.write(tmp_path / "both.wav", np.stack([left, right], 1), 22050, subtype="FLOAT")
    soundfile.write(tmp_path / "mean.wav", (left + right) / 2, 22050, subtype="FLOAT")
    both, mean = (
        np.load(add_mel(probe(tmp_path / f"{name}.wav"), tmp_path / f"{name}.npy", "hifigan-22k", "float32").mel)
        for name in ("both", "mean")
    )
    np.testing.assert_allclose(both, mean, atol=1e-4)
    assert both.shape == (80, 43)


def test_an_unknown_convention_is_refused():
    check_convention("vocos-24k@16000")
    with pytest.raises(DataError, match="unknown mel convention 'x'"):
        check_convention("x")


def test_what_would_exceed_full_scale_is_made_quieter_and_said(tmp_path, caplog):
    square = np.sign(np.sin(2 * np.pi * 441 * np.arange(22050) / 44100)) * 0.999
    soundfile.write(tmp_path / "square.wav", square, 44100)
    recording = at_rate(probe(tmp_path / "square.wav"), tmp_path / "out" / "square.flac", 16000)
    assert "is made 1." in caplog.text or "is made 0." in caplog.text
    assert "dB quieter" in caplog.text
    assert 0.999 < float(load_audio(recording.audio).abs().max()) <= 1
    assert (recording.sample_rate, recording.n_samples) == (16000, 8000)


@pytest.mark.parametrize(
    ("known", "to_rate", "noted"),
    [(None, 22050, 4000.0), (3400.0, 22050, 3400.0), (None, 8000, None), (3400.0, 8000, 3400.0)],
)
def test_the_band_goes_along(tmp_path, save_voice, known, to_rate, noted):
    recording = probe(save_voice(tmp_path / "a.wav", 0.5)).model_copy(update={"bandwidth": known})
    assert at_rate(recording, tmp_path / "b.flac", to_rate).bandwidth == noted
