"""A model folder: `model.safetensors` and `config.json`, self-contained, without pickle or code."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from audiodiff import hub
from audiodiff.audio.io import flush_to_disk
from audiodiff.choices import shown
from audiodiff.config import ModelConfig, parse_config
from audiodiff.errors import ConfigError, ModelError, OutputError
from audiodiff.networks import Network, build_network
from audiodiff.networks.base import isolated
from audiodiff.text import read_json, what_came_instead

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT = 1
DEFAULT_MODEL = "speech-22k"


def choose_device(device: str = "auto") -> torch.device:
    """Return the named device; "auto" is the GPU where there is one, else the CPU.

    Raises:
        ConfigError: If there is no such device here.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return torch.device("cuda" if n_gpus else "cpu")
    known = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{i}" for i in range(n_gpus))]
    if device not in known:
        raise ConfigError(f"device {device!r} is not available; available: auto, {', '.join(known)}.")
    return torch.device(device)


def bundled_models() -> dict[str, Path]:
    """Return the models that ship with the package, name to folder."""
    root = Path(str(files("audiodiff"))) / "assets" / "models"
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{CONFIG}"))}


def save_model(folder: str | Path, weights: dict[str, Tensor], config: ModelConfig, *, half: bool = False) -> None:
    """Write a model folder under a temporary name, flush it to disk, then move it into place of an older one.

    Other files in the older one, such as a README, stay. Into a folder without a model the two files are moved. A link
    to a folder stays, and what it names is written.

    Args:
        folder: Where to write.
        weights: The network's `state_dict`.
        config: The model's configuration.
        half: Store matrices in float16, which halves the file; loading brings them back to float32.

    Raises:
        ModelError: If something other than a folder has that name, the folder holds a config.json of something else, or
            a weight is not finite.
        OutputError: If it cannot be written, as on a full disk.
    """
    folder = Path(os.path.realpath(folder))
    if os.path.exists(folder) and not folder.is_dir():
        raise ModelError(f"{folder} is a file; a model is written to a folder. Choose another name.")
    tensors = {name: _stored(value, half=half) for name, value in weights.items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            why = " in float16. Leave --half out" if bool(weights[name].isfinite().all()) else ""
            raise ModelError(f"{folder} is not written: {name} holds NaN or infinity{why}.")
    document = {"audiodiff_model": FORMAT, "config": config.model_dump(mode="json")}
    try:
        is_model = _holds_model(folder)
        beside = is_model or not os.path.exists(folder)
        where = folder.parent if beside else folder
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name[:24]}.", dir=where) as temporary:
            fresh = Path(temporary) / "new"
            fresh.mkdir()
            (fresh / WEIGHTS).write_bytes(save(tensors))  # save_file would deny other users to read it
            (fresh / CONFIG).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            for path in fresh.iterdir():
                flush_to_disk(path)
            if beside:
                _swap(fresh, folder)
            else:
                for name in (WEIGHTS, CONFIG):
                    os.replace(fresh / name, folder / name)
    except OSError as error:
        raise OutputError.of(folder, error) from error


def push_model(
    model_id: str, weights: dict[str, Tensor], config: ModelConfig, *, half: bool = False, private: bool | None = None
) -> str:
    """Send a model to the Hugging Face hub, with a model card made from its configuration.

    Args:
        model_id: OWNER/NAME, with or without `hub:` before it. Log in first (`hf auth login`, or HF_TOKEN).
        weights: The network's `state_dict`.
        config: The model's configuration.
        half: Store matrices in float16, as in `save_model`.
        private: Whether a new model is private; None is the hub's default.

    Returns:
        The address of the commit.

    Raises:
        MissingPackageError: If the extra `hub` is not installed.
        ModelError: If that is no name, or a weight is not finite.
        OutputError: If the hub does not take it.
    """
    name = model_id.removeprefix(hub.PREFIX)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        save_model(folder, weights, config, half=half)
        (folder / "README.md").write_text(hub.model_card(config, name), encoding="utf-8")
        return hub.upload(folder, name, private=private)


def _holds_model(folder: Path) -> bool:
    """Tell whether a folder holds a model, and refuse one whose config.json is of something else."""
    path = folder / CONFIG
    if not os.path.exists(path):
        return False
    if not path.is_file() or b"audiodiff_model" not in path.read_bytes():
        raise ModelError(f"{path} is of something else than a model of audiodiff, and is kept. Choose another folder.")
    return True


def _swap(fresh: Path, folder: Path) -> None:
    """Move a folder into the place of an older one, whose other files it takes over."""
    others = []
    if folder.exists():
        old = fresh.with_name("old")
        os.rename(folder, old)
        others = [path for path in old.iterdir() if path.name not in (WEIGHTS, CONFIG)]
    os.rename(fresh, folder)
    for path in others:
        os.rename(path, folder / path.name)


