"""What foreign projects share: reading a checkpoint, taking every tensor out of it, and what describes a project.

A checkpoint is read as plain values and tensors only; none of its code runs.
"""

from __future__ import annotations

import logging
import pickle
import re
import shlex
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from audiodiff.audio.transforms import stored_tensor
from audiodiff.errors import ModelError
from audiodiff.text import what_came_instead

_RESAVE = (
    "import pickle, sys, torch; "
    "f = lambda v: v.detach() if isinstance(v, torch.Tensor) else f(v.state_dict()) if hasattr(v, 'state_dict') "
    "else {str(k): f(x) for k, x in v.items()} if hasattr(v, 'items') else torch.as_tensor(v) if getattr(v, 'ndim', 0) "
    "else v.item() if hasattr(v, 'item') else [f(x) for x in v] if isinstance(v, (list, tuple)) "
    "else v if type(v) in (int, float, bool) else str(v); "
)
"""Keeps tensors and plain values of what a file holds."""
_LOAD = "torch.load(sys.argv[1], map_location='cpu', weights_only=False)"
_TORCH_MAGIC = (b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
"""How a file of torch.save begins, new and old."""

_DROPPED = {"_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that compiling and sharding a network leave in them."""
_DEEPEST = 3
_NAMED = 8
_LOG = logging.getLogger(__name__)


def read_checkpoint(path: Path) -> Mapping[str, object]:
    """Read what `torch.save` wrote, or a safetensors file, without running anything in it.

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
    if said := what_came_instead(path):
        raise ModelError(said)
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols, which the check below supersedes
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except (EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OSError, struct.error) as error:
        raise _damaged(path, str(error)) from error
    except SafetensorError as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}. Download or copy it again.") from error
    if not isinstance(content, Mapping):
        raise ModelError(f"{path} holds a {type(content).__name__}; expected the dictionary of a DiffWave checkpoint.")
    return content


def _refusal(path: Path, error: pickle.UnpicklingError) -> ModelError:
    with path.open("rb") as file:
        head = file.read(16)
    is_torch = head.startswith(_TORCH_MAGIC)
    needed = re.search(r"GLOBAL (\S+)", str(error))
    if needed is None and (is_torch or head[:1] != b"\x80"):
        return _damaged(path)
    what = needed[1] if needed else "what a pickle names"
    load = _LOAD if is_torch else "pickle.load(open(sys.argv[1], 'rb'))"
    code = f'python -c "{_RESAVE}torch.save(f({load}), sys.argv[2])" {shlex.quote(str(path))} plain.pt'
    return ModelError(
        f"{path} holds code: loading it would run {what}, so it is refused and nothing was run. Who trusts the file "
        f"can save its tensors and plain values alone, where its code can be imported, and convert plain.pt: {code}"
    )


def _damaged(path: Path, reason: str = "") -> ModelError:
    if "TorchScript" in reason:
        return ModelError(f"{path} is a TorchScript program; expected weights. Save its state_dict() with torch.save.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                return ModelError(f"{path} is an archive, but not of torch.save. Unpack it, and give what it holds.")
    return ModelError(f"{path} is damaged, or was not written by torch.save. Download or copy it again.")


@dataclass(frozen=True)
class _Found:
    """Weights within a checkpoint: the keys that lead to them, what their names begin with, and which others do not."""

    keys: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, object]
    beside: tuple[str, ...]

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """Averaged weights first, for they are what a model is used with; then those that take the fewest words."""
        place = ".".join((*self.keys, self.prefix)).lower()
        return "online" in place, not re.search("ema|averag|shadow", place), len(place)

    def __str__(self) -> str:
        return ".".join((*self.keys, self.prefix)).strip(".") or "the file itself"


def find_weights(content: Mapping[str, object], projects: Sequence[Project], source: str) -> tuple[object, object]:
    """Find the weights of a known network in a checkpoint, whatever wraps them.

    Understood are dictionaries in dictionaries (`state_dict`, `model`, `ema` and the like), what
    `DataParallel`, `torch.compile`, Lightning and averaging put before the names of tensors, or within them.

    Args:
        content: What `read_checkpoint` returned.
        projects: Whose networks are known.
        source: The file, for messages.

    Returns:
        Name to tensor, and the parameters saved beside them.

    Raises:
        ModelError: If there are none; the message lists what there is.
    """
    found = sorted(_search(content, [project.mark for project in projects], ()), key=lambda one: one.rank)
    if not found and content and not _count(content):
        raise ModelError(
            f"{source} holds no weights: expected a dictionary of names and tensors. It holds {_listing(content)}."
        )
    if not found:
        raise unknown_network(source, projects, f" It holds {_listing(content)}.")
    most = max(len(one.tensors) for one in found)
    best = next(one for one in found if len(one.tensors) == most)  # some averages leave buffers out
    if len(found) > 1:
        others = ", ".join(str(one) for one in found if one is not best)
        _LOG.warning("%s holds weights several times: %s is taken, not %s", source, best, others)
    if best.beside:
        _LOG.info("%s: %d entries beside %s are left out, such as %s", source, len(best.beside), best, best.beside[0])
    params = content.get("params", {}) if best.keys and best.keys[0] != "params" else {}
    return best.tensors, params


def unknown_network(source: str, projects: Sequence[Project], holds: str = "") -> ModelError:
    """Return the error for weights of none of these projects."""
    known = ", ".join(sorted({name for project in projects for name in (project.vocoder, project.generator)}))
    marks = " or ".join(project.mark for project in projects)
    return ModelError(f"{source} is of no network that is known here ({known}): it has no tensor {marks}.{holds}")


def _search(content: Mapping[str, object], marks: Sequence[str], keys: tuple[str, ...]) -> Iterator[_Found]:
    names = {name: _plain_name(str(name)) for name in content}
    ends = {name[: -len(mark)] for name in names.values() for mark in marks if f".{name}".endswith(f".{mark}")}
    for prefix in sorted(ends):
        inside = {new.removeprefix(prefix): content[old] for old, new in names.items() if new.startswith(prefix)}
        yield _Found(keys, prefix, inside, tuple(str(old) for old, new in names.items() if not new.startswith(prefix)))
    for key, value in content.items():
        if isinstance(value, Mapping) and len(keys) < _DEEPEST:
            yield from _search(value, marks, (*keys, str(key)))


def _plain_name(name: str) -> str:
    first, *rest = [part for part in name.split(".") if part not in _DROPPED] or [""]
    return ".".join([first, *(part for part in rest if part != "module")])


def _count(content: object, depth: int = 0) -> int:
    """Count the tensors in dictionaries of dictionaries."""
    if isinstance(content, Mapping) and depth <= _DEEPEST:
        return sum(_count(value, depth + 1) for value in content.values())
    return isinstance(content, Tensor)


def _listing(content: Mapping[str, object]) -> str:
    """List the top-level keys of a checkpoint."""
    shown = []
    for key, value in islice(content.items(), _NAMED):
        n_tensors = _count(value) if isinstance(value, Mapping) else 0
        shown.append(f"{str(key)[:60]!r} ({f'{n_tensors} tensors' if n_tensors else type(value).__name__})")
    return ", ".join(shown) + (f" and {len(content) - _NAMED} more" if len(content) > _NAMED else "") or "nothing"


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
        self._tensors = {str(k): stored_tensor(value, f"{source}: {k}", ModelError) for k, value in tensors.items()}

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
        stored = self._tensors.pop(name)
        if not stored.is_floating_point():
            raise ModelError(f"{self.source}: {name} is {stored.dtype}; expected floating point. Convert it before.")
        tensor = stored.to("cpu", torch.float32)
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
