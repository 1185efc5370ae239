"""Estimates of the signal from its mel alone, for the reverse process to start from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from audiodiff.audio.griffin_lim import griffin_lim_reach, waveform_by_phase_gradient, waveform_from_mel
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.whitening import Whitening
from audiodiff.config import SynthesisConfig
from audiodiff.diffusion.noise import position_noise

PHASE_DRAW = -1
"""The draw of position-indexed noise that Griffin-Lim takes its first phases from; steps count up from 0."""

WHITENING_REACH = 2
"""Blocks to either side that whitening and colouring depend on: the lapped transform folds neighbours, and back."""


class MelInitialisation(nn.Module):
    """Estimates of the whitened signal from mel frames.

    Args:
        spectrogram: The convention of the mels.
        whitening: What is divided out of the signal.
    """

    def __init__(self, spectrogram: MelSpectrogram, whitening: Whitening) -> None:
        super().__init__()
        self.spectrogram, self.whitening = spectrogram, whitening

    @torch.no_grad()
    def estimate(
        self, frames: Tensor, seeds: Sequence[int], settings: SynthesisConfig, *, start: int = 0
    ) -> Tensor | None:
        """Estimate the whitened signal, for the reverse process to start from.

        Args:
            frames: Mels with one frame per hop `(batch, n_mels, n_frames)`.
            seeds: One for each waveform.
            settings: The reverse process.
            start: Number of the first frame in the whole signal, so that a chunk gets the phases of its place.

        Returns:
            `(batch, 1, n_frames * hop_length)`, or None where the process starts from noise.
        """
        if settings.start == "noise":
            return None
        hop_length = self.spectrogram.config.hop_length
        first, n_samples = start * hop_length, frames.shape[-1] * hop_length
        phases = position_noise(seeds, PHASE_DRAW, start=first, n_samples=n_samples, device=frames.device)
        invert = waveform_from_mel if settings.start == "griffin-lim" else waveform_by_phase_gradient
        guess = invert(frames, phases, self.spectrogram, iterations=settings.griffin_lim_iterations)
        return self.whitening.whiten(guess, frames)

    def reach(self, settings: SynthesisConfig) -> int:
        """Return how many frames to either side a sample of the estimate depends on."""
        if settings.start == "noise":
            return WHITENING_REACH
        return WHITENING_REACH + griffin_lim_reach(self.spectrogram.config, settings.griffin_lim_iterations)
