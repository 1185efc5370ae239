import pytest
import torch

from audiodiff.config import DiffusionConfig, EmbeddingConfig, MelConfig, ModelConfig, NetworkConfig
from audiodiff.networks import build_network

HOP = 16
MEL = MelConfig(sample_rate=8000, n_fft=64, hop_length=HOP, win_length=64, n_mels=5, f_min=0, f_max=4000)


@pytest.fixture
def make_network():
    """Return a function that builds a small network: `make_network("diffwave", patch=4, mel=None, awake=True)`.

    Its output layer starts at zero; `awake` gives it random weights, so that everything inside can be seen.
    """

    def make(kind, *, mel=MEL, labels=("a", "b", "c"), awake=True, variance="fixed", **network):
        network = {
            "channels": 8,
            "layers": 4,
            "dilation_cycle": 3,
            "factors": (2, 2),
            "multipliers": (1, 2, 3),
            "blocks": (1, 1, 2),
            "n_fft": 32,
            "hop_length": HOP,
        } | network
        network["embedding"] = EmbeddingConfig(width=12, centres=8, **network.pop("embedding", {}))
        torch.manual_seed(0)
        built = build_network(
            ModelConfig(
                sample_rate=8000,
                mel=mel,
                labels=labels,
                network=NetworkConfig(kind=kind, **network),
                diffusion=DiffusionConfig(variance=variance),
            )
        )
        if awake:
            torch.nn.init.normal_(built.output.weight)
            torch.nn.init.normal_(built.output.bias)
        return built

    return make
