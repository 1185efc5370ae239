"""Validation measures the loss it says, always in the same way."""

import pytest
import torch

from audiodiff.config import DataConfig, TrainingConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import validation_crops
from audiodiff.data.manifest import scan_folder
from audiodiff.networks import build_network
from audiodiff.training.objective import Objective
from audiodiff.training.validation import Validator

CPU = torch.device("cpu")


@pytest.fixture
def validate(speech_folder, tiny_model_config):
    """Measure a network on five crops; options go into the training configuration."""
    reader = CropReader.for_model(tiny_model_config, DataConfig(train="x", crop_seconds=0.25))
    crops = validation_crops(scan_folder(speech_folder).recordings, reader, 5)

    def measure(network, n_crops=5, **options):
        config = TrainingConfig(**{"validation_levels": 4, "batch_size": 3} | options)
        return Validator(crops[:n_crops], Objective(tiny_model_config, CPU), config)(network)

    return measure


@pytest.fixture
def network(tiny_model_config):
    return build_network(tiny_model_config).eval()


def test_levels_are_evenly_spaced_and_averaged(validate, network):
    result = validate(network)
    assert list(result.by_log_snr) == pytest.approx([-8, -2, 4, 10])
    assert result.loss == pytest.approx(sum(result.by_log_snr.values()) / 4)


def test_result_is_the_same_every_time_and_at_every_batch_size(validate, network):
    first = validate(network)
    assert validate(network) == first
    torch.manual_seed(1)
    other = validate(network, batch_size=5)
    assert list(other.by_log_snr.values()) == pytest.approx(list(first.by_log_snr.values()), rel=1e-5)


def test_loss_of_the_untrained_network_is_known(validate, network):
    # Its output is zero, so it predicts sigma x; with unit variances the error is alpha^2 = sigmoid(log_snr), and here
    # the audio is not of unit variance, so only the two ends are known.
    levels = list(validate(network).by_log_snr.values())
    assert levels[0] < 0.01
    assert levels[-1] == pytest.approx(1.0, abs=0.05)


def test_network_crops_and_levels_matter(validate, network):
    before = validate(network)
    assert validate(network, n_crops=4).loss != before.loss
    assert validate(network, validation_levels=5).loss != before.loss
    torch.nn.init.constant_(network.output.bias, 0.1)
    assert validate(network).loss != before.loss


def test_no_gradient_is_kept(validate, network):
    validate(network)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_loss_compares_with_that_of_runs_that_weigh_otherwise(validate, network):
    assert validate(network, loss_weighting="min-snr", spectral_weighting=1.0) == validate(network)


def test_bits_per_sample_are_measured_where_they_are_wanted_and_repeat_at_every_batch_size(validate, network):
    assert validate(network).bits is None
    wanted = validate(network, validation_bits=True)
    assert wanted.loss == validate(network).loss
    assert 0 < wanted.bits < 16
    assert validate(network, validation_bits=True, batch_size=5).bits == pytest.approx(wanted.bits, rel=1e-5)
    torch.nn.init.constant_(network.output.bias, 0.1)
    assert validate(network, validation_bits=True).bits != wanted.bits
