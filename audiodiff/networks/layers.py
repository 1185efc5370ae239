"""What networks are made of, time-major: taps of a convolution, the radial unit, blocks of a U-Net, self-attention.

Features are `(batch, positions, channels)`, so that every convolution is one matrix product.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from audiodiff.networks.embeddings import positive_spread, raw_spread

SQRT_HALF = 0.5**0.5
"""What a sum of two features of unit variance is scaled by."""
ROWS = 1024
"""Positions that a CPU computes together, so that what lies between its products stays in the cache."""
MIN_FREQUENCY = 1e-3
"""Slowest rotation of an attention head, in radians per position; the fastest is 1."""

_RADIUS = 4.0
"""Of the disc that the centres of a radial unit cover at first; inputs are around 1 at first, later up to some 3."""
_INPUT_STD = 1.5
"""Standard deviation of the inputs at which the first weights of a radial unit are fitted."""


def zero_projection(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Return a projection that starts at zero."""
    projection = nn.Linear(n_inputs, n_outputs)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection


def dilated_taps(h: Tensor, dilation: int, look_ahead: int | None = None) -> Tensor:
    """Lay the three taps of a dilated convolution side by side, zeros beyond the ends.

    Args:
        h: Features `(batch, positions, channels)`.
        dilation: Distance between taps, in positions.
        look_ahead: How far the last tap lies ahead, in positions; None for `dilation`, taps on both sides.

    Returns:
        `(batch, positions, 3 * channels)`, from the earliest tap to the latest.
    """
    look_ahead = dilation if look_ahead is None else look_ahead
    return _side_by_side(functional.pad(h, (0, 0, 2 * dilation - look_ahead, look_ahead)), dilation)


def _side_by_side(padded: Tensor, dilation: int) -> Tensor:
    n = padded.shape[1] - 2 * dilation
    return torch.cat([padded[:, i * dilation : i * dilation + n] for i in range(3)], dim=2)


def dilated_convolution(taps: nn.Linear, h: Tensor, dilation: int, look_ahead: int | None = None) -> Tensor:
    """Return `taps(dilated_taps(h, dilation, look_ahead))`, on a CPU without laying the taps."""
    if not is_on_cpu(h):
        return functional.linear(dilated_taps(h, dilation, look_ahead), taps.weight, taps.bias)
    padding = dilation
    if look_ahead not in (None, dilation):
        h, padding = functional.pad(h, (0, 0, 2 * dilation - look_ahead, look_ahead)), 0
    h, weight, bias = autocast_on_cpu(h, taps.weight, taps.bias)
    if not torch.is_grad_enabled():
        return _convolve(h, weight, bias, dilation, padding)
    convolved: Tensor = _Convolution.apply(h, weight, bias, dilation, padding)  # type: ignore[no-untyped-call]
    return convolved


def is_on_cpu(h: Tensor) -> bool:
    """Say whether features take the functions made for a CPU; graphs that are exported or compiled do not."""
    return h.device.type == "cpu" and not torch.compiler.is_compiling()


