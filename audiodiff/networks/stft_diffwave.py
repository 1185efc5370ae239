"""The layers of DiffWave at the frame rate of an STFT: one position per hop, at a small part of the cost per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.transforms import FramedSTFT
from audiodiff.config import ModelConfig
from audiodiff.config.network import BranchConfig
from audiodiff.networks.conditioning import FrameConditioner
from audiodiff.networks.diffwave import DilatedNetwork, DilatedStack
from audiodiff.networks.layers import dilated_convolution, zero_projection


class STFTDiffWave(DilatedNetwork):
    """The noise predictor on STFT frames, with a full-rank path from input to output.

    A narrow stack alone could not remove wide-band noise, so the spectrum of the input reaches the output through a
    mask: y = ISTFT(mask * STFT(x) + residual). The noise follows as sigma x + alpha y, which is the best linear guess
    where y is zero and keeps y of unit scale at every noise level (Karras et al. 2022, section 5, preconditioning).

    Branches on finer STFTs, each a stack of its own, add to y what the long window blurs in time; an encoder of the mel
    lets every frame see its neighbours. Both start at zero, so that they can be added to a trained network.

    Args:
        config: The model; its network, diffusion range and conditions are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        network, width = config.network, config.network.embedding.width
        stft = FramedSTFT(network.n_fft, network.hop_length)
        super().__init__(config, n_inputs=2 * stft.n_bins, n_outputs=3 * stft.n_bins, n_samples=network.hop_length)
        self.stft = stft
        n_mels = config.mel.n_mels if config.mel else 0
        self.branches = nn.ModuleList(
            STFTBranch(branch, n_mels, embedding_width=width, look_ahead=network.look_ahead)
            for branch in network.branches
        )
        self._widths = [2 * network.channels * network.layers, *(2 * b.channels * b.layers for b in network.branches)]
        self.mel_encoder: MelEncoder | None = None
        if n_mels and network.mel_encoder_layers:
            channels, layers = network.mel_encoder_channels, network.mel_encoder_layers
            self.mel_encoder = MelEncoder(n_mels, channels, layers, self._widths, causal=network.look_ahead is not None)

    @property
    def context_frames(self) -> int:
        """Mel frames on either side that the encoded condition of a frame depends on."""
        return self.mel_encoder.context_frames if self.mel_encoder else 0

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        own = (self.stack.receptive_field + 1) * self.stft.hop_length + 2 * self.stft.margin
        return max([own, *(branch.receptive_field for branch in self._branches())])

    @property
    def look_ahead(self) -> int:
        """Samples beyond the end of a hop that its outputs depend on."""
        own = self.stack.look_ahead * self.stft.hop_length + self.stft.look_ahead
        return max([own, *(branch.look_ahead for branch in self._branches())])

    def _branches(self) -> list[STFTBranch]:
        return [branch for branch in self.branches if isinstance(branch, STFTBranch)]

    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel condition, of all branches side by side; see `ConditionedNetwork.encode`."""
        encoded = [super().encode(mel)]
        if self.normalise_mel is not None:
            features = self.normalise_mel(mel)
            encoded += [branch.encode(features) for branch in self._branches()]
            if self.mel_encoder is not None:
                encoded = [own + more for own, more in zip(encoded, self.mel_encoder(features), strict=True)]
        return torch.cat(encoded, dim=2)

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, global_condition: Tensor | None = None
    ) -> Tensor:
        """Predict the noise; arguments and result as in `DiffWave.forward`."""
        spectrum = self.stft(x[:, 0])
        features = torch.cat([spectrum.real, spectrum.imag], dim=2)
        conditions = [condition] * (1 + len(self.branches))
        if condition is not None and self.branches:
            conditions = list(condition.split(self._widths, dim=2))
        embedding = self.embed_level(log_snr, global_condition)
        output = self._transform(features, embedding, conditions[0]).float()
        y = self.stft.inverse(apply_mask(spectrum, output[..., : 3 * self.stft.n_bins]))
        for branch, own in zip(self.branches, conditions[1:], strict=True):
            y = y + branch(x[:, 0], embedding, own)
        alpha, sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        noise = sigma * x + alpha * y.unsqueeze(1)
        variance = output[..., 3 * self.stft.n_bins :]
        return torch.cat([noise, variance.flatten(1).unsqueeze(1)], dim=1) if variance.shape[2] else noise


def apply_mask(spectrum: Tensor, output: Tensor) -> Tensor:
    """Return mask * spectrum + residual, mask and residual side by side in `(batch, frames, 3 * n_bins)`."""
    mask, real, imaginary = output.chunk(3, dim=2)
    make = torch.complex if isinstance(spectrum, Tensor) else type(spectrum)  # pairs of tensors in exported graphs
    return make(mask * spectrum.real + real, mask * spectrum.imag + imaginary)


class STFTBranch(nn.Module):
    """A stack on an STFT of its own, whose output adds to that of the main one: mask * STFT(x) + residual.

    Args:
        config: Its STFT and layers.
        n_mels: Bins of the mel condition, 0 for none.
        embedding_width: Width of the embedding of noise level and global conditions.
        look_ahead: As of the network.
    """

    def __init__(self, config: BranchConfig, n_mels: int, *, embedding_width: int, look_ahead: int | None) -> None:
        super().__init__()
        self.stft = FramedSTFT(config.n_fft, config.hop_length)
        self.input = nn.Linear(2 * self.stft.n_bins, config.channels)
        self.stack = DilatedStack(
            config.channels,
            config.layers,
            config.dilation_cycle,
            embedding_width=embedding_width,
            look_ahead=look_ahead if look_ahead is None else 0,
        )
        if n_mels:
            self.stack.conditioner = FrameConditioner(n_mels, [2 * config.channels] * config.layers)
        self.skip = nn.Linear(config.channels, config.channels)
        self.output = zero_projection(config.channels, 3 * self.stft.n_bins)

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return (self.stack.receptive_field + 1) * self.stft.hop_length + 2 * self.stft.margin

    @property
    def look_ahead(self) -> int:
        """Samples beyond the end of a hop that its outputs depend on."""
        return self.stack.look_ahead * self.stft.hop_length + self.stft.look_ahead

    def encode(self, features: Tensor) -> Tensor:
        """Project mel features `(batch, frames, n_mels)` for all layers."""
        if self.stack.conditioner is None:
            raise TypeError("this branch was built without a mel condition")
        return self.stack.conditioner.encode(features)

    def forward(self, x: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """Return what a signal `(batch, time)` at an embedded noise level adds to y, of the shape of the signal."""
        spectrum = self.stft(x)
        h = torch.relu(self.input(torch.cat([spectrum.real, spectrum.imag], dim=2)))
        h = torch.relu(self.skip(self.stack(h, embedding, condition)))
        return self.stft.inverse(apply_mask(spectrum, self.output(h).float()))


class MelEncoder(nn.Module):
    """Residual convolutions over mel frames, projected for all layers of all branches; the projection starts at zero.

    Args:
        n_mels: Bins of the mel.
        channels: Width.
        layers: Convolutions over three frames each.
        widths: Of the conditions of each branch.
        causal: Whether a frame sees those before it only.
    """

    def __init__(self, n_mels: int, channels: int, layers: int, widths: Sequence[int], *, causal: bool = False) -> None:
        super().__init__()
        self.input = nn.Linear(n_mels, channels)
        self.layers = nn.ModuleList(nn.Linear(3 * channels, channels) for _ in range(layers))
        self.output = zero_projection(channels, sum(widths))
        self._ahead = 0 if causal else 1
        self.context_frames = (2 - self._ahead) * layers
        self._widths = list(widths)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Map mel features `(batch, frames, n_mels)` to conditions of each branch `(batch, frames, width)`."""
        split: tuple[Tensor, ...] = self.output(self.hidden(features)).split(self._widths, dim=2)
        return split

    def hidden(self, features: Tensor) -> Tensor:
        """Map mel features `(batch, frames, n_mels)` to what is projected `(batch, frames, channels)`."""
        h = self.input(features)
        for layer in (layer for layer in self.layers if isinstance(layer, nn.Linear)):
            h = h + functional.silu(dilated_convolution(layer, h, 1, self._ahead))
        return functional.rms_norm(h, (h.shape[2],))
