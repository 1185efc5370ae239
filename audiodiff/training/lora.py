"""What of a network is trained: all of it, all but its trunk, or low-rank adapters (LoRA) of the trunk.

The package peft adapts the forward pass of a layer. Here it is the weight that is adapted, so that merging is nothing
but reading it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from audiodiff.config import TrainingConfig
from audiodiff.networks.build import Network


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
    for layer in list(network.trunk.modules()):
        if isinstance(layer, nn.Linear | nn.Conv1d):
            adapter = LoRA(layer.weight, config.adapters.rank, config.adapters.alpha, generator)
            parametrize.register_parametrization(layer, "weight", adapter)


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
