"""Mel spectrograms for every supported convention (see `MEL_CONVENTIONS`)."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.config.mel import SLANEY_LOG_STEP, hertz_to_mels
from audiodiff.errors import AudioError, MelError

DECIBELS = 20 / math.log(10)
"""Of a neper of magnitude."""

_TINY = 1e-10
"""Keeps divisions finite: where no filter reaches, and in silence."""

_FRAMES_IN_CACHE = 64
"""Frames that are deconvolved together on a CPU: twenty updates of them stay in its cache."""

_FRAMES_AT_ONCE = 4096
"""Frames whose spectra are in memory together, so that an hour of audio needs no more than a minute."""


def _log_scale(config: MelConfig) -> float:
    """Return k such that a mel value is k * ln(mel) + offset."""
    return config.multiplier / (math.log(10.0) if config.log == "log10" else 1.0)


def compress(energy: Tensor, config: MelConfig) -> Tensor:
    """Turn filtered spectra `(..., n_mels, frames)` of a convention into its mel values: logarithm and what follows."""
    if config.log == "none":
        mel = config.multiplier * energy + config.offset
    else:
        guarded = energy + config.floor if config.guard == "add" else energy.clamp(min=config.floor)
        if config.reference == "max":
            guarded = guarded / guarded.amax((-2, -1), keepdim=True)
        mel = _log_scale(config) * guarded.log() + config.offset
    if config.dynamic_range is not None:
        mel = torch.maximum(mel, mel.amax((-2, -1), keepdim=True) - config.dynamic_range)
    if config.clip is not None:
        mel = mel.clamp(*config.clip)
    if (config.mean, config.std) == (0, 1):
        return mel
    return (mel - _by_bin(config.mean, mel)) / _by_bin(config.std, mel)


def expand(mel: Tensor, config: MelConfig) -> Tensor:
    """Undo `compress`; what floors and clips took away stays lost."""
    if (config.mean, config.std) != (0, 1):
        mel = mel * _by_bin(config.std, mel) + _by_bin(config.mean, mel)
    if config.log == "none":
        return ((mel - config.offset) / config.multiplier).clamp_min(0)
    energy = ((mel - config.offset) / _log_scale(config)).exp()
    return (energy - config.floor).clamp_min(0) if config.guard == "add" else energy


def _by_bin(values: float | tuple[float, ...], mel: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=mel.dtype, device=mel.device).reshape(-1, 1)


def mel_frequencies(config: MelConfig, n_points: int) -> NDArray[np.float64]:
    """Return frequencies in Hz, equally spaced on the mel scale from `f_min` to `f_max`, shape `(n_points,)`."""
    low, high = (hertz_to_mels(frequency, config.scale) for frequency in (config.f_min, config.f_max))
    mels = np.linspace(low, high, n_points)
    if config.scale == "htk":
        return 700 * (10 ** (mels / 2595) - 1)
    return np.where(mels < 15, mels * (200 / 3), 1000 * np.exp(SLANEY_LOG_STEP * (mels - 15)))


def mel_filterbank(config: MelConfig) -> NDArray[np.float64]:
    """Return the triangular filters of a convention, shape `(n_mels, n_fft // 2 + 1)`.

    Filter i rises from point i of `n_mels + 2` mel frequencies to 1 at point i + 1 and falls to point i + 2. Norm
    'slaney' divides it by half its width in Hz. Equal to `librosa.filters.mel`, whose import takes a second.
    """
    points = mel_frequencies(config, config.n_mels + 2)[:, None]
    bins = np.arange(config.n_fft // 2 + 1) * (config.sample_rate / config.n_fft)
    rising = (bins - points[:-2]) / (points[1:-1] - points[:-2])
    falling = (points[2:] - bins) / (points[2:] - points[1:-1])
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    n_empty = int((filters.max(1) == 0).sum())
    if n_empty and MEL_CONVENTIONS.get(config.name) != config:  # or the toolkit has it so
        warnings.warn(
            f"{n_empty} of the {config.n_mels} bins of mel convention {config.name!r} lie between two bins of its STFT "
            "and are always silent. Take fewer mel bins, or a longer n_fft.",
            stacklevel=2,
        )
    if config.norm == "slaney":
        filters *= 2 / (points[2:] - points[:-2])
    return filters


class _Deconvolution(NamedTuple):
    """What deconvolves mels.

    Attributes:
        analyse: The filters.
        spread: Their transpose, rows summing to 1.
        interpolate: Between the bands.
        covered: 1 where a bin is in a filter.
        area: Sums of the filters.
    """

    analyse: Tensor
    spread: Tensor
    interpolate: Tensor
    covered: Tensor
    area: Tensor


def _sparse(matrix: Tensor) -> Tensor:
    """Return a matrix in compressed rows, whose products cost half of those of coordinates where frames are few."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are in beta state
        return matrix.to_sparse_csr()


