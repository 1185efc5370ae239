"""What the levels of a U-Net are made of, time-major: residual blocks, which see neighbours, and self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.networks.layers import dilated_taps

SLOWEST = 1e-3
"""Slowest rotation of an attention head, in radians per position; the fastest is 1."""


class Modulation(nn.Module):
    """Features of unit scale at every position, then scaled and shifted by the noise level (FiLM, Perez et al. 2018).

    The mean square is taken over the channels of one position (Zhang and Sennrich 2019), so that nothing far off
    changes what is near, and a signal in chunks is that of the whole.

    Args:
        channels: Width of the features.
        level_width: Width of the embedding of noise level and label.
    """

    def __init__(self, channels: int, level_width: int) -> None:
        super().__init__()
        self.channels = channels
        self.project = nn.Linear(level_width, 2 * channels)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """Modulate features `(batch, positions, channels)` by an embedding `(batch, level_width)`."""
        scale, shift = self.project(level).to(h.dtype).unsqueeze(1).chunk(2, dim=2)
        return torch.addcmul(shift, functional.rms_norm(h, (self.channels,)), 1 + scale)


class ResidualBlock(nn.Module):
    """Two convolutions over three positions each, behind a modulation by the noise level.

    Args:
        channels: Width of the residual stream.
        dilation: Distance between the taps of the first convolution, in positions; those of the second are neighbours.
        level_width: Width of the embedding of noise level and label.
    """

    def __init__(self, channels: int, dilation: int, level_width: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.modulate = Modulation(channels, level_width)
        self.taps = nn.Linear(3 * channels, channels)
        self.output = nn.Linear(3 * channels, channels)

    def forward(self, h: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Run the block.

        Args:
            h: Residual stream `(batch, positions, channels)`.
            level: Embedding of noise level and label `(batch, level_width)`.
            condition: The mel, projected for this block `(batch, positions, channels)`, or None.

        Returns:
            The new residual stream.
        """
        y = self.taps(dilated_taps(functional.silu(self.modulate(h, level)), self.dilation))
        if condition is not None:
            y = y + condition
        following: Tensor = h + self.output(dilated_taps(functional.silu(y), 1))
        return following


class SelfAttention(nn.Module):
    """Every position attends to every other one, by what they hold and by how far apart they are.

    Queries and keys are of unit scale and rotated by their position (Su et al. 2021, "RoFormer"), so that only
    distances matter and a clip may be of any length.

    Args:
        channels: Width of the residual stream.
        head_width: Channels of a head; it divides `channels`.
        level_width: Width of the embedding of noise level and label.
    """

    def __init__(self, channels: int, head_width: int, level_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.modulate = Modulation(channels, level_width)
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """Return the new residual stream `(batch, positions, channels)`; arguments as in `ResidualBlock.forward`."""
        split = self.inputs(self.modulate(h, level)).unflatten(2, (3, -1, self.head_width))
        query, key, value = split.transpose(1, 3).unbind(2)  # each (batch, heads, positions, head_width)
        following: Tensor = h + self.output(attended(rotated(query), rotated(key), value).transpose(1, 2).flatten(2))
        return following


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention `(batch, heads, positions, width)`, on a CPU in float32: bfloat16 is ten times slower there."""
    if query.device.type != "cpu":
        return functional.scaled_dot_product_attention(query, key, value)
    wide = torch.promote_types(value.dtype, torch.float32)
    with torch.autocast("cpu", enabled=False):
        exact = functional.scaled_dot_product_attention(query.to(wide), key.to(wide), value.to(wide))
    return exact.to(value.dtype)


def rotated(vectors: Tensor) -> Tensor:
    """Scale vectors to unit mean square, and turn their pairs of channels by angles that grow with position.

    Args:
        vectors: `(batch, heads, positions, width)`, width even.

    Returns:
        Of the same shape and dtype. The scalar product of two depends on the distance between their positions, not on
        where they are.
    """
    n_positions, width = vectors.shape[2:]
    share = torch.arange(width // 2, device=vectors.device) / max(width // 2 - 1, 1)
    angle = torch.arange(n_positions, device=vectors.device).unsqueeze(1) * SLOWEST**share
    cosine, sine = angle.cos(), angle.sin()
    left, right = functional.rms_norm(vectors, (width,)).chunk(2, dim=3)
    turned = torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=3)
    return turned.to(vectors.dtype)
