"""The dilated residual layers of DiffWave, gated or radial, time-major: every convolution is one matrix product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.networks.conditioning import Conditioner
from audiodiff.networks.gated import HALF, GatedResidual
from audiodiff.networks.radial_unit import RadialUnit


def dilated_taps(h: Tensor, dilation: int, ahead: int | None = None) -> Tensor:
    """Lay the three taps of a dilated convolution side by side, zeros beyond the ends.

    Args:
        h: Features `(batch, positions, channels)`.
        dilation: Distance between taps, in positions.
        ahead: How far the last tap lies ahead, in positions; None for `dilation`, taps on both sides.

    Returns:
        `(batch, positions, 3 * channels)`, from the earliest tap to the latest.
    """
    n, ahead = h.shape[1], dilation if ahead is None else ahead
    padded = functional.pad(h, (0, 0, 2 * dilation - ahead, ahead))
    return torch.cat([padded[:, i * dilation : i * dilation + n] for i in range(3)], dim=2)


class GatedResidualLayer(nn.Module):
    """One layer of Kong et al. 2021, Fig. 2: dilated convolution, condition, gate, residual and skip.

    Args:
        channels: Width of the residual stream.
        dilation: Distance between the three taps, in positions.
        level_width: Width of the noise-level embedding.
        ahead: How far the last tap lies ahead, in positions; None for `dilation`, taps on both sides.
    """

    def __init__(self, channels: int, dilation: int, level_width: int, ahead: int | None = None) -> None:
        super().__init__()
        self.dilation, self.ahead = dilation, dilation if ahead is None else ahead
        self.level = nn.Linear(level_width, channels)
        self.taps = nn.Linear(3 * channels, 2 * channels)
        self.output = nn.Linear(channels, 2 * channels)

    def forward(self, h: Tensor, level: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            h: Residual stream `(batch, positions, channels)`.
            level: Noise-level embedding `(batch, level_width)`.
            condition: This layer's projected condition `(batch, positions, 2 * channels)`, or None.

        Returns:
            The new residual stream and the skip output, each `(batch, positions, channels)`.
        """
        if torch.is_grad_enabled() and h.device.type == "cpu" and self.ahead == self.dilation:
            return self._run_and_record(h, level, condition)
        y = self.taps(dilated_taps(h + self.level(level).unsqueeze(1), self.dilation, self.ahead))
        if condition is not None:
            y = y + condition
        gate, signal = y.chunk(2, dim=2)
        residual, skip = self.output(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, dim=2)
        return (h + residual) * HALF, skip

    def _run_and_record(self, h: Tensor, level: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Do the same where gradients are wanted."""
        shift = self.level(level).to(h.dtype)
        weights = (self.taps.weight, self.taps.bias, self.output.weight, self.output.bias)
        condition = None if condition is None else condition.to(h.dtype)
        recorded: tuple[Tensor, Tensor] = GatedResidual.apply(  # type: ignore[no-untyped-call]
            h, shift, condition, *weights, self.dilation
        )
        return recorded


class RadialResidualLayer(nn.Module):
    """The same layer with a radial basis function network per channel in place of the gate; see `RadialUnit`.

    Products, condition and outputs have the shapes of the gated layer's.

    Args:
        channels: Width of the residual stream.
        dilation: Distance between the three taps, in positions.
        level_width: Width of the noise-level embedding.
        centres: Of each channel.
    """

    def __init__(self, channels: int, dilation: int, level_width: int, centres: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.level = nn.Linear(level_width, channels)
        self.taps = nn.Linear(3 * channels, 2 * channels)
        self.radial = RadialUnit(channels, centres)
        self.output = nn.Linear(channels, 2 * channels)

    def forward(self, h: Tensor, level: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the layer; arguments and result as in `GatedResidualLayer.forward`."""
        y = self.taps(dilated_taps(h + self.level(level).unsqueeze(1), self.dilation))
        if condition is not None:
            y = y + condition
        residual, skip = self.output(self.radial(y)).chunk(2, dim=2)
        return (h + residual) * HALF, skip


def _look_ahead(dilations: Sequence[int], look_ahead: int) -> list[int]:
    """Spread what may be seen ahead over the layers whose taps are neighbours; all others see the past alone."""
    ahead = []
    for dilation in dilations:
        ahead.append(1 if dilation == 1 and look_ahead > sum(ahead) else 0)
    return ahead


class DilatedStack(nn.Module):
    """The residual layers with their dilation cycle, and the conditioner that serves all of them.

    Args:
        channels: Width of the residual stream.
        layers: Number of layers.
        dilation_cycle: Dilation of layer i is 2 ** (i % dilation_cycle).
        level_width: Width of the noise-level embedding.
        radial_centres: Centres per channel of layers with radial basis functions; 0 for gated layers.
        look_ahead: Positions that all layers together see ahead, None for taps on both sides.

    Attributes:
        receptive_field: Positions before an output that it depends on; as many behind it, without `look_ahead`.
        look_ahead: Positions behind an output that it depends on.
        conditioner: What brings a mel to the layers; None until the network gives the stack one.
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        dilation_cycle: int,
        *,
        level_width: int,
        radial_centres: int = 0,
        look_ahead: int | None = None,
    ) -> None:
        super().__init__()
        dilations = [1 << i % dilation_cycle for i in range(layers)]
        ahead = dilations if look_ahead is None else _look_ahead(dilations, look_ahead)
        self.receptive_field: int = sum(2 * dilation - a for dilation, a in zip(dilations, ahead, strict=True))
        self.look_ahead: int = sum(ahead)
        self.layers = nn.ModuleList(
            RadialResidualLayer(channels, dilation, level_width, radial_centres)
            if radial_centres
            else GatedResidualLayer(channels, dilation, level_width, a)
            for dilation, a in zip(dilations, ahead, strict=True)
        )
        self.conditioner: Conditioner | None = None

    @property
    def is_gated(self) -> bool:
        """Whether all layers are the gated ones that fast engines compute."""
        return all(isinstance(layer, GatedResidualLayer) for layer in self.layers)

    def gated_layers(self) -> list[GatedResidualLayer]:
        """List the layers for an engine that computes gated ones.

        Raises:
            TypeError: If there are others.
        """
        gated = [layer for layer in self.layers if isinstance(layer, GatedResidualLayer)]
        if len(gated) < len(self.layers):
            raise TypeError("this engine computes gated layers, the network has others; run the network as it is")
        return gated

    def forward(self, h: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Run all layers and add up their skips.

        Args:
            h: Residual stream `(batch, positions, channels)`.
            level: Noise-level embedding `(batch, level_width)`.
            condition: What `conditioner.encode` returned, or None.

        Returns:
            Sum of skips over the square root of their number, `(batch, positions, channels)`.

        Raises:
            TypeError: If there is a condition, but no conditioner.
        """
        conditioner = None if condition is None else self.conditioner
        if condition is not None and conditioner is None:
            raise TypeError("this network was built without a condition")
        total = torch.zeros_like(h)
        for index, layer in enumerate(self.layers):
            piece = None
            if condition is not None and conditioner is not None:
                piece = conditioner.for_layer(condition, index, h.shape[1])
            h, skip = layer(h, level, piece)
            total = total + skip
        return torch.mul(total, len(self.layers) ** -0.5)
