"""A waveform from a mel without a network: magnitudes by deconvolution, phases by Griffin-Lim or given."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.transforms import FramedSTFT

EDGE_BINS = 8
"""Bins at the upper edge of the mel that tell how the spectrum goes on above it."""
_FIRST_DIGITS = 97.0
_TINY = 1e-30
MAX_GAIN = 100.0
"""By how much Griffin-Lim raises a magnitude at most: what is far below its target is rounding, and has no phase."""

LONGEST_BLOCK = 32
"""Samples that `limit_energy` gives one gain, at most: 1.5 ms at 22 kHz. Longer ones bound what is steady too low."""


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
    projections = _Projections(magnitude, stft)
    spectrum, projected, previous = (torch.zeros_like(magnitude, dtype=magnitude.dtype.to_complex()) for _ in range(3))
    projections.analyse(noise, spectrum)
    for _ in range(iterations):
        projections.analyse(projections.synthesise(spectrum), projected)
        # projected + momentum * (projected - previous), but for a factor: its phases alone count
        torch.sub(projected, previous, alpha=momentum / (1 + momentum), out=spectrum)
        projected, previous = previous, projected
    return projections.synthesise(spectrum).clone()


class _Projections:
    """Both directions of an STFT in memory that every round uses again: two thirds of the time of plain calls.

    Args:
        magnitude: What spectra are brought to `(batch, n_frames, n_bins)`.
        stft: The transform.
    """

    def __init__(self, magnitude: Tensor, stft: FramedSTFT) -> None:
        self._magnitude, self._stft = magnitude, stft
        batch, n_frames, _ = magnitude.shape
        self._inside = slice(stft.margin, stft.margin + n_frames * stft.hop_length)
        self._padded = magnitude.new_zeros(batch, n_frames * stft.hop_length + 2 * stft.margin)
        self._windowed = magnitude.new_empty(batch, n_frames, stft.n_fft)
        self._total = magnitude.new_empty(batch, n_frames + stft.n_fft // stft.hop_length - 1, stft.hop_length)
        self._gain, self._lowest = torch.empty_like(magnitude), lowest_square(magnitude)
        self._weight = stft.overlap_weight(n_frames)

    def analyse(self, signal: Tensor, spectrum: Tensor) -> None:
        """Write the spectrum of a signal."""
        self._padded[:, self._inside] = signal
        frames = self._padded.unfold(-1, self._stft.n_fft, self._stft.hop_length)
        torch.mul(frames, self._stft.window, out=self._windowed)
        torch.fft.rfft(self._windowed, out=spectrum)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """Give a spectrum the magnitudes, in place, and return the signal closest to it, valid until the next call."""
        real, imaginary = spectrum.real, spectrum.imag
        torch.mul(real, real, out=self._gain).addcmul_(imaginary, imaginary)
        torch.maximum(self._gain, self._lowest, out=self._gain)
        spectrum.mul_(self._gain.rsqrt_().mul_(self._magnitude))
        torch.fft.irfft(spectrum, n=self._stft.n_fft, out=self._windowed)
        hops = self._windowed.mul_(self._stft.window).unflatten(-1, (-1, self._stft.hop_length))
        n_frames = hops.shape[1]
        self._total.zero_()
        for i, part in enumerate(hops.unbind(2)):
            self._total[:, i : i + n_frames] += part
        return self._total.flatten(1)[:, self._inside].div_(self._weight)


def lowest_square(magnitude: Tensor) -> Tensor:
    """Return what squared magnitudes are raised to before Griffin-Lim divides by their root."""
    return (magnitude / MAX_GAIN).square().clamp_min(_TINY)


def griffin_lim_reach(stft: FramedSTFT, iterations: int, beyond: int = 0) -> int:
    """Return how many frames to either side of a hop decide its samples and `beyond` more, after so many round trips.

    A round trip mixes the frames whose windows overlap; the synthesis after it reaches to the ends of a window.
    """
    overlapping, hop_length = stft.n_fft // stft.hop_length - 1, stft.hop_length
    return iterations * overlapping - (-(stft.margin + beyond) // hop_length)


def waveform_from_mel(mel: Tensor, noise: Tensor, spectrogram: MelSpectrogram, *, iterations: int = 32) -> Tensor:
    """Estimate the waveform of a mel; phases by Griffin-Lim, starting from random ones.

    Args:
        mel: Mel spectrograms, one frame per hop `(batch, n_mels, frames)`.
        noise: A signal whose phases the search starts from `(batch, 1, frames * hop_length)`.
        spectrogram: What made the mels.
        iterations: Griffin-Lim round trips.

    Returns:
        Waveforms of the shape of `noise`. Above the highest mel band they go on at the level of its upper edge, so that
        what refines them has noise to shape there.

    Raises:
        ConfigError: If the hop length does not divide the window, so that frames do not tile the signal.
    """
    stft = FramedSTFT(spectrogram.config.n_fft, spectrogram.config.hop_length).to(mel.device)
    magnitude = magnitude_from_mel(mel, spectrogram).to(mel)
    audio = griffin_lim(magnitude, noise[:, 0], stft, iterations=iterations)
    return limit_energy(audio, magnitude, stft).unsqueeze(1)


def consistent_waveform(spectrum: Tensor, stft: FramedSTFT, *, iterations: int = 1) -> Tensor:
    """Return the waveforms `(batch, 1, time)` closest to complex spectra `(batch, n_frames, n_bins)`, energy limited.

    Before that, round trips of Griffin-Lim without momentum make the phases consistent. Of integrated phases one is
    worth 0.2 of PESQ, more next to nothing.
    """
    spectrum, magnitude = spectrum.clone(), spectrum.abs()
    projections = _Projections(magnitude, stft)
    for _ in range(iterations):
        projections.analyse(projections.synthesise(spectrum), spectrum)
    return limit_energy(projections.synthesise(spectrum), magnitude, stft).unsqueeze(1)


def limit_energy(audio: Tensor, magnitude: Tensor, stft: FramedSTFT) -> Tensor:
    """Lower an estimate wherever it has more energy than one of the frames that see it has in all.

    An estimate spreads a transient over its frames, so it is heard before it begins. But a frame that ends before the
    onset is quiet, and bounds what it sees: of a frame of mean square p, which is the mean of the signal's squares
    weighted by the squared window, n samples of weight w or more have a mean square of at most p / (n w). A signal of
    these magnitudes stays as it is; what is steady lies 11 dB below the bound where a frame has 1024 samples.

    Args:
        audio: The estimate `(batch, n_frames * hop_length)`.
        magnitude: What the frames should have `(batch, n_frames, n_bins)`.
        stft: Their transform.

    Returns:
        The estimate, multiplied by gains of at most 1 that are interpolated between the middles of blocks.
    """
    lengths = range(1, min(LONGEST_BLOCK, stft.hop_length // 2) + 1)
    block = max(n for n in lengths if stft.hop_length % n == stft.margin % n == 0)
    overlap, (n_frames, margin) = stft.n_fft // stft.hop_length, (magnitude.shape[1], stft.margin // block)
    weight = block * stft.window.square().unflatten(0, (-1, block)).amin(1)
    bounds = (magnitude.square().mean(2, keepdim=True) / weight).where(weight > 0, math.inf)
    parts = bounds.unflatten(2, (overlap, -1)).unbind(2)
    padded = [functional.pad(part, (0, 0, i, overlap - 1 - i), value=math.inf) for i, part in enumerate(parts)]
    bound = torch.stack(padded).amin(0).flatten(1)[:, margin : margin + n_frames * stft.hop_length // block]
    energy = audio.square().unflatten(1, (-1, block)).mean(2)
    gain = (bound / energy.clamp_min(_TINY)).clamp_max(1).sqrt().to(audio)
    gain = torch.maximum(gain, torch.maximum(*_neighbours(gain)))  # lest the rise to 1 lies within the onset
    before, after = (neighbour.unsqueeze(2) for neighbour in _neighbours(gain))
    place = (torch.arange(block, device=audio.device) + 0.5) / block - 0.5  # from the middle of a block
    gain = torch.lerp(gain.unsqueeze(2), torch.where(place < 0, before, after), place.abs())
    return audio * gain.flatten(1)


def _neighbours(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what precedes and what follows each of `(batch, n_values)`; the ends are next to themselves."""
    return torch.cat([values[:, :1], values[:, :-1]], 1), torch.cat([values[:, 1:], values[:, -1:]], 1)


