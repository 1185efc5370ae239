"""Transforms with one frame per hop of the signal and an exact inverse, both differentiable: STFT and MDCT.

And the first transform of all, of what users hand over into a tensor.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.errors import AudiodiffError, AudioError, ConfigError

ArrayLike = Tensor | NDArray[Any]
"""What functions take for audio, mels and vectors."""

Array = TypeVar("Array", Tensor, NDArray[Any])
"""What functions take and return alike: a tensor for a tensor, a NumPy array for a NumPy array."""


def as_given(result: Tensor, given: Array) -> Array:
    """Return a result as what was given for it: as a NumPy array where that was one, else as it is."""
    if isinstance(given, np.ndarray):
        return result.cpu().numpy()
    return result


def as_tensor(values: ArrayLike, what: str, error: type[AudiodiffError]) -> Tensor:
    """Return a tensor or a NumPy array as a plain tensor; a tensor is returned as it is.

    Args:
        values: The tensor or array.
        what: What it is, for the message.
        error: What to raise.

    Raises:
        AudiodiffError: If it is neither, or a tensor without plain values to compute with.
    """
    expected = "expected a torch.Tensor or a numpy.ndarray of floating point numbers"
    if isinstance(values, np.ndarray) and not np.ma.isMaskedArray(values):
        if values.dtype.kind not in "fiub" or values.dtype.itemsize > 8:
            raise error(f"{what} is an array of {values.dtype}; {expected}.")
        native = np.array(values, values.dtype.newbyteorder("="), order="C")  # torch knows no other, and may write
        return torch.from_numpy(native)
    if not isinstance(values, Tensor):
        raise error(f"{what} is of type {type(values).__name__}; {expected}.")
    plain = values.layout == torch.strided and not (values.is_nested or values.is_quantized or values.is_meta)
    if not plain or (values.is_floating_point() and values.element_size() < 2):
        raise error(f"{what} is a {_kind(values)} tensor, which cannot be computed with; {expected}.")
    return values


def stored_tensor(value: Tensor, what: str, error: type[AudiodiffError]) -> Tensor:
    """Return a tensor that was read from a file, as one to compute with.

    Args:
        value: The tensor.
        what: What it is, for the message.
        error: What to raise.

    Raises:
        AudiodiffError: If it is sparse, quantised or the like, or claims to be larger than what was stored of it.
    """
    value = as_tensor(value, what, error).detach()
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise error(f"{what} has shape {tuple(value.shape)}, and the file fewer values. Save tensor.contiguous().")
    return value


def _kind(tensor: Tensor) -> str:
    """Name what is strange about a tensor."""
    kinds = {"nested": tensor.is_nested, "quantised": tensor.is_quantized, "meta": tensor.is_meta}
    named = [kind for kind, holds in kinds.items() if holds]
    return named[0] if named else str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)


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

    @property
    def look_ahead(self) -> int:
        """Samples beyond the end of a hop on which the frames that overlap it depend."""
        return -(-self.margin // self.hop_length) * self.hop_length + self.margin

    def forward(self, signal: Tensor) -> Tensor:
        """Transform signals `(batch, n_frames * hop_length)` into complex spectra `(batch, n_frames, n_bins)`."""
        return self.analyse(functional.pad(signal, (self.margin, self.margin)))

    def analyse(self, samples: Tensor) -> Tensor:
        """Transform the frames that lie in samples `(batch, time)`, from the first sample on, without padding."""
        spectrum: Tensor = torch.fft.rfft(samples.unfold(-1, self.n_fft, self.hop_length) * self.window)
        return spectrum

    def inverse(self, spectrum: Tensor) -> Tensor:
        """Transform spectra `(batch, n_frames, n_bins)` back into signals by least squares (Griffin and Lim 1984)."""
        frames = self.windowed(spectrum)
        return self._cropped(frames) / self.overlap_weight(frames.shape[1])

    def windowed(self, spectrum: Tensor) -> Tensor:
        """Transform spectra `(batch, n_frames, n_bins)` back into frames `(batch, n_frames, n_fft)`, windowed."""
        frames: Tensor = torch.fft.irfft(spectrum, n=self.n_fft) * self.window
        return frames

    def overlap_weight(self, n_frames: int) -> Tensor:
        """Return the sum of the squared windows that overlap at each sample `(1, n_frames * hop_length)`."""
        return self._cropped(self.window.square().expand(1, n_frames, -1)).clamp_min(1e-8)

    def _cropped(self, frames: Tensor) -> Tensor:
        return self.overlap_add(frames)[:, self.margin : self.margin + frames.shape[1] * self.hop_length]

    def overlap_add(self, frames: Tensor) -> Tensor:
        """Add frames `(batch, n_frames, n_fft)` where they overlap: `(batch, (n_frames - 1) * hop_length + n_fft)`."""
        overlap = self.n_fft // self.hop_length
        hops = frames.unflatten(-1, (overlap, self.hop_length))
        total = functional.pad(hops[:, :, 0], (0, 0, 0, overlap - 1))
        for i in range(1, overlap):
            total = total + functional.pad(hops[:, :, i], (0, 0, i, overlap - 1 - i))
        return total.flatten(1)


class MDCT(nn.Module):
    """An orthonormal lapped transform (MDCT) of a finite signal of whole hops, with one frame of coefficients per hop.

    Frame i holds the samples [i * hop, (i + 1) * hop), so its centre is where a mel frame centred on hops lies. The
    transform is a square orthogonal matrix: white noise stays white, and the inverse is exact to rounding, edges
    included. Samples that mirror each other at the border of two hops are rotated into each other, then comes a DCT-IV
    of each hop (Malvar 1990, "Lapped transforms for efficient transform/subband coding"); the ends stay as they are.

    Args:
        hop_length: Samples per hop, which is also the number of coefficients of a frame; must be even.
    """

    cosine: Tensor
    sine: Tensor
    basis: Tensor

    def __init__(self, hop_length: int) -> None:
        super().__init__()
        if hop_length % 2:
            raise AudioError(f"an MDCT needs an even hop length, got {hop_length}")
        self.hop_length = hop_length
        distance = torch.arange(hop_length // 2, dtype=torch.float64) + 0.5
        angle = math.pi / 4 * (1 + 2 * distance / hop_length)
        self.register_buffer("cosine", angle.sin().float(), persistent=False)
        self.register_buffer("sine", angle.cos().float(), persistent=False)
        index = torch.arange(hop_length, dtype=torch.float64) + 0.5
        basis = math.sqrt(2 / hop_length) * torch.cos(math.pi / hop_length * index[:, None] * index[None, :])
        self.register_buffer("basis", basis.float(), persistent=False)

    def _rotate(self, frames: Tensor, sine: Tensor) -> Tensor:
        half = self.hop_length // 2
        before, after = frames[..., :-1, half:].flip(-1), frames[..., 1:, :half]
        right = (self.cosine * before - sine * after).flip(-1)
        left = self.cosine * after + sine * before
        left = torch.cat([frames[..., :1, :half], left], dim=-2)
        right = torch.cat([right, frames[..., -1:, half:]], dim=-2)
        return torch.cat([left, right], dim=-1)

    def forward(self, signal: Tensor) -> Tensor:
        """Transform signals `(..., frames * hop_length)` into coefficients `(..., frames, hop_length)`."""
        frames = signal.unflatten(-1, (-1, self.hop_length))
        return self._rotate(frames, self.sine) @ self.basis

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Transform coefficients `(..., frames, hop_length)` back into signals `(..., time)`."""
        return self._rotate(coefficients @ self.basis, -self.sine).flatten(-2)
