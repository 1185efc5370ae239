"""Weights of philsyn/DiffWave-Vocoder and philsyn/DiffWave-unconditional: `<steps>.pkl`, written by torch.save.

Their network differs from lmnt's in four ways: every layer upsamples the mel for itself; the signal comes before the
gate; convolutions are weight-normed; and the step embedding is added to the residual stream in place, so that it stays
in it. The names of tensors are those of the projects' `WaveNet.py`. Forks that add the embedding to a copy have files
of the same form that compute something else; such a file cannot be known apart and is not meant here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from audiodiff.config import MEL_CONVENTIONS
from audiodiff.interop.foreign import (
    CheckpointMetadata,
    ForeignWeights,
    Params,
    Project,
    Sizes,
    linear_betas,
    matrix,
    taps,
)

GENERATOR_SECONDS = 1.0
"""Length of what philsyn/DiffWave-unconditional is trained on and makes: `segment_length` of its config.json."""

Pair = tuple[Tensor, Tensor]
"""Weight and bias."""

_BLOCKS = "residual_layer.residual_blocks"


def read_sizes(weights: ForeignWeights) -> Sizes:
    """Read the sizes of the network off its tensors.

    Raises:
        ModelError: If a tensor that tells one is missing.
    """
    channels = weights.shape("init_conv.0.conv.bias", 1)[0]
    width, features = weights.shape("residual_layer.fc_t1.weight", 2)
    n_mels, factors = 0, tuple[int, ...]()
    if f"{_BLOCKS}.0.mel_conv.conv.bias" in weights:
        n_mels = _kernel(weights, f"{_BLOCKS}.0.mel_conv.conv", 3)[1]
        kernels = (_kernel(weights, f"{_BLOCKS}.0.upsample_conv2d.{i}", 4) for i in (0, 1))
        factors = tuple(kernel[3] // 2 for kernel in kernels)
    return Sizes(channels, weights.count(rf"{_BLOCKS}\."), width, features, n_mels, factors)


def _kernel(weights: ForeignWeights, name: str, rank: int) -> tuple[int, ...]:
    for kind in ("weight_v", "parametrizations.weight.original1"):
        if f"{name}.{kind}" in weights:
            return weights.shape(f"{name}.{kind}", rank)
    return weights.shape(f"{name}.weight", rank)


class _Layers:
    """Takes layers out of foreign weights, each as the matrix and the bias that it is here."""

    def __init__(self, weights: ForeignWeights) -> None:
        self.weights = weights

    def linear(self, name: str, *shape: int) -> Pair:
        return self.weights.take(f"{name}.weight", *shape), self.weights.take(f"{name}.bias", shape[0])

    def pointwise(self, name: str, *shape: int) -> Pair:
        return matrix(self.weights.take_normed(name, *shape, 1)), self.weights.take(f"{name}.bias", shape[0])

    def dilated(self, name: str, *shape: int) -> Pair:
        return taps(self.weights.take_normed(name, *shape)), self.weights.take(f"{name}.bias", shape[0])

    def transposed(self, name: str, *shape: int) -> Pair:
        return self.weights.take_normed(name, *shape), self.weights.take(f"{name}.bias", 1)


def convert(weights: ForeignWeights, sizes: Sizes) -> dict[str, Tensor]:
    """Return weights of the same function with the names and shapes that they have here; all are taken.

    Raises:
        ModelError: If a tensor is missing or of another shape.
    """
    c, width, layers = sizes.channels, sizes.width, _Layers(weights)
    made = {
        "level.mlp.0": layers.linear("residual_layer.fc_t1", width, sizes.features),
        "level.mlp.2": layers.linear("residual_layer.fc_t2", width, width),
        "input": layers.pointwise("init_conv.0.conv", c, 1),
    }
    levels = []
    for i in range(sizes.layers):
        ours, theirs = f"stack.layers.{i}", f"{_BLOCKS}.{i}"
        levels.append(layers.linear(f"{theirs}.fc_t", c, width))
        made[f"{ours}.taps"] = _gate_first(layers.dilated(f"{theirs}.dilated_conv_layer.conv", 2 * c, c, 3))
        both = (layers.pointwise(f"{theirs}.{name}", c, c) for name in ("res_conv", "skip_conv"))
        made[f"{ours}.output"] = _pair(torch.cat(parts) for parts in zip(*both, strict=True))
        for j, factor in enumerate(sizes.factors):
            stage = f"stack.conditioner.upsamplers.{i}.stages.{j}"
            made[stage] = layers.transposed(f"{theirs}.upsample_conv2d.{j}", 1, 1, 3, 2 * factor)
        if sizes.n_mels:
            projection = layers.pointwise(f"{theirs}.mel_conv.conv", 2 * c, sizes.n_mels)
            made[f"stack.conditioner.projections.{i}"] = _gate_first(projection)
    made |= {f"stack.layers.{i}.level": level for i, level in enumerate(lasting(levels))}
    made["skip"] = layers.pointwise("final_conv.0.conv", c, c)
    made["output"] = layers.pointwise("final_conv.2.conv", 1, c)
    parts = ("weight", "bias")
    return {f"{name}.{part}": tensor for name, pair in made.items() for part, tensor in zip(parts, pair, strict=True)}


def _gate_first(layer: Pair) -> Pair:
    """Exchange the halves of a layer's outputs: philsyn has the signal before the gate."""
    return _pair(torch.cat(part.chunk(2)[::-1]) for part in layer)


