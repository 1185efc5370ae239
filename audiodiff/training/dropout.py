"""Condition dropout: some clips of a step lose their conditions, so that the network learns to do without as well.

That is what classifier-free guidance needs, and what makes an unconditional model of a conditional one (Ho and Salimans
2022, "Classifier-Free Diffusion Guidance", Algorithm 1).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audiodiff.config import ModelConfig
from audiodiff.data.dataset import SINGLE_PROCESS, Replica
from audiodiff.networks.given import Conditions
from audiodiff.training.objective import Batch

_PURPOSE = 4
"""Distinguishes these draws from those of `audiodiff.training.objective`."""


def drop_conditions(
    batch: Batch, rate: float, config: ModelConfig, seed: int, step: int, replica: Replica = SINGLE_PROCESS
) -> Batch:
    """Take the conditions from some clips of a training step; (seed, step) alone decides from which.

    A clip loses all of them at the given rate. Of several, each is lost by itself too, at the same rate, so that any
    part of them may be given later.

    Args:
        batch: What `Objective.prepare` returned.
        rate: Fraction of clips, 0 to 1.
        config: The model, which tells how "none" is written.
        seed: The run's seed.
        step: The step.
        replica: Rank and world size, as in `audiodiff.training.objective.draw`.

    Returns:
        The batch; what is dropped of it is written as that of a recording without.
    """
    given = batch.given
    if given is None or rate == 0:
        return batch
    none = {"label": len(config.labels), "speaker": len(config.speakers), "vector": torch.nan}
    values = {name: value for name, value in given._asdict().items() if value is not None}
    dropped = _drawn(len(values), len(batch.clean), rate, seed, step, replica).to(batch.clean.device, non_blocking=True)
    for chosen, (name, value) in zip(dropped, list(values.items()), strict=True):
        values[name] = torch.where(chosen.view(-1, *[1] * (value.dim() - 1)), none[name], value)
    return batch._replace(given=Conditions(**values))


def _drawn(n_conditions: int, n_clips: int, rate: float, seed: int, step: int, replica: Replica) -> Tensor:
    """Return which conditions this process's clips lose, `(n_conditions, n_clips)`; drawn for all processes."""
    generator = np.random.default_rng([seed % 2**64, step, _PURPOSE])
    draws = generator.random((1 + n_conditions, replica.world_size * n_clips)) < rate
    chosen = draws[:1] | draws[1:] if n_conditions > 1 else draws[:1]
    return torch.from_numpy(chosen[:, replica.rank * n_clips : (replica.rank + 1) * n_clips])
