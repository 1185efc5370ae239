"""Networks to make fast, and what the CUDA engine's kernels compute, in plain PyTorch."""

from __future__ import annotations

import pytest
import torch

from audiodiff.config import EmbeddingConfig, MelConfig, ModelConfig, NetworkConfig
from audiodiff.engine import cuda
from audiodiff.networks import build_network
from audiodiff.networks.layers import dilated_taps

HOP = 16


@pytest.fixture(scope="session")
def make_fusible():
    """Return a function that builds a network whose every weight counts: `make_fusible("diffwave", patch=4)`."""

    def make(kind="diffwave", *, n_mels=5, labels=(), hop=HOP, **network):
        network = {"channels": 16, "layers": 4, "dilation_cycle": 3, "n_fft": 2 * hop, "hop_length": hop} | network
        network["embedding"] = EmbeddingConfig(width=12, centres=8)
        mel = {"n_fft": 4 * hop, "hop_length": hop, "win_length": 4 * hop, "n_mels": n_mels, "f_min": 0, "f_max": 4000}
        config = ModelConfig(
            sample_rate=8000,
            mel=MelConfig(sample_rate=8000, **mel) if n_mels else None,
            labels=labels,
            network=NetworkConfig(kind=kind, **network),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = build_network(config)
            torch.nn.init.normal_(built.output.weight)  # which starts at zero
            for layer in built.stack.layers:
                torch.nn.init.normal_(layer.taps.weight, std=layer.taps.in_features**-0.5)
                torch.nn.init.normal_(layer.output.weight, std=layer.output.in_features**-0.5)
                torch.nn.init.normal_(layer.output.bias, std=0.3)
        return built.eval()

    return make


def plain_layer(h, arguments, constants):
    """Compute what `audiodiff.engine.kernels` says, from the kernels' own arguments."""
    h_in, h_out, skip, condition, level, taps, output, n_valid, _, dilation = arguments[:10]
    n = int(n_valid)
    x = dilated_taps(h_in[:, :n].float(), dilation)
    if constants["wide"]:
        x = torch.cat([x, condition[:, :n, : constants["wide"] + constants["narrow"]].float()], dim=2)
    y, position = x @ taps.float().mT, torch.arange(n).unsqueeze(1)
    past, here, future = level.float().unflatten(1, (3, 2)).sum(2).unsqueeze(2).unbind(1)
    y = y + here + past * (position >= dilation) + future * (position + dilation < n)
    if constants["repeat"]:
        frames = condition[..., : 2 * constants["channels"]].float()
        y = y + frames.repeat_interleave(constants["repeat"], dim=1)[:, :n]
    gate, signal = y.chunk(2, dim=2)
    z = (torch.sigmoid(gate) * torch.tanh(signal)).to(taps.dtype).float()
    residual, skipped = (z @ output.float().mT).chunk(2, dim=2)
    before = 0 if constants["first"] else skip[:, :n].float()
    skip[:, :n] = (before + skipped).to(skip.dtype)
    h_out[:, :n] = ((h_in[:, :n].float() + residual) * 0.5**0.5).to(h_out.dtype)


@pytest.fixture
def plain_layers(monkeypatch):
    """Put `plain_layer` in the place of the kernels, so that what surrounds them can be tested without Triton."""
    monkeypatch.setattr(cuda, "_launch", plain_layer)


@pytest.fixture
def relative_error():
    """Return a function (value, expected) -> norm of the difference over norm of the expected."""

    def measure(value, expected):
        value, expected = value.double().cpu(), expected.double().cpu()
        return float((value - expected).norm() / expected.norm())

    return measure
