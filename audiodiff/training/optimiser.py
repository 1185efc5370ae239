"""How weights move: the learning rate of a step, the optimiser, the EMA, what is recomputed, and which weights train.

All of a network is trained, all but its trunk, or low-rank adapters (LoRA) of the trunk. The package peft adapts the
forward pass of a layer. Here it is the weight that is adapted, so that merging is nothing but reading it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import groupby
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from audiodiff.config import TrainingConfig
from audiodiff.networks import Network


def learning_rate(step: int, config: TrainingConfig, elapsed: float = 0.0) -> float:
    """Return the learning rate of a step: a linear warm-up, then the schedule.

    Args:
        step: 0 for the first.
        config: Peak, schedule, and the number of steps of each part.
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
    if config.learning_rate_schedule == "constant":
        return config.learning_rate
    if config.learning_rate_step and config.learning_rate_factor:
        return config.learning_rate * config.learning_rate_factor ** (step // config.learning_rate_step)
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
def update_ema(averages: Mapping[str, Tensor], network: nn.Module, weight: Tensor) -> None:
    """Move an average of the weights towards a network's, in place.

    Args:
        averages: Parameter names, of a network of the same shape without adapters, to what is moved.
        network: The network in training; adapters count as merged into its weights.
        weight: How far, from 0 (not at all) to 1; a scalar on their device, so that the host need not know it.
    """
    way = list(torch._foreach_sub(merged_weights(network, averages), list(averages.values())))
    torch._foreach_mul_(way, weight.float())
    torch._foreach_add_(list(averages.values()), way)


def checkpoint_layers(network: Network) -> None:
    """Have the residual layers of a network forget what lies within them, and compute it again in the backward pass.

    Chen et al. 2016, "Training deep nets with sublinear memory cost". Losses and gradients stay the same.
    """
    for layer in network.stack.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


class LoRA(nn.Module):
    """W -> W + alpha / rank * up @ down, which is W before the first step (Hu et al. 2021, section 4.1).

    Args:
        weight: W, `(n_outputs, ...)`; all but its first axis count as inputs.
        rank: Columns of `up` and rows of `down`.
        alpha: Scale of what is added.
        generator: Draws `down`; `up` is zero.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        n_outputs, n_inputs = weight.flatten(1).shape
        down = torch.randn(rank, n_inputs, generator=generator) / math.sqrt(n_inputs)
        self.scale = alpha / rank
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(n_outputs, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Adapt the weight."""
        with torch.autocast(weight.device.type, enabled=False):  # small changes of a weight would be lost in bfloat16
            return torch.addmm(weight.flatten(1), self.up, self.down, alpha=self.scale).view_as(weight)


def set_trainable(network: Network, config: TrainingConfig) -> None:
    """Freeze what `config.trained` leaves as it is, and add adapters where it wants them.

    Args:
        network: The network that is about to be trained; its outputs stay the same.
        config: What to train, the shape of adapters, and the seed of their start.
    """
    if config.trained == "all_but_trunk":
        network.trunk.requires_grad_(False)
    if config.trained != "adapters":
        return
    network.requires_grad_(False)
    generator = torch.Generator().manual_seed(config.seed)
    for layer in adapted_layers(network):
        adapter = LoRA(layer.weight, config.adapters.rank, config.adapters.alpha, generator)
        parametrize.register_parametrization(layer, "weight", adapter)


def adapted_layers(network: Network) -> list[nn.Linear | nn.Conv1d]:
    """Return the layers of the trunk whose weights get adapters."""
    return [layer for layer in network.trunk.modules() if isinstance(layer, nn.Linear | nn.Conv1d)]


def describe_trainable(config: TrainingConfig) -> str:
    """Return what is trained in words; where they are equal, the trained weights have the same shapes and meaning."""
    if config.trained != "adapters":
        return config.trained
    return f"adapters of rank {config.adapters.rank} and alpha {config.adapters.alpha:g}"


def merged_weights(network: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """Return weights with their adapters merged in.

    Args:
        network: The network in training.
        names: Parameters of a network without adapters, as dotted names.
    """
    return [attrgetter(name)(network) for name in names]
