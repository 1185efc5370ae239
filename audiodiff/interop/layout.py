"""What foreign projects share: sizes, facts that a file may leave out, and convolutions turned into matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from audiodiff.interop.reading import ForeignWeights

Params = Mapping[str, object]
"""Parameters that a project saves beside its weights; empty where it saves none."""


@dataclass(frozen=True)
class Facts:
    """What it takes to run a network beside its tensors; None is unknown.

    Attributes:
        sample_rate: Hz.
        dilation_cycle: Layers after which dilations start again.
        betas: Variances of the process it was trained on, in forward order.
    """

    sample_rate: int | None = None
    dilation_cycle: int | None = None
    betas: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a foreign network's tensors say.

    Attributes:
        channels: Width of the residual stream.
        layers: Number of residual layers.
        width: Of the step embedding after its layers.
        features: Of the step embedding before them.
        n_mels: Mel bins, 0 for an unconditional network.
        factors: Strides of the upsampler; none for an unconditional network.
    """

    channels: int
    layers: int
    width: int
    features: int
    n_mels: int
    factors: tuple[int, ...]


@dataclass(frozen=True)
class Project:
    """What tells one foreign project from another.

    Attributes:
        vocoder: Repository of its vocoders.
        generator: Repository of its unconditional networks.
        mark: A tensor that only its networks have.
        licence: Of the weights, as far as it is known.
        embedding: Kind of its step embedding, as in `EmbeddingConfig`.
        upsampling: Kind of its upsampler, as in `NetworkConfig`.
        read_sizes: Reads the sizes of a network off its tensors.
        convert: Turns its weights into ours, taking all of them.
        said_facts: What a file's parameters say, checked against the sizes; the last argument names the file.
        published_facts: What is known of networks of the published sizes.
        mel: Values of its mel convention.
        clip_seconds: Length of a generated clip.
    """

    vocoder: str
    generator: str
    mark: str
    licence: str
    embedding: str
    upsampling: str
    read_sizes: Callable[[ForeignWeights], Sizes]
    convert: Callable[[ForeignWeights, Sizes], dict[str, Tensor]]
    said_facts: Callable[[Params, Sizes, str], Facts]
    published_facts: Callable[[Sizes], Facts]
    mel: Callable[[Sizes, int, Params], dict[str, Any]]
    clip_seconds: Callable[[int, Params], float | None]


def linear_betas(last: float, count: int, first: float = 1e-4) -> tuple[float, ...]:
    """Return variances that grow evenly, as all published processes do (Kong et al. 2021)."""
    return tuple(np.linspace(first, last, count).tolist())


def taps(kernel: Tensor) -> Tensor:
    """Turn a convolution's kernel `(outputs, inputs, 3)` into a matrix `(outputs, past + present + future inputs)`."""
    return kernel.movedim(2, 1).flatten(1)


def matrix(kernel: Tensor) -> Tensor:
    """Turn the kernel of a convolution of width 1 `(outputs, inputs, 1)` into a matrix `(outputs, inputs)`."""
    return kernel.squeeze(2)
