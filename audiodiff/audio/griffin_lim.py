"""Griffin-Lim phase reconstruction: a waveform whose STFT magnitude is close to a given one."""

from __future__ import annotations

import torch
from torch import Tensor

from audiodiff.audio.stft import FramedSTFT


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
