"""What a training step costs is what it computes; and that over what the device can do is the MFU."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiodiff.config import RunConfig
from audiodiff.interop import published_base_config
from audiodiff.networks import build_network
from audiodiff.training.distributed import Distributed
from audiodiff.training.optimiser import adapted_layers
from audiodiff.training.state import TrainState
from audiodiff.training.utilisation import count_flops, full_speed, peak_rate

CPU = torch.device("cpu")
UNET = {"kind": "unet", "patch": 8, "factors": (2, 2), "multipliers": (1, 1, 2), "blocks": (1, 1, 1), "attention": 1}


def of_kind(config: RunConfig, kind: str, **training: object) -> RunConfig:
    update = UNET if kind == "unet" else {"kind": kind, "patch": 8, "layers": 4}
    network = config.model.network.model_copy(update=update)
    model = config.model.model_copy(update={"network": network})
    settings = config.training.model_copy(update=training)
    return config.model_copy(update={"model": model, "training": settings})


@pytest.mark.parametrize("trained", ["all", "all_but_trunk", "adapters"])
@pytest.mark.parametrize("kind", ["diffwave", "stft", "unet"])
def test_what_is_counted_is_what_a_real_backward_pass_computes(stream, tiny_run_config, kind, trained):
    """The counter of torch around the loss and the backward pass of a batch, on the CPU."""
    config = of_kind(tiny_run_config, kind, trained=trained)
    network = build_network(config.model)
    state = TrainState(copy.deepcopy(network), config.model, config.training, Distributed(CPU))
    batch = state.objective.prepare(stream[0])
    log_snr, noise = torch.zeros(4), torch.randn(batch.clean.shape)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        state.objective.loss(state._predict, batch, log_snr, noise).mean().backward()
    counted = 4 * count_flops(network, config.model, batch.clean.shape[-1], config.training)
    if trained == "adapters":  # merged once a step, whatever the batch: a product forwards and two backwards
        counted += sum(3 * 2 * config.training.adapters.rank * of.weight.numel() for of in adapted_layers(network))
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.03)
    assert all(parameter.grad is None and not parameter.is_meta for parameter in network.parameters())


def test_a_step_of_the_published_network_by_hand(tiny_run_config):
    """64 channels, 30 layers, 80 bins: the backward pass is twice the forward pass, but for what comes first."""
    config, n_samples = published_base_config(), 62 * 256
    layers = 30 * (2 * 3 * 64 * 128 + 2 * 80 * 128 + 2 * 64 * 128)
    position = 2 * 64 + layers + 2 * 64 * 64 + 2 * 64
    flops = count_flops(build_network(config), config, n_samples, tiny_run_config.training)
    assert flops == pytest.approx(3 * n_samples * position, rel=0.01)
    assert count_flops(build_network(config), config, n_samples) == pytest.approx(n_samples * position, rel=0.01)


def test_a_frozen_trunk_costs_less(tiny_run_config):
    network = build_network(tiny_run_config.model)
    whole, part = (
        count_flops(network, tiny_run_config.model, 2048, of_kind(tiny_run_config, "stft", trained=trained).training)
        for trained in ("all", "all_but_trunk")
    )
    assert count_flops(network, tiny_run_config.model, 2048) < part < whole


@pytest.mark.parametrize(
    ("name", "bf16", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", True, 989e12),
        ("NVIDIA H100 80GB HBM3", False, 495e12),
        ("NVIDIA A100-SXM4-80GB", True, 312e12),
        ("NVIDIA A100 80GB PCIe", True, 312e12),
        ("NVIDIA A10G", True, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", True, None),  # a part of one
        ("Something Else", True, None),
    ],
)
def test_the_peak_of_a_gpu_goes_by_its_whole_name(monkeypatch, name, bf16, rate):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_rate(torch.device("cuda"), bf16=bf16) == rate


def test_a_cpu_is_measured():
    rate = peak_rate(CPU, bf16=False)
    assert 1e8 < rate < 1e14
    assert peak_rate(CPU, bf16=False) == rate


def test_full_speed_is_peak_over_work(tiny_run_config, monkeypatch):
    monkeypatch.setattr("audiodiff.training.utilisation.peak_rate", lambda *_, **__: 1e12)
    network = build_network(tiny_run_config.model)
    state = TrainState(network, tiny_run_config.model, tiny_run_config.training, Distributed(CPU))
    work = count_flops(network, tiny_run_config.model, 2048, tiny_run_config.training) / 2048
    assert full_speed(state, 2048)() == pytest.approx(1e12 / work)
    training = tiny_run_config.training.model_copy(update={"few_step_weight": 1.0})
    assert full_speed(TrainState(network, tiny_run_config.model, training, Distributed(CPU)), 2048)() is None
