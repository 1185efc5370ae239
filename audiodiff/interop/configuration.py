"""The configuration of a foreign model: what its file says, what its user says, what is published, in this order."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from audiodiff.config import MEL_CONVENTIONS, ModelConfig, parse_config
from audiodiff.diffusion.schedules import SCHEDULES, from_betas
from audiodiff.errors import ModelError
from audiodiff.interop.layout import Facts, Params, Project, Sizes
from audiodiff.interop.lmnt import FAST_BETAS, betas_of

OPTIONS = {"sample_rate": "--sample-rate", "dilation_cycle": "--dilation-cycle", "betas": "--betas"}
_NAMES = tuple(field.name for field in fields(Facts))
_LOG = logging.getLogger(__name__)


def settle_facts(said: Facts, given: Facts, published: Facts, source: str) -> Facts:
    """Join what a file says with what its user says, and fill the rest from the published models, which is logged.

    Args:
        said: By the file.
        given: By the user.
        published: Of a network of these sizes.
        source: The file, for messages.

    Returns:
        The facts, none of them None.

    Raises:
        ModelError: If file and user contradict each other, or nobody says.
    """
    values: dict[str, Any] = {}
    for name in _NAMES:
        theirs, ours = getattr(said, name), getattr(given, name)
        if theirs is not None and ours is not None and not _equal(theirs, ours):
            raise ModelError(
                f"{source} says {name} = {_short(theirs)}, {OPTIONS[name]} says {_short(ours)}. "
                f"Leave {OPTIONS[name]} out: it is for files that do not say."
            )
        values[name] = ours if theirs is None else theirs
        if values[name] is None:
            values[name] = _as_published(name, getattr(published, name), source)
    return Facts(**values)


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
    project: Project, sizes: Sizes, facts: Facts, params: Params, source: str, provenance: Mapping[str, str]
) -> ModelConfig:
    """Write out the configuration of a foreign model.

    Args:
        project: Where it is from.
        sizes: Of its network.
        facts: Settled ones.
        params: What its file says besides.
        source: The file, for messages.
        provenance: What is noted of the file.

    Returns:
        The configuration, complete.

    Raises:
        ModelError: If the parameters hold something impossible.
        ConfigError: If the values do not go together.
    """
    is_vocoder, betas, rate = bool(sizes.n_mels), facts.betas or (), facts.sample_rate or 0
    levels = from_betas(betas)[:-1].tolist()
    embedding = {"kind": project.embedding, "width": sizes.width, "centres": sizes.features, "betas": betas}
    network: dict[str, Any] = {
        "channels": sizes.channels,
        "layers": sizes.layers,
        "dilation_cycle": facts.dilation_cycle,
        "embedding": embedding,
    }
    if is_vocoder:
        network |= {"upsampling": project.upsampling, "upsampling_factors": sizes.factors}
    values = {
        "sample_rate": rate,
        "mel": _named(project.mel(sizes, rate, params)) if is_vocoder else None,
        "clip_seconds": None if is_vocoder else project.clip_seconds(rate, params),
        "network": network,
        "diffusion": {"log_snr_min": levels[0], "log_snr_max": levels[-1]},
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
    """Pair frames and blocks as published, and keep the name of a convention only for that convention."""
    known = MEL_CONVENTIONS[mel["name"]].model_dump()
    name = mel["name"] if mel == known else f"{mel['name']} at {mel['sample_rate']} Hz, hop {mel['hop_length']}"
    return mel | {"name": name, "pairing": "frame"}


def _schedule(betas: tuple[float, ...], params: Params, source: str, *, is_vocoder: bool) -> dict[str, str | int]:
    """Choose the schedule of synthesis: fast sampling for a vocoder, the whole process for a generator."""
    levels = from_betas(betas)
    process = next((name for name in ("diffwave_50", "diffwave_200") if _same(levels, SCHEDULES[name])), None)
    if not is_vocoder:
        if process is None:
            _LOG.warning("%s is of a process without a name here; its range is walked evenly in log-SNR", source)
        return {"schedule": process or "uniform", "steps": len(betas)}
    fast = betas_of(params.get("inference_noise_schedule", FAST_BETAS), "inference_noise_schedule", source)
    if not _equal(fast, FAST_BETAS):
        _LOG.warning("%s has fast-sampling variances of its own, %s; schedule diffwave is taken", source, list(fast))
    return {"schedule": "diffwave_large" if process == "diffwave_200" else "diffwave", "steps": 6}


def _same(levels: Tensor, schedule: Callable[..., Tensor]) -> bool:
    other = schedule()
    return levels.shape == other.shape and torch.allclose(levels[:-1], other[:-1], rtol=1e-6, atol=1e-6)
