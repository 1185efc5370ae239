"""Estimates of the signal from its mel alone, for the reverse process to start from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_inversion import (
    bands_to_bins,
    consistent_waveform,
    griffin_lim_reach,
    magnitude_from_mel,
    random_phases,
    waveform_from_mel,
)
from audiodiff.audio.phase_gradient import PhaseGradient
from audiodiff.audio.transforms import FramedSTFT
from audiodiff.audio.whitening import Whitening
from audiodiff.config import SynthesisConfig
from audiodiff.diffusion.noise import position_noise
from audiodiff.engine.windows import Window

PHASE_DRAW = -1
"""The draw of position-indexed noise that random phases come from; steps count up from 0."""


def whitening_reach(hop_length: int) -> int:
    """Return how many samples to either side of a hop decide what whitening or colouring makes of it.

    The lapped transform folds the halves of neighbouring hops into each other, and back.
    """
    return hop_length + hop_length // 2


class CommonPhases(NamedTuple):
    """What the phases of the channels of a recording have in common, a row per channel.

    Attributes:
        mel: What the phases of each are integrated from `(channels, n_mels, n_frames)`.
        difference: What is then added to them, in radians, of the same shape.
    """

    mel: Tensor
    difference: Tensor


class MelInitialisation(nn.Module):
    """Estimates of the whitened signal from mels with one frame per hop.

    Args:
        spectrogram: The convention of the mels.
        whitening: What is divided out of the signal.
        common_phases: Of signals that are channels of one recording; None integrates the phases of each from its mel.
    """

    def __init__(
        self, spectrogram: MelSpectrogram, whitening: Whitening, common_phases: CommonPhases | None = None
    ) -> None:
        super().__init__()
        self.spectrogram, self.whitening, self.common_phases = spectrogram, whitening, common_phases

    def estimate(self, mel: Tensor, seeds: Sequence[int], settings: SynthesisConfig) -> Tensor | None:
        """Estimate whole signals; arguments and result as in `estimates` and `MelEstimates.next`."""
        return self.estimates(seeds, settings).next(mel, 0, last=True)

    def estimates(self, seeds: Sequence[int], settings: SynthesisConfig) -> MelEstimates:
        """Begin the estimates of signals that are made chunk by chunk.

        Args:
            seeds: One for each waveform.
            settings: The reverse process.
        """
        return MelEstimates(self, seeds, settings)

    def reach(self, settings: SynthesisConfig) -> int:
        """Return how many frames to either side a sample of the estimate depends on."""
        if settings.start == "noise":
            return 0
        whitening = whitening_reach(self.stft.hop_length)
        reach = griffin_lim_reach(self.stft, settings.griffin_lim_iterations, whitening)
        return reach + (settings.start == "phase-gradient")  # whose phases take one frame ahead

    @property
    def stft(self) -> FramedSTFT:
        """The STFT of estimates, made where one is wanted: not every mel has hops that divide its window."""
        config = self.spectrogram.config
        return FramedSTFT(config.n_fft, config.hop_length).to(self.spectrogram.window.device)


class MelEstimates:
    """Estimates of the whitened signals of a batch, chunk by chunk; arguments as in `MelInitialisation.estimates`."""

    def __init__(self, initialisation: MelInitialisation, seeds: Sequence[int], settings: SynthesisConfig) -> None:
        self._spectrogram, self._whitening = initialisation.spectrogram, initialisation.whitening
        self._seeds, self._settings = seeds, settings
        self._hop_length = self._spectrogram.config.hop_length
        self._stft = None if settings.start == "noise" else initialisation.stft
        self._phases, self._common = PhaseGradient(self._hop_length), initialisation.common_phases
        self._n_read, self._magnitudes, self._spectra = 0, Window(dim=1), Window(dim=1)

    @torch.no_grad()
    def next(self, mel: Tensor, start: int, *, last: bool) -> Tensor | None:
        """Estimate the next chunk together with what lies around it.

        Args:
            mel: Frames `(batch, n_mels, n_frames)` of the chunk and of its context, overlapping those before.
            start: Index of the first of them in the whole signal; it never decreases.
            last: Whether the signal ends with these frames; otherwise the last of them is only looked at.

        Returns:
            `(batch, 1, n_frames * hop_length)` or a hop less, or None where the process starts from noise.
        """
        iterations = self._settings.griffin_lim_iterations
        if self._stft is None:
            return None
        if self._settings.start == "griffin-lim":
            audio = waveform_from_mel(mel, self._noise(mel, start), self._spectrogram, iterations=iterations)
        else:
            self._integrate(mel[..., self._n_read - start :], last=last)
            self._spectra.discard_before(start)
            spectrum = self._spectra.view(start, self._spectra.end)
            audio = consistent_waveform(spectrum, self._stft, iterations=iterations)
        return self._whitening.whiten(audio, mel[..., : audio.shape[-1] // self._hop_length])

    def _integrate(self, mel: Tensor, *, last: bool) -> None:
        """Read new frames, and note the spectra of those whose phases are then known."""
        magnitude = magnitude_from_mel(mel, self._spectrogram)
        random = random_phases(self._noise(mel, self._n_read), magnitude.shape[2], self._hop_length)
        read = slice(self._n_read, self._n_read + mel.shape[2])
        self._n_read = read.stop
        if self._common is None:
            phases, magnitude = self._phases.push(magnitude, random, last=last)
        else:
            phases, magnitude = self._integrate_common(self._common, magnitude, random, read, last=last)
        self._spectra.append(torch.polar(magnitude, phases).to(mel.dtype.to_complex()))

    def _integrate_common(
        self, common: CommonPhases, magnitude: Tensor, random: Tensor, read: slice, *, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Integrate the common phases of new frames; return those that are then known, and their own magnitudes."""
        self._magnitudes.append(magnitude)
        phases, _ = self._phases.push(magnitude_from_mel(common.mel[..., read], self._spectrogram), random, last=last)
        if not phases.shape[1]:
            return phases, magnitude[:, :0]
        start = self._spectra.end
        stop = start + phases.shape[1]
        difference = common.difference[..., start:stop].mT.to(phases) @ bands_to_bins(self._spectrogram).to(phases)
        own = self._magnitudes.view(start, stop)
        self._magnitudes.discard_before(stop)
        return phases + difference, own

    def _noise(self, mel: Tensor, start: int) -> Tensor:
        first, n_samples = start * self._hop_length, mel.shape[2] * self._hop_length
        return position_noise(self._seeds, PHASE_DRAW, start=first, n_samples=n_samples, device=mel.device)
