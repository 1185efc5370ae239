"""A short-time Fourier transform with one frame per hop of the signal, and its exact inverse, both differentiable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.errors import ConfigError


class FramedSTFT(nn.Module):
    """Analyse a signal of whole hops in Hann-windowed frames centred on its hops, zero-padded at the ends.

    The spectrum is scaled so that white noise of unit variance has coefficients of unit mean square.

    Args:
        n_fft: Window and transform length, in samples; a multiple of `hop_length`, at least twice it, their difference
            even.
        hop_length: Samples between frames.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        if n_fft % hop_length or n_fft < 2 * hop_length or (n_fft - hop_length) % 2:
            raise ConfigError(
                f"n_fft must be a multiple of hop_length and at least twice it, their difference even, "
                f"got {n_fft}, {hop_length}"
            )
        self.n_fft, self.hop_length = n_fft, hop_length
        self.margin = (n_fft - hop_length) // 2
        window = torch.hann_window(n_fft, dtype=torch.float64)
        self.register_buffer("window", (window / window.square().sum().sqrt()).float(), persistent=False)

    @property
    def n_bins(self) -> int:
        """Number of frequencies, `n_fft // 2 + 1`."""
        return self.n_fft // 2 + 1

    def forward(self, signal: Tensor) -> Tensor:
        """Transform signals `(batch, n_frames * hop_length)` into complex spectra `(batch, n_frames, n_bins)`."""
        padded = functional.pad(signal, (self.margin, self.margin))
        spectrum: Tensor = torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop_length) * self.window)
        return spectrum

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Transform spectra `(batch, n_frames, n_bins)` back into signals by least squares (Griffin and Lim 1984)."""
        frames = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        return self._overlap_add(frames) / self.overlap_weight(frames.shape[1])

    def overlap_weight(self, n_frames: int) -> Tensor:
        """Return the sum of the squared windows that overlap at each sample `(1, n_frames * hop_length)`."""
        return self._overlap_add(self.window.square().expand(1, n_frames, -1)).clamp_min(1e-8)

    def _overlap_add(self, frames: Tensor) -> Tensor:
        batch, n_frames, _ = frames.shape
        overlap = self.n_fft // self.hop_length
        pieces = frames.unflatten(-1, (overlap, self.hop_length))
        total = functional.pad(pieces[:, :, 0], (0, 0, 0, overlap - 1))
        for i in range(1, overlap):
            total = total + functional.pad(pieces[:, :, i], (0, 0, i, overlap - 1 - i))
        start = self.margin
        return total.reshape(batch, -1)[:, start : start + n_frames * self.hop_length]