def copy_model(folder: str | Path, target: str | Path, config: ModelConfig) -> None:
    """Write a model folder with the weights of another, bit by bit, and a changed configuration.

    Args:
        folder: Where the weights are.
        target: Where to write; the same folder to change its configuration.
        config: The new configuration.

    Raises:
        ModelError: If the weights cannot be read, or there is a file of that name.
    """
    save_model(target, _load_weights(Path(folder)), config)


def _load_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}. Copy the whole model folder.")
    if said := what_came_instead(path):
        raise ModelError(said)
    try:
        if os.fsencode(path).decode(errors="ignore") == str(path):
            return load_file(path)
        return load(path.read_bytes())  # safetensors opens no file whose name is no UTF-8
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or no safetensors file: {error}. Copy the model folder again.") from error


def _stored(value: Tensor, *, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.is_floating_point() and value.dim() > 1 else value.clone()


def load_config(folder: str | Path) -> ModelConfig:
    """Read the configuration of a model folder.

    Args:
        folder: A folder written by `save_model`.

    Returns:
        The configuration.

    Raises:
        ModelError: If the folder or its config.json is missing or is not a model of this project.
        ConfigError: If the configuration does not validate.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if folder.is_file():
        raise ModelError(
            f"{folder} is a file; a model is a folder. `audiodiff convert {folder} FOLDER` makes one of a "
            "checkpoint of another project."
        )
    if not folder.is_dir():
        raise _no_folder(folder)
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {CONFIG}, so it is not a model folder. Training writes one in its run folder."
        )
    document = read_json(path, ModelError)
    if not isinstance(document, dict) or "audiodiff_model" not in document:
        raise ModelError(f"{path} was not written by audiodiff. `audiodiff info` shows what a model folder holds.")
    if document["audiodiff_model"] != FORMAT:
        raise ModelError(
            f"{path} has format {document['audiodiff_model']}, this version reads {FORMAT}. Update audiodiff."
        )
    return parse_config(ModelConfig, document.get("config"), str(path))


@isolated("off")
def load_model(folder: str | Path, device: torch.device | str = "cpu") -> tuple[Network, ModelConfig]:
    """Read a model folder.

    Args:
        folder: A folder written by `save_model`.
        device: Where the weights go.

    Returns:
        The network in evaluation mode with float32 weights, and its configuration.

    Raises:
        ModelError: If a file is missing, damaged, or does not belong to this configuration.
        ConfigError: If the configuration does not validate.
    """
    config = load_config(folder)
    weights = _load_weights(Path(folder))
    with _WithoutInitialisation():
        network = build_network(config)
    _check_weights(weights, network.state_dict(), Path(folder) / WEIGHTS)
    network.load_state_dict(weights)
    return network.to(device).eval(), config


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves weights unset that `torch.nn.init` would draw at random: loading replaces them all."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def is_damaged(model: Path) -> bool:
    """Tell whether a model folder is missing or cannot be used."""
    try:
        load_model(model)
    except (ConfigError, ModelError):
        return True
    return False


def _check_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    missing, foreign = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    if missing or foreign:
        raise ModelError(
            f"{path} does not belong to the {CONFIG} beside it: {len(missing)} tensors are missing "
            f"[{', '.join(map(shown, missing[:2]))}], {len(foreign)} are foreign "
            f"[{', '.join(map(shown, foreign[:2]))}]. Copy the model folder again."
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, {CONFIG} asks for {tuple(expected[name].shape)}."
            )
        if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):  # a sum is quick, but may overflow
            raise ModelError(f"{path}: {name} holds NaN or infinity. The training run that wrote it had diverged.")


def find_model(name: str | Path | None = None) -> Path:
    """Resolve what a user calls a model into a folder.

    Args:
        name: A folder; the name of a bundled model; `hub:OWNER/NAME` for a model of the Hugging Face hub; or None for
            the bundled default. Only a name that begins with `hub:` reaches the network.

    Returns:
        The folder; a hub model is downloaded into the hub's cache first.

    Raises:
        ModelError: If nothing of that name can be found.
    """
    text = str(DEFAULT_MODEL if name is None else name)
    bundled = bundled_models()
    if text in bundled:
        return bundled[text]
    folder = Path(os.path.expanduser(text))  # as text: Path would take ./~ for ~
    if text and os.path.exists(folder):
        return folder
    if text.startswith(hub.PREFIX):
        return hub.download(text.removeprefix(hub.PREFIX), (WEIGHTS, CONFIG))
    raise _no_folder(
        text, f" A model of the Hugging Face hub is {hub.PREFIX}{text}." if hub.MODEL_ID.fullmatch(text) else ""
    )


def _no_folder(name: str | Path, hint: str = "") -> ModelError:
    names = ", ".join(bundled_models()) or "none"
    return ModelError(
        f"no model '{name}'. Give a bundled model ({names}), a model folder, or a hub id "
        f"({hub.PREFIX}OWNER/NAME).{hint}"
    )
