"""The few-step loss trains what users run: the whole reverse process, gradients through every step."""

import copy
from itertools import islice

import pytest
import torch

from audiodiff.config import RunConfig, SynthesisConfig, parse_config
from audiodiff.data.corpus import open_recordings
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset
from audiodiff.errors import ConfigError
from audiodiff.networks import build_network
from audiodiff.training.distributed import Distributed
from audiodiff.training.objective import FewStepLoss, Objective, predict_with
from audiodiff.training.state import TrainState

CPU = torch.device("cpu")
SEEDS = range(4)


@pytest.fixture(scope="module")
def model(tiny_model_config):
    synthesis = SynthesisConfig(steps=2, start="griffin-lim", start_log_snr=2.0, end_log_snr=6.0)
    return tiny_model_config.model_copy(update={"synthesis": synthesis})


@pytest.fixture(scope="module")
def network(model):
    torch.manual_seed(0)
    return build_network(model)


@pytest.fixture(scope="module")
def stream(tiny_run_config):
    recordings, _ = open_recordings(tiny_run_config.data)
    reader = CropReader.for_model(tiny_run_config.model, tiny_run_config.data)
    return list(islice(CropDataset(recordings, reader, tiny_run_config.data, 0).batches(0, 4), 2))


@pytest.fixture(scope="module")
def prepared(model, stream):
    return Objective(model, CPU).prepare(stream[0])


@pytest.fixture(scope="module")
def distance(model, network, prepared):
    """Measure the distances of a network on the first batch, changed in some fields."""
    loss = FewStepLoss(network, model, bf16=False)

    def measure(network, **changes):
        return loss(predict_with(network), prepared._replace(**changes), SEEDS)

    return measure


def test_gradients_pass_through_every_step(model, network, distance):
    levels_seen = []

    def remember(_module, arguments):
        arguments[1].requires_grad_()
        levels_seen.append(arguments[1])

    handle = network.register_forward_pre_hook(remember)
    torch.nn.init.normal_(network.output.weight, std=0.01)
    distance(network).mean().backward()
    handle.remove()
    torch.nn.init.zeros_(network.output.weight)
    assert len(levels_seen) == model.synthesis.steps
    assert all(levels.grad is not None and levels.grad.abs().sum() > 0 for levels in levels_seen)


def test_training_on_it_brings_the_result_nearer_to_the_recording(model, network, stream, tiny_run_config, distance):
    training = tiny_run_config.training.model_copy(
        update={"few_step_weight": 2.0, "steps": 60, "learning_rate": 5e-3, "ema_decay": 0.0}
    )
    state = TrainState(copy.deepcopy(network), model, training, Distributed(CPU))
    before = distance(network).mean()
    for _ in range(25):
        state.step(stream[0])
    assert distance(state.network).mean() < 0.9 * before


def test_silence_does_not_count(network, distance, prepared):
    assert torch.equal(distance(network, clean=torch.zeros_like(prepared.clean)), torch.zeros(4))


def test_what_is_above_the_band_of_a_recording_does_not_count(network, distance):
    full, half = distance(network), distance(network, bandwidth=torch.full((4,), 2000.0))
    assert (full - half).abs().min() > 1e-3


def test_a_step_depends_on_the_weight(model, network, stream, tiny_run_config):
    losses = []
    for weight in (0.0, 0.5):
        training = tiny_run_config.training.model_copy(update={"few_step_weight": weight})
        losses.append(TrainState(copy.deepcopy(network), model, training, Distributed(CPU)).step(stream[0])[0].loss)
    assert losses[1] > losses[0] + 0.1


def test_it_needs_a_mel(tiny_run_config):
    values = {"model": {"sample_rate": 8000}, "data": {"train": "x"}, "training": {"few_step_weight": 1.0}}
    with pytest.raises(ConfigError, match="few_step_weight needs a model with a mel"):
        parse_config(RunConfig, values, "x.yaml")
