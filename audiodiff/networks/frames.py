"""The layers of DiffWave at the frame rate of an STFT: one position per hop, at a small part of the cost per sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from audiodiff.audio.stft import FramedSTFT
from audiodiff.config import ModelConfig
from audiodiff.networks.conditioning import LabelEmbedding, MelNormalisation
from audiodiff.networks.embeddings import NoiseLevelEmbedding
from audiodiff.networks.layers import DilatedStack


class FrameDiffWave(nn.Module):
    """The noise predictor on STFT frames, with a full-rank path from input to output.

    A narrow stack alone could not remove wide-band noise, so the spectrum of the input reaches the output through a
    mask: y = ISTFT(mask * STFT(x) + residual). The noise follows as sigma x + alpha y, which is the best linear guess
    where y is zero and keeps y of unit scale at every noise level (Karras et al. 2022, section 5, preconditioning).

    Args:
        config: The model; its network, diffusion range, mel and labels are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        network = config.network
        self.stft = FramedSTFT(network.n_fft, network.hop_length)
        bins, channels, width = self.stft.n_bins, network.channels, network.embedding.width
        n_mels = config.mel.n_mels if config.mel else 0
        self.level = NoiseLevelEmbedding(network.embedding, config.diffusion)
        self.label = LabelEmbedding(len(config.labels), width) if config.labels else None
        self.normalise_mel = MelNormalisation(n_mels) if n_mels else None
        self.input = nn.Linear(2 * bins, channels)
        self.stack = DilatedStack(
            channels, network.layers, network.dilation_cycle, level_width=width, condition_width=n_mels
        )
        self.skip = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, 3 * bins)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return (self.stack.receptive_field + 1) * self.stft.hop_length + 2 * self.stft.margin

    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel condition `(batch, n_mels, n_blocks)` once for all denoising steps."""
        if self.normalise_mel is None:
            raise TypeError("this network was built without a mel condition")
        return self.stack.encode(self.normalise_mel(mel))

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, label: Tensor | None = None
    ) -> Tensor:
        """Predict the noise; arguments and result as in `DiffWave.forward`."""
        level = self.level(log_snr)
        if self.label is not None:
            level = level + self.label(label, len(x))
        spectrum = self.stft(x[:, 0])
        h = torch.relu(self.input(torch.cat([spectrum.real, spectrum.imag], dim=2)))
        h = torch.relu(self.skip(self.stack(h, level, condition)))
        mask, real, imaginary = self.output(h).float().chunk(3, dim=2)
        y = self.stft.inverse(torch.complex(mask * spectrum.real + real, mask * spectrum.imag + imaginary))
        alpha, sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        return sigma * x + alpha * y.unsqueeze(1)
