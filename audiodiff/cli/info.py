"""`audiodiff info`: what a model is; without one, the bundled models and this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from audiodiff.cli.progress import loading
from audiodiff.cli.verbs import Verb

if TYPE_CHECKING:
    from audiodiff.config import ModelConfig

_OF_UNET = {"factors", "multipliers", "blocks", "attention"}
UNUSED = {
    "diffwave": {"n_fft", "hop_length"} | _OF_UNET,
    "stft": {"patch"} | _OF_UNET,
    "unet": {"n_fft", "hop_length", "layers", "upsampling", "upsampling_factors", "activation", "activation_centres"},
}
"""Fields of `NetworkConfig` that say nothing of a kind of network."""
PACKAGES = ("torch", "torchaudio", "librosa", "soundfile", "numpy")


@click.command(
    "info",
    cls=Verb,
    examples=(
        "audiodiff info",
        "audiodiff info drums-22k",
    ),
)
@click.argument("model", required=False, metavar="[MODEL]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(*, model: str | None, as_json: bool) -> None:
    """Describe MODEL: a name, a folder or hub:OWNER/NAME.

    Without MODEL, list the bundled models, package versions and devices.
    """
    from audiodiff.text import printable_json

    with loading(model or "torch"):
        facts = describe_machine() if model is None else describe_model(model)
    click.echo(printable_json(facts) if as_json else "\n".join(_lines(facts)))


def describe_machine() -> dict[str, Any]:
    """Return the bundled models, and versions, threads and GPUs as they matter here."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from audiodiff import __version__
    from audiodiff.checkpoint import DEFAULT_MODEL, bundled_models, load_config

    models = {}
    for name, folder in bundled_models().items():
        config = load_config(folder)
        models[name] = f"{_kind(config)}, {config.sample_rate} Hz{', the default' if name == DEFAULT_MODEL else ''}"
    versions = {"audiodiff": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "bundled_models": models,
        "versions": versions,
        "machine": {"system": platform.platform(), "cpu_threads": torch.get_num_threads(), "gpus": gpus},
    }


def describe_model(name: str) -> dict[str, Any]:
    """Load a model, which also checks its files, and return what a user may want to know of it.

    Args:
        name: A folder, the name of a bundled model, or hub:OWNER/NAME.

    Returns:
        Names and values, nested, as JSON holds them.

    Raises:
        ModelError: If the model cannot be found or is damaged.
        ConfigError: If its configuration does not validate.
    """
    from audiodiff.checkpoint import WEIGHTS, find_model, load_model

    folder = find_model(name)
    network, config = load_model(folder)
    facts: dict[str, Any] = {
        "folder": str(folder),
        "kind": _kind(config),
        "sample_rate_hz": config.sample_rate,
        "mel": config.mel.model_dump(mode="json") if config.mel else None,
    }
    if config.mel is None:
        facts |= {"labels": list(config.labels), "clip_seconds": config.clip_seconds}
    if config.is_conditional:
        conditions = {"speakers": list(config.speakers), "vector_width": config.vector_width}
        facts |= conditions | {"condition_dropout": config.condition_dropout}
    facts["network"] = {
        **config.network.model_dump(mode="json", exclude=UNUSED[config.network.kind]),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "file_megabytes": round((folder / WEIGHTS).stat().st_size / 1e6, 2),
        **_receptive_field(network.receptive_field, config.sample_rate),
    }
    for part in ("whitening", "diffusion", "synthesis", "provenance"):
        facts[part] = config.model_dump(mode="json")[part]
    return facts


def _receptive_field(samples: float, sample_rate: int) -> dict[str, Any]:
    if math.isinf(samples):
        return {"receptive_field": "the whole clip"}
    return {
        "receptive_field_samples_each_side": samples,
        "receptive_field_seconds_each_side": round(samples / sample_rate, 4),
    }


def _kind(config: ModelConfig) -> str:
    if config.mel is not None:
        return f"vocoder for {config.mel.name} mels"
    return f"generator of {len(config.labels)} classes" if config.labels else "generator without classes"


def _lines(facts: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lay out nested names and values, one per line, values of one level in one column."""
    names = {key: str(key).replace("_", " ") for key in facts}
    width = max(map(len, names.values()), default=0)
    for key, value in facts.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {f"{number}.": item for number, item in enumerate(value, 1)}
        if isinstance(value, Mapping) and value:
            yield indent + names[key]
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{names[key]:{width}}  {_text(value)}"


def _text(value: object) -> str:
    if isinstance(value, list) and len(value) > 8 and all(isinstance(item, float) for item in value):
        return f"{len(value)} values from {min(value):.3g} to {max(value):.3g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, int) and value >= 100_000:
        return f"{value:,}"
    return "none" if value is None or value == {} else str(value)
