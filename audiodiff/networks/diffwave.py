"""DiffWave (Kong et al. 2021): gated dilated convolutions over samples, or over patches of samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiodiff.config import ModelConfig
from audiodiff.networks.base import ConditionedNetwork, Stack
from audiodiff.networks.conditioning import make_conditioner
from audiodiff.networks.layers import SQRT_HALF, RadialUnit, dilated_convolution, zero_projection


class ResidualLayer(nn.Module):
    """One layer of Kong et al. 2021, Fig. 2: dilated convolution, condition, gated unit, residual and skip output.

    Args:
        channels: Width of the residual stream.
        dilation: Distance between the three taps of the convolution, in positions.
        embedding_width: Width of the embedding of noise level and global conditions.
        radial_centres: Centres per channel of a `RadialUnit` in place of the gated unit; 0 for the gated unit.
        look_ahead: How far the last tap lies ahead, in positions; None for `dilation`, taps on both sides.
    """

    def __init__(
        self,
        channels: int,
        dilation: int,
        embedding_width: int,
        *,
        radial_centres: int = 0,
        look_ahead: int | None = None,
    ) -> None:
        super().__init__()
        self.dilation, self.look_ahead = dilation, dilation if look_ahead is None else look_ahead
        self.level = nn.Linear(embedding_width, channels)
        self.taps = nn.Linear(3 * channels, 2 * channels)
        self.radial = RadialUnit(channels, radial_centres) if radial_centres else None
        self.output = nn.Linear(channels, 2 * channels)

    def forward(self, h: Tensor, embedding: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            h: Residual stream `(batch, positions, channels)`.
            embedding: Of noise level and global conditions `(batch, embedding_width)`.
            condition: This layer's mel condition `(batch, positions, 2 * channels)`, or None.

        Returns:
            The new residual stream and the skip output, each `(batch, positions, channels)`.
        """
        y = dilated_convolution(self.taps, h + self.level(embedding).unsqueeze(1), self.dilation, self.look_ahead)
        if condition is not None:
            y = y + condition
        y = gated_unit(y) if self.radial is None else self.radial(y)
        residual, skip = self.output(y).chunk(2, dim=2)
        return (h + residual) * SQRT_HALF, skip


def gated_unit(y: Tensor) -> Tensor:
    """Map gates and signals `(batch, positions, 2 * channels)` to sigmoid(gate) * tanh(signal)."""
    gate, signal = y.chunk(2, dim=2)
    return torch.sigmoid(gate) * torch.tanh(signal)


def _spread_look_ahead(dilations: Sequence[int], look_ahead: int) -> list[int]:
    """Give one position of look-ahead to each layer of dilation 1 while there are any left; all others are causal."""
    spread: list[int] = []
    for dilation in dilations:
        spread.append(1 if dilation == 1 and look_ahead > sum(spread) else 0)
    return spread


