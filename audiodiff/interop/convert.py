"""From a foreign checkpoint to a network and the configuration of a model folder.

A configuration is what the file says, what its user says, and what is published, in this order.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audiodiff.config import MEL_CONVENTIONS, ModelConfig, parse_config
from audiodiff.diffusion.schedules import SCHEDULES, from_betas
from audiodiff.errors import ModelError
from audiodiff.interop import lmnt, philsyn
from audiodiff.interop.foreign import (
    CheckpointMetadata,
    ForeignWeights,
    Params,
    Project,
    Sizes,
    find_weights,
    read_checkpoint,
    unknown_network,
)
from audiodiff.interop.lmnt import FAST_BETAS, betas_of
from audiodiff.networks import Network, build_network

PROJECTS = {"lmnt": lmnt.PROJECT, "philsyn": philsyn.PROJECT}
OPTIONS = {"sample_rate": "--sample-rate", "dilation_cycle": "--dilation-cycle", "betas": "--betas"}
_NAMES = tuple(field.name for field in fields(CheckpointMetadata))
_LOG = logging.getLogger(__name__)


class Converted(NamedTuple):
    """A model that was brought here.

    Attributes:
        network: The network, with its weights, in evaluation mode.
        config: Its configuration, complete.
    """

    network: Network
    config: ModelConfig


def convert_checkpoint(
    path: str | Path, project: str | None = None, metadata: CheckpointMetadata | None = None
) -> Converted:
    """Convert a checkpoint of another project.

    Args:
        path: The file, of torch.save or safetensors.
        project: A key of `PROJECTS`; None finds out by the names of the tensors.
        metadata: What the file does not say; what is left out is taken from the published models, and logged.

    Returns:
        Network and configuration, ready for `audiodiff.checkpoint.save_model`.

    Raises:
        ModelError: If the file is missing, damaged, holds code, is of another network, contradicts itself or the
            metadata, or lacks what it takes to run it.
        ConfigError: If its values do not go together.
    """
    path = Path(path)
    content = read_checkpoint(path)
    tensors, params = find_weights(content, list(PROJECTS.values()), str(path))
    if not isinstance(params, Mapping):
        raise ModelError(f"{path}: its params are a {type(params).__name__}; expected a dictionary.")
    provenance = {"file": path.name, "sha256": sha256(path.read_bytes()).hexdigest()}
    if isinstance(steps := content.get("step", content.get("global_step")), int):
        provenance["training_steps"] = str(steps)
    return convert_state_dict(tensors, project, metadata, params=params, source=str(path), provenance=provenance)


def convert_state_dict(
    tensors: object,
    project: str | None = None,
    metadata: CheckpointMetadata | None = None,
    *,
    params: Params | None = None,
    source: str = "the state dictionary",
    provenance: Mapping[str, str] | None = None,
) -> Converted:
    """Convert the `state_dict` of another project's network, for example that of a live `diffwave.model.DiffWave`.

    Args:
        tensors: Name to tensor.
        project: As in `convert_checkpoint`.
        metadata: As in `convert_checkpoint`.
        params: The parameters that lmnt-com/diffwave saves beside the weights, or None.
        source: Where all this is from, for messages.
        provenance: What is noted of it.

    Returns:
        Network and configuration.

    Raises:
        ModelError: As in `convert_checkpoint`.
        ConfigError: As in `convert_checkpoint`.
    """
    weights = ForeignWeights(tensors, source)
    kind = PROJECTS[_recognise(weights, project)]
    sizes = kind.read_sizes(weights)
    from_file = kind.read_metadata(params or {}, sizes, source)
    from_user = metadata or CheckpointMetadata()
    metadata = resolve_metadata(from_file, from_user, kind.published_metadata(sizes), source)
    made = kind.convert(weights, sizes)
    weights.finish()
    config = configuration(kind, sizes, metadata, params or {}, source, provenance or {})
    network = build_network(config)
    if network.normalise_mel is not None:  # mean 0 and deviation 1: the published networks take mels as they are
        made |= {f"normalise_mel.{name}": value for name, value in network.normalise_mel.state_dict().items()}
    network.load_state_dict(made)
    return Converted(network.eval(), config)


def published_base_config() -> ModelConfig:
    """Return the configuration of lmnt-com/diffwave as published (DiffWave BASE: 64 channels, 30 layers, 2.6 M)."""
    sizes = Sizes(channels=64, layers=30, width=512, features=128, n_mels=80, factors=(16, 16))
    metadata = lmnt.PROJECT.published_metadata(sizes)
    return configuration(lmnt.PROJECT, sizes, metadata, {}, "the published network", {})


def _recognise(weights: ForeignWeights, project: str | None) -> str:
    found = next((name for name, project in PROJECTS.items() if project.mark in weights), None)
    if found is None:
        raise unknown_network(weights.source, list(PROJECTS.values()))
    if project is not None and project != found:
        raise ModelError(f"{weights.source} is of project {found}, not {project}. Leave the project out.")
    return found


# --- configuration ----------------------------------------------------------------------------------------------------


def resolve_metadata(
    from_file: CheckpointMetadata, from_user: CheckpointMetadata, published: CheckpointMetadata, source: str
) -> CheckpointMetadata:
    """Join what a file says with what its user says, and fill the rest from the published models, which is logged.

    Args:
        from_file: By the file.
        from_user: By the user.
        published: Of a network of these sizes.
        source: The file, for messages.

    Returns:
        The metadata, none of it None.

    Raises:
        ModelError: If file and user contradict each other, or nobody says.
    """
    values: dict[str, Any] = {}
    for name in _NAMES:
        theirs, ours = getattr(from_file, name), getattr(from_user, name)
        if theirs is not None and ours is not None and not _equal(theirs, ours):
            raise ModelError(
                f"{source} says {name} = {_short(theirs)}, {OPTIONS[name]} says {_short(ours)}. "
                f"Leave {OPTIONS[name]} out: it is for files that do not say."
            )
        values[name] = ours if theirs is None else theirs
        if values[name] is None:
            values[name] = _as_published(name, getattr(published, name), source)
    return CheckpointMetadata(**values)


def _as_published(name: str, value: object, source: str) -> object:
    if value is None:
        raise ModelError(f"{source} does not say {name}, and no published model has its size. Give {OPTIONS[name]}.")
    _LOG.info("%s does not say %s: taken as published, %s (else %s)", source, name, _short(value), OPTIONS[name])
    return value


def _equal(left: object, right: object) -> bool:
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(
            math.isclose(a, b, rel_tol=1e-6) for a, b in zip(left, right, strict=True)
        )
    return left == right


def _short(value: object) -> str:
    return f"{value[0]:g}:{value[-1]:g}:{len(value)}" if isinstance(value, tuple) else str(value)


def configuration(
    project: Project,
    sizes: Sizes,
    metadata: CheckpointMetadata,
    params: Params,
    source: str,
    provenance: Mapping[str, str],
) -> ModelConfig:
    """Write out the configuration of a foreign model.

    Args:
        project: Where it is from.
        sizes: Of its network.
        metadata: Resolved, none of it None.
        params: What its file says besides.
        source: The file, for messages.
        provenance: What is noted of the file.

    Returns:
        The configuration, complete.

    Raises:
        ModelError: If the parameters hold something impossible.
        ConfigError: If the values do not go together.
    """
    is_vocoder, betas, rate = bool(sizes.n_mels), metadata.betas or (), metadata.sample_rate or 0
    levels = from_betas(betas)[:-1].tolist()
    embedding = {"kind": project.embedding, "width": sizes.width, "centres": sizes.features, "betas": betas}
    network: dict[str, Any] = {
        "channels": sizes.channels,
        "layers": sizes.layers,
        "dilation_cycle": metadata.dilation_cycle,
        "embedding": embedding,
    }
    if is_vocoder:
        network |= {"upsampling": project.upsampling, "upsampling_factors": sizes.factors}
    values = {
        "sample_rate": rate,
        "mel": _named(project.mel(sizes, rate, params)) if is_vocoder else None,
        "clip_seconds": None if is_vocoder else project.clip_seconds(rate, params),
        "network": network,
        "diffusion": {"betas": betas},
        "synthesis": {
            **_schedule(betas, params, source, is_vocoder=is_vocoder),
            "sampler": "ddpm",
            "start_log_snr": levels[0],
            "end_log_snr": levels[-1],
        },
        "provenance": {
            "project": project.vocoder if is_vocoder else project.generator,
            **provenance,
            "licence": project.licence,
        },
    }
    return parse_config(ModelConfig, values, source)


def _named(mel: dict[str, Any]) -> dict[str, Any]:
    """Pair frames and hops as published, and keep the name of a convention only for that convention."""
    known = MEL_CONVENTIONS[mel["name"]].model_dump()
    name = mel["name"] if mel == known else f"{mel['name']} at {mel['sample_rate']} Hz, hop {mel['hop_length']}"
    return mel | {"name": name, "pairing": "frame"}


def _schedule(betas: tuple[float, ...], params: Params, source: str, *, is_vocoder: bool) -> dict[str, Any]:
    """Choose the schedule of synthesis: fast sampling for a vocoder, the whole process for a generator."""
    levels = from_betas(betas)
    process = next((name for name in ("diffwave_50", "diffwave_200") if _same(levels, SCHEDULES[name])), None)
    if not is_vocoder:
        return {"schedule": process, "steps": len(betas)} if process else {"log_snrs": levels[:-1].tolist()}
    fast = betas_of(params.get("inference_noise_schedule", FAST_BETAS), "inference_noise_schedule", source)
    if not _equal(fast, FAST_BETAS):
        return {"log_snrs": from_betas(fast)[:-1].tolist()}
    return {"schedule": "diffwave_large" if process == "diffwave_200" else "diffwave", "steps": 6}


def _same(levels: Tensor, schedule: Callable[..., Tensor]) -> bool:
    other = schedule()
    return levels.shape == other.shape and torch.allclose(levels[:-1], other[:-1], rtol=1e-6, atol=1e-6)
