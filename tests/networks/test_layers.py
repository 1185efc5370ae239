"""The time-major layers compute what the layers of Kong et al. compute."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from audiodiff.networks import layers
from audiodiff.networks.conditioning import FrameConditioner
from audiodiff.networks.diffwave import DilatedStack, ResidualLayer
from audiodiff.networks.layers import dilated_convolution, dilated_taps

CHANNELS, EMBEDDING_WIDTH, POSITIONS = 6, 5, 20


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kong_layer(layer, h, level, condition):
    """Compute Fig. 2 of Kong et al. 2021 with torch's convolutions over `(batch, channels, time)`."""
    kernel = layer.taps.weight.unflatten(1, (3, -1)).movedim(1, 2)  # (2 * channels, channels, 3), as Conv1d wants it
    y = h + functional.linear(level, layer.level.weight, layer.level.bias).unsqueeze(2)
    y = functional.conv1d(y, kernel, layer.taps.bias, padding=layer.dilation, dilation=layer.dilation)
    gate, signal = torch.chunk(y + condition, 2, dim=1)
    y = torch.sigmoid(gate) * torch.tanh(signal)
    y = functional.conv1d(y, layer.output.weight.unsqueeze(2), layer.output.bias)
    residual, skip = torch.chunk(y, 2, dim=1)
    return (h + residual) / 2**0.5, skip


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dilation", [1, 2, 8, POSITIONS, 64])
def test_taps_are_past_present_and_future_with_zeros_beyond_the_ends(dilation):
    h = normal(2, POSITIONS, CHANNELS)
    past, present, future = dilated_taps(h, dilation).chunk(3, dim=2)
    assert torch.equal(present, h)
    for position in range(POSITIONS):
        before, after = position - dilation, position + dilation
        zero = torch.zeros(2, CHANNELS, dtype=torch.float64)
        assert torch.equal(past[:, position], h[:, before] if before >= 0 else zero)
        assert torch.equal(future[:, position], h[:, after] if after < POSITIONS else zero)


@pytest.mark.parametrize(("positions", "dilation"), [(20, 1), (20, 4), (20, 16), (5, 8), (1, 1)])
@pytest.mark.parametrize("look_ahead", [None, 0, 1])
@pytest.mark.parametrize("rows", [1, 10, 1024])
def test_a_convolution_and_its_gradients_are_those_of_its_taps(positions, dilation, look_ahead, rows, monkeypatch):
    monkeypatch.setattr(layers, "ROWS", rows)
    taps = nn.Linear(3 * CHANNELS, 2 * CHANNELS).double()
    h, direction = normal(5, positions, CHANNELS).requires_grad_(), normal(5, positions, 2 * CHANNELS, seed=1)
    leaves = [h, taps.weight, taps.bias]
    expected = taps(dilated_taps(h, dilation, look_ahead))
    actual = dilated_convolution(taps, h, dilation, look_ahead)
    assert_close(actual, expected)
    assert_close(*(torch.autograd.grad(y, leaves, direction) for y in (actual, expected)))
    with torch.no_grad():
        assert_close(dilated_convolution(taps, h, dilation, look_ahead), expected)


@pytest.mark.parametrize(("dilation", "look_ahead"), [(1, None), (2, 0), (4, 1)])
@pytest.mark.parametrize("rows", [1, 1024])
def test_a_convolution_can_be_differentiated_twice(dilation, look_ahead, rows, monkeypatch):
    monkeypatch.setattr(layers, "ROWS", rows)
    taps, h = nn.Linear(9, 4).double(), normal(2, 7, 3).requires_grad_()

    def convolve(h, weight, bias):
        return dilated_convolution(SimpleNamespace(weight=weight, bias=bias), h, dilation, look_ahead)

    assert torch.autograd.gradgradcheck(convolve, (h, taps.weight, taps.bias))


@pytest.mark.parametrize("frozen", [["weight", "bias"], ["bias"], []])
def test_a_convolution_has_gradients_of_what_is_trained_only(frozen):
    taps = nn.Linear(3 * CHANNELS, CHANNELS).double()
    for name in frozen:
        getattr(taps, name).requires_grad_(False)
    dilated_convolution(taps, normal(2, POSITIONS, CHANNELS).requires_grad_(), 2).sum().backward()
    assert [name for name, parameter in taps.named_parameters() if parameter.grad is None] == frozen


