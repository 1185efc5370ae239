"""Weights of lmnt-com/diffwave (PyPI `diffwave`): `weights.pt`, conditional or unconditional.

The names of tensors and parameters, and the values taken where a file has no `params`, are those of its `model.py` and
`params.py` at version 0.1.7.
"""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from audiodiff.config import MEL_CONVENTIONS
from audiodiff.errors import ModelError
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

FAST_BETAS = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)


def read_sizes(weights: ForeignWeights) -> Sizes:
    """Read the sizes of the network off its tensors.

    Raises:
        ModelError: If a tensor that tells one is missing.
    """
    channels = weights.shape("input_projection.weight", 3)[0]
    width, features = weights.shape("diffusion_embedding.projection1.weight", 2)
    n_mels, factors = 0, tuple[int, ...]()
    if "residual_layers.0.conditioner_projection.weight" in weights:
        n_mels = weights.shape("residual_layers.0.conditioner_projection.weight", 3)[1]
        kernels = (weights.shape(f"spectrogram_upsampler.conv{i}.weight", 4) for i in (1, 2))
        factors = tuple(kernel[3] // 2 for kernel in kernels)
    return Sizes(channels, weights.count(r"residual_layers\."), width, features, n_mels, factors)


def convert(weights: ForeignWeights, sizes: Sizes) -> dict[str, Tensor]:
    """Return the same weights with the names and shapes that they have here; all are taken.

    Raises:
        ModelError: If a tensor is missing or of another shape.
    """
    c, width = sizes.channels, sizes.width
    made: dict[str, Tensor] = {}

    def put(ours: str, theirs: str, *shape: int) -> None:
        kernel = weights.take(f"{theirs}.weight", *shape)
        if len(shape) == 3:
            kernel = taps(kernel) if shape[2] == 3 else matrix(kernel)
        made[f"{ours}.weight"] = kernel
        made[f"{ours}.bias"] = weights.take(f"{theirs}.bias", 1 if len(shape) == 4 else shape[0])

    put("level.mlp.0", "diffusion_embedding.projection1", width, sizes.features)
    put("level.mlp.2", "diffusion_embedding.projection2", width, width)
    put("input", "input_projection", c, 1, 1)
    for i in range(sizes.layers):
        ours, theirs = f"stack.layers.{i}", f"residual_layers.{i}"
        put(f"{ours}.level", f"{theirs}.diffusion_projection", c, width)
        put(f"{ours}.taps", f"{theirs}.dilated_conv", 2 * c, c, 3)
        put(f"{ours}.output", f"{theirs}.output_projection", 2 * c, c, 1)
        if sizes.n_mels:
            put(f"stack.conditioner.projections.{i}", f"{theirs}.conditioner_projection", 2 * c, sizes.n_mels, 1)
    for i, factor in enumerate(sizes.factors):
        stage = f"stack.conditioner.upsamplers.0.stages.{i}"
        put(stage, f"spectrogram_upsampler.conv{i + 1}", 1, 1, 3, 2 * factor)
    put("skip", "skip_projection", c, c, 1)
    put("output", "output_projection", 1, c, 1)
    return made


def read_metadata(params: Params, sizes: Sizes, source: str) -> CheckpointMetadata:
    """Return what `params` say of rate, dilation and process.

    Raises:
        ModelError: If the tensors contradict them, or a value is of the wrong kind.
    """
    known: dict[str, object] = {
        "residual_channels": sizes.channels,
        "residual_layers": sizes.layers,
        "unconditional": not sizes.n_mels,
    }
    if sizes.n_mels:
        known |= {"n_mels": sizes.n_mels, "hop_samples": math.prod(sizes.factors)}
    for name, value in known.items():
        if name in params and params[name] != value:
            raise ModelError(
                f"{source}: its params say {name} = {params[name]!r}, its tensors {value!r}. The file was put together "
                "from two models; take one that was saved whole."
            )
    betas = params.get("noise_schedule")
    return CheckpointMetadata(
        _whole(params, "sample_rate", source),
        _whole(params, "dilation_cycle_length", source),
        None if betas is None else betas_of(betas, "noise_schedule", source),
    )


def _whole(params: Params, name: str, source: str) -> int | None:
    value = params.get(name)
    if value is not None and not (isinstance(value, int) and value > 0):
        raise ModelError(f"{source}: its params say {name} = {value!r}; expected a whole number above 0.")
    return value


def betas_of(values: object, name: str, source: str) -> tuple[float, ...]:
    """Return a list of variances from `params`.

    Raises:
        ModelError: If it is none.
    """
    values = values.tolist() if isinstance(values, Tensor) else values
    listed = list(values) if isinstance(values, list | tuple) else []
    numbers = [float(x) for x in listed if isinstance(x, float | int) and 0 < x < 1]
    if len(numbers) < 2 or numbers != listed:
        raise ModelError(f"{source}: its params say {name} = {values!r}; expected a list of numbers between 0 and 1.")
    return tuple(numbers)


def published_metadata(_sizes: Sizes) -> CheckpointMetadata:
    """Return what the project takes where nothing else is said."""
    return CheckpointMetadata(22050, 10, linear_betas(0.05, 50))


def mel(sizes: Sizes, sample_rate: int, params: Params) -> dict[str, Any]:
    """Return the mel convention as `preprocess.py` derives it from the parameters."""
    hop = math.prod(sizes.factors)
    return MEL_CONVENTIONS["lmnt"].model_dump() | {
        "sample_rate": sample_rate,
        "n_fft": params.get("n_fft", 1024),
        "hop_length": hop,
        "win_length": 4 * hop,
        "n_mels": sizes.n_mels,
        "f_max": sample_rate / 2,
    }


def clip_seconds(sample_rate: int, params: Params) -> float | None:
    """Return the length of an unconditional clip, which is what `audio_len` says in samples."""
    length = params.get("audio_len")
    return length / sample_rate if isinstance(length, int) else None


PROJECT = Project(
    vocoder="lmnt-com/diffwave",
    generator="lmnt-com/diffwave",
    mark="diffusion_embedding.projection1.weight",
    licence="Apache-2.0 (the project's; the file states none of its own)",
    embedding="lmnt",
    upsampling="transposed",
    read_sizes=read_sizes,
    convert=convert,
    read_metadata=read_metadata,
    published_metadata=published_metadata,
    mel=mel,
    clip_seconds=clip_seconds,
)
