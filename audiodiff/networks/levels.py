"""The levels of a U-Net: down from fine to coarse, and up again."""

from __future__ import annotations

from itertools import accumulate, pairwise

from torch import Tensor, nn

from audiodiff.config import HEAD_WIDTH, NetworkConfig
from audiodiff.networks.blocks import ResidualBlock, SelfAttention
from audiodiff.networks.conditioning import LevelConditioner
from audiodiff.networks.gated import HALF


class UNetStack(nn.Module):
    """Levels of residual blocks; on the way up, each meets what it had on the way down.

    To go down, neighbouring positions are laid side by side and projected; to go up, one is projected to as many.

    Args:
        network: Widths, factors, blocks and attention.
        n_mels: Bins of the mel that conditions all blocks; 0 for none.

    Attributes:
        layers: The residual blocks, in the order in which a signal meets them.
        levels: Level of each of them, 0 for the finest.
        conditioner: What brings a mel to the blocks, or None.
    """

    def __init__(self, network: NetworkConfig, n_mels: int) -> None:
        super().__init__()
        self.factors = network.factors
        level_width = network.embedding.width
        widths = [network.channels * multiplier for multiplier in network.multipliers]
        *fine, coarsest = zip(widths, network.blocks, strict=True)
        groups = [*fine, (coarsest[0], 2 * coarsest[1]), *reversed(fine)]
        self._spans = _consecutive([n_blocks for _, n_blocks in groups])
        self.levels = [min(i, 2 * len(fine) - i) for i, span in enumerate(self._spans) for _ in span]
        middle = self._spans[len(fine)]
        self._dilations = [1] * self._spans[-1].stop
        for i, number in enumerate(middle):
            self._dilations[number] = 1 << i % network.dilation_cycle
        of_blocks = [width for width, n_blocks in groups for _ in range(n_blocks)]
        blocks = (ResidualBlock(*of_one, level_width) for of_one in zip(of_blocks, self._dilations, strict=True))
        self.layers = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(
            SelfAttention(widths[-1], HEAD_WIDTH, level_width) for _ in range(network.attention)
        )
        steps = list(zip(network.factors, pairwise(widths), strict=True))
        self.join = nn.ModuleList(nn.Linear(factor * finer, coarser) for factor, (finer, coarser) in steps)
        self.split = nn.ModuleList(nn.Linear(coarser, factor * finer) for factor, (finer, coarser) in steps)
        self.conditioner = LevelConditioner(n_mels, of_blocks) if n_mels else None

    def forward(self, h: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Run all levels.

        Args:
            h: Features of the finest level `(batch, positions, channels)`, positions a multiple of the product of the
                factors.
            level: Embedding of noise level and label `(batch, level_width)`.
            condition: What `conditioner.encode` returned, or None.

        Returns:
            Features of the same shape.

        Raises:
            TypeError: If there is a condition, but no conditioner.
        """
        if condition is not None and self.conditioner is None:
            raise TypeError("this network was built without a condition")
        n_fine = len(self.factors)
        kept: list[Tensor] = []
        for i, (join, factor) in enumerate(zip(self.join, self.factors, strict=True)):
            h = self._through(self._spans[i], h, level, condition)
            kept.append(h)
            h = join(h.unflatten(1, (-1, factor)).flatten(2))
        h = self._through_coarsest(self._spans[n_fine], h, level, condition)
        for i in reversed(range(n_fine)):
            h = self.split[i](h).unflatten(2, (self.factors[i], -1)).flatten(1, 2)
            h = self._through(self._spans[2 * n_fine - i], (h + kept[i]) * HALF, level, condition)
        return h

    def _through(self, span: range, h: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Run consecutive blocks."""
        for number in span:
            piece = None
            if condition is not None and self.conditioner is not None:
                piece = self.conditioner.for_layer(condition, number, h.shape[1])
            h = self.layers[number](h, level, piece)
        return h

    def _through_coarsest(self, span: range, h: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Run the coarsest level: a block before each attention, as long as there are any, and the rest behind."""
        for attend in self.attention:
            h = attend(self._through(span[:1], h, level, condition), level)
            span = span[1:]
        return self._through(span, h, level, condition)

    def reach_of(self, position: int) -> tuple[int, int]:
        """Return the first and the last input position that the output at a position sees, attention left aside.

        They are followed back from level to level.
        """
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
