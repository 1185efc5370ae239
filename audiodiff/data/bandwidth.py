"""The true bandwidth of a recording: where a filter or a lower sample rate once cut it off."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_N_FFT = 2048
_BLOCK = 2**20
"""Samples whose spectrum is computed at once."""
_LOWEST = 3200.0
"""Hz; telephones cut at 3400 Hz. Below, a steep edge is a part of the sound."""
_DROP = 15.0
"""dB; what a level must fall by within the width of an edge, for good. Music and voices decline over octaves."""
_EDGE = 0.05
"""Width of an edge, as a share of half the sample rate."""
_FULL = 0.95
"""A band that reaches up to this share of half the sample rate ends where every anti-aliasing filter ends it."""
_SILENT = 10 * torch.tensor(2.0**-30 / 12).log10().item() - 6
"""dB; under the rounding noise of 16 bits there is no level to speak of: the density of white noise of LSB² / 12."""


def mean_spectrum(audio: Tensor) -> Tensor:
    """Return the mean power spectrum of a signal (Welch's method).

    Args:
        audio: Samples `(time,)` or `(channels, time)`.

    Returns:
        Power density in dB, shape `(1025,)`, from 0 Hz to half the sample rate; white noise of variance 1 has 0 dB.
    """
    audio = functional.pad(audio.reshape(-1, audio.shape[-1]), (0, max(0, _N_FFT - audio.shape[-1])))
    window = torch.hann_window(_N_FFT, dtype=audio.dtype)
    window = window / window.norm()
    total, n_frames = torch.zeros(_N_FFT // 2 + 1, dtype=torch.float64), 0
    for first in range(0, audio.shape[-1] - _N_FFT + 1, _BLOCK):
        block = audio[:, first : first + _BLOCK + _N_FFT // 2]
        if block.shape[-1] < _N_FFT:
            break
        frames = block.unfold(-1, _N_FFT, _N_FFT // 2) * window
        total += torch.fft.rfft(frames).abs().square().sum((0, 1)).double()
        n_frames += frames.shape[0] * frames.shape[1]
    return 10 * (total / n_frames).clamp_min(1e-30).log10()


def bandwidth(audio: Tensor, sample_rate: int) -> float | None:
    """Measure up to where a recording reaches, if something has cut it off.

    Speech at 22050 Hz that was resampled from 16000 Hz, or was once an MP3 of a low bit rate, falls off a cliff. A
    sound that merely has no high partials declines, and is not called cut off.

    Args:
        audio: Samples `(time,)` or `(channels, time)`.
        sample_rate: In Hz.

    Returns:
        Hz above which there is nothing, or None for a recording that nothing has cut off.
    """
    level = mean_spectrum(audio).clamp_min(_SILENT)
    n_bins, width = len(level), round(_EDGE * len(level))
    smooth = functional.avg_pool1d(level.view(1, 1, -1), 9, 1, 4, count_include_pad=False).view(-1)
    above = smooth.flip(0).cummax(0).values.flip(0)  # the loudest from each bin on
    edges = torch.arange(width, round(_FULL * n_bins) + 1)
    # The median just below: the floor between partials, not the partials, whose end is no edge.
    before = level.unfold(0, width, 1).median(1).values[edges - width]
    steep = edges[before - above[(edges + width // 2).clamp(max=n_bins - 1)] >= _DROP]
    if not len(steep):
        return None
    found = _steepest(smooth, int(steep[-1]), width) * sample_rate / 2 / (n_bins - 1)
    return found if _LOWEST <= found <= _FULL * sample_rate / 2 else None


def _steepest(level: Tensor, edge: int, width: int) -> int:
    """Return the bin near an edge where half of its drop is done."""
    part = level[edge - width : edge + width]
    middle = (part[: width // 2].median() + part[-width // 2 :].median()) / 2
    return edge - width + int((part >= middle).nonzero().max())
