"""From a foreign checkpoint to a network and the configuration of a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from audiodiff.config import ModelConfig
from audiodiff.errors import ModelError
from audiodiff.interop import lmnt, philsyn
from audiodiff.interop.configuration import configuration, settle_facts
from audiodiff.interop.layout import Facts, Params, Sizes
from audiodiff.interop.reading import ForeignWeights, read_checkpoint
from audiodiff.networks.build import Network, build_network

PROJECTS = {"lmnt": lmnt.PROJECT, "philsyn": philsyn.PROJECT}


class Converted(NamedTuple):
    """A model that was brought here.

    Attributes:
        network: The network, with its weights, in evaluation mode.
        config: Its configuration, complete.
    """

    network: Network
    config: ModelConfig


def convert_checkpoint(path: str | Path, project: str | None = None, facts: Facts | None = None) -> Converted:
    """Convert a checkpoint of another project.

    Args:
        path: The file.
        project: A key of `PROJECTS`; None finds out by the names of the tensors.
        facts: What the file does not say; what is left out is taken from the published models, and logged.

    Returns:
        Network and configuration, ready for `audiodiff.checkpoint.save_model`.

    Raises:
        ModelError: If the file is missing, damaged, holds code, is of another network, contradicts itself or the facts,
            or leaves open what it takes to run it.
        ConfigError: If its values do not go together.
    """
    path = Path(path)
    content = read_checkpoint(path)
    tensors: object = content.get("model", content.get("model_state_dict", content))
    params = content.get("params", {}) if "model" in content else {}
    if not isinstance(params, Mapping):
        raise ModelError(f"{path}: its params are a {type(params).__name__}; expected a dictionary.")
    provenance = {"file": path.name, "sha256": sha256(path.read_bytes()).hexdigest()}
    if isinstance(content.get("step"), int):
        provenance["training_steps"] = str(content["step"])
    return convert_state_dict(tensors, project, facts, params=params, source=str(path), provenance=provenance)


def convert_state_dict(
    tensors: object,
    project: str | None = None,
    facts: Facts | None = None,
    *,
    params: Params | None = None,
    source: str = "the state dictionary",
    provenance: Mapping[str, str] | None = None,
) -> Converted:
    """Convert the `state_dict` of another project's network, for example that of a live `diffwave.model.DiffWave`.

    Args:
        tensors: Name to tensor.
        project: As in `convert_checkpoint`.
        facts: As in `convert_checkpoint`.
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
    said = kind.said_facts(params or {}, sizes, source)
    settled = settle_facts(said, facts or Facts(), kind.published_facts(sizes), source)
    made = kind.convert(weights, sizes)
    weights.finish()
    config = configuration(kind, sizes, settled, params or {}, source, provenance or {})
    network = build_network(config)
    if network.normalise_mel is not None:  # mean 0 and deviation 1: the published networks take mels as they are
        made |= {f"normalise_mel.{name}": value for name, value in network.normalise_mel.state_dict().items()}
    network.load_state_dict(made)
    return Converted(network.eval(), config)


def published_base_config() -> ModelConfig:
    """Return the configuration of lmnt-com/diffwave as published (DiffWave BASE: 64 channels, 30 layers, 2.6 M)."""
    sizes = Sizes(channels=64, layers=30, width=512, features=128, n_mels=80, factors=(16, 16))
    facts = lmnt.PROJECT.published_facts(sizes)
    return configuration(lmnt.PROJECT, sizes, facts, {}, "the published network", {})


def _recognise(weights: ForeignWeights, wanted: str | None) -> str:
    found = next((name for name, project in PROJECTS.items() if project.mark in weights), None)
    if found is None:
        known = sorted({name for project in PROJECTS.values() for name in (project.vocoder, project.generator)})
        raise ModelError(
            f"{weights.source} is of no network that is known here ({', '.join(known)}): it has no tensor "
            f"{' or '.join(project.mark for project in PROJECTS.values())}."
        )
    if wanted is not None and wanted != found:
        raise ModelError(f"{weights.source} is of project {found}, not {wanted}. Leave it out, or say {found}.")
    return found
