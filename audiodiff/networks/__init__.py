"""Networks, and how one is built from a configuration."""

from __future__ import annotations

from audiodiff.config import ModelConfig
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
    """
    return NETWORKS[config.network.kind](config)
