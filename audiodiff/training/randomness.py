"""The random draws of a training step: noise levels, noise, seeds, noise on mels, and conditions that are dropped.

All of them are functions of the run's seed and the number of the step, so a resumed run draws what an uninterrupted one
does. Each is drawn for all processes, of which every one takes its part: together they draw what one process would with
a batch so many times as large.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from audiodiff.config import DiffusionConfig, MelConfig, ModelConfig
from audiodiff.data.dataset import SINGLE_PROCESS, Replica
from audiodiff.data.mels import value_per_db, value_range
from audiodiff.diffusion.process import sample_log_snr
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.training.objective import Batch, MelNoise

# What a draw is for, so that no two draws of a step are alike.
_NOISE, _SAMPLER, _MEL_NOISE, _DROPOUT = 1, 2, 3, 4


def draw_noise(
    batch: Batch, config: DiffusionConfig, seed: int, step: int, replica: Replica = SINGLE_PROCESS
) -> tuple[Tensor, Tensor]:
    """Draw the noise levels and the noise of a training step.

    Args:
        batch: Tells shape and device.
        config: Range and distribution of the levels.
        seed: The run's seed.
        step: The step.
        replica: Rank and world size.

    Returns:
        Log-SNRs `(batch,)` and standard normal noise of the shape of the audio.
    """
    log_snr_seed, noise_seed = _seeds(seed, step, _NOISE, 2)
    n_levels = replica.world_size * len(batch.clean)
    log_snr = sample_log_snr(n_levels, config, torch.Generator().manual_seed(log_snr_seed))
    mine = log_snr[_own(len(batch.clean), replica)]
    return mine.to(batch.clean.device, non_blocking=True), _normal(batch.clean, noise_seed, replica)


def draw_seeds(n_clips: int, seed: int, step: int, replica: Replica = SINGLE_PROCESS) -> list[int]:
    """Draw a seed for the reverse process of each clip of a training step."""
    sequence = np.random.SeedSequence([seed % 2**64, step, _SAMPLER])
    seeds: list[int] = sequence.generate_state(replica.world_size * n_clips).tolist()
    return seeds[_own(n_clips, replica)]


def mel_noise(deviation_db: float, seed: int, step: int, replica: Replica = SINGLE_PROCESS) -> MelNoise:
    """Return what adds normal noise to the mels of a training step.

    Args:
        deviation_db: Standard deviation of the noise, in dB.
        seed: The run's seed.
        step: The step.
        replica: Rank and world size.

    Returns:
        A function of mels `(batch, n_mels, frames)` and their convention; no value falls below the convention's floor.
    """
    (noise_seed,) = _seeds(seed, step, _MEL_NOISE, 1)

    def add(mel: Tensor, config: MelConfig) -> Tensor:
        noisy = mel + deviation_db * value_per_db(config) * _normal(mel, noise_seed, replica)
        return noisy.clamp(*value_range(config))

    return add


def drop_conditions(
    batch: Batch, rate: float, config: ModelConfig, seed: int, step: int, replica: Replica = SINGLE_PROCESS
) -> Batch:
    """Take the conditions from some clips of a training step, so that the network learns to do without as well.

    That is what classifier-free guidance needs, and what makes an unconditional model of a conditional one (Ho and
    Salimans 2022, "Classifier-Free Diffusion Guidance", Algorithm 1). A clip loses all of them at the given rate. Of
    several, each is lost by itself too, at the same rate, so that any subset of them may be given later.

    Args:
        batch: What `Objective.prepare` returned.
        rate: Fraction of clips, 0 to 1.
        config: The model, which tells how "none" is written.
        seed: The run's seed.
        step: The step.
        replica: Rank and world size.

    Returns:
        The batch; what is dropped of it is written as that of a recording without.
    """
    conditions = batch.global_conditions
    if conditions is None or rate == 0:
        return batch
    none = {"label": len(config.labels), "speaker": len(config.speakers), "vector": torch.nan}
    values = {name: value for name, value in conditions._asdict().items() if value is not None}
    mask = _dropout_mask(len(values), len(batch.clean), rate, seed, step, replica)
    mask = mask.to(batch.clean.device, non_blocking=True)
    for dropped, (name, value) in zip(mask, list(values.items()), strict=True):
        values[name] = torch.where(dropped.view(-1, *[1] * (value.dim() - 1)), none[name], value)
    return batch._replace(global_conditions=GlobalConditions(**values))


def _dropout_mask(n_conditions: int, n_clips: int, rate: float, seed: int, step: int, replica: Replica) -> Tensor:
    """Return which conditions this process's clips lose, `(n_conditions, n_clips)`; drawn for all processes."""
    generator = np.random.default_rng([seed % 2**64, step, _DROPOUT])
    draws = generator.random((1 + n_conditions, replica.world_size * n_clips)) < rate
    chosen = draws[:1] | draws[1:] if n_conditions > 1 else draws[:1]
    return torch.from_numpy(chosen[:, _own(n_clips, replica)])


def _seeds(seed: int, step: int, purpose: int, count: int) -> list[int]:
    seeds: list[int] = np.random.SeedSequence([seed % 2**64, step, purpose]).generate_state(count, np.uint64).tolist()
    return seeds


def _normal(like: Tensor, seed: int, replica: Replica) -> Tensor:
    """Draw standard normal noise for the batches of all processes, and return this one's."""
    shape = (replica.world_size * len(like), *like.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator(like.device).manual_seed(seed), device=like.device)
    return noise[_own(len(like), replica)]


def _own(n_clips: int, replica: Replica) -> slice:
    """Return where this process's clips are among those of all."""
    return slice(replica.rank * n_clips, (replica.rank + 1) * n_clips)
