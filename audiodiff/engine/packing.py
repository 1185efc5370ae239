"""The weights of a residual stack as the kernels want them: padded, joined per layer, vectors in one product."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.networks.conditioning import UpsampledConditioner
from audiodiff.networks.diffwave import DilatedStack

SMALLEST = 16
"""Channels are padded with zeros to a power of two from here on: what the matrix units take at least."""


def padded_width(n: int) -> int:
    """Return the power of two that `n` features are padded to, at least `SMALLEST`."""
    return max(SMALLEST, 1 << (n - 1).bit_length())


def feature_widths(n: int) -> tuple[int, int]:
    """Split `n` features into two powers of two that hold them with little to spare: 80 is 64 + 16; 0 is 0 + 0."""
    if n <= SMALLEST:
        return (SMALLEST if n else 0), 0
    wide = 1 << n.bit_length() - 1
    return wide, (padded_width(n - wide) if n > wide else 0)


def pad_last(x: Tensor, width: int) -> Tensor:
    """Append zeros to the last axis of x until it is `width` long."""
    return functional.pad(x, (0, width - x.shape[-1]))


def pad_parts(x: Tensor, parts: int, width: int, axis: int) -> Tensor:
    """Cut an axis of x into equal parts and pad each with zeros to `width`."""
    pieces = x.movedim(axis, -1).unflatten(-1, (parts, -1))
    return pad_last(pieces, width).flatten(-2).movedim(-1, axis)


class PackedStack(NamedTuple):
    """A `DilatedStack` of L layers, its C channels padded to a power of two.

    Attributes:
        channels: C after padding.
        wide: Features of the condition that are part of the taps' product, first part after padding.
        narrow: Second part.
        dilations: One per layer, in positions.
        taps: `(L, 2 * C, 3 * C + wide + narrow)`: past, present, future, features.
        output: `(L, 2 * C, C)`: residual, skip.
        level: `(L * 3 * 2 * C, embedding_width)`, float32: from the noise-level embedding to what each tap brings.
        offset: `(L * 3 * 2 * C,)`, float32: the same at an embedding of zero, and the bias at the present tap.
        skip_bias: `(C,)`, float32: the sum of all skip biases, which the kernels leave out.
    """

    channels: int
    wide: int
    narrow: int
    dilations: tuple[int, ...]
    taps: Tensor
    output: Tensor
    level: Tensor
    offset: Tensor
    skip_bias: Tensor


def _projections(stack: DilatedStack) -> list[nn.Linear]:
    """List the layers' own projections of the condition; empty where one projection serves all layers at once."""
    conditioner = stack.conditioner
    return cast(list[nn.Linear], list(conditioner.projections)) if isinstance(conditioner, UpsampledConditioner) else []


@torch.no_grad()
def pack_stack(stack: DilatedStack, dtype: torch.dtype) -> PackedStack:
    """Arrange the weights of a stack for the kernels.

    The output biases are not added in the kernels. Those of skip are summed up. Those of residual make h differ from
    the stack's by a constant vector, c' = (c + b_residual) / sqrt(2) from c = 0, which enters the next layer's taps as
    its noise level does. All of that is computed in float64.

    Args:
        stack: The layers; their conditioner's `projections`, if it has any, become part of the taps.
        dtype: Of the matrix operands.

    Returns:
        The packed weights, on the stack's device.
    """
    layers, projections = stack.gated_layers(), _projections(stack)
    plain = layers[0].output.in_features
    channels = padded_width(plain)
    wide, narrow = feature_widths(projections[0].in_features if projections else 0)
    constant = layers[0].output.bias.new_zeros(plain, dtype=torch.float64)
    skip_bias = torch.zeros_like(constant)
    taps, output, level, offset = [], [], [], []
    for i, layer in enumerate(layers):
        weight, bias = layer.taps.weight.double(), layer.taps.bias.double()
        columns = pad_parts(weight, 3, channels, 1)
        if projections:
            columns = torch.cat([columns, pad_last(projections[i].weight.double(), wide + narrow)], dim=1)
            bias = bias + projections[i].bias.double()
        taps.append(pad_parts(columns, 2, channels, 0).to(dtype))
        output.append(pad_last(pad_parts(layer.output.weight, 2, channels, 0), channels).to(dtype))
        per_tap = torch.stack(weight.chunk(3, dim=1))  # (3, 2 * plain, plain)
        level.append(pad_parts(per_tap @ layer.level.weight.double(), 2, channels, 1).flatten(0, 1).float())
        vectors = per_tap @ (layer.level.bias.double() + constant)
        vectors[1] += bias
        offset.append(pad_parts(vectors, 2, channels, 1).flatten().float())
        residual, skip = layer.output.bias.double().chunk(2)
        constant, skip_bias = (constant + residual) * 0.5**0.5, skip_bias + skip
    return PackedStack(
        channels, wide, narrow, tuple(layer.dilation for layer in layers), torch.stack(taps), torch.stack(output),
        torch.cat(level), torch.cat(offset), pad_last(skip_bias, channels).float(),
    )  # fmt: skip
