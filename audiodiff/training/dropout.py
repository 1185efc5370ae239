"""Condition dropout: some clips of a step lose their conditions, so that the network learns to do without as well.

That is what classifier-free guidance needs, and what makes an unconditional model of a conditional one (Ho and Salimans
2022, "Classifier-Free Diffusion Guidance", Algorithm 1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audiodiff.data.dataset import ALONE, Share
from audiodiff.training.objective import Prepared

_PURPOSE = 4
"""Distinguishes these draws from those of `audiodiff.training.objective`."""


def drop_conditions(
    batch: Prepared, rate: float, n_labels: int, seed: int, step: int, share: Share = ALONE
) -> Prepared:
    """Take the conditions from some clips of a training step; (seed, step) alone decides from which.

    Args:
        batch: What `Objective.prepare` returned.
        rate: Share of clips that lose their label, 0 to 1.
        n_labels: Number of classes, which is the index of "no class".
        seed: The run's seed.
        step: The step.
        share: Which process of how many this is, as in `audiodiff.training.objective.draw`.

    Returns:
        The batch, with some labels replaced by "no class".
    """
    if batch.label is None or rate == 0:
        return batch
    dropped = _drawn(len(batch.label), rate, seed, step, share).to(batch.label.device, non_blocking=True)
    return batch._replace(label=torch.where(dropped, n_labels, batch.label))


def _drawn(n_clips: int, rate: float, seed: int, step: int, share: Share) -> Tensor:
    """Return which clips of this process are chosen, `(n_clips,)`; drawn for all processes."""
    generator = np.random.default_rng([seed % 2**64, step, _PURPOSE])
    chosen = generator.random(share.world * n_clips) < rate
    return torch.from_numpy(chosen[share.rank * n_clips : (share.rank + 1) * n_clips])
