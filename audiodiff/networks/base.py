"""What the networks share: noise level and conditions, and the residual layers between input and output projection."""

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
from audiodiff.networks.given import Conditions, VectorEmbedding
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


def zero_projection(n_inputs: int, n_outputs: int) -> nn.Linear:
    """Return a projection that starts at zero."""
    projection = nn.Linear(n_inputs, n_outputs)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection


class ConditionedNetwork(nn.Module):
    """What every noise predictor is told beside the signal: noise level, what is given of whole clips, and mel.

    Args:
        config: The model; its network, diffusion range, mel, labels, speakers and vector_width are used.

    Attributes:
        label: The embedding of classes, or None.
        speaker: The embedding of speakers, or None.
        vector: The embedding of vectors, or None.
        variance: The projection to a learned variance, None where it is fixed; it starts at zero, the geometric mean of
            the bounds (`audiodiff.diffusion.variance.log_ratio`).
    """

    stack: DilatedStack | UNetStack
    """What lies between input and output projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.network.embedding.width
        self.level = NoiseLevelEmbedding(config.network.embedding, config.diffusion)
        self.label = LabelEmbedding(len(config.labels), width) if config.labels else None
        self.speaker = LabelEmbedding(len(config.speakers), width) if config.speakers else None
        self.vector = VectorEmbedding(config.vector_width, width) if config.vector_width else None
        self.normalise_mel = MelNormalisation(config.mel.n_mels) if config.mel else None
        self.variance: nn.Linear | None = None

    @property
    def context_frames(self) -> int:
        """Mel frames on either side that the encoded condition of a frame depends on."""
        return self.stack.conditioner.context_frames if self.stack.conditioner else 0

    @property
    def trunk(self) -> nn.ModuleList:
        """The stack without its conditioner, which holds most of the weights; a fine-tuning may freeze it."""
        return nn.ModuleList(part for name, part in self.stack.named_children() if name != "conditioner")

    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel condition `(batch, n_mels, n_blocks)` once for all denoising steps."""
        if self.normalise_mel is None or self.stack.conditioner is None:
            raise TypeError("this network was built without a mel condition")
        encoded: Tensor = self.stack.conditioner.encode(self.normalise_mel(mel))
        return encoded

    def embed(self, given: Conditions | None = None) -> Tensor | None:
        """Embed what is given of whole clips, once for all denoising steps.

        Args:
            given: The conditions; what is missing counts as "none", of which there is a learned vector too.

        Returns:
            `(batch, width)`, or `(1, width)` where nothing is given; None for a network without such conditions.

        Raises:
            TypeError: If something is given that the network was built without.
        """
        total: Tensor | None = None
        for name, value in (given or Conditions())._asdict().items():
            embedding = getattr(self, name)
            if embedding is None and value is not None:
                raise TypeError(f"this network was built without {name}s")
            if embedding is not None:
                embedded: Tensor = embedding(value)
                total = embedded if total is None else total + embedded
        return total

    def embed_level(self, log_snr: Tensor, given: Tensor | None) -> Tensor:
        """Add the embedding of noise levels `(batch,)` to what `embed` returned, or None: `(batch, width)`."""
        level: Tensor = self.level(log_snr)
        if given is None:
            given = self.embed()
        elif not (self.label or self.speaker or self.vector):
            raise TypeError("this network was built without labels, speakers and vectors")
        return level if given is None else level + given


class DilatedNetwork(ConditionedNetwork):
    """The trunk of a noise predictor; subclasses bring the projections from the signal and back.

    Args:
        config: The model; its network, diffusion range and conditions are used.
        n_inputs: Features of a position that the input projection takes.
        n_outputs: Features of a position that the output projection gives; it starts at zero.
        n_samples: Samples of a position, for each of which a learned variance has a feature of its own.
    """

    stack: DilatedStack

    def __init__(self, config: ModelConfig, n_inputs: int, n_outputs: int, n_samples: int) -> None:
        super().__init__(config)
        network, width = config.network, config.network.embedding.width
        self.input = nn.Linear(n_inputs, network.channels)
        self.stack = DilatedStack(
            network.channels,
            network.layers,
            network.dilation_cycle,
            level_width=width,
            radial_centres=network.activation_centres if network.activation == "rbf" else 0,
            look_ahead=network.look_ahead,
        )
        self.stack.conditioner = _conditioner(network, config.mel.n_mels if config.mel else 0)
        self.skip = nn.Linear(network.channels, network.channels)
        self.output = zero_projection(network.channels, n_outputs)
        if config.diffusion.variance == "learned":
            self.variance = zero_projection(network.channels, n_samples)

    def _transform(self, features: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Map features `(batch, positions, n_inputs)` to `(batch, positions, n_outputs)`, the variance behind."""
        h = torch.relu(self.input(features))
        h = torch.relu(self.skip(self.stack(h, level, condition)))
        transformed: Tensor = self.output(h)
        return transformed if self.variance is None else torch.cat([transformed, self.variance(h)], dim=2)
