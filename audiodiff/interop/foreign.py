"""What foreign projects share: reading a checkpoint, taking every tensor out of it, and what describes a project.

A checkpoint is read as plain values and tensors only; none of its code runs.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiodiff.errors import ModelError

_RESAVE = (
    "import torch; c = torch.load('{name}', map_location='cpu', weights_only=False); "
    "torch.save({{k: dict(c[k]) for k in ('model', 'params', 'model_state_dict') if k in c}}, 'plain.pt')"
)


def read_checkpoint(path: Path) -> Mapping[str, object]:
    """Read what `torch.save` wrote, without running anything in it.

    Args:
        path: The file.

    Returns:
        The dictionary in it.

    Raises:
        ModelError: If there is no such file, it is damaged, is no dictionary, or holds objects that could only be
            loaded by running code.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file. Give the checkpoint itself, such as weights.pt or 1000000.pkl.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols, which the check below supersedes
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except (EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError, struct.error) as error:
        raise _damaged(path) from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected the dictionary of a DiffWave checkpoint.")
    return content


def _refusal(path: Path, error: pickle.UnpicklingError) -> ModelError:
    needed = re.search(r"GLOBAL (\S+)", str(error))
    if needed is None:
        return _damaged(path)
    return ModelError(
        f"{path} holds code: loading it would run {needed[1]}, so it is refused and nothing was run. Who trusts the "
        f'file can save its tensors alone: python -c "{_RESAVE.format(name=path.name)}", then convert plain.pt.'
    )


def _damaged(path: Path) -> ModelError:
    return ModelError(f"{path} is damaged, or was not written by torch.save. Download or copy it again.")


class ForeignWeights:
    """The tensors of a foreign network, taken out one by one with the shape that each must have.

    Args:
        tensors: Name to tensor; other values are refused.
        source: What they came from, for messages.

    Raises:
        ModelError: If there is something else than tensors.
    """

    def __init__(self, tensors: object, source: str) -> None:
        if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise ModelError(f"{source} holds no weights: expected a dictionary of names and tensors.")
        self.source = source
        self._tensors: dict[str, Tensor] = {str(name): value for name, value in tensors.items()}

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def count(self, pattern: str) -> int:
        """Return how many layers there are by the highest number that follows a name such as `residual_layers.`."""
        numbers = [int(found[1]) for name in self._tensors if (found := re.match(rf"{pattern}(\d+)\.", name))]
        return max(numbers, default=-1) + 1

    def shape(self, name: str, rank: int) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            ModelError: If it is missing or has another rank.
        """
        if name not in self._tensors:
            raise ModelError(f"{self.source} has no tensor {name}, so it is another network, or incomplete.")
        shape = tuple(self._tensors[name].shape)
        if len(shape) != rank:
            raise ModelError(f"{self.source}: {name} has shape {shape}; expected {rank} dimensions. Another network?")
        return shape

    def take(self, name: str, *shape: int) -> Tensor:
        """Take a tensor out.

        Args:
            name: Its name.
            *shape: What it must be.

        Returns:
            The tensor, float32.

        Raises:
            ModelError: If it is missing, has another shape, or is not finite.
        """
        found = self.shape(name, len(shape))
        if found != shape:
            raise ModelError(
                f"{self.source}: {name} has shape {found}, but {shape} follows from the other tensors. "
                "The file is of another network."
            )
        tensor = self._tensors.pop(name).detach().to("cpu", torch.float32)
        if not bool(tensor.isfinite().all()):
            raise ModelError(f"{self.source}: {name} holds NaN or infinity; the training run had diverged.")
        return tensor

    def take_normed(self, name: str, *shape: int) -> Tensor:
        """Take the weight of a layer, folding a weight normalisation: w = g v / |v| (Salimans and Kingma 2016, Eq. 2).

        Args:
            name: Of the layer; its tensors are `weight`, or `weight_g` and `weight_v`, or what newer versions of torch
                call them.
            *shape: What the weight must be; the norm is over all dimensions but the first.

        Returns:
            The weight, float32.

        Raises:
            ModelError: As `take`.
        """
        for scale, direction in (
            ("weight_g", "weight_v"),
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
        ):
            if f"{name}.{direction}" in self:
                gain = self.take(f"{name}.{scale}", shape[0], *(1 for _ in shape[1:])).double()
                vector = self.take(f"{name}.{direction}", *shape).double()
                norm = vector.flatten(1).norm(dim=1).view_as(gain)
                folded: Tensor = vector * (gain / norm)
                return folded.float()
        return self.take(f"{name}.weight", *shape)

    def finish(self) -> None:
        """Refuse tensors that nobody took.

        Raises:
            ModelError: If there are any.
        """
        if self._tensors:
            names = sorted(self._tensors)
            raise ModelError(
                f"{self.source} has {len(names)} tensors that this network does not know, such as {names[0]}; "
                "it is of another network or version, and they cannot be left out."
            )


Params = Mapping[str, object]
"""Parameters that a project saves beside its weights; empty where it saves none."""


@dataclass(frozen=True)
class CheckpointMetadata:
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
        read_metadata: What a file's parameters say, checked against the sizes; the last argument names the file.
        published_metadata: What is known of networks of the published sizes.
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
    read_metadata: Callable[[Params, Sizes, str], CheckpointMetadata]
    published_metadata: Callable[[Sizes], CheckpointMetadata]
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
