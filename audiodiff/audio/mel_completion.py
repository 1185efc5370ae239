"""What a mel spectrogram has above a cutoff, predicted from what it has below: a small network, trained on speech.

It predicts a Gaussian for every missing band of every frame, in the log domain. Its mean is too quiet: where speech and
silence are equally likely, it lies between. So it is raised by a multiple of the variance; a Gaussian of the logarithm
has its mean magnitude half a variance above its own mean.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_conversion import MelConverter
from audiodiff.config import MelConfig, mel_convention

CONVENTION = "hifigan-22k"
"""Of the mels that the network completes."""
HIGHEST_HERTZ = mel_convention(CONVENTION).f_max
"""Where its highest band ends."""
WEIGHTS = Path(__file__).parents[1] / "assets" / "mel_completion.safetensors"
"""Made by stage 1 of egs/speech/repair."""
RAISED = 0.5
"""Variances by which a predicted mean is raised; see egs/speech/repair for what others give."""


class MelCompletion(nn.Module):
    """Predict missing mel bands from the others, 8 frames to either side, and the mean spectrum of the recording.

    The level of a recording changes that of the prediction and nothing else.

    Args:
        channels: Width of the residual layers.
        dilations: Frames between the taps of each layer.

    Attributes:
        mean: Of every band over the training data, relative to the level of the recording `(n_mels,)`.
        deviation: Likewise its standard deviation.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int = 112, dilations: tuple[int, ...] = (1, 2, 4)) -> None:
        super().__init__()
        n_mels = mel_convention(CONVENTION).n_mels
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("deviation", torch.ones(n_mels))
        self.frames = nn.Conv1d(n_mels, channels, 3, padding=1)
        self.recording = nn.Linear(2 * n_mels, channels)
        self.dilated = nn.ModuleList([nn.Conv1d(channels, channels, 3, padding=d, dilation=d) for d in dilations])
        self.mixed = nn.ModuleList([nn.Conv1d(channels, channels, 1) for _ in dilations])
        self.gaussian = nn.Conv1d(channels, 2 * n_mels, 1)

    def forward(self, mel: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Predict all bands.

        Args:
            mel: Natural logarithms of magnitudes `(batch, n_mels, n_frames)`; those that are not known do not matter.
            known: 1 for each band that is known, else 0 `(batch, n_mels)`; at least one is.

        Returns:
            Mean and standard deviation of every value, each of the shape of `mel`.
        """
        level, power = self.level(mel, known)
        x = (mel - level - self.mean[:, None]) / self.deviation[:, None] * known[:, :, None]
        spectrum = (power - level[..., 0] - self.mean) / self.deviation * known
        x = self.frames(x) + self.recording(torch.cat([known, spectrum], 1))[:, :, None]
        for dilated, mixed in zip(self.dilated, self.mixed, strict=True):
            x = x + mixed(functional.silu(dilated(functional.silu(x))))
        mean, log_deviation = self.gaussian(functional.silu(x)).chunk(2, 1)
        mean = mean * self.deviation[:, None] + self.mean[:, None] + level
        return mean, log_deviation.clamp(-5, 3).exp() * self.deviation[:, None]

    @staticmethod
    def level(mel: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return the level of the known bands `(batch, 1, 1)`, and that of every band `(batch, n_mels)`."""
        power = (2 * mel).exp().mean(2).clamp_min(1e-20)
        level = ((power * known).sum(1) / known.sum(1)).log() / 2
        return level[:, None, None], power.log() / 2


def complete_mel(mel: Tensor, cutoff: float, config: MelConfig) -> Tensor:
    """Predict what a mel spectrogram has above a cutoff.

    Args:
        mel: Of a recording that ends at the cutoff, one frame per hop `(batch, n_mels, n_frames)`.
        cutoff: In Hz.
        config: The convention of the mel; another than the network's is converted to that and back.

    Returns:
        A mel of the same shape, of predictions in every band up to the network's highest frequency.
    """
    there, back = _converters(config)
    converted = there(mel).float()
    network, spectrogram = load_completion().to(mel.device), MelSpectrogram(there.target).to(mel.device)
    known = whole_bands(spectrogram, cutoff).to(converted).expand(len(mel), -1)
    with torch.no_grad():
        mean, deviation = network(converted, known)
    completed = torch.where(known[:, :, None] > 0, converted, mean + RAISED * deviation.square())
    returned = back(completed).to(mel.dtype)
    missing = mel.shape[2] - returned.shape[2]  # another hop may round to a frame less or more
    return functional.pad(returned, (0, missing), mode="replicate") if missing > 0 else returned[..., : mel.shape[2]]


def whole_bands(spectrogram: MelSpectrogram, hertz: float) -> Tensor:
    """Return which mel bands take nothing from above a frequency, `(n_mels,)`."""
    config, filters = spectrogram.config, spectrogram.filterbank
    bins = torch.arange(filters.shape[1], device=filters.device)
    return filters[:, bins * config.sample_rate / config.n_fft > hertz].sum(1) == 0


@cache
def load_completion() -> MelCompletion:
    """Return the network with its weights, in float32 on the CPU at first; read once."""
    weights = {name: value.float() for name, value in load_file(WEIGHTS).items()}
    network = MelCompletion()
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


@cache
def _converters(config: MelConfig) -> tuple[MelConverter, MelConverter]:
    """Return what converts mels with a frame per hop to the network's convention, and back."""
    own, aligned = mel_convention(CONVENTION), config.model_copy(update={"centre": "hop"})
    return MelConverter(aligned, own, resample=True), MelConverter(own, aligned, resample=True)