class DilatedStack(Stack):
    """The residual layers with their dilation cycle; the output is the sum of their skips.

    Args:
        channels: Width of the residual stream.
        layers: Number of layers.
        dilation_cycle: Dilation of layer i is 2 ** (i % dilation_cycle).
        embedding_width: Width of the embedding of noise level and global conditions.
        radial_centres: As in `ResidualLayer`.
        look_ahead: Positions that all layers together look ahead; None for taps on both sides.

    Attributes:
        receptive_field: Positions before each output that it depends on (and as many after it if `look_ahead` is None).
        look_ahead: Future positions each output depends on.
    """

    def __init__(
        self,
        channels: int,
        layers: int,
        dilation_cycle: int,
        *,
        embedding_width: int,
        radial_centres: int = 0,
        look_ahead: int | None = None,
    ) -> None:
        super().__init__()
        dilations = [2 ** (i % dilation_cycle) for i in range(layers)]
        ahead = dilations if look_ahead is None else _spread_look_ahead(dilations, look_ahead)
        self.receptive_field: int = sum(2 * dilation - a for dilation, a in zip(dilations, ahead, strict=True))
        self.look_ahead: int = sum(ahead)
        self.layers = nn.ModuleList(
            ResidualLayer(channels, dilation, embedding_width, radial_centres=radial_centres, look_ahead=a)
            for dilation, a in zip(dilations, ahead, strict=True)
        )
        self.conditioner = None

    @property
    def is_gated(self) -> bool:
        """Whether all layers use the gated unit, the only one that the fast engines support."""
        return all(layer.radial is None for layer in self.layers)

    @property
    def has_limited_look_ahead(self) -> bool:
        """Whether look-ahead is shorter than look-back; the fast engines support only symmetric networks."""
        return self.look_ahead < self.receptive_field

    def gated_layers(self) -> list[ResidualLayer]:
        """List the layers for an engine that supports the gated unit only.

        Raises:
            TypeError: If any layer does not use the gated unit.
        """
        if not self.is_gated:
            raise TypeError("this engine supports gated layers only; use the network without an engine")
        return [layer for layer in self.layers if isinstance(layer, ResidualLayer)]

    def forward(self, h: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """Run all layers.

        Args:
            h: Residual stream `(batch, positions, channels)`.
            embedding: Of noise level and global conditions `(batch, embedding_width)`.
            condition: What `conditioner.encode` returned, or None.

        Returns:
            Sum of skips over the square root of their number, `(batch, positions, channels)`.
        """
        total = torch.zeros_like(h)
        for index, part in enumerate(self.split_condition(condition)):
            h, skip = self.layers[index](h, embedding, self.layer_condition(part, index, h.shape[1]))
            total = total + skip
        return torch.mul(total, len(self.layers) ** -0.5)


class DilatedNetwork(ConditionedNetwork):
    """Input projection, residual layers, output head; subclasses map the signal to input features and features back.

    Args:
        config: The model; its network, diffusion range and conditions are used.
        n_inputs: Features per position of the input.
        n_outputs: Features per position of the output, whose projection starts at zero.
        n_samples: Samples per position, each with a learned variance of its own.
    """

    stack: DilatedStack

    def __init__(self, config: ModelConfig, n_inputs: int, n_outputs: int, n_samples: int) -> None:
        super().__init__(config)
        network = config.network
        self.input = nn.Linear(n_inputs, network.channels)
        self.stack = DilatedStack(
            network.channels,
            network.layers,
            network.dilation_cycle,
            embedding_width=network.embedding.width,
            radial_centres=network.activation_centres if network.activation == "rbf" else 0,
            look_ahead=network.look_ahead,
        )
        widths = [2 * network.channels] * network.layers
        self.stack.conditioner = make_conditioner(network, config.mel.n_mels if config.mel else 0, widths)
        self.skip = nn.Linear(network.channels, network.channels)
        self.output = zero_projection(network.channels, n_outputs)
        if config.diffusion.variance == "learned":
            self.variance = zero_projection(network.channels, n_samples)

    def _transform(self, features: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """Map features `(batch, positions, n_inputs)` to `(batch, positions, n_outputs)`, followed by the variance."""
        h = torch.relu(self.input(features))
        h = torch.relu(self.skip(self.stack(h, embedding, condition)))
        output: Tensor = self.output(h)
        return output if self.variance is None else torch.cat([output, self.variance(h)], dim=2)


class DiffWave(DilatedNetwork):
    """The noise predictor on non-overlapping patches of samples; patch 1 is the published network.

    A patch of P samples becomes P features (an orthonormal reshaping), which cuts the cost by about P. With
    `upsampling` 'transposed' and the step embedding 'lmnt' it computes what lmnt-com/diffwave does, with its weights.

    Args:
        config: The model; its network, diffusion range and conditions are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        patch = config.network.patch
        super().__init__(config, n_inputs=patch, n_outputs=patch, n_samples=patch)
        self.patch = patch

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return (self.stack.receptive_field + 1) * self.patch

    @property
    def look_ahead(self) -> int:
        """Samples beyond the end of a hop that its outputs depend on."""
        return self.stack.look_ahead * self.patch

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, global_condition: Tensor | None = None
    ) -> Tensor:
        """Predict the training target, which is the noise by default.

        Args:
            x: Noisy whitened audio `(batch, 1, time)`, a multiple of the hop long.
            log_snr: Noise levels `(batch,)`.
            condition: What `encode` returned of a mel, or None.
            global_condition: What `embed` returned of global conditions `(batch, width)`; None means none of them.

        Returns:
            The prediction, of the shape of `x`, in float32; with a learned variance `(batch, 2, time)`, followed
            by the variance.

        Raises:
            TypeError: If there is a condition that the network was built without.
        """
        patches = x[:, 0].unflatten(1, (-1, self.patch))
        output = self._transform(patches, self.embed_level(log_snr, global_condition), condition).float()
        return torch.stack([part.flatten(1) for part in output.split(self.patch, dim=2)], dim=1)
