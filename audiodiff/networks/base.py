"""What the networks share: noise level, label and mel, and the residual layers between input and output projection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiodiff.config import ModelConfig, NetworkConfig
from audiodiff.networks.conditioning import (
    Conditioner,
    FrameConditioner,
    LabelEmbedding,
    MelNormalisation,
    UpsampledConditioner,
)
from audiodiff.networks.embeddings import NoiseLevelEmbedding
from audiodiff.networks.layers import DilatedStack
from audiodiff.networks.levels import UNetStack


def _conditioner(network: NetworkConfig, n_mels: int) -> Conditioner | None:
    if not n_mels:
        return None
    if network.upsampling == "repeat":
        return FrameConditioner(n_mels, network.channels, network.layers)
    per_layer = network.upsampling == "transposed-per-layer"
    factors = network.upsampling_factors
    return UpsampledConditioner(n_mels, network.channels, network.layers, factors=factors, per_layer=per_layer)


class ConditionedNetwork(nn.Module):
    """What every noise predictor is told beside the signal: noise level, label and mel.

    Args:
        config: The model; its network, diffusion range, mel and labels are used.
    """

    stack: DilatedStack | UNetStack
    """What lies between input and output projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        network = config.network
        n_mels = config.mel.n_mels if config.mel else 0
        self.level = NoiseLevelEmbedding(network.embedding, config.diffusion)
        self.label = LabelEmbedding(len(config.labels), network.embedding.width) if config.labels else None
        self.normalise_mel = MelNormalisation(n_mels) if n_mels else None

    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel condition `(batch, n_mels, n_blocks)` once for all denoising steps."""
        if self.normalise_mel is None or self.stack.conditioner is None:
            raise TypeError("this network was built without a mel condition")
        encoded: Tensor = self.stack.conditioner.encode(self.normalise_mel(mel))
        return encoded

    def _embed(self, log_snr: Tensor, label: Tensor | None) -> Tensor:
        """Map noise levels and classes, each `(batch,)`, to one vector for each clip `(batch, width)`."""
        level: Tensor = self.level(log_snr)
        if self.label is not None:
            level = level + self.label(label, len(level))
        elif label is not None:
            raise TypeError("this network was built without labels")
        return level


class DilatedNetwork(ConditionedNetwork):
    """The trunk of a noise predictor; subclasses bring the projections from the signal and back.

    Args:
        config: The model; its network, diffusion range, mel and labels are used.
        n_inputs: Features of a position that the input projection takes.
        n_outputs: Features of a position that the output projection gives; it starts at zero.
    """

    stack: DilatedStack

    def __init__(self, config: ModelConfig, n_inputs: int, n_outputs: int) -> None:
        super().__init__(config)
        network, width = config.network, config.network.embedding.width
        self.input = nn.Linear(n_inputs, network.channels)
        self.stack = DilatedStack(
            network.channels,
            network.layers,
            network.dilation_cycle,
            level_width=width,
            radial_centres=network.activation_centres if network.activation == "rbf" else 0,
        )
        self.stack.conditioner = _conditioner(network, config.mel.n_mels if config.mel else 0)
        self.skip = nn.Linear(network.channels, network.channels)
        self.output = nn.Linear(network.channels, n_outputs)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def _transform(self, features: Tensor, log_snr: Tensor, condition: Tensor | None, label: Tensor | None) -> Tensor:
        """Map features `(batch, positions, n_inputs)` to `(batch, positions, n_outputs)`."""
        level = self._embed(log_snr, label)
        h = torch.relu(self.input(features))
        h = torch.relu(self.skip(self.stack(h, level, condition)))
        transformed: Tensor = self.output(h)
        return transformed
