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

from dataclasses import dataclass

from torch import nn

from audiodiff.config import ModelConfig
from audiodiff.networks.build import Network
from audiodiff.networks.conditioning import FrameConditioner, UpsampledConditioner
from audiodiff.networks.layers import GatedResidualLayer, RadialResidualLayer


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
    network_config = config.network
    samples_per_position = network_config.hop_length if network_config.kind == "frames" else network_config.patch
    n_positions = n_blocks * config.block_length // samples_per_position
    layers = [layer for layer in network.stack.layers if isinstance(layer, GatedResidualLayer | RadialResidualLayer)]
    at_every_position = [network.input, network.skip, network.output]
    at_every_position += [part for layer in layers for part in (layer.taps, layer.output)]
    of_the_level = [part for part in network.level.mlp if isinstance(part, nn.Linear)]
    of_the_level += [layer.level for layer in layers]
    step = n_positions * _of_rows(at_every_position) + _of_rows(of_the_level)
    return Operations(batch * step, batch * _of_condition(network.stack.conditioner, n_blocks, n_positions))


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
