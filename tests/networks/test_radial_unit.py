"""A radial unit is the RBF network it says, starts as the gate, and gives what autograd makes of its formula."""

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from audiodiff.networks.diffwave import DilatedStack
from audiodiff.networks.embeddings import SPREAD_FLOOR
from audiodiff.networks.layers import RadialUnit

CHANNELS, CENTRES = 3, 5


@pytest.fixture
def unit():
    """A unit whose every channel has numbers of its own."""
    torch.manual_seed(0)
    made = RadialUnit(CHANNELS, CENTRES).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made


def pairs(*shape, scale=1.5):
    return scale * torch.randn(*shape, 2 * CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_each_channel_is_a_radial_basis_function_network_of_its_pair(unit):
    x = pairs(2, 4)
    values, parts = x.numpy(), [parameter.detach().numpy() for parameter in unit.parameters()]
    centres, spread, weight = parts[0], np.log1p(np.exp(parts[1])) + SPREAD_FLOOR, parts[2]
    expected = np.zeros((2, 4, CHANNELS))
    for c in range(CHANNELS):
        for k in range(CENTRES):
            distance = np.hypot(values[..., c] - centres[k, 0, c], values[..., CHANNELS + c] - centres[k, 1, c])
            expected[..., c] += weight[k, c] * np.exp(-(distance**2) / (2 * spread[k, c] ** 2))
    assert_close(unit(x).detach(), torch.from_numpy(expected))


@pytest.mark.parametrize(("centres", "error"), [(4, 0.4), (8, 0.2), (24, 0.12)])
def test_a_fresh_unit_is_nearly_the_gate(centres, error):
    x = pairs(4000)
    gate, signal = x.chunk(2, dim=-1)
    expected = torch.sigmoid(gate) * torch.tanh(signal)
    difference = RadialUnit(CHANNELS, centres)(x.float()) - expected
    assert difference.norm() < error * expected.norm()


def test_the_gradient_is_the_limit_of_differences(unit):
    assert torch.autograd.gradcheck(lambda x, *_: unit(x), (pairs(3).requires_grad_(), *unit.parameters()))


def test_what_is_kept_for_the_way_back_does_not_grow_with_the_centres():
    def kept(centres):
        sizes = []
        with saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            RadialUnit(CHANNELS, centres)(pairs(1000).float().requires_grad_())
        return sum(sizes)

    assert kept(16) < kept(4) + 1000


@pytest.mark.parametrize("parameter", ["centres", "raw_spread", "weight"])
def test_every_channel_has_centres_spreads_and_weights_of_its_own(unit, parameter):
    x = pairs(50)
    before = unit(x).detach()
    getattr(unit, parameter).data[..., 1] += 0.5
    changed = (unit(x) - before).abs().amax(0) > 1e-3
    assert changed.tolist() == [False, True, False]


def test_half_precision_goes_in_and_comes_out_and_is_exact_between():
    x = pairs(100).to(torch.bfloat16)
    made = RadialUnit(CHANNELS, 8)(x)
    assert made.dtype == torch.bfloat16
    assert_close(made, RadialUnit(CHANNELS, 8)(x.float()).to(torch.bfloat16))


def test_the_configuration_decides_the_layers(make_network):
    gated, radial = make_network("diffwave"), make_network("diffwave", activation="rbf", activation_centres=6)
    assert [gated.stack.is_gated, radial.stack.is_gated] == [True, False]
    assert radial.stack.layers[0].radial.weight.shape == (6, 8)
    extra = sum(p.numel() for p in radial.parameters()) - sum(p.numel() for p in gated.parameters())
    assert extra == 4 * 6 * 8 * 4  # two coordinates, a spread and a weight per layer, centre and channel
    assert make_network("diffwave", activation="rbf").stack.layers[0].radial.weight.shape == (8, 8)


def test_a_radial_stack_computes_nearly_what_a_gated_one_does_with_the_same_products():
    torch.manual_seed(0)
    gated, radial = (DilatedStack(8, 4, 3, embedding_width=5, radial_centres=count) for count in (0, 24))
    radial.load_state_dict(gated.state_dict(), strict=False)
    h, level = torch.randn(2, 40, 8), torch.randn(2, 5)
    assert (radial(h, level, None) - gated(h, level, None)).norm() < 0.1 * gated(h, level, None).norm()
