"""Clips lose their conditions as often as the rate says, the same ones whenever a step is taken again."""

import copy
import itertools

import pytest
import torch

from audiodiff.config import ModelConfig, NetworkConfig, TrainingConfig, parse_config
from audiodiff.config.run import RunConfig
from audiodiff.data.crops import Example
from audiodiff.data.dataset import Replica
from audiodiff.errors import ConfigError
from audiodiff.networks import build_network
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.training.distributed import Distributed
from audiodiff.training.objective import Batch
from audiodiff.training.randomness import drop_conditions
from audiodiff.training.state import TrainState

TINY = NetworkConfig(channels=4, layers=2, patch=8)
MODEL = ModelConfig(sample_rate=8000, labels=("a", "b", "c"), network=TINY)
BOTH = ModelConfig(sample_rate=8000, labels=("a", "b", "c"), speakers=("x", "y"), vector_width=2, network=TINY)


def batch(n_clips, n_labels=3):
    return Batch(torch.zeros(n_clips, 1, 8), None, GlobalConditions(torch.arange(n_clips) % n_labels), None)


def full_batch(n_clips):
    conditions = GlobalConditions(torch.arange(n_clips) % 3, torch.arange(n_clips) % 2, torch.ones(n_clips, 2))
    return Batch(torch.zeros(n_clips, 1, 8), None, conditions, None)


def near(rate, count):
    """Five standard deviations of a relative frequency."""
    return pytest.approx(rate, abs=5 * (rate * (1 - rate) / count) ** 0.5)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_so_many_clips_lose_their_label(rate):
    before = batch(20)
    after = torch.stack([drop_conditions(before, rate, MODEL, 0, step).global_conditions.label for step in range(1000)])
    dropped = after == 3
    assert float(dropped.float().mean()) == near(rate, 20000)
    assert all(float(share) == near(rate, 1000) for share in dropped.float().mean(0))  # no place is preferred
    assert torch.equal(
        torch.where(dropped, before.global_conditions.label, after), before.global_conditions.label.expand(1000, -1)
    )


def test_of_several_conditions_all_go_together_as_often_as_each_by_itself():
    rate, before = 0.2, full_batch(20)
    kept = []
    for step in range(500):
        conditions = drop_conditions(before, rate, BOTH, 0, step).global_conditions
        kept.append(torch.stack([conditions.label < 3, conditions.speaker < 2, conditions.vector.isfinite().all(1)]))
    kept = torch.cat(kept, dim=1).float()
    assert float((kept.sum(0) == 0).float().mean()) == near(rate + (1 - rate) * rate**3, 10000)
    for condition in range(3):
        assert float(kept[condition].mean()) == near((1 - rate) ** 2, 10000)
        alone = (kept[condition] == 1) & (kept.sum(0) == 1)
        assert float(alone.float().mean()) == near((1 - rate) * (1 - rate) * rate**2, 10000)


def test_a_rate_of_zero_or_one_leaves_or_takes_all():
    assert (
        drop_conditions(batch(5), 0.0, MODEL, 0, 0).global_conditions.label.tolist()
        == batch(5).global_conditions.label.tolist()
    )
    conditions = drop_conditions(full_batch(5), 1.0, BOTH, 0, 0).global_conditions
    assert (conditions.label.tolist(), conditions.speaker.tolist()) == ([3] * 5, [2] * 5)
    assert conditions.vector.isnan().all()
    nothing = batch(5)._replace(global_conditions=None)
    assert drop_conditions(nothing, 1.0, MODEL, 0, 0) == nothing


def test_seed_and_step_alone_decide():
    places = ((0, 7), (0, 7), (0, 8), (1, 7))
    drawn = [drop_conditions(batch(64), 0.5, MODEL, seed, step).global_conditions.label for seed, step in places]
    assert torch.equal(drawn[0], drawn[1])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn[1:], 2))


def test_a_team_drops_what_one_process_drops_of_a_batch_as_large():
    whole = drop_conditions(full_batch(12), 0.5, BOTH, 0, 3).global_conditions
    for rank in range(3):
        mine = slice(4 * rank, 4 * rank + 4)
        conditions = GlobalConditions(*(value[mine] for value in full_batch(12).global_conditions))
        part = drop_conditions(
            full_batch(4)._replace(global_conditions=conditions), 0.5, BOTH, 0, 3, Replica(rank, 3)
        ).global_conditions
        for ours, theirs in zip(part, whole, strict=True):
            torch.testing.assert_close(ours, theirs[mine], equal_nan=True)


def make_state(config=MODEL, **settings):
    torch.manual_seed(0)
    network = build_network(config)
    training = TrainingConfig(batch_size=4, warmup_steps=0, learning_rate=1e-2, device="cpu", **settings)
    return TrainState(copy.deepcopy(network), config, training, Distributed(torch.device("cpu")))


def examples(n_steps):
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        label, speaker = (torch.randint(0, n, (4,), generator=generator) for n in (3, 2))
        audio = torch.randn(4, 1, 64, generator=generator)
        yield Example(audio, label, torch.full((4,), torch.inf), speaker, torch.randn(4, 2, generator=generator))


def null_vectors(network):
    return torch.cat([network.label.table.weight[3:], network.speaker.table.weight[2:], network.vector.none[None]])


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_only_with_dropout_do_the_vectors_of_nothing_learn(rate):
    state = make_state(BOTH, condition_dropout=rate)
    before = null_vectors(state.network).detach().clone()
    for example in examples(8):
        state.step(example)
    moved = (null_vectors(state.network) - before).abs().sum(1) > 0
    assert moved.tolist() == [rate > 0] * 3
    assert state.config.condition_dropout == rate


def test_a_resumed_run_drops_the_same_clips(tmp_path):
    straight, before, after = (make_state(condition_dropout=0.5) for _ in range(3))
    steps = list(examples(6))
    for example in steps:
        straight.step(example)
    for example in steps[:3]:
        before.step(example)
    torch.save(before.state_dict(), tmp_path / "state.pt")
    after.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for example in steps[3:]:
        after.step(example)
    assert torch.equal(straight.network.label.table.weight, after.network.label.table.weight)


def test_dropout_needs_something_to_drop():
    values = {"model": {"sample_rate": 8000}, "data": {"train": "x"}, "training": {"condition_dropout": 0.1}}
    with pytest.raises(ConfigError, match="nothing to drop"):
        parse_config(RunConfig, values, "run")
    values["model"]["vector_width"] = 3
    assert parse_config(RunConfig, values, "run").training.condition_dropout == 0.1