def _pair(parts: Iterable[Tensor]) -> Pair:
    weight, bias = parts
    return weight, bias


def lasting(levels: list[Pair]) -> list[Pair]:
    """Fold into each layer's level projection what those before it have left in the residual stream.

    In philsyn's layers h' = (h + L_i e + r) / sqrt(2), where the published one has h' = (h + r) / sqrt(2). What is left
    is linear in the embedding e: with g = h - C_i e one gets g' = (g + r) / sqrt(2) if C_(i+1) = (C_i + L_i) / sqrt(2),
    and the layer's convolution sees h + L_i e = g + (L_i + C_i) e. So L_i + C_i is the projection that does the same in
    a layer as published. The last stream is thrown away, so nothing else changes.

    Args:
        levels: Weight and bias of each layer's projection of the embedding.

    Returns:
        The same for layers as published.
    """
    folded: list[Pair] = []
    left = [torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)]
    for level in levels:
        whole = [part.double() + rest for part, rest in zip(level, left, strict=True)]
        left = [part * 0.5**0.5 for part in whole]
        folded.append(_pair(part.float() for part in whole))
    return folded


def published_metadata(sizes: Sizes) -> CheckpointMetadata:
    """Return what the projects' config files say of networks of the published sizes; None where there is no such one.

    64 channels: T = 50, beta_T = 0.05. 128 (vocoder) and 256 (generator): T = 200, beta_T = 0.02. 30 layers have a
    dilation cycle of 10, 36 layers one of 12.
    """
    processes = {(64, True): (0.05, 50), (128, True): (0.02, 200), (256, False): (0.02, 200)}
    process = processes.get((sizes.channels, bool(sizes.n_mels)))
    rate = 22050 if sizes.n_mels else 16000
    return CheckpointMetadata(rate, {30: 10, 36: 12}.get(sizes.layers), linear_betas(*process) if process else None)


def mel(sizes: Sizes, sample_rate: int, _params: Params) -> dict[str, Any]:
    """Return the mel convention, which is that of Tacotron 2 (its `mel2samp.py`)."""
    changes = {"sample_rate": sample_rate, "hop_length": math.prod(sizes.factors), "n_mels": sizes.n_mels}
    return MEL_CONVENTIONS["tacotron2"].model_dump() | changes


PROJECT = Project(
    vocoder="philsyn/DiffWave-Vocoder",
    generator="philsyn/DiffWave-unconditional",
    mark="residual_layer.fc_t1.weight",
    licence="unknown: the project states none",
    embedding="philsyn",
    upsampling="transposed-per-layer",
    read_sizes=read_sizes,
    convert=convert,
    read_metadata=lambda _params, _sizes, _source: CheckpointMetadata(),  # its files hold no parameters
    published_metadata=published_metadata,
    mel=mel,
    clip_seconds=lambda _rate, _params: GENERATOR_SECONDS,
)
