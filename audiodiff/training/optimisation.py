"""How weights move: the learning rate of a step, the optimiser, the average of the weights, and what is recomputed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audiodiff.config import TrainingConfig
from audiodiff.networks.build import Network


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


def average_decay(n_updates: Tensor, config: TrainingConfig) -> Tensor:
    """Return the decay of the moving average: small at first, so that it forgets the random start.

    Args:
        n_updates: Updates of the weights so far, a scalar on their device.
        config: Says what the decay grows to.

    Returns:
        The decay, a scalar on that device.
    """
    return ((1 + n_updates) / (10 + n_updates)).clamp_max(config.ema_decay)


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, weight: Tensor) -> None:
    """Move an exponential moving average of the weights towards a network's, in place.

    Args:
        average: A network of the same shape, which holds the average.
        network: The network in training.
        weight: How far, from 0 (not at all) to 1; a scalar on their device, so that the host need not know it.
    """
    averages: list[Tensor] = list(average.parameters())
    weights: list[Tensor] = list(network.parameters())
    way = list(torch._foreach_sub(weights, averages))
    torch._foreach_mul_(way, weight.float())
    torch._foreach_add_(averages, way)


def checkpoint_layers(network: Network) -> None:
    """Have the residual layers of a network forget what lies within them, and compute it again in the backward pass.

    Chen et al. 2016, "Training deep nets with sublinear memory cost". Losses and gradients stay the same.
    """
    for layer in network.stack.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
