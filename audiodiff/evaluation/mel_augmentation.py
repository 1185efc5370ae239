"""What is done to log-mels in the training of a classifier, so that a thousand clips teach more than themselves.

Everything acts on a batch `(clips, bands, frames)` of natural-log amplitudes, at no more cost than a layer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

LARGEST_STRETCH = 0.2
"""Of time, as a natural logarithm: from 0.82 to 1.22 times as fast."""
LARGEST_WARP = 0.1
"""Of frequency, likewise: voices of longer and shorter throats (Jaitly and Hinton 2013)."""
LARGEST_SHIFT = 0.1
"""In time, as a share of the clip."""
NOISE_SHARE = 0.5
"""Of the clips that noise is added to."""
NOISE_BELOW = (2.0, 9.0)
"""How far below the loudest place of a clip that noise is, in nepers (17 to 78 dB)."""
MASKS = ((1, 0.2), (2, 0.2), (1, 0.15), (2, 0.12))
"""Axis and largest share of each stretch that is hidden (Park et al. 2019, "SpecAugment")."""
MIXING = 0.4
"""Both parameters of the beta distribution that two clips are mixed by (Zhang et al. 2018, "mixup")."""


class Mixed(NamedTuple):
    """A batch of mixed clips.

    Attributes:
        mels: `(clips, bands, frames)`.
        partners: The clip that each was mixed with `(clips,)`.
        shares: What each has kept of itself, from 0.5 to 1 `(clips,)`.
    """

    mels: Tensor
    partners: Tensor
    shares: Tensor


def vary(mels: Tensor) -> Tensor:
    """Stretch, shift and warp every clip, add noise to some, and hide a few bands and frames of each."""
    return hide(add_noise(stretch(mels)))


def stretch(mels: Tensor) -> Tensor:
    """Play every clip faster or slower, sooner or later, and by a longer or shorter throat, edges repeated."""
    count = len(mels)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = _between(-LARGEST_STRETCH, LARGEST_STRETCH, count).exp()
    transform[:, 0, 2] = 2 * _between(-LARGEST_SHIFT, LARGEST_SHIFT, count)  # the picture reaches from -1 to 1
    warp = _between(-LARGEST_WARP, LARGEST_WARP, count).exp()
    transform[:, 1, 1], transform[:, 1, 2] = warp, warp - 1  # the lowest band stays where it is
    grid = functional.affine_grid(transform, [count, 1, *mels.shape[1:]], align_corners=False)
    return functional.grid_sample(mels.unsqueeze(1), grid, padding_mode="border", align_corners=False)[:, 0]


def add_noise(mels: Tensor) -> Tensor:
    """Add noise of some level and spectral tilt to `NOISE_SHARE` of the clips."""
    count = len(mels)
    level = mels.amax((1, 2), keepdim=True) - _between(*NOISE_BELOW, count).view(-1, 1, 1)
    tilt = 1.5 * torch.randn(count, 1, 1) * torch.linspace(-1, 1, mels.shape[1]).view(1, -1, 1)
    power = torch.empty_like(mels).exponential_().clamp_min(1e-4).log()  # that of a bin of white noise
    noisy = torch.logaddexp(2 * mels, 2 * (level + tilt) + power) / 2
    return torch.where(torch.rand(count, 1, 1) < NOISE_SHARE, noisy, mels)


def hide(mels: Tensor) -> Tensor:
    """Replace stretches of bands and of frames by the mean of the clip."""
    mean = mels.mean((1, 2), keepdim=True)
    for axis, largest in MASKS:
        length = mels.shape[axis]
        width = _between(0, largest * length, len(mels)).view(-1, 1)
        first = torch.rand(len(mels), 1) * (length - width)
        place = torch.arange(length)
        hidden = (place >= first) & (place < first + width)
        mels = torch.where(hidden.unsqueeze(3 - axis), mean, mels)
    return mels


def mix(mels: Tensor) -> Mixed:
    """Mix every clip with another of the batch."""
    share = torch.distributions.Beta(MIXING, MIXING).sample((len(mels),))
    share = torch.maximum(share, 1 - share)
    partner = torch.randperm(len(mels))
    own = share.view(-1, 1, 1)
    return Mixed(own * mels + (1 - own) * mels[partner], partner, share)


def _between(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count)
