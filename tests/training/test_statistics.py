"""After statistics mels are standardised and whitened audio has unit variance, in every band there is."""

import logging
import math
import re

import numpy as np
import pytest
import soundfile
import torch
from torch.utils.data import default_collate

from audiodiff.audio.whitening import Whitening
from audiodiff.config import DataConfig, ModelConfig, NetworkConfig, WhiteningConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset
from audiodiff.data.manifest import scan_folder
from audiodiff.errors import DataError
from audiodiff.networks import build_network
from audiodiff.training.initialisation import STATISTICS_CROPS, measure_statistics
from audiodiff.training.objective import Objective

CPU = torch.device("cpu")
DATA = DataConfig(train="x", crop_seconds=0.25)


def dataset_of(recordings, config):
    return CropDataset(recordings, CropReader.for_model(config, DATA), DATA, 0)


@pytest.fixture(scope="module")
def dataset(speech_folder, tiny_model_config):
    return dataset_of(scan_folder(speech_folder).recordings, tiny_model_config)


@pytest.fixture(scope="module")
def crops(dataset):
    return default_collate([dataset[i].example for i in range(STATISTICS_CROPS)])


def whitened_by(kind, config):
    return config.model_copy(update={"whitening": WhiteningConfig(kind=kind, exponent=0.5)})


def noise_folder(tmp_path, cut_at=None, sample_rate=8000):
    """Write white noise, above a frequency nothing."""
    spectrum = np.fft.rfft(np.random.default_rng(0).normal(size=8 * sample_rate))
    if cut_at is not None:
        spectrum[np.fft.rfftfreq(8 * sample_rate, 1 / sample_rate) > cut_at] = 0
    samples = np.fft.irfft(spectrum) * 0.05
    soundfile.write(tmp_path / f"noise-{cut_at}.wav", samples, sample_rate, subtype="FLOAT")
    return scan_folder(tmp_path).recordings


def test_mel_becomes_standard(dataset, crops, tiny_model_config):
    network = build_network(tiny_model_config)
    measure_statistics(dataset, tiny_model_config).applied_to(network, tiny_model_config)
    features = network.normalise_mel(Objective(tiny_model_config, CPU).prepare(crops).mel)
    torch.testing.assert_close(features.mean((0, 1)), torch.zeros(20), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std((0, 1)), torch.ones(20), atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["none", "energy", "spectral"])
def test_whitened_audio_has_unit_variance(dataset, crops, tiny_model_config, kind):
    config = whitened_by(kind, tiny_model_config)
    model = measure_statistics(dataset, config).applied_to(build_network(config), config)
    assert len(model.whitening.gain) == (64 if kind == "spectral" else 1)
    clean = Objective(model, CPU).prepare(crops).clean
    assert float(clean.square().mean()) == pytest.approx(1, abs=0.03 if kind == "spectral" else 1e-4)


def test_spectral_whitening_is_flat_across_the_bands(dataset, crops, tiny_model_config):
    def unevenness(config):
        clean = Objective(config, CPU).prepare(crops).clean
        variance = Whitening(config.whitening, config.mel).transform(clean[:, 0])[:, 1:-1].square().mean((0, 1))
        return float(torch.nn.functional.avg_pool1d(variance.log()[None], 9, 1).std())

    config = whitened_by("spectral", tiny_model_config)
    model = measure_statistics(dataset, config).applied_to(build_network(config), config)
    assert unevenness(model) < 0.2 < 1.5 < unevenness(config)


def test_a_model_without_mel_gets_one_gain(dataset):
    config = ModelConfig(sample_rate=8000, network=NetworkConfig(patch=8))
    statistics = measure_statistics(dataset, config)
    assert statistics.mel_mean is None
    assert len(statistics.applied_to(build_network(config), config).whitening.gain) == 1


def test_a_band_limited_recording_does_not_count_above_its_band(tmp_path, tiny_model_config):
    full, limited = tmp_path / "full", tmp_path / "limited"
    full.mkdir()
    limited.mkdir()
    config = tiny_model_config.model_copy(update={"whitening": WhiteningConfig(kind="spectral", exponent=0)})
    wide = noise_folder(full)
    (narrow,) = noise_folder(limited, cut_at=2000)
    said = narrow.model_copy(update={"bandwidth": 2000.0})
    gain = {
        name: np.array(measure_statistics(dataset_of(recordings, config), config).gain)
        for name, recordings in {"wide": wide, "said": [*wide, said], "unsaid": [*wide, narrow]}.items()
    }
    np.testing.assert_allclose(gain["said"], gain["wide"], rtol=0.06)
    # Unsaid, the empty band halves the variance up there, which asks for 3 dB more.
    np.testing.assert_allclose(gain["unsaid"][48:] / gain["wide"][48:], math.sqrt(2), rtol=0.1)


def test_where_no_recording_reaches_the_gain_goes_on(tmp_path, tiny_model_config, caplog):
    (narrow,) = noise_folder(tmp_path, cut_at=2000)
    with caplog.at_level(logging.WARNING):
        said = narrow.model_copy(update={"bandwidth": 2000.0})
        gain = measure_statistics(dataset_of([said], tiny_model_config), tiny_model_config).gain
    assert gain[40:] == (gain[40],) * 24
    assert not caplog.records


def test_an_empty_band_that_nobody_declared_is_reported(tmp_path, tiny_model_config, caplog):
    config = tiny_model_config.model_copy(update={"whitening": WhiteningConfig(kind="spectral", exponent=0)})
    with caplog.at_level(logging.WARNING):
        gain = measure_statistics(dataset_of(noise_folder(tmp_path, cut_at=2000), config), config).gain
    assert re.search(r"spectrum from [23]\d{3} Hz on are empty", caplog.text)
    assert "`bandwidth`" in caplog.text
    assert max(gain) < 1.1e3 * min(gain)  # 60 dB, not the 140 dB that float32 would allow


def test_a_stated_gain_is_kept(dataset, tiny_model_config):
    stated = WhiteningConfig(kind="energy", gain=(2.5,))
    config = tiny_model_config.model_copy(update={"whitening": stated})
    assert measure_statistics(dataset, config).applied_to(build_network(config), config) == config


def test_silence_is_refused(tmp_path, tiny_model_config):
    soundfile.write(tmp_path / "silence.wav", np.zeros(8000), 8000)
    with pytest.raises(DataError, match="silent"):
        measure_statistics(dataset_of(scan_folder(tmp_path).recordings, tiny_model_config), tiny_model_config)
