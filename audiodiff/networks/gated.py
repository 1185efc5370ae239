"""A gated residual layer with its gradient written out: less memory and fewer passes than what autograd records.

Kept for the way back are the layer's input and the two halves of the gate; the taps are laid out anew. As
tanh(s) = 2 sigmoid(2 s) - 1, one sigmoid serves both halves, and the factors go into the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

HALF = 0.5**0.5
"""What scales the sum of residual stream and residual."""


TILE = 4096
"""Positions that go through a layer together on a CPU, so that what lies between its products stays in the cache."""


def _tiles(h: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut `(batch, positions, channels)` into clips and tiles on a CPU; a GPU takes all at once."""
    if h.device.type != "cpu":
        yield slice(None), slice(0, h.shape[1])
        return
    for clip in range(len(h)):
        for start in range(0, h.shape[1], TILE):
            yield slice(clip, clip + 1), slice(start, min(start + TILE, h.shape[1]))


def lay_taps(h: Tensor, level: Tensor, dilation: int, tile: slice) -> Tensor:
    """Add the noise level and lay past, present and future taps of a tile side by side, zeros beyond the ends.

    Args:
        h: Features `(batch, positions, channels)`.
        level: What is added to all positions `(batch, 1, channels)`, of the same dtype.
        dilation: Distance between taps, in positions.
        tile: Which positions.

    Returns:
        `(batch, positions of the tile, 3 * channels)`.
    """
    batch, n, channels = h.shape
    taps = h.new_empty(batch, tile.stop - tile.start, 3 * channels)
    for part, shift in zip(taps.chunk(3, dim=2), (-dilation, 0, dilation), strict=True):
        low, high = (min(max(edge + shift, 0), n) for edge in (tile.start, tile.stop))
        first = low - shift - tile.start if high > low else part.shape[1]
        part[:, :first] = 0
        torch.add(h[:, low:high], level, out=part[:, first : first + high - low])
        part[:, first + high - low :] = 0
    return taps


def _gather(taps: Tensor, total: Tensor, dilation: int, tile: slice) -> Tensor:
    """Add what flows back to the places that a tile was laid from: the transpose of `lay_taps`.

    Returns:
        What flows back to the level, `(batch, channels)`.
    """
    n, to_level = total.shape[1], []
    for part, shift in zip(taps.chunk(3, dim=2), (-dilation, 0, dilation), strict=True):
        low, high = (min(max(edge + shift, 0), n) for edge in (tile.start, tile.stop))
        if high > low:
            first = low - shift - tile.start
            inside = part[:, first : first + high - low]
            total[:, low:high] += inside
            to_level.append(inside.sum(1, dtype=_wide(total.dtype)))
    return torch.stack(to_level).sum(0)


def _double_signal(values: Tensor, channels: int) -> Tensor:
    """Double the rows of the signal half, which follow those of the gate."""
    return torch.cat([values[:channels], 2 * values[channels:]])


def _scale_output(values: Tensor, channels: int) -> Tensor:
    """Scale the rows of the residual, which the stream is added to, and leave those of the skip."""
    return torch.cat([HALF * values[:channels], values[channels:]])


