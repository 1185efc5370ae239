"""How weights move: the learning rate of a step, the optimiser, the EMA of the weights, and what is recomputed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from audiodiff.config import TrainingConfig
from audiodiff.networks.build import Network
from audiodiff.training.lora import merged_weights


def learning_rate(step: int, config: TrainingConfig, elapsed: float = 0.0) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine down to the final rate.

    Args:
        step: 0 for the first.
        config: Peak, final rate, and the number of steps of each part.
        elapsed: Fraction of the run's time that is used, 0 to 1; the cosine is where the later of time and step is.

    Returns:
        The learning rate.

    Example:
        >>> config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.2)
        >>> [round(learning_rate(step, config), 3) for step in (0, 9, 10, 60, 110)]
        [0.1, 1.0, 1.0, 0.6, 0.2]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = min(max((step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1), elapsed), 1.0)
    swing = config.learning_rate - config.final_learning_rate
    return config.final_learning_rate + swing * (1 + math.cos(math.pi * done)) / 2


def make_optimiser(
    parameters: Iterable[nn.Parameter], config: TrainingConfig, of_embedding: Iterable[nn.Parameter] = ()
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov and Hutter 2019) in one fused kernel; its learning rate is set at every step.

    Args:
        parameters: Those of the network; what needs no gradient is left out.
        config: Betas, weight decay, and the learning rate of the embedding.
        of_embedding: Those of them that `embedding_learning_rate` is for.

    Returns:
        The optimiser. The order of its parameters, by which a checkpoint knows them, is that of `parameters` whatever
        is set apart: each run of neighbours with the same rate is a group.
    """
    own_rate = config.embedding_learning_rate
    apart = set() if own_rate is None else set(of_embedding)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": list(run), "times": own_rate / config.learning_rate if own_rate and is_apart else 1.0}
        for is_apart, run in groupby(trained, key=apart.__contains__)
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of a step; that of a group set apart follows in proportion."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["times"]


def ema_decay(n_updates: Tensor, config: TrainingConfig) -> Tensor:
    """Return the decay of the moving average: small at first, so that it forgets the random start.

    Args:
        n_updates: Updates of the weights so far, a scalar on their device.
        config: Says what the decay grows to.

    Returns:
        The decay, a scalar on that device.
    """
    return ((1 + n_updates) / (10 + n_updates)).clamp_max(config.ema_decay)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, weight: Tensor) -> None:
    """Move an exponential moving average of the weights towards a network's, in place.

    Args:
        ema: A network of the same shape without adapters, which holds the average.
        network: The network in training; adapters count as merged into its weights.
        weight: How far, from 0 (not at all) to 1; a scalar on their device, so that the host need not know it.
    """
    averages: dict[str, Tensor] = dict(ema.named_parameters())
    way = list(torch._foreach_sub(merged_weights(network, averages), list(averages.values())))
    torch._foreach_mul_(way, weight.float())
    torch._foreach_add_(list(averages.values()), way)


def checkpoint_layers(network: Network) -> None:
    """Have the residual layers of a network forget what lies within them, and compute it again in the backward pass.

    Chen et al. 2016, "Training deep nets with sublinear memory cost". Losses and gradients stay the same.
    """
    for layer in network.stack.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
