"""Networks, and how one is built from a configuration."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from audiodiff.config import ModelConfig
from audiodiff.errors import ConfigError
from audiodiff.networks.base import isolated
from audiodiff.networks.diffwave import DiffWave
from audiodiff.networks.stft_diffwave import STFTDiffWave
from audiodiff.networks.unet import UNet1d

Network = DiffWave | STFTDiffWave | UNet1d

NETWORKS: dict[str, type[DiffWave] | type[STFTDiffWave] | type[UNet1d]] = {
    "diffwave": DiffWave,
    "stft": STFTDiffWave,
    "unet": UNet1d,
}


@isolated("off")
def build_network(config: ModelConfig) -> Network:
    """Build the network that a model's configuration describes, with fresh weights.

    Args:
        config: The model.

    Returns:
        A network; see `DiffWave.forward` for how to call it.

    Raises:
        ConfigError: If its weights would take more than the memory of this machine.
    """
    with _Limit():
        return NETWORKS[config.network.kind](config)


class _Limit(TorchFunctionMode):
    """Stops a network that no memory holds before its weights are allocated: they would push out all other programs."""

    def __init__(self) -> None:
        super().__init__()
        self._n_weights, self._memory = 0, math.inf
        if hasattr(os, "sysconf"):
            self._memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.empty:  # by which layers make their weights
            self._n_weights += math.prod(args[0] if isinstance(args[0], tuple | list) else args)
            if 4 * self._n_weights > self._memory:
                raise ConfigError(
                    f"the network would have more than {self._n_weights / 1e9:.1f} billion weights, beyond the "
                    f"{self._memory / 1e9:.1f} GB of memory of this machine. Lower network.channels or network.layers."
                )
        return func(*args, **(kwargs or {}))