def random_phases(noise: Tensor, n_bins: int, hop_length: int) -> Tensor:
    """Make uniformly distributed phases `(batch, n_frames, n_bins)` of noise `(batch, 1, n_frames * hop_length)`.

    The low-order digits of a normal number are uniformly distributed.
    """
    values = noise[:, 0].unflatten(1, (-1, hop_length))
    digits = [(_FIRST_DIGITS * 5**i * values).remainder(1.0) for i in range(-(-n_bins // hop_length))]
    return 2 * math.pi * torch.cat(digits, 2)[..., :n_bins]


def magnitude_from_mel(mel: Tensor, spectrogram: MelSpectrogram) -> Tensor:
    """Estimate magnitudes `(batch, n_frames, n_bins)` in the scale of `FramedSTFT` from mels with a frame per hop.

    In float64: which path is the loudest is decided by differences as small as float32 rounds, and one other decision
    changes all phases after it.
    """
    magnitude = spectrogram.inverse(mel.double()).transpose(1, 2).contiguous() / spectrogram.config.hann_norm
    covered = magnitude[..., : spectrogram.n_covered_bins]
    n_beyond = spectrogram.config.n_fft // 2 + 1 - covered.shape[2]
    edge = covered[..., -EDGE_BINS:].mean(-1, keepdim=True)
    return torch.cat([covered, edge.expand(-1, -1, n_beyond)], dim=2)


def bands_to_bins(spectrogram: MelSpectrogram) -> Tensor:
    """Return weights `(n_mels, n_bins)` that interpolate between mel bands, constant beyond the outermost."""
    weights = spectrogram.filterbank / spectrogram.filterbank.sum(0).clamp_min(1e-12)
    covered = weights.sum(0).nonzero()
    weights[0, : int(covered.min())] = 1
    weights[-1, int(covered.max()) + 1 :] = 1
    return weights
