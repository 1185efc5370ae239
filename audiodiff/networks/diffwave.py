"""DiffWave (Kong et al. 2021): gated dilated convolutions over samples, or over patches of samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiodiff.config import ModelConfig
from audiodiff.networks.conditioning import LabelEmbedding, MelNormalisation
from audiodiff.networks.embeddings import NoiseLevelEmbedding
from audiodiff.networks.layers import DilatedStack


class DiffWave(nn.Module):
    """The noise predictor on non-overlapping patches of samples; patch 1 is the published layout.

    A patch of P samples becomes P channels (an orthonormal reshaping), which cuts the cost by about P. The output
    projection starts at zero.

    Args:
        config: The model; its network, diffusion range, mel and labels are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        network = config.network
        self.patch = network.patch
        width = network.embedding.width
        n_mels = config.mel.n_mels if config.mel else 0
        self.level = NoiseLevelEmbedding(network.embedding, config.diffusion)
        self.label = LabelEmbedding(len(config.labels), width) if config.labels else None
        self.normalise_mel = MelNormalisation(n_mels) if n_mels else None
        self.input = nn.Linear(network.patch, network.channels)
        self.stack = DilatedStack(
            network.channels, network.layers, network.dilation_cycle, level_width=width, condition_width=n_mels
        )
        self.skip = nn.Linear(network.channels, network.channels)
        self.output = nn.Linear(network.channels, network.patch)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return (self.stack.receptive_field + 1) * self.patch

    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel condition `(batch, n_mels, n_blocks)` once for all denoising steps."""
        if self.normalise_mel is None:
            raise TypeError("this network was built without a mel condition")
        return self.stack.encode(self.normalise_mel(mel))

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Predict the training target, which is the noise by default.

        Args:
            x: Noisy whitened audio `(batch, 1, n_blocks * block_length)`.
            log_snr: Noise levels `(batch,)`.
            condition: What `encode` returned, or None.
            label: Class indices `(batch,)`, or None.

        Returns:
            The prediction, of the shape of `x`, in float32.
        """
        level = self.level(log_snr)
        if self.label is not None:
            level = level + self.label(label, len(x))
        h = torch.relu(self.input(x[:, 0].unflatten(1, (-1, self.patch))))
        h = torch.relu(self.skip(self.stack(h, level, condition)))
        predicted: Tensor = self.output(h).float().flatten(1).unsqueeze(1)
        return predicted
