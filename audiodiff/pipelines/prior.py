"""What a mel tells of the signal before a network is asked: an estimate to start from, and the whitening."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.griffin_lim import griffin_lim_reach, waveform_from_mel
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.whitening import Whitening
from audiodiff.config import MelConfig, SynthesisConfig, WhiteningConfig
from audiodiff.diffusion.noise import position_noise
from audiodiff.engine.streams import HaloStream

PHASE_DRAW = -1
"""The draw of position-indexed noise that Griffin-Lim takes its first phases from; steps count up from 0."""

WHITENING_REACH = 2
"""Blocks to either side that whitening and colouring depend on: the lapped transform folds neighbours, and back."""


class MelPrior(nn.Module):
    """The two ends of a vocoder, where mel and signal meet.

    Args:
        mel: The convention.
        whitening: What is divided out of the signal.
    """

    def __init__(self, mel: MelConfig, whitening: WhiteningConfig) -> None:
        super().__init__()
        self.hop_length = mel.hop_length
        self.spectrogram = MelSpectrogram(mel)
        self.whitening = Whitening(whitening, mel)

    def mel(self, audio: Tensor) -> Tensor:
        """Compute mels `(..., n_mels, frames)` of waveforms `(..., time)`, see `Vocoder.mel`."""
        self.spectrogram.n_frames(audio.shape[-1])
        padding = -audio.shape[-1] % self.hop_length
        mel: Tensor = self.spectrogram(functional.pad(audio, (0, padding)) if padding else audio)
        return mel

    @torch.no_grad()
    def estimate(
        self, blocks: Tensor, seeds: Sequence[int], settings: SynthesisConfig, *, start: int = 0
    ) -> Tensor | None:
        """Estimate the whitened signal, for the reverse process to start from.

        Args:
            blocks: Mels with one frame per block `(batch, n_mels, n_blocks)`.
            seeds: One for each waveform.
            settings: The reverse process.
            start: Number of the first block in the whole signal, so that a chunk gets the phases of its place.

        Returns:
            `(batch, 1, n_blocks * hop_length)`, or None where the process starts from noise.
        """
        if settings.start == "noise":
            return None
        first, n_samples = start * self.hop_length, blocks.shape[-1] * self.hop_length
        phases = position_noise(seeds, PHASE_DRAW, start=first, n_samples=n_samples, device=blocks.device)
        guess = waveform_from_mel(blocks, phases, self.spectrogram, iterations=settings.griffin_lim_iterations)
        return self.whitening.whiten(guess, blocks)

    def reach(self, settings: SynthesisConfig) -> int:
        """Return how many blocks to either side a sample of the estimate depends on."""
        if settings.start == "noise":
            return WHITENING_REACH
        return WHITENING_REACH + griffin_lim_reach(self.spectrogram.config, settings.griffin_lim_iterations)

    def colouring(self) -> HaloStream:
        """Return a stream that undoes the whitening; it takes signals with mels `(batch, n_blocks, n_mels)`."""
        hop = self.hop_length

        def colour(signal: Tensor, mel: Tensor | None) -> Tensor:
            return self.whitening.colour(signal, None if mel is None else mel.mT)

        return HaloStream(colour, reach=WHITENING_REACH * hop, block_length=hop, rows_per_block=1)
