"""Clips lose their conditions as often as the rate says, the same ones whenever a step is taken again."""

import copy

import pytest
import torch

from audiodiff.config import ModelConfig, NetworkConfig, TrainingConfig, parse_config
from audiodiff.config.run import RunConfig
from audiodiff.data.crops import Example
from audiodiff.data.dataset import Share
from audiodiff.errors import ConfigError
from audiodiff.networks.build import build_network
from audiodiff.training.dropout import drop_conditions
from audiodiff.training.learner import Learner
from audiodiff.training.objective import Prepared
from audiodiff.training.team import Team

MODEL = ModelConfig(sample_rate=8000, labels=("a", "b", "c"), network=NetworkConfig(channels=4, layers=2, patch=8))


def batch(n_clips, n_labels=3):
    return Prepared(torch.zeros(n_clips, 1, 8), None, torch.arange(n_clips) % n_labels, None)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_so_many_clips_lose_their_label(rate):
    before = batch(20)
    after = torch.stack([drop_conditions(before, rate, 3, 0, step).label for step in range(1000)])
    dropped = after == 3
    assert float(dropped.float().mean()) == pytest.approx(rate, abs=4 * (rate * (1 - rate) / 20000) ** 0.5)
    assert float(dropped.float().mean(0).std()) < 0.02  # no clip of the batch is preferred
    assert torch.equal(torch.where(dropped, before.label, after), before.label.expand(1000, -1))


def test_a_rate_of_zero_or_one_leaves_or_takes_all():
    assert torch.equal(drop_conditions(batch(5), 0.0, 3, 0, 0).label, batch(5).label)
    assert drop_conditions(batch(5), 1.0, 3, 0, 0).label.tolist() == [3] * 5


def test_seed_and_step_alone_decide():
    first, again, other_step, other_seed = (
        drop_conditions(batch(64), 0.5, 3, seed, step).label for seed, step in ((0, 7), (0, 7), (0, 8), (1, 7))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other_step)
    assert not torch.equal(first, other_seed)


def test_a_team_drops_what_one_process_drops_of_a_batch_as_large():
    whole = drop_conditions(batch(12), 0.5, 3, 0, 3).label
    parts = [
        drop_conditions(batch(4)._replace(label=batch(12).label[4 * r : 4 * r + 4]), 0.5, 3, 0, 3, Share(r, 3))
        for r in range(3)
    ]
    assert torch.equal(torch.cat([part.label for part in parts]), whole)


def learner(**settings):
    torch.manual_seed(0)
    network = build_network(MODEL)
    training = TrainingConfig(batch_size=4, warmup_steps=0, learning_rate=1e-2, device="cpu", **settings)
    return Learner(copy.deepcopy(network), MODEL, training, Team(torch.device("cpu")))


def examples(n_steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        labels = torch.randint(0, 3, (4,), generator=generator)
        yield Example(torch.randn(4, 1, 64, generator=generator), labels, torch.full((4,), torch.inf))


def test_only_with_dropout_does_the_null_class_learn():
    for rate in (0.0, 0.5):
        learns = learner(condition_dropout=rate)
        before = learns.network.label.table.weight.detach().clone()
        for example in examples(6):
            learns.step(example)
        moved = (learns.network.label.table.weight - before).abs().sum(1) > 0
        assert moved.tolist() == [True, True, True, rate > 0]
        assert learns.config.condition_dropout == rate


def test_a_resumed_run_drops_the_same_clips(tmp_path):
    straight, before, after = (learner(condition_dropout=0.5) for _ in range(3))
    steps = list(examples(6))
    for example in steps:
        straight.step(example)
    for example in steps[:3]:
        before.step(example)
    torch.save(before.state(), tmp_path / "state.pt")
    after.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    for example in steps[3:]:
        after.step(example)
    assert torch.equal(straight.network.label.table.weight, after.network.label.table.weight)


def test_dropout_needs_something_to_drop():
    values = {"model": {"sample_rate": 8000}, "data": {"train": "x"}, "training": {"condition_dropout": 0.1}}
    with pytest.raises(ConfigError, match="nothing to drop"):
        parse_config(RunConfig, values, "run")
