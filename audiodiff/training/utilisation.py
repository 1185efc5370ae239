"""Model FLOPs utilisation (MFU, Chowdhery et al. 2022): what a model needs over what the device can do."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from functools import cache

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.networks import Network
from audiodiff.training.optimiser import adapted_layers, set_trainable
from audiodiff.training.state import TrainState

NOMINAL = {
    r"NVIDIA A100[- ].*GB( PCIe)?": (312e12, 156e12),
    r"NVIDIA A10": (125e12, 62.5e12),
    r"NVIDIA L40S": (362e12, 183e12),
    r"NVIDIA L4": (121e12, 60e12),
    r"NVIDIA H100 PCIe": (756e12, 378e12),
    r"NVIDIA H100 80GB HBM3": (989e12, 495e12),
    r"NVIDIA H200": (989e12, 495e12),
    r"NVIDIA GeForce RTX 3090": (71e12, 35.6e12),
    r"NVIDIA GeForce RTX 4090": (165e12, 82.6e12),
}
"""Whole GPUs, and what NVIDIA states of dense products, in FLOP/s: of bf16 and of TF32 (convolutions of float32)."""
_SQUARE, _REPEATS = 1024, 5
"""The product that the peak of a CPU is measured by: its side, and how often."""


def count_flops(network: Network, config: ModelConfig, n_samples: int, training: TrainingConfig | None = None) -> int:
    """Count the matrix products and convolutions of one crop; a multiplication and an addition count as two.

    Not what is computed again (`gradient_checkpointing`), nor Fourier transforms and whatever else is no product.

    Args:
        network: The network without adapters, which stays as it is.
        config: Its configuration.
        n_samples: Length of the crop.
        training: Of a training step, with the backward pass of what is trained; without it, of one network call.
    """
    meta = copy.deepcopy(network).to("meta").requires_grad_(training is not None)
    if training is not None and training.trained == "adapters":  # their gradient comes from that of what they adapt
        meta.requires_grad_(False)
        for layer in adapted_layers(meta):
            layer.weight.requires_grad_(True)
    elif training is not None:
        set_trainable(meta, training)
    x = torch.empty(1, 1, n_samples, device="meta")
    frames = n_samples // config.hop_length
    mel = None if config.mel is None else torch.empty(1, config.mel.n_mels, frames, device="meta")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it counts no other on a CPU
        predicted = meta(x, torch.zeros(1, device="meta"), None if mel is None else meta.encode(mel))
        if training is not None:
            predicted.sum().backward()
    return int(counter.get_total_flops())


def full_speed(state: TrainState, n_samples: int) -> Callable[[], float | None]:
    """Return a function that tells how many samples per second a run would train on at an MFU of 1.

    It is None on a GPU of unknown peak; and with the few-step loss, whose network calls differ from step to step. What
    is counted and measured is so when it is first asked for.

    Args:
        state: The run.
        n_samples: Length of a crop.
    """

    @cache
    def samples_per_second() -> float | None:
        peak = peak_rate(state.distributed.device, bf16=state.objective.bf16)
        if peak is None or state.few_step is not None:
            return None
        flops = count_flops(state.ema, state.config, n_samples, state.training)
        return state.distributed.world_size * n_samples * peak / flops

    return samples_per_second


def peak_rate(device: torch.device, *, bf16: bool) -> float | None:
    """Return the FLOP/s of the device's matrix products: nominal of a GPU, None of one not in the list; else measured.

    Args:
        device: Where training computes.
        bf16: Whether it computes in bfloat16.
    """
    if device.type == "cpu":
        return _measured_rate(torch.bfloat16 if bf16 else torch.float32)
    name = torch.cuda.get_device_name(device)
    rates = next((rates for known, rates in NOMINAL.items() if re.fullmatch(known, name)), None)
    return None if rates is None else rates[0 if bf16 else 1]


@cache
@torch.no_grad()
def _measured_rate(dtype: torch.dtype) -> float:
    """Return the FLOP/s of the fastest of some large products, with torch's threads; too low on a busy CPU."""
    left, right = (torch.ones(_SQUARE, _SQUARE, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        left @ right
        seconds.append(time.perf_counter() - began)
    return 2 * _SQUARE**3 / min(seconds)
