"""Global conditions: from a label, a speaker or a vector, as a user says them, to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audiodiff.config import ModelConfig, SynthesisConfig
from audiodiff.errors import ConfigError
from audiodiff.networks.conditioning import GlobalConditions


def make_conditions(
    config: ModelConfig, device: torch.device, *, label: str | None, speaker: str | None, vector: Tensor | None
) -> GlobalConditions | None:
    """Check what is said of a clip, and turn names into indices.

    Args:
        config: The model.
        device: Where the network is.
        label: One of the model's labels, or None.
        speaker: One of the model's speakers, or None.
        vector: `(vector_width,)`, or None.

    Returns:
        GlobalConditions of one clip; None if nothing is said.

    Raises:
        ConfigError: If a name is unknown, a vector does not fit, or something is missing that the model has never been
            trained without.
    """
    conditions = GlobalConditions(
        _index("label", label, config.labels, device),
        _index("speaker", speaker, config.speakers, device),
        _row(vector, config.vector_width, device),
    )
    lists = {"label": ", ".join(config.labels), "speaker": ", ".join(config.speakers), "vector": ""}
    if config.vector_width:
        lists["vector"] = f"{config.vector_width} numbers"
    for name, choices in lists.items():
        if choices and getattr(conditions, name) is None and not config.condition_dropout:
            raise ConfigError(
                f"this model needs a {name}; choose from {choices}. Only one trained with training.condition_dropout "
                "can do without."
            )
    return conditions if any(part is not None for part in conditions) else None


def _index(what: str, name: str | None, names: Sequence[str], device: torch.device) -> Tensor | None:
    if name is None:
        return None
    if name not in names:
        raise ConfigError(f"unknown {what} {name!r}; this model knows {', '.join(names) or 'none'}.")
    return torch.tensor([names.index(name)], device=device)


def _row(vector: Tensor | None, width: int, device: torch.device) -> Tensor | None:
    if vector is None:
        return None
    if vector.numel() != width or vector.dim() > 2 or not bool(vector.isfinite().all()):
        takes = f"takes {width} finite numbers" if width else "takes no vector (vector_width is 0)"
        raise ConfigError(f"the vector has shape {tuple(vector.shape)}; this model {takes}.")
    return vector.to(device, torch.float32).reshape(1, width)


def check_guidance(config: ModelConfig, settings: SynthesisConfig) -> None:
    """Refuse guidance of a model that does not know what no condition is.

    Raises:
        ConfigError: If it was trained without condition dropout.
    """
    if settings.guidance != 1 and not (config.is_conditional and config.condition_dropout):
        reason = "was trained without training.condition_dropout, so it does not know what no condition is"
        if not config.is_conditional:
            reason = "has no label, speaker or vector to be guided by; a mel guides by itself"
        raise ConfigError(f"guidance is {settings.guidance:g}, but this model {reason}. Use guidance 1.")
