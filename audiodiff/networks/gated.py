"""A gated residual layer with its gradient written out: less memory and fewer passes than what autograd records.

Kept for the way back are the layer's input and the two halves of the gate; the taps are laid out anew. As
tanh(s) = 2 sigmoid(2 s) - 1, one sigmoid serves both halves, and the factors go into the weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_HALF = 0.5**0.5
"""What scales the sum of residual stream and residual."""


def lay_taps(h: Tensor, level: Tensor, dilation: int) -> Tensor:
    """Add the noise level and lay past, present and future taps side by side, zeros beyond the ends.

    Args:
        h: Features `(batch, positions, channels)`.
        level: What is added to all positions `(batch, channels)`, of the same dtype.
        dilation: Distance between taps, in positions.

    Returns:
        `(batch, positions, 3 * channels)`.
    """
    batch, n, channels = h.shape
    reach, level = min(dilation, n), level.unsqueeze(1)
    taps = h.new_empty(batch, n, 3 * channels)
    past, present, future = taps.split(channels, dim=2)
    torch.add(h, level, out=present)
    past[:, :reach] = 0
    past[:, reach:] = present[:, : n - reach]
    future[:, n - reach :] = 0
    future[:, : n - reach] = present[:, reach:]
    return taps


def _gather(taps: Tensor, dilation: int) -> Tensor:
    """Add up what flows back to the three places that a position was laid in: the transpose of `lay_taps`."""
    n = taps.shape[1]
    past, present, future = taps.chunk(3, dim=2)
    reach = min(dilation, n)
    total = present.clone()
    total[:, : n - reach] += past[:, reach:]
    total[:, reach:] += future[:, : n - reach]
    return total


def _double_signal(values: Tensor, channels: int) -> Tensor:
    """Double the rows of the signal half, which follow those of the gate."""
    return torch.cat([values[:channels], 2 * values[channels:]])


def _scale_output(values: Tensor, channels: int) -> Tensor:
    """Scale the rows of the residual, which the stream is added to, and leave those of the skip."""
    return torch.cat([_HALF * values[:channels], values[channels:]])


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
        output_scaled = (2 * _scale_output(output_weight, channels)).to(dtype)
        taps = lay_taps(h, level, dilation)
        gates = torch.addmm(_double_signal(taps_bias, channels).to(dtype), taps.flatten(0, 1), taps_scaled.T)
        gates = gates.view(*h.shape[:2], -1)
        gate, signal = gates.chunk(2, dim=2)
        if condition is not None:
            gate.add_(condition[..., :channels])
            signal.add_(condition[..., channels:], alpha=2)
        gates.sigmoid_()
        output = torch.addmm(
            _scale_output(output_bias, channels).to(dtype), _gated(gates).flatten(0, 1), output_scaled.T
        )
        residual, skip = output.view_as(gates).chunk(2, dim=2)
        ctx.save_for_backward(h, level, gates, taps_scaled, output_scaled)
        ctx.dilation, ctx.conditioned = dilation, condition is not None
        ctx.dtypes = [value.dtype for value in (taps_weight, taps_bias, output_weight, output_bias)]
        return torch.add(residual, h, alpha=_HALF), skip.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_next: Tensor, grad_skip: Tensor) -> tuple[Tensor | None, ...]:
        """Run the layer backwards."""
        h, level, gates, taps_scaled, output_scaled = ctx.saved_tensors
        channels = h.shape[2]
        grad_output = torch.cat([grad_next, grad_skip], dim=2).flatten(0, 1)
        weight = 2 * _scale_output(grad_output.T @ _gated(gates).flatten(0, 1), channels)
        bias = _scale_output(_sum_rows(grad_output), channels)
        grad_gated = (grad_output @ output_scaled).view_as(h)
        gate, signal = gates.chunk(2, dim=2)
        grad_gates = torch.empty_like(gates)
        for half, other in zip(grad_gates.chunk(2, dim=2), (signal - 0.5, gate), strict=True):
            torch.mul(grad_gated, other, out=half)
        grad_gates = torch.ops.aten.sigmoid_backward(grad_gates, gates)
        rows = grad_gates.flatten(0, 1)
        taps = lay_taps(h, level, ctx.dilation).flatten(0, 1)
        taps_weight, taps_bias = _double_signal(rows.T @ taps, channels), _double_signal(_sum_rows(rows), channels)
        grad_shifted = _gather((rows @ taps_scaled).view(*h.shape[:2], -1), ctx.dilation)
        grad_condition = None
        if ctx.conditioned:
            grad_gates[..., channels:] *= 2
            grad_condition = grad_gates
        grads = (taps_weight, taps_bias, weight, bias)
        return (
            torch.add(grad_shifted, grad_next, alpha=_HALF),
            grad_shifted.sum(1, dtype=_wide(h.dtype)).to(level.dtype),
            grad_condition,
            *(grad.to(dtype) for grad, dtype in zip(grads, ctx.dtypes, strict=True)),
            None,
        )


def _gated(gates: Tensor) -> Tensor:
    """Return half of sigmoid(gate) * tanh(signal), from the sigmoids of gate and doubled signal."""
    gate, signal = gates.chunk(2, dim=2)
    return (signal - 0.5).mul_(gate)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that long sums are taken in."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _sum_rows(rows: Tensor) -> Tensor:
    return rows.sum(0, dtype=_wide(rows.dtype))