class MelSpectrogram(nn.Module):
    """Turn audio into a mel spectrogram of one convention, and back into magnitudes.

    Computes in the dtype of its buffers (float32, or what `.to(dtype)` makes of them) even under autocast, because sums
    in bfloat16 are off by a percent. Differentiable.

    Args:
        config: The convention.

    Attributes:
        padding: Samples that are padded on either side of the audio.
        window: The plain Hann window, `(win_length,)`.
        filterbank: The mel filters, `(n_mels, n_fft // 2 + 1)`.
        n_covered_bins: How many bins of the STFT there are up to the upper edge of the highest filter.

    Example:
        >>> import torch
        >>> from audiodiff.config import MEL_CONVENTIONS
        >>> mel = MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"])
        >>> mel(torch.zeros(2, 22050)).shape
        torch.Size([2, 80, 86])
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.padding = {"frame": config.n_fft, "hop": config.n_fft - config.hop_length, "window": 0}[config.centre] // 2
        window = torch.hann_window(config.win_length, config.window == "hann", dtype=torch.float64, device="cpu")
        self.gain = config.full_scale / (float(window.norm()) if config.window_norm else 1.0)
        filters = torch.from_numpy(mel_filterbank(config))
        self.n_covered_bins = int(filters.sum(0).nonzero().max()) + 1
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("filterbank", filters.float(), persistent=False)
        self._matrices: _Deconvolution | None = None

    def n_frames(self, n_samples: int) -> int:
        """Return how many frames a signal has.

        Args:
            n_samples: Length of the signal, in samples.

        Returns:
            The number of frames.

        Raises:
            AudioError: If the signal is too short for one frame or for its padding.
        """
        config = self.config
        shortest = max(config.n_fft - 2 * self.padding, self.padding + 1 if config.padding == "reflect" else 1)
        if n_samples < shortest:
            raise AudioError(
                f"audio of {n_samples} samples is too short for mel convention {config.name!r}, which needs at least "
                f"{shortest} ({1000 * shortest / config.sample_rate:.1f} ms). Give longer audio or pad it with zeros."
            )
        return (n_samples + 2 * self.padding - config.n_fft) // config.hop_length + 1

    def forward(self, audio: ArrayLike) -> Tensor:
        """Compute the mel spectrogram.

        Args:
            audio: Samples in [-1, 1] at the convention's sample rate, shape `(..., time)`, floating point.

        Returns:
            The mel values, shape `(..., n_mels, frames)`.

        Raises:
            AudioError: If the audio is too short, or its samples are integers.
        """
        config, audio = self.config, as_tensor(audio, "audio", AudioError)
        if not audio.is_floating_point():
            raise AudioError(f"audio is {audio.dtype}; expected floating point in [-1, 1]. Divide by the full scale.")
        n_frames = self.n_frames(audio.shape[-1] if audio.ndim else 0)
        with torch.autocast(audio.device.type, enabled=False):
            energy = self._energy(audio.reshape(-1, 1, audio.shape[-1]).to(self.window.dtype))
            mel = compress(energy, config)
        return mel.reshape(*audio.shape[:-1], config.n_mels, n_frames)

    def _energy(self, audio: Tensor) -> Tensor:
        """Return the filtered |STFT| ** power, shape `(batch, n_mels, frames)`, of audio `(batch, 1, time)`."""
        config, signal = self.config, audio.squeeze(1)
        if config.pre_emphasis:
            signal = signal - config.pre_emphasis * functional.pad(signal[:, :-1], (1, 0))
        n_frames = self.n_frames(signal.shape[-1])
        parts = []
        for first in range(0, n_frames, _FRAMES_AT_ONCE):
            count = min(_FRAMES_AT_ONCE, n_frames - first)
            start = first * config.hop_length - self.padding
            part = _between(signal, start, start + (count - 1) * config.hop_length + config.n_fft, config.padding)
            parts.append(self.filterbank @ self._spectrum(part))
        return torch.cat(parts, dim=-1)

    def _spectrum(self, signal: Tensor) -> Tensor:
        """Return |STFT| ** power, shape `(batch, n_fft // 2 + 1, frames)`, of a padded signal `(batch, time)`."""
        n_fft, hop, window = self.config.n_fft, self.config.hop_length, self.window * self.gain
        spectrum = torch.stft(signal, n_fft, hop, len(window), window, center=False, return_complex=True)
        if self.config.magnitude_floor == 0 and self.config.power == 1:
            return spectrum.abs()  # whose gradient at zero is zero; that of the root below would be infinite
        squared = spectrum.real.square() + spectrum.imag.square() + self.config.magnitude_floor
        return squared if self.config.power == 2 else squared.sqrt()

    def to_magnitude(self, mel: Tensor) -> Tensor:
        """Undo what follows the filters, power, window norm and full scale; what floors and clips took away stays lost.

        Args:
            mel: Mel values of this convention, shape `(..., n_mels, frames)`.

        Returns:
            Linear mel magnitudes of the STFT with a plain Hann window, same shape: filterbank @ |STFT|, or for power 2
            the root of filterbank @ |STFT|².
        """
        return expand(mel, self.config) ** (1 / self.config.power) / self.gain

    def inverse(self, mel: Tensor, iterations: int = 20) -> Tensor:
        """Estimate the linear-frequency spectrum of a mel by Richardson-Lucy deconvolution.

        The multiplicative updates of Richardson 1972 and Lucy 1974 (for Kullback-Leibler divergence: Lee and Seung
        2001) keep every bin positive and sharpen the harmonics that the filters blur. After Griffin-Lim the difference
        to a pseudo-inverse clamped at zero is more than half a point of PESQ.

        Args:
            mel: Mel values of this convention, shape `(..., n_mels, frames)`.
            iterations: Number of updates; none is a plain interpolation between the bands.

        Returns:
            Magnitudes of the STFT with a plain Hann window, shape `(..., n_fft // 2 + 1, frames)`, as `mel` is;
            computed in float64.
        """
        energy = (self.to_magnitude(mel.double()) ** self.config.power).movedim(-2, 0)
        frames, energy = energy.shape[1:], energy.flatten(1)
        at_once = _FRAMES_IN_CACHE if energy.device.type == "cpu" else energy.shape[1]
        estimate = torch.cat([self._deconvolved(part, iterations) for part in energy.split(at_once, dim=1)], dim=1)
        magnitude: Tensor = (estimate ** (1 / self.config.power)).unflatten(1, frames).movedim(0, -2)
        return magnitude.to(mel.dtype)

    def _deconvolved(self, energy: Tensor, iterations: int) -> Tensor:
        """Return `(n_bins, n_frames)` of the energies of bands `(n_mels, n_frames)`."""
        analyse, spread, interpolate, covered, area = self._deconvolution()
        estimate = (interpolate @ (energy / area).clamp_min(_TINY).log()).exp() * covered
        for _ in range(iterations):
            estimate = estimate * (spread @ (energy / (analyse @ estimate).clamp_min(_TINY)))
        return estimate

    @torch.inference_mode(False)
    @torch.no_grad()
    def _deconvolution(self) -> _Deconvolution:
        filters = self.filterbank.double()
        made = self._matrices
        if made is None or made.area.device != filters.device:
            coverage = filters.sum(0).unsqueeze(1)
            area = filters.sum(1, keepdim=True).clamp_min(_TINY)
            fraction = (filters / area) / (filters / area).sum(0).clamp_min(_TINY)
            spread, covered = filters.T / coverage.clamp_min(_TINY), (coverage > _TINY).double()
            made = _Deconvolution(filters, spread, fraction.T, covered, area)
            if filters.device.type == "cpu":  # four times faster, and a frame is the same to the bit among however many
                made = made._replace(analyse=_sparse(filters), spread=_sparse(spread), interpolate=_sparse(fraction.T))
            self._matrices = made
        return made


def _between(signal: Tensor, start: int, stop: int, padding: str) -> Tensor:
    """Return samples [start, stop) of signals `(batch, time)`, padded where that is beyond the ends."""
    before, after = max(-start, 0), max(stop - signal.shape[1], 0)
    if not before and not after:
        return signal[:, start:stop]
    first = max(start - after - 1, 0)  # a reflection needs more samples than it adds
    padded = functional.pad(signal[:, first : max(stop, 0) + before + 1], (before, after), mode=padding)
    offset = 0 if before else start - first
    return padded[:, offset : offset + stop - start]


def check_mel(mel: ArrayLike, config: MelConfig) -> Tensor:
    """Refuse a mel spectrogram that cannot be of this convention, and return it as a tensor.

    Args:
        mel: Mel values, shape `(n_mels, frames)` or `(batch, n_mels, frames)`.
        config: The convention it should follow.

    Raises:
        MelError: If rank, number of bins or their axis is wrong, if it is empty or not finite, or if the range of its
            values clearly belongs to another convention.
    """
    mel = as_tensor(mel, "mel", MelError)
    came, expected = f"mel has shape {tuple(mel.shape)}", f"expected (n_mels, frames) with n_mels = {config.n_mels}"
    if mel.ndim not in (2, 3):
        raise MelError(f"{came}; {expected}, or a batch of them. Add or squeeze dimensions.")
    if mel.shape[-2] != config.n_mels:
        if mel.shape[-1] == config.n_mels:
            raise MelError(f"{came}, which is transposed; {expected}. Use mel.transpose(-2, -1).")
        raise MelError(f"{came}; {expected}. Compute it with the convention {config.name!r}.")
    if mel.numel() == 0:
        raise MelError(f"{came}, so it is empty; {expected} and at least one frame.")
    if not mel.is_floating_point():
        raise MelError(f"mel is {mel.dtype}; expected floating point.")
    if n_bad := int((~mel.isfinite()).sum()):
        raise MelError(f"mel has {n_bad} values that are NaN or infinite; expected none. Was log(0) taken?")
    _check_range(mel, config)
    return mel


@lru_cache(maxsize=64)
def mel_range(config: MelConfig) -> tuple[float, float]:
    """Return the lowest and highest value that samples in [-1, 1] can give, whatever `dynamic_range` cuts off."""
    loudest = config.full_scale * config.win_length / 2 / (config.hann_norm if config.window_norm else 1.0)
    loudest *= 1 + config.pre_emphasis  # |STFT| is at most the sum of the Hann window
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sums = torch.from_numpy(mel_filterbank(config)).double().sum(1)
    extremes = torch.stack([torch.zeros_like(sums), loudest**config.power * sums], dim=1)
    values = compress(extremes, config.model_copy(update={"dynamic_range": None}))
    return float(values[:, 0].min()), float(values[:, 1].max())


def _check_range(mel: Tensor, config: MelConfig) -> None:
    """Compare values with what samples in [-1, 1] can give, with a factor of ten (20 dB) to spare at either end."""
    low, high = mel_range(config)
    margin = _log_scale(config) * math.log(10.0) / min(config.std if isinstance(config.std, tuple) else (config.std,))
    if config.log == "none":
        margin = 9 * high
    least, most = (float(value) for value in mel.aminmax())
    if low - margin <= least and most <= high + margin:
        return
    raise MelError(
        f"mel has values from {least:.3g} to {most:.3g}; convention {config.name!r} has them from {low:.3g} (silence) "
        f"to at most {high:.3g}, so it is of another one. `audiodiff mel-match` names it."
    )


def align_to_hops(mel: Tensor, config: MelConfig) -> Tensor:
    """Bring a mel to one frame per hop of the signal, whatever its convention.

    Args:
        mel: Mel values of this convention, shape `(..., n_mels, frames)`.
        config: The convention; frames centred on multiples of the hop are averaged with their neighbour, unless its
            `pairing` is 'frame'.

    Returns:
        Mel values, shape `(..., n_mels, n_hops)`; the signal has `n_hops * hop_length` samples.

    Raises:
        MelError: If the mel is too short for a signal of one hop.
    """
    if config.centre == "hop" or config.pairing == "frame":
        return mel
    if mel.shape[-1] < 2:
        raise MelError(f"mel has {mel.shape[-1]} frame; convention {config.name!r} needs at least 2 for a signal.")
    return (mel[..., :-1] + mel[..., 1:]) / 2
