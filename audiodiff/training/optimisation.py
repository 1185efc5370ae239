"""How weights move: the learning rate of a step, the optimiser, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from audiodiff.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine down to the final rate.

    Args:
        step: 0 for the first.
        config: Peak, final rate, and the number of steps of each part.

    Returns:
        The learning rate.

    Example:
        >>> config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.2)
        >>> [round(learning_rate(step, config), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.6, 0.2]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = min((step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1), 1.0)
    swing = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + swing * (1 + math.cos(math.pi * done)) / 2


def make_optimiser(parameters: Iterable[nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019) in one fused kernel; its learning rate is set at every step."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def average_decay(n_updates: int, config: TrainingConfig) -> float:
    """Return the decay of the moving average: small at first, so that it forgets the random start."""
    return min(config.ema_decay, (1 + n_updates) / (10 + n_updates))


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move an exponential moving average of the weights towards a network's, in place.

    Args:
        average: A network of the same shape, which holds the average.
        network: The network in training.
        decay: How much of the average stays, 0 to 1.
    """
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
