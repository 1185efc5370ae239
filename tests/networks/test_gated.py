"""The layer whose gradient is written out computes what autograd makes of the plain one, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from audiodiff.networks import gated
from audiodiff.networks.gated import GatedResidual, lay_taps
from audiodiff.networks.layers import GatedResidualLayer, dilated_taps

BATCH, CHANNELS, WIDTH = 2, 4, 3


def plain(layer: GatedResidualLayer, h: Tensor, level: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
    """Write Kong et al. 2021, Fig. 2, down once more."""
    y = layer.taps(dilated_taps(h + layer.level(level).unsqueeze(1), layer.dilation))
    gate, signal = (y if condition is None else y + condition).chunk(2, dim=2)
    residual, skip = layer.output(gate.sigmoid() * signal.tanh()).chunk(2, dim=2)
    return (h + residual) * 0.5**0.5, skip


def make(positions: int, dilation: int, *, conditioned: bool) -> tuple[GatedResidualLayer, list[Tensor | None]]:
    torch.manual_seed(0)
    layer = GatedResidualLayer(CHANNELS, dilation, WIDTH).double()
    h, level = torch.randn(BATCH, positions, CHANNELS).double(), torch.randn(BATCH, WIDTH).double()
    condition = torch.randn(BATCH, positions, 2 * CHANNELS).double() if conditioned else None
    return layer, [h, level, condition]


@pytest.mark.parametrize(("positions", "dilation"), [(20, 1), (20, 4), (20, 16), (5, 8), (1, 1)])
@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("tile", [3, 8, gated.TILE])
def test_values_and_gradients_are_those_of_the_plain_layer(positions, dilation, conditioned, tile, monkeypatch):
    monkeypatch.setattr(gated, "TILE", tile)
    layer, inputs = make(positions, dilation, conditioned=conditioned)
    leaves = [x.requires_grad_() for x in inputs if x is not None] + list(layer.parameters())
    directions = torch.randn(2, BATCH, positions, CHANNELS, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for run in (layer, lambda *given: plain(layer, *given)):
        outputs = run(*inputs)
        total = sum((output * direction).sum() for output, direction in zip(outputs, directions, strict=True))
        results.append([*outputs, *torch.autograd.grad(total, leaves)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("wanted", ["level.weight", "taps.weight", "output.bias", "condition"])
def test_what_is_frozen_costs_no_gradient_and_changes_none_of_the_others(wanted):
    layer, (h, level, condition) = make(20, 4, conditioned=True)
    layer.requires_grad_(False)
    leaf = condition if wanted == "condition" else layer.get_parameter(wanted)
    leaf.requires_grad_()
    gradients = []
    for run in (layer, lambda *given: plain(layer, *given)):
        following, skip = run(h, level, condition)
        gradients.append(torch.autograd.grad((following.square() + skip).sum(), leaf)[0])
    torch.testing.assert_close(*gradients)


def test_the_gradient_is_the_limit_of_differences():
    layer, (h, level, condition) = make(6, 2, conditioned=True)
    weights = [layer.taps.weight, layer.taps.bias, layer.output.weight, layer.output.bias]
    inputs = [h, layer.level(level).detach(), condition, *weights]
    assert torch.autograd.gradcheck(
        lambda *given: GatedResidual.apply(*given, 2), [x.detach().requires_grad_() for x in inputs]
    )


def test_without_gradients_the_result_is_the_same():
    layer, inputs = make(20, 4, conditioned=True)
    with torch.no_grad():
        without = layer(*inputs)
    for ours, expected in zip(layer(*inputs), without, strict=True):
        torch.testing.assert_close(ours, expected)


def test_taps_are_laid_as_the_plain_layer_lays_them():
    h, level = torch.randn(BATCH, 9, CHANNELS), torch.randn(BATCH, CHANNELS)
    for dilation in (1, 3, 8, 9, 20):
        expected = dilated_taps(h + level.unsqueeze(1), dilation)
        for cut in (1, 4, 9):
            tiles = [lay_taps(h, level.unsqueeze(1), dilation, slice(i, min(i + cut, 9))) for i in range(0, 9, cut)]
            torch.testing.assert_close(torch.cat(tiles, dim=1), expected, rtol=0, atol=0)


def test_weights_get_their_gradients_in_their_own_precision():
    layer, inputs = make(300, 4, conditioned=True)
    h, level, condition = (x.float() for x in inputs)
    layer = layer.float()
    grads = {}
    for enabled in (False, True):
        layer.zero_grad()
        start = h.bfloat16() if enabled else h
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            following, skip = layer(start, level, condition)
        assert following.dtype == skip.dtype == start.dtype
        (following.float().square().mean() + skip.float().square().mean()).backward()
        grads[enabled] = torch.cat([p.grad.flatten() for p in layer.parameters()])
        assert grads[enabled].dtype == torch.float32
    assert 1e-5 < (grads[True] - grads[False]).norm() / grads[False].norm() < 0.03
