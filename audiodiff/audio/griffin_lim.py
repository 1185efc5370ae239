"""A waveform from a mel without a network: magnitudes by deconvolution, phases by Griffin-Lim."""

from __future__ import annotations

import torch
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.stft import FramedSTFT
from audiodiff.config import MelConfig

EDGE_BINS = 8
"""Bins at the upper edge of the mel that tell how the spectrum goes on above it."""


def griffin_lim(
    magnitude: Tensor, noise: Tensor, stft: FramedSTFT, *, iterations: int = 32, momentum: float = 0.99
) -> Tensor:
    """Project alternately on signals of this magnitude and on consistent spectra, with momentum.

    The fast variant of Perraudin, Balazs and Sondergaard 2013, "A fast Griffin-Lim algorithm".

    Args:
        magnitude: Target magnitudes in the scale of `stft` `(batch, n_frames, n_bins)`.
        noise: A signal whose phases the search starts from `(batch, n_frames * hop_length)`.
        stft: The transform.
        iterations: Number of round trips.
        momentum: Between 0 (the method of Griffin and Lim 1984) and 1.

    Returns:
        Waveforms of the shape of `noise`.
    """
    spectrum = stft(noise)
    previous = torch.zeros_like(spectrum)
    for _ in range(iterations):
        projected = stft(stft.inverse(magnitude * torch.sgn(spectrum)))
        spectrum = torch.lerp(previous, projected, 1 + momentum)
        previous = projected
    return stft.inverse(magnitude * torch.sgn(spectrum))


def griffin_lim_reach(config: MelConfig, iterations: int) -> int:
    """Return how many hops to either side a sample of `waveform_from_mel` depends on the mel.

    A round trip mixes frames whose windows overlap; the first phases need half of one, the last synthesis another.
    """
    return (iterations + 1) * (config.n_fft // config.hop_length)


def waveform_from_mel(mel: Tensor, noise: Tensor, spectrogram: MelSpectrogram, *, iterations: int = 32) -> Tensor:
    """Estimate the waveform behind a mel.

    Args:
        mel: Mel spectrograms, one frame per block `(batch, n_mels, n_blocks)`.
        noise: A signal whose phases the search starts from `(batch, 1, n_blocks * hop_length)`.
        spectrogram: What made the mels.
        iterations: Griffin-Lim round trips.

    Returns:
        Waveforms of the shape of `noise`. Above the highest mel band they go on at the level of its upper edge, so that
        what refines them has noise to shape there.

    Raises:
        ConfigError: If the hop length does not divide the window, so that frames do not tile the signal.
    """
    config = spectrogram.config
    stft = FramedSTFT(config.n_fft, config.hop_length).to(mel.device)
    magnitude = spectrogram.inverse(mel).transpose(1, 2) / config.hann_norm
    beyond = spectrogram.n_covered_bins
    magnitude[..., beyond:] = magnitude[..., beyond - EDGE_BINS : beyond].mean(-1, keepdim=True)
    return griffin_lim(magnitude, noise[:, 0], stft, iterations=iterations).unsqueeze(1)
