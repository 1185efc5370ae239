"""The learning rate follows its curve, and the average is the exponential moving average it claims to be."""

import copy
import math

import pytest
import torch
from torch import nn

from audiodiff.config import TrainingConfig
from audiodiff.training.optimiser import (
    ema_decay,
    learning_rate,
    make_optimiser,
    set_learning_rate,
    update_ema,
)


def test_learning_rate_rises_linearly_and_falls_along_a_cosine():
    config = TrainingConfig(steps=1100, warmup_steps=100, learning_rate=3e-3, final_learning_rate=1e-3)
    rates = [learning_rate(step, config) for step in range(1101)]
    assert rates[:100] == pytest.approx([3e-3 * (step + 1) / 100 for step in range(100)])
    assert rates[100] == 3e-3
    assert rates[350] == pytest.approx(1e-3 + 2e-3 * (1 + math.cos(math.pi / 4)) / 2)
    assert rates[600] == pytest.approx(2e-3)
    assert rates[1100] == learning_rate(5000, config) == pytest.approx(1e-3)


@pytest.mark.parametrize(("warmup_steps", "steps"), [(0, 10), (10, 10), (20, 10)])
def test_learning_rate_of_odd_lengths_is_positive(warmup_steps, steps):
    config = TrainingConfig(steps=steps, warmup_steps=warmup_steps)
    assert all(learning_rate(step, config) > 0 for step in range(steps))


def test_average_is_a_weighted_sum_of_all_weights_so_far():
    network, history, config = nn.Linear(3, 2), [], TrainingConfig(ema_decay=0.5)
    average = copy.deepcopy(network).requires_grad_(False)
    expected = network.weight.detach().clone()
    for n in range(1, 6):
        nn.init.normal_(network.weight)
        history.append(network.weight.detach().clone())
        decay = ema_decay(torch.tensor(n, dtype=torch.float64), config)
        assert float(decay) == min(0.5, (1 + n) / (10 + n))
        update_ema(dict(average.named_parameters()), network, 1 - decay)
        before = average.weight.clone()
        update_ema(dict(average.named_parameters()), network, 0 * decay)
        assert torch.equal(average.weight, before)
        decay = float(decay)
        expected = decay * expected + (1 - decay) * history[-1]
    torch.testing.assert_close(average.weight.detach(), expected)
    assert network.weight.requires_grad


def test_what_is_not_trained_is_not_moved():
    network = nn.Linear(3, 2)
    network.bias.requires_grad_(False)
    before = network.bias.clone()
    optimiser = make_optimiser(network.parameters(), TrainingConfig(weight_decay=0.5))
    optimiser.param_groups[0]["lr"] = 0.1
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    assert torch.equal(network.bias, before)


def test_what_is_set_apart_has_a_learning_rate_of_its_own_with_the_same_shape():
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1e-3, embedding_learning_rate=5e-2)
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    optimiser = make_optimiser(network.parameters(), config, network[1].parameters())
    for step in (0, 9, 60, 105):
        set_learning_rate(optimiser, learning_rate(step, config))
        rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
        expected = learning_rate(step, config)
        for layer, factor in zip(network, (1, 50, 1), strict=True):
            assert [rates[id(p)] for p in layer.parameters()] == pytest.approx([factor * expected] * 2)
    order = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert order == [id(parameter) for parameter in network.parameters()]  # as checkpoints of any rate have it


def test_without_a_learning_rate_of_its_own_nothing_is_set_apart():
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    (group,) = make_optimiser(network.parameters(), TrainingConfig(), network[1].parameters()).param_groups
    assert len(group["params"]) == 4
