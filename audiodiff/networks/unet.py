"""A U-Net on patches of samples: fine resolutions see detail, coarse ones the whole clip, at little cost per sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.config import HEAD_WIDTH, ModelConfig, NetworkConfig
from audiodiff.networks.base import ConditionedNetwork, Stack
from audiodiff.networks.conditioning import make_conditioner
from audiodiff.networks.layers import SQRT_HALF, ResidualBlock, SelfAttention, zero_projection


class UNetStack(Stack):
    """Residual blocks at several resolutions, with skip connections from the way down to the way up.

    Downsampling concatenates neighbouring positions and projects them; upsampling projects one position to as many.

    Args:
        network: Widths, factors, blocks and attention.
        n_mels: Bins of the mel that conditions all blocks; 0 for none.

    Attributes:
        layers: The residual blocks, in the order of execution.
        resolutions: Resolution of each of them, 0 for the finest.
        attention: Self-attention layers at the coarsest resolution.
    """

    def __init__(self, network: NetworkConfig, n_mels: int) -> None:
        super().__init__()
        self.factors = network.factors
        embedding_width = network.embedding.width
        widths = [network.channels * multiplier for multiplier in network.multipliers]
        *fine, coarsest = zip(widths, network.blocks, strict=True)
        groups = [*fine, (coarsest[0], 2 * coarsest[1]), *reversed(fine)]
        self._spans = _consecutive([n_blocks for _, n_blocks in groups])
        self.resolutions = [min(i, 2 * len(fine) - i) for i, span in enumerate(self._spans) for _ in span]
        self._dilations = [1] * self._spans[-1].stop
        for i, number in enumerate(self._spans[len(fine)]):
            self._dilations[number] = 1 << i % network.dilation_cycle
        block_widths = [width for width, n_blocks in groups for _ in range(n_blocks)]
        self.layers = nn.ModuleList(
            ResidualBlock(width, dilation, embedding_width)
            for width, dilation in zip(block_widths, self._dilations, strict=True)
        )
        self.attention = nn.ModuleList(
            SelfAttention(widths[-1], HEAD_WIDTH, embedding_width) for _ in range(network.attention)
        )
        changes = list(zip(network.factors, pairwise(widths), strict=True))
        self.join = nn.ModuleList(nn.Linear(factor * finer, coarser) for factor, (finer, coarser) in changes)
        self.split = nn.ModuleList(nn.Linear(coarser, factor * finer) for factor, (finer, coarser) in changes)
        self.conditioner = make_conditioner(network, n_mels, block_widths)

    def forward(self, h: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """Run all blocks.

        Args:
            h: Features at the finest resolution `(batch, positions, channels)`; the product of the factors divides
                positions.
            embedding: Of noise level and global conditions `(batch, embedding_width)`.
            condition: What `conditioner.encode` returned, or None.

        Returns:
            Features of the same shape.

        Raises:
            TypeError: If there is a condition, but no conditioner.
        """
        n_fine = len(self.factors)
        parts = self.split_condition(condition)
        skips: list[Tensor] = []
        for i, (join, factor) in enumerate(zip(self.join, self.factors, strict=True)):
            h = self._run(self._spans[i], h, embedding, parts)
            skips.append(h)
            h = join(h.unflatten(1, (-1, factor)).flatten(2))
        h = self._run_coarsest(self._spans[n_fine], h, embedding, parts)
        for i in reversed(range(n_fine)):
            h = self.split[i](h).unflatten(2, (self.factors[i], -1)).flatten(1, 2)
            h = self._run(self._spans[2 * n_fine - i], (h + skips[i]) * SQRT_HALF, embedding, parts)
        return h

    def _run(self, span: range, h: Tensor, embedding: Tensor, parts: Sequence[Tensor | None]) -> Tensor:
        """Run consecutive blocks."""
        for number in span:
            h = self.layers[number](h, embedding, self.layer_condition(parts[number], number, h.shape[1]))
        return h

    def _run_coarsest(self, span: range, h: Tensor, embedding: Tensor, parts: Sequence[Tensor | None]) -> Tensor:
        """Run the coarsest resolution: one block before each attention as long as there are any, then the rest."""
        for attend in self.attention:
            h = attend(self._run(span[:1], h, embedding, parts), embedding)
            span = span[1:]
        return self._run(span, h, embedding, parts)

    def receptive_field_of(self, position: int) -> tuple[int, int]:
        """Return the first and the last input position that the output at a position depends on, without attention."""
        low = high = position
        reaches = [sum(self._dilations[number] + 1 for number in span) for span in self._spans]
        n_fine = len(self.factors)
        for reach, factor in zip(reversed(reaches[n_fine + 1 :]), self.factors, strict=True):
            low, high = (low - reach) // factor, (high + reach) // factor
        low, high = low - reaches[n_fine], high + reaches[n_fine]
        for reach, factor in reversed(list(zip(reaches[:n_fine], self.factors, strict=True))):
            low, high = low * factor - reach, high * factor + factor - 1 + reach
        return low, high


def _consecutive(lengths: list[int]) -> list[range]:
    """Return ranges of these lengths, each beginning where the one before ends."""
    stops = accumulate(lengths)
    return [range(stop - length, stop) for length, stop in zip(lengths, stops, strict=True)]


class UNet1d(ConditionedNetwork):
    """The noise predictor as a U-Net (Ronneberger et al. 2015) on non-overlapping patches of samples.

    Its output y is read as v: the noise is sigma x + alpha y, which is the best linear guess where y is zero and keeps
    y of unit scale at every noise level (Karras et al. 2022, section 5, preconditioning). Whichever target the model is
    trained for, that v implies it.

    Args:
        config: The model; its network, diffusion range and target, mel and conditions are used.
    """

    stack: UNetStack

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        network = config.network
        self.patch, self.stride, self.target = network.patch, network.stride, config.diffusion.target
        self.input = nn.Linear(network.patch, network.channels)
        self.stack = UNetStack(network, config.mel.n_mels if config.mel else 0)
        self.output = zero_projection(network.channels, network.patch)
        if config.diffusion.variance == "learned":
            self.variance = zero_projection(network.channels, network.patch)

    @property
    def receptive_field(self) -> int | float:
        """Samples on either side that an output depends on; infinite with attention."""
        if len(self.stack.attention):
            return math.inf
        return max(self._receptive_field_of(sample) for sample in range(self.stride))

    @property
    def look_ahead(self) -> int | float:
        """Samples beyond the end of a hop that its outputs depend on; infinite with attention."""
        return self.receptive_field

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, global_condition: Tensor | None = None
    ) -> Tensor:
        """Predict the training target; arguments and result as in `DiffWave.forward`.

        A signal that is no multiple of the stride is padded with zeros, and the prediction cut to its length.
        """
        n_samples = x.shape[-1]
        padded = functional.pad(x[:, 0], (0, -n_samples % self.stride))
        h = self.input(padded.unflatten(1, (-1, self.patch)))
        h = self.stack(h, self.embed_level(log_snr, global_condition), condition)
        y, *variance = (
            projection(h).float().flatten(1)[:, :n_samples].unsqueeze(1)
            for projection in (self.output, self.variance)
            if projection is not None
        )
        return torch.cat([self._as_target(y, x, log_snr), *variance], dim=1)

    def _as_target(self, y: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
        if self.target == "v":
            return y
        alpha, sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        return alpha * x - sigma * y if self.target == "x0" else sigma * x + alpha * y

    def _receptive_field_of(self, sample: int) -> int:
        """Return how far from it the samples are that the prediction at a sample depends on."""
        low, high = self.stack.receptive_field_of(sample // self.patch)
        return max(sample - low * self.patch, high * self.patch + self.patch - 1 - sample)
