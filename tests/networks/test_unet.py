"""The U-Net takes any length, sees all that its levels promise, and starts as the best linear guess."""

import math

import pytest
import torch
from torch.testing import assert_close

from audiodiff.config import ModelConfig, NetworkConfig, parse_config
from audiodiff.diffusion.process import diffuse, noise_from, training_target
from audiodiff.errors import ConfigError
from audiodiff.networks import build_network
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.networks.layers import rotate

LEVELS = torch.tensor([-8.0, 0.0, 10.0])


def noise(n_samples, seed=0, batch=3):
    return torch.randn(batch, 1, n_samples, generator=torch.Generator().manual_seed(seed))


def config(target="epsilon", labels=("a", "b"), **network):
    network = {"channels": 8, "patch": 4, "factors": (2, 2), "multipliers": (1, 2, 4), "blocks": (1, 1, 1)} | network
    values = {"sample_rate": 8000, "labels": labels, "network": {"kind": "unet", **network}}
    return parse_config(ModelConfig, values | {"diffusion": {"target": target}}, "the test")


def awake(model):
    torch.manual_seed(0)
    network = build_network(model)
    torch.nn.init.normal_(network.output.weight, std=0.3)
    return network


@pytest.mark.parametrize("attention", [0, 1])
@pytest.mark.parametrize("n_samples", [1, 15, 16, 17, 101])
def test_a_signal_of_any_length_is_predicted_as_if_zeros_followed(n_samples, attention):
    network, x = awake(config(attention=attention)), noise(n_samples)
    padded = torch.nn.functional.pad(x, (0, -n_samples % 16))
    predicted = network(x, LEVELS)
    assert predicted.shape == x.shape
    assert_close(predicted, network(padded, LEVELS)[..., :n_samples])


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_the_prediction_starts_as_the_best_linear_guess_of_any_target(target):
    network, clean, mixed = build_network(config(target)), noise(160, 1), noise(160, 2)
    x = diffuse(clean, mixed, LEVELS)
    sigma = torch.sigmoid(-LEVELS).sqrt().view(3, 1, 1)
    assert_close(noise_from(network(x, LEVELS), x, LEVELS, target), sigma * x, rtol=1e-3, atol=1e-3)


def test_every_target_reads_the_same_output():
    x, networks = noise(160), {target: awake(config(target)) for target in ("epsilon", "v", "x0")}
    as_noise = [noise_from(network(x, LEVELS), x, LEVELS, target) for target, network in networks.items()]
    assert_close(as_noise[0], as_noise[1])
    assert_close(as_noise[0], as_noise[2], rtol=1e-3, atol=1e-2)  # x0 is divided by a sigma of 0.007
    assert not torch.allclose(networks["epsilon"](x, LEVELS), networks["v"](x, LEVELS))


@pytest.mark.parametrize("labels", [("a", "b"), ()])
def test_it_learns(labels):
    """Two sines, told apart by their labels alone: a network that hears labels comes closer to both."""
    torch.manual_seed(0)
    network, generator = build_network(config(labels=labels)), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    time, losses = torch.arange(160), []
    for _ in range(150):
        index = torch.randint(2, (8,), generator=generator)
        clean = math.sqrt(2) * torch.sin(0.2 * (1 + 2 * index.view(8, 1, 1)) * time)
        level, drawn = torch.zeros(8) - 2, torch.randn(8, 1, 160, generator=generator)
        global_condition = network.embed(GlobalConditions(index)) if labels else None
        predicted = network(diffuse(clean, drawn, level), level, None, global_condition)
        loss = (predicted - training_target(clean, drawn, level, "epsilon")).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    start, end = losses[0], sum(losses[-20:]) / 20
    assert start == pytest.approx(torch.sigmoid(torch.tensor(-2.0)).item(), rel=0.1)  # alpha^2, of the linear guess
    assert end < start / 4


def test_attention_sees_the_whole_clip_and_nothing_else_does():
    for attention in (0, 1):
        network, x = awake(config(attention=attention)).double(), noise(1600, batch=1).double()
        x.requires_grad_()
        network(x, LEVELS[:1].double())[..., -1].sum().backward()
        far = x.grad[0, 0, : 1600 - 600].abs()
        assert (far.max() > 0) == bool(attention)
        assert math.isinf(network.receptive_field) == bool(attention)


def test_a_dilation_cycle_widens_the_coarsest_level():
    narrow, wide = (build_network(config(blocks=(1, 1, 2), dilation_cycle=cycle)) for cycle in (1, 4))
    assert wide.receptive_field == narrow.receptive_field + 16 * (2 + 4 + 8 - 3)  # the stride is 16 samples


def test_a_rotation_keeps_lengths_and_shows_distances_only():
    torch.manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 32).expand(1, 1, 9, 32) for _ in range(2))
    turned_query, turned_key = rotate(query)[0, 0], rotate(key)[0, 0]
    assert_close(turned_query.square().mean(1), torch.ones(9))
    products = turned_query @ turned_key.T
    for distance in range(-8, 9):
        alike = products.diagonal(distance)
        assert_close(alike, alike[:1].expand_as(alike), rtol=1e-4, atol=1e-4)
    assert products[0].std() > 0.1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"factors": (2,)}, "1 factors make 2 resolutions, so multipliers and blocks need 2 values each"),
        ({"factors": (2, 1)}, "network.factors.1: 1 is not a whole number from 2 to 1,024"),
        ({"blocks": (1, 0, 1)}, "network.blocks.1: 0 is not a whole number from 1 to 1,000"),
        ({"multipliers": (0, 1, 2)}, "network.multipliers.0: 0 is not a whole number from 1 to 1,024"),
        ({"multipliers": (1, 2, 3), "attention": 1}, "a multiple of 32 channels, got 24"),
        ({"upsampling": "transposed"}, "'unet' takes 'repeat' only"),
        ({"activation": "rbf"}, "leave it out for 'unet'"),
    ],
)
def test_levels_that_do_not_fit_are_refused(network, message):
    with pytest.raises(ConfigError, match=message):
        config(**network)


def test_the_stride_must_divide_the_hop_length():
    network = NetworkConfig(kind="unet", patch=8)
    network.check_hop(512)
    with pytest.raises(
        ValueError, match=r"patch 8 times the factors \[4, 4, 2\] is 256; it must divide the hop length 300"
    ):
        network.check_hop(300)


def test_blocks_are_whole_strides():
    assert config().hop_length == 16
    assert config(patch=8).hop_length == 32