def test_a_convolution_follows_autocast_with_gradients_in_the_precision_of_the_weights():
    taps, h = nn.Linear(3 * CHANNELS, CHANNELS), normal(2, POSITIONS, CHANNELS).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = dilated_convolution(taps, h, 2)
        assert_close(y, taps(dilated_taps(h, 2)), rtol=0.02, atol=0.02)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert {parameter.grad.dtype for parameter in taps.parameters()} == {torch.float32}


@pytest.mark.parametrize("dilation", [1, 2, 8, 64])
def test_a_layer_is_the_layer_of_kong_et_al_with_the_same_weights(dilation):
    layer = ResidualLayer(CHANNELS, dilation, EMBEDDING_WIDTH).double()
    h, level, condition = normal(3, POSITIONS, CHANNELS), normal(3, EMBEDDING_WIDTH), normal(3, POSITIONS, 2 * CHANNELS)
    expected = kong_layer(layer, h.mT, level, condition.mT)
    for ours, theirs in zip(layer(h, level, condition), expected, strict=True):
        assert_close(ours, theirs.mT)


def test_a_layer_without_condition_is_one_with_a_condition_of_zeros():
    layer = ResidualLayer(CHANNELS, 2, EMBEDDING_WIDTH).double()
    h, level = normal(3, POSITIONS, CHANNELS), normal(3, EMBEDDING_WIDTH)
    zeros = torch.zeros(3, POSITIONS, 2 * CHANNELS, dtype=torch.float64)
    for without, with_zeros in zip(layer(h, level, None), layer(h, level, zeros), strict=True):
        assert torch.equal(without, with_zeros)


@pytest.mark.parametrize("frames", [POSITIONS, POSITIONS // 4, 1])
def test_a_stack_is_the_layers_of_kong_et_al_in_turn_with_a_conditioner_of_their_own(frames):
    stack = DilatedStack(CHANNELS, 5, 3, embedding_width=EMBEDDING_WIDTH)
    stack.conditioner = FrameConditioner(4, 5 * [2 * CHANNELS])
    stack.double()
    h, level, features = normal(3, POSITIONS, CHANNELS), normal(3, EMBEDDING_WIDTH), normal(3, frames, 4)
    upsampled = functional.interpolate(features.mT, size=POSITIONS, mode="nearest")
    stream, skips = h.mT, []
    for layer, kernel in zip(stack.layers, stack.conditioner.weight.chunk(5), strict=True):
        stream, skip = kong_layer(layer, stream, level, functional.conv1d(upsampled, kernel.unsqueeze(2)))
        skips.append(skip)
    assert_close(stack(h, level, stack.conditioner.encode(features)), sum(skips).mT / 5**0.5)


@pytest.mark.parametrize(
    ("layers", "cycle", "dilations"), [(4, 10, [1, 2, 4, 8]), (5, 2, [1, 2, 1, 2, 1]), (1, 1, [1])]
)
def test_dilations_double_through_their_cycle_and_add_up_to_the_receptive_field(layers, cycle, dilations):
    stack = DilatedStack(CHANNELS, layers, cycle, embedding_width=EMBEDDING_WIDTH)
    assert [layer.dilation for layer in stack.layers] == dilations
    assert stack.receptive_field == sum(dilations)


def test_the_receptive_field_of_a_stack_is_how_far_an_impulse_reaches():
    stack = DilatedStack(CHANNELS, 4, 3, embedding_width=EMBEDDING_WIDTH).double()
    h, level = normal(1, 41, CHANNELS), normal(1, EMBEDDING_WIDTH)
    disturbed = h.clone()
    disturbed[:, 20] += 1.0
    changed = (stack(h, level, None) != stack(disturbed, level, None)).any(2)[0].nonzero().flatten()
    assert [changed.min(), changed.max()] == [20 - stack.receptive_field, 20 + stack.receptive_field]


def test_a_stack_without_conditioner_refuses_a_condition():
    stack = DilatedStack(CHANNELS, 2, 2, embedding_width=EMBEDDING_WIDTH).double()
    with pytest.raises(TypeError, match="without a mel condition"):
        stack(normal(1, 8, CHANNELS), normal(1, EMBEDDING_WIDTH), torch.zeros(1, 2, 4))
