"""How well a damaged stretch was repaired, measured where the damage was."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_N_FFT, _HOP = 1024, 256
_FLOOR = 1e-8
"""Power of a bin of the STFT, in full scale, below which nothing is compared."""


def snr_db(repaired: Tensor, reference: Tensor, where: Tensor) -> float:
    """Return the power of the reference over that of the difference, in dB, over some samples.

    Args:
        repaired: `(channels, time)`.
        reference: Of the same shape.
        where: The samples that count `(time,)`.

    Returns:
        The ratio in dB: 0 is what silence gets, infinity is the reference; NaN where no sample counts.
    """
    wanted = reference[:, where].double().square().sum()
    error = (repaired - reference)[:, where].double().square().sum()
    return math.nan if not bool(where.any()) else float(10 * torch.log10(wanted / error))


def log_spectral_distance(repaired: Tensor, reference: Tensor, where: Tensor) -> float:
    """Return the log-spectral distance in dB, over frames that hold such samples (Gray and Markel 1976).

    The root mean square over frequencies of the difference of power spectra in dB, averaged over frames of 1,024
    samples every 256 (Hann). Unlike the SNR it does not ask for the same phases.

    Args:
        repaired: `(channels, time)`.
        reference: Of the same shape.
        where: The samples that count `(time,)`.

    Returns:
        The distance, 0 or more; NaN where no sample counts.
    """
    window = torch.hann_window(_N_FFT, device=repaired.device)
    decibels = [
        10
        * torch.stft(audio, _N_FFT, _HOP, window=window, return_complex=True).abs().square().clamp_min(_FLOOR).log10()
        for audio in (repaired, reference)
    ]
    distance = (decibels[0] - decibels[1]).square().mean(-2).sqrt()
    held = torch.nn.functional.max_pool1d(where.float().view(1, 1, -1), _N_FFT, _HOP, _N_FFT // 2)[0, 0] > 0
    return float(distance[:, : len(held)][:, held[: distance.shape[-1]]].mean())