def autocast_on_cpu(*tensors: Tensor) -> list[Tensor]:
    """Cast what enters a function of one's own as autocast would for a matrix product."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]


def _convolve(h: Tensor, weight: Tensor, bias: Tensor, dilation: int, padding: int) -> Tensor:
    image, kernel = _as_image(h), _as_image(weight.unflatten(1, (3, -1)))
    y = functional.conv2d(image, kernel, bias, padding=(0, padding), dilation=(1, dilation))
    return y.squeeze(2).mT


def _as_image(features: Tensor) -> Tensor:
    """View `(batch, positions, channels)` as `(batch, channels, 1, positions)`, in memory as oneDNN likes it best."""
    return features.mT.unsqueeze(2)


class _Convolution(torch.autograd.Function):
    """A dilated convolution of oneDNN; the gradient of its weight is a matrix product, which is faster.

    Taps are laid for a few clips at a time; a clip is not cut.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, bias: Tensor, dilation: int, padding: int) -> Tensor:
        """Convolve features; arguments as in `dilated_convolution`, both ends padded with so many zeros."""
        ctx.save_for_backward(h, weight)
        ctx.dilation, ctx.padding = dilation, padding
        return _convolve(h, weight, bias, dilation, padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features, weight and bias."""
        (h, weight), dilation, padding = ctx.saved_tensors, ctx.dilation, ctx.padding
        to_features, to_weight, to_bias = ctx.needs_input_grad[:3]
        grad_h = grad_weight = None
        if to_features:
            image = (_as_image(grad), _as_image(h), _as_image(weight.unflatten(1, (3, -1))))
            options = (None, (1, 1), (0, padding), (1, dilation), False, (0, 0), 1, (True, False, False))
            grad_h = torch.ops.aten.convolution_backward(*image, *options)[0].squeeze(2).mT
        if to_weight:
            grad_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
            group = max(1, ROWS // grad.shape[1])
            for part, rows in zip(h.split(group), grad.split(group), strict=True):
                taps = _side_by_side(functional.pad(part, (0, 0, padding, padding)), dilation)
                grad_weight += rows.flatten(0, 1).T @ taps.flatten(0, 1)
            grad_weight = grad_weight.to(weight.dtype)
        return grad_h, grad_weight, grad.sum((0, 1)) if to_bias else None, None, None


class RadialUnit(nn.Module):
    """Radial basis functions in place of the gate: every channel learns its own function of signal and gate.

    Experimental. y_c = sum_k w_ck exp(-|p_c - q_ck|^2 / (2 s_ck^2)) of the pairs p_c = (gate_c, signal_c), K centres
    each.

    An RBF network of two inputs per channel (Broomhead and Lowe 1988). The centres begin all over a disc, with weights
    fitted to the gated unit, sigmoid(gate) * tanh(signal), so that training starts where it does with the gate.

    Args:
        channels: C.
        centres: K, per channel.
    """

    def __init__(self, channels: int, centres: int) -> None:
        super().__init__()
        initial, spread, weight = _fit_gated_unit(centres)
        self.centres = nn.Parameter(initial.float().unsqueeze(2).repeat(1, 1, channels))
        self.raw_spread = nn.Parameter(torch.full((centres, channels), raw_spread(spread)))
        self.weight = nn.Parameter(weight.float().unsqueeze(1).repeat(1, channels))

    def forward(self, pairs: Tensor) -> Tensor:
        """Map gates and signals `(..., 2 * channels)`, side by side, to `(..., channels)` of the same dtype.

        Where gradients are needed only the pairs are kept; the basis functions are recomputed in the backward pass.
        """
        if not torch.is_grad_enabled():
            return self._sum(pairs)
        summed: Tensor = checkpoint(self._sum, pairs, use_reentrant=False, preserve_rng_state=False)
        return summed

    def _sum(self, pairs: Tensor) -> Tensor:
        gate, signal = pairs.chunk(2, dim=-1)
        factors = -0.5 / positive_spread(self.raw_spread).square()
        total = torch.zeros_like(gate, dtype=factors.dtype)
        for (at_gate, at_signal), factor, weight in zip(self.centres, factors, self.weight, strict=True):
            square = (gate - at_gate).square() + (signal - at_signal).square()
            total = torch.addcmul(total, weight, torch.exp(square * factor))
        return total.to(pairs.dtype)


def _fit_gated_unit(count: int) -> tuple[Tensor, float, Tensor]:
    """Return centres `(count, 2)` of gate and signal, their spread, and weights `(count,)` that fit the gated unit.

    The centres lie on a Fermat spiral, which covers a disc evenly for any number of them (Vogel 1979); the spread is
    the root of the area per centre; the weights are a ridge regression.
    """
    index = torch.arange(count, dtype=torch.float64)
    radius, angle = _RADIUS * ((index + 0.5) / count).sqrt(), index * math.pi * (3 - math.sqrt(5))
    initial = torch.stack([radius * angle.sin(), radius * angle.cos()], dim=1)
    spread = _RADIUS * math.sqrt(math.pi / count)
    grid = torch.linspace(-5, 5, 101, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    basis = torch.exp(-0.5 * torch.cdist(points, initial).square() / spread**2)
    likely = torch.exp(-0.5 * (points / _INPUT_STD).square().sum(1, keepdim=True))
    gated = (torch.sigmoid(points[:, :1]) * torch.tanh(points[:, 1:])) * likely
    normal = basis.T @ (basis * likely) + 1e-4 * likely.sum() * torch.eye(count, dtype=torch.float64)
    return initial, spread, torch.linalg.solve(normal, basis.T @ gated)[:, 0]


class AdaptiveRMSNorm(nn.Module):
    """RMS norm whose scale and shift depend on the noise level (FiLM, Perez et al. 2018).

    The mean square is taken over the channels of one position (Zhang and Sennrich 2019), so a signal may be processed
    in chunks.

    Args:
        channels: Width of the features.
        embedding_width: Width of the embedding of noise level and global conditions.
    """

    def __init__(self, channels: int, embedding_width: int) -> None:
        super().__init__()
        self.channels = channels
        self.project = nn.Linear(embedding_width, 2 * channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Normalise features `(batch, positions, channels)`, given an embedding `(batch, embedding_width)`."""
        scale, shift = self.project(embedding).to(h.dtype).unsqueeze(1).chunk(2, dim=2)
        return torch.addcmul(shift, functional.rms_norm(h, (self.channels,)), 1 + scale)


class ResidualBlock(nn.Module):
    """Two convolutions of kernel size 3 after an adaptive norm.

    Args:
        channels: Width of the residual stream.
        dilation: Distance between the taps of the first convolution, in positions; those of the second are neighbours.
        embedding_width: Width of the embedding of noise level and global conditions.
    """

    def __init__(self, channels: int, dilation: int, embedding_width: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.modulate = AdaptiveRMSNorm(channels, embedding_width)
        self.taps = nn.Linear(3 * channels, channels)
        self.output = nn.Linear(3 * channels, channels)

    def forward(self, h: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """Run the block.

        Args:
            h: Residual stream `(batch, positions, channels)`.
            embedding: Of noise level and global conditions `(batch, embedding_width)`.
            condition: The mel, projected for this block `(batch, positions, channels)`, or None.

        Returns:
            The new residual stream.
        """
        y = dilated_convolution(self.taps, functional.silu(self.modulate(h, embedding)), self.dilation)
        if condition is not None:
            y = y + condition
        h_next: Tensor = h + dilated_convolution(self.output, functional.silu(y), 1)
        return h_next


class SelfAttention(nn.Module):
    """Self-attention over all positions, with rotary position embeddings (Su et al. 2021, "RoFormer").

    Queries and keys are normalised. Only distances between positions matter, so a clip may be of any length.

    Args:
        channels: Width of the residual stream.
        head_width: Channels of a head; it divides `channels`.
        embedding_width: Width of the embedding of noise level and global conditions.
    """

    def __init__(self, channels: int, head_width: int, embedding_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.modulate = AdaptiveRMSNorm(channels, embedding_width)
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the new residual stream `(batch, positions, channels)`; arguments as in `ResidualBlock.forward`."""
        split = self.inputs(self.modulate(h, embedding)).unflatten(2, (3, -1, self.head_width))
        query, key, value = split.transpose(1, 3).unbind(2)  # each (batch, heads, positions, head_width)
        y = scaled_dot_product_attention(rotate(query), rotate(key), value)
        h_next: Tensor = h + self.output(y.transpose(1, 2).flatten(2))
        return h_next


def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention `(batch, heads, positions, width)`, on a CPU in float32: bfloat16 is ten times slower there."""
    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value)
    dtype = torch.promote_types(value.dtype, torch.float32)
    # where no autocast is on, no context either: an exporter would cut its graph there
    with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
        result = functional.scaled_dot_product_attention(query.to(dtype), key.to(dtype), value.to(dtype))
    return result.to(value.dtype)


def rotate(vectors: Tensor) -> Tensor:
    """Normalise vectors to unit mean square, and rotate pairs of their channels by angles that grow with position.

    Args:
        vectors: `(batch, heads, positions, width)`, width even.

    Returns:
        Of the same shape and dtype. The scalar product of two depends on the distance between their positions only.
    """
    n_positions, width = vectors.shape[2:]
    exponent = torch.arange(width // 2, device=vectors.device) / max(width // 2 - 1, 1)
    angle = torch.arange(n_positions, device=vectors.device).unsqueeze(1) * MIN_FREQUENCY**exponent
    cosine, sine = angle.cos(), angle.sin()
    left, right = functional.rms_norm(vectors, (width,)).chunk(2, dim=3)
    rotated = torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=3)
    return rotated.to(vectors.dtype)
