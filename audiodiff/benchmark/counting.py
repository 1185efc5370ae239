"""How many operations a network's matrix products need, counted on its parameters.

A product of an `m x k` with a `k x n` matrix is 2 m k n operations: multiplications and additions. With C channels,
L layers, B mel bins and P inputs and outputs per position, the networks here need

| what | operations |
|---|---|
| per position and step | 2 P C (input) + L (2 * 3C * 2C (taps) + 2 C * 2C (output)) + 2 C C (skip) + 2 C P (output) |
| per clip and step, for the noise level | its two-layer MLP, and 2 * width * C for each layer |
| per utterance, for the condition | L * 2 B * 2C per mel frame, or per position where frames are upsampled first |
| | and for each transposed convolution 2 * 6 B per position it makes |

The condition does not depend on the step, so an algorithm needs it once; a network that computes it at every step does
more work, not more of what counts. Everything that is no matrix product (gates, RBFs, Fourier transforms, Griffin-Lim,
whitening, noise) is left out, so shares are of what the matrix products alone would take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from audiodiff.config import ModelConfig
from audiodiff.networks.blocks import ResidualBlock, SelfAttention
from audiodiff.networks.build import Network
from audiodiff.networks.conditioning import FrameConditioner, UpsampledConditioner
from audiodiff.networks.layers import GatedResidualLayer, RadialResidualLayer
from audiodiff.networks.unet import UNet1d


@dataclass(frozen=True)
class Operations:
    """Operations for a batch of clips.

    Attributes:
        step: Of one denoising step.
        condition: Of the condition, once.
    """

    step: int
    condition: int

    def of_loop(self, steps: int) -> int:
        """Return those of a whole reverse loop."""
        return self.condition + steps * self.step


def count_operations(network: Network, config: ModelConfig, *, batch: int, n_blocks: int) -> Operations:
    """Count what a batch of clips needs.

    Args:
        network: The network.
        config: The model it belongs to.
        batch: Number of clips.
        n_blocks: Length of a clip, in conditioning frames.

    Returns:
        The operations.
    """
    if isinstance(network, UNet1d):
        return _of_unet(network, batch, n_blocks, n_blocks * config.block_length)
    network_config = config.network
    samples_per_position = network_config.hop_length if network_config.kind == "stft" else network_config.patch
    n_positions = n_blocks * config.block_length // samples_per_position
    layers = [layer for layer in network.stack.layers if isinstance(layer, GatedResidualLayer | RadialResidualLayer)]
    at_every_position = [network.input, network.skip, network.output, *filter(None, [network.variance])]
    at_every_position += [part for layer in layers for part in (layer.taps, layer.output)]
    of_the_level = [part for part in network.level.mlp if isinstance(part, nn.Linear)]
    of_the_level += [layer.level for layer in layers]
    step = n_positions * _of_rows(at_every_position) + _of_rows(of_the_level)
    return Operations(batch * step, batch * _of_condition(network.stack.conditioner, n_blocks, n_positions))


def _of_unet(network: UNet1d, batch: int, n_blocks: int, n_samples: int) -> Operations:
    """Count the products of every level at its own rate, and those of attention: queries by keys, and by values."""
    stack, rate = network.stack, n_samples // network.patch
    step = rate * _of_rows([network.input, network.output])
    step += _of_rows([part for part in network.level.mlp if isinstance(part, nn.Linear)])
    rates = [rate // math.prod(stack.factors[:level]) for level in range(len(stack.factors) + 1)]
    for block, level in zip(stack.layers, stack.levels, strict=True):
        if isinstance(block, ResidualBlock):
            step += rates[level] * _of_rows([block.taps, block.output]) + _of_rows([block.modulate.project])
    for attention in stack.attention:
        if isinstance(attention, SelfAttention):
            step += rates[-1] * _of_rows([attention.inputs, attention.output]) + _of_rows([attention.modulate.project])
            step += 4 * rates[-1] ** 2 * attention.output.in_features
    for coarser, join, split in zip(rates[1:], stack.join, stack.split, strict=True):
        step += coarser * _of_rows([part for part in (join, split) if isinstance(part, nn.Linear)])
    condition = n_blocks * _of_rows([stack.conditioner]) if stack.conditioner else 0
    return Operations(batch * step, batch * condition)


def _of_rows(parts: list[nn.Linear]) -> int:
    """Return the operations that linear layers need for one row each."""
    return sum(2 * part.weight.numel() for part in parts)


def _of_condition(conditioner: nn.Module | None, n_frames: int, n_positions: int) -> int:
    if isinstance(conditioner, FrameConditioner):
        return n_frames * _of_rows([conditioner])
    if not isinstance(conditioner, UpsampledConditioner):
        return 0
    operations = n_positions * _of_rows([part for part in conditioner.projections if isinstance(part, nn.Linear)])
    for upsampler in conditioner.upsamplers:
        rate = 1
        for stage in upsampler.modules():
            if isinstance(stage, nn.ConvTranspose2d):  # every input meets the whole kernel
                operations += 2 * n_frames * rate * conditioner.n_mels * stage.weight.numel()
                rate *= stage.stride[1]
    return operations