class GatedResidual(torch.autograd.Function):
    """(h, level, condition or None, taps' weight and bias, output's weight and bias, dilation) -> (next h, skip).

    Shapes as in `audiodiff.networks.layers.GatedResidualLayer`, level `(batch, channels)` already projected. Computes
    in the dtype of h; weights may be wider, and get their gradients in their own dtype.
    """

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        level: Tensor,
        condition: Tensor | None,
        taps_weight: Tensor,
        taps_bias: Tensor,
        output_weight: Tensor,
        output_bias: Tensor,
        dilation: int,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer."""
        channels, dtype = h.shape[2], h.dtype
        taps_scaled = _double_signal(taps_weight, channels).to(dtype)
        taps_added = _double_signal(taps_bias, channels).to(dtype)
        output_scaled = (2 * _scale_output(output_weight, channels)).to(dtype)
        output_added = _scale_output(output_bias, channels).to(dtype)
        following, skip = torch.empty_like(h), torch.empty_like(h)
        gates = h.new_empty(*h.shape[:2], 2 * channels)
        for clips, tile in _tiles(h):
            taps, part = lay_taps(h[clips], level[clips].unsqueeze(1), dilation, tile), gates[clips, tile]
            torch.addmm(taps_added, taps.flatten(0, 1), taps_scaled.T, out=part.view(-1, 2 * channels))
            if condition is not None:
                part[..., :channels].add_(condition[clips, tile, :channels])
                part[..., channels:].add_(condition[clips, tile, channels:], alpha=2)
            part.sigmoid_()
            output = torch.addmm(output_added, _gated(part).flatten(0, 1), output_scaled.T).view_as(part)
            torch.add(output[..., :channels], h[clips, tile], alpha=HALF, out=following[clips, tile])
            skip[clips, tile] = output[..., channels:]
        ctx.save_for_backward(h, level, gates, taps_scaled, output_scaled)
        ctx.dilation, ctx.conditioned = dilation, condition is not None
        ctx.dtypes = [value.dtype for value in (taps_weight, taps_bias, output_weight, output_bias)]
        return following, skip

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_next: Tensor, grad_skip: Tensor) -> tuple[Tensor | None, ...]:
        """Run the layer backwards."""
        h, level, gates, taps_scaled, output_scaled = ctx.saved_tensors
        channels, wide = h.shape[2], _wide(h.dtype)
        grad_h, grad_level = HALF * grad_next, torch.zeros_like(level, dtype=wide)
        grad_condition = torch.empty_like(gates) if ctx.conditioned and ctx.needs_input_grad[2] else None
        wanted = any(ctx.needs_input_grad[3:7])  # not in a frozen layer
        sizes = ((2 * channels, 3 * channels), (2 * channels,), (2 * channels, channels), (2 * channels,))
        grads = [torch.zeros(size, dtype=wide, device=h.device) for size in sizes]
        for clips, tile in _tiles(h):
            part = gates[clips, tile]
            output = torch.cat([grad_next[clips, tile], grad_skip[clips, tile]], dim=2).flatten(0, 1)
            through = _through_gates((output @ output_scaled).view(*part.shape[:2], channels), part)
            rows, taps = through.flatten(0, 1), lay_taps(h[clips], level[clips].unsqueeze(1), ctx.dilation, tile)
            if wanted:
                grads[0] += rows.T @ taps.flatten(0, 1)
                grads[1] += _sum_rows(rows)
                grads[2] += output.T @ _gated(part).flatten(0, 1)
                grads[3] += _sum_rows(output)
            grad_taps = (rows @ taps_scaled).view_as(taps)
            grad_level[clips] += _gather(grad_taps, grad_h[clips], ctx.dilation, tile)
            if grad_condition is not None:
                grad_condition[clips, tile, :channels] = through[..., :channels]
                torch.mul(through[..., channels:], 2, out=grad_condition[clips, tile, channels:])
        grads[0], grads[1] = (_double_signal(grad, channels) for grad in grads[:2])
        grads[2], grads[3] = 2 * _scale_output(grads[2], channels), _scale_output(grads[3], channels)
        weights = (grad.to(dtype) if wanted else None for grad, dtype in zip(grads, ctx.dtypes, strict=True))
        return grad_h, grad_level.to(level.dtype), grad_condition, *weights, None


def _through_gates(grad_gated: Tensor, gates: Tensor) -> Tensor:
    """Return what flows back to what the sigmoids were taken of, `(batch, positions, 2 * channels)`."""
    gate, signal = gates.chunk(2, dim=2)
    grad = torch.empty_like(gates)
    to_gate, to_signal = grad.chunk(2, dim=2)
    torch.mul(grad_gated, signal - 0.5, out=to_gate)
    torch.mul(grad_gated, gate, out=to_signal)
    through: Tensor = torch.ops.aten.sigmoid_backward(grad, gates)
    return through


def _gated(gates: Tensor) -> Tensor:
    """Return half of sigmoid(gate) * tanh(signal), from the sigmoids of gate and doubled signal."""
    gate, signal = gates.chunk(2, dim=2)
    return (signal - 0.5).mul_(gate)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that long sums are taken in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _sum_rows(rows: Tensor) -> Tensor:
    return rows.sum(0, dtype=_wide(rows.dtype))
