"""Learned noise levels: the same expected loss at less variance, and a run that goes on as if nothing had been."""

import copy
from itertools import islice

import pytest
import torch

from audiodiff import Vocoder
from audiodiff.checkpoint import load_config
from audiodiff.config import DiffusionConfig, RunConfig
from audiodiff.data.corpus import open_recordings
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import CropDataset
from audiodiff.errors import ConfigError
from audiodiff.networks.build import build_network
from audiodiff.training.distributed import Distributed
from audiodiff.training.levels import LevelLearner
from audiodiff.training.state import TrainState
from audiodiff.training.trainer import train

DISTRIBUTED = Distributed(torch.device("cpu"))
LEARNED = DiffusionConfig(log_snr_min=-8.0, log_snr_max=10.0, distribution="learned")


def loss_at(log_snr):
    """A loss as a noise predictor has it: small where there is much noise, and 1 where there is little."""
    return torch.sigmoid(log_snr - 3).float()


def test_the_map_finds_the_density_of_least_variance():
    state, generator = LevelLearner(LEARNED, DISTRIBUTED), torch.Generator().manual_seed(0)
    truth = loss_at(torch.linspace(-8, 10, 10001)).mean()

    def drawn(n):
        log_snr = state.levels.log_snr(torch.rand(n, generator=generator))
        return state.weigh(log_snr, loss_at(log_snr))

    before = drawn(5000)
    state._optimiser.zero_grad()
    for _ in range(250):
        drawn(32)
        state.update(torch.tensor(True))
    after = drawn(5000)
    assert before.mean() == pytest.approx(float(truth), rel=0.06)
    assert after.mean() == pytest.approx(float(truth), rel=0.02)
    assert after.var() < 0.15 * before.var()
    levels = torch.tensor([1.0, 3.0, 8.0])  # the best density is in proportion to the loss
    shares = state.levels.density(levels).detach()
    expected = loss_at(levels) / truth
    torch.testing.assert_close(shares.float(), expected, rtol=0.25, atol=0)


def test_a_step_that_is_not_finite_moves_nothing():
    state = LevelLearner(LEARNED, DISTRIBUTED)
    before = copy.deepcopy(state.state_dict())
    state.weigh(torch.tensor([0.0, 1.0]), torch.tensor([0.5, torch.nan]))
    state.update(torch.tensor(False))
    assert torch.equal(state.state_dict()["map"]["logits"], before["map"]["logits"])
    state.weigh(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.1]))
    state.update(torch.tensor(True))
    assert state.state_dict()["map"]["logits"].isfinite().all()
    assert not torch.equal(state.state_dict()["map"]["logits"], before["map"]["logits"])


# --- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tiny_run_config) -> RunConfig:
    model = tiny_run_config.model.model_copy(update={"diffusion": LEARNED})
    return tiny_run_config.model_copy(update={"model": model})


def everything(state):
    return torch.cat([value.flatten().double() for value in _tensors(state.state_dict())])


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for inner in value.values() for tensor in _tensors(inner)] if isinstance(value, dict) else []


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_state_goes_on_as_if_nothing_had_been(config, stopped_after, tmp_path):
    recordings, _ = open_recordings(config.data)
    reader = CropReader.for_model(config.model, config.data)
    stream = list(islice(CropDataset(recordings, reader, config.data, 0).batches(0, 4), 4))
    torch.manual_seed(0)
    network = build_network(config.model)
    straight, before, after = (
        TrainState(copy.deepcopy(network), config.model, config.training, DISTRIBUTED) for _ in range(3)
    )
    for number, batch in enumerate(stream):
        straight.step(batch)
        if number < stopped_after:
            before.step(batch)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    after.ema.load_state_dict(before.ema.state_dict())
    for batch in stream[stopped_after:]:
        after.step(batch)
    assert torch.equal(everything(straight), everything(after))
    assert straight.model_config() == after.model_config()
    plain = TrainState(
        copy.deepcopy(network),
        config.model.model_copy(update={"diffusion": DiffusionConfig()}),
        config.training,
        DISTRIBUTED,
    )
    for batch in stream:
        plain.step(batch)
    assert not torch.equal(straight.network.output.weight, plain.network.output.weight)


def test_a_run_saves_the_map_goes_on_with_it_and_its_model_steps_through_it(config, tmp_path):
    shorter = config.model_copy(update={"training": config.training.model_copy(update={"steps": 4})})
    train(shorter, tmp_path)
    learned = load_config(tmp_path / "last").diffusion.learned
    assert (learned[0], learned[-1]) == (-8.0, 10.0)
    train(config, tmp_path)
    assert load_config(tmp_path / "last").diffusion.learned != learned
    vocoder = Vocoder.from_pretrained(tmp_path / "last", "cpu")
    levels = vocoder.noise_levels(vocoder.settings({"schedule": "learned", "steps": 5, "start_log_snr": -8.0}))
    expected = [vocoder.config.diffusion.log_snr_at(share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert levels[:-1].tolist() == pytest.approx(expected)
    plain = Vocoder(vocoder.network, vocoder.config.model_copy(update={"diffusion": DiffusionConfig()}))
    with pytest.raises(ConfigError, match="no learned levels. Train one with diffusion.distribution learned"):
        plain.settings({"schedule": "learned"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 10}, "levels are a fixed grid"),
        ({"learned": (0.0,)}, "at least 2 levels"),
        ({"learned": (0.0, -1.0)}, "levels must be finite log-SNRs that rise"),
        ({"learned": (0.0, 1.0), "distribution": "uniform"}, "learned is for distribution 'learned'"),
    ],
)
def test_what_cannot_be_learned_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DiffusionConfig.model_validate({"distribution": "learned"} | changes)


def test_an_embedding_or_a_loss_that_needs_levels_to_stay_is_refused(config):
    values = config.model_dump(mode="json")
    values["model"]["network"]["embedding"]["domain"] = "step"
    with pytest.raises(ValueError, match="domain 'step' ranks fixed levels"):
        RunConfig.model_validate(values)
    values = config.model_dump(mode="json")
    values["training"]["few_step_weight"] = 1.0
    values["model"]["synthesis"]["schedule"] = "learned"
    with pytest.raises(ValueError, match="schedule 'learned' moves them"):
        RunConfig.model_validate(values)
