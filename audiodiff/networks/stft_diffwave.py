"""The layers of DiffWave at the frame rate of an STFT: one position per hop, at a small part of the cost per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from audiodiff.audio.stft import FramedSTFT
from audiodiff.config import ModelConfig
from audiodiff.networks.base import DilatedNetwork


class STFTDiffWave(DilatedNetwork):
    """The noise predictor on STFT frames, with a full-rank path from input to output.

    A narrow stack alone could not remove wide-band noise, so the spectrum of the input reaches the output through a
    mask: y = ISTFT(mask * STFT(x) + residual). The noise follows as sigma x + alpha y, which is the best linear guess
    where y is zero and keeps y of unit scale at every noise level (Karras et al. 2022, section 5, preconditioning).

    Args:
        config: The model; its network, diffusion range and conditions are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        stft = FramedSTFT(config.network.n_fft, config.network.hop_length)
        super().__init__(
            config, n_inputs=2 * stft.n_bins, n_outputs=3 * stft.n_bins, n_samples=config.network.hop_length
        )
        self.stft = stft

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return (self.stack.receptive_field + 1) * self.stft.hop_length + 2 * self.stft.margin

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, given: Tensor | None = None
    ) -> Tensor:
        """Predict the noise; arguments and result as in `DiffWave.forward`."""
        spectrum = self.stft(x[:, 0])
        features = torch.cat([spectrum.real, spectrum.imag], dim=2)
        output = self._transform(features, log_snr, condition, given).float()
        mask, real, imaginary = output[..., : 3 * self.stft.n_bins].chunk(3, dim=2)
        y = self.stft.inverse(torch.complex(mask * spectrum.real + real, mask * spectrum.imag + imaginary))
        alpha, sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        noise = sigma * x + alpha * y.unsqueeze(1)
        variance = output[..., 3 * self.stft.n_bins :]
        return torch.cat([noise, variance.flatten(1).unsqueeze(1)], dim=1) if variance.shape[2] else noise
