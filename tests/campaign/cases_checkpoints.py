"""Checkpoints: of other projects, with strange tensors and wrappers, and our own, damaged between two runs."""

from __future__ import annotations

import io
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from campaign.case import Case, Draw, Result, damage
from campaign.cases_models import POINTER
from campaign.oracle import audio_is, has_files
from campaign.world import World


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, ("touch pwned",)


def _nested(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([tensor, tensor])


def _quantised(tensor: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


TENSORS: dict[str, Callable[[Tensor], object]] = {
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "nested": _nested,
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float64": lambda x: x.double(),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "complex": lambda x: x.to(torch.complex64),
    "integer": lambda x: x.long(),
    "boolean": lambda x: x.bool(),
    "quantised": _quantised,
    "nan": lambda x: torch.full_like(x, float("nan")),
    "inf": lambda x: torch.full_like(x, float("inf")),
    "transposed": lambda x: x.transpose(0, -1) if x.ndim > 1 else x[:1],
    "expanded": lambda x: torch.zeros(1).expand(x.shape),
    "empty": lambda x: x[:0],
    "scalar": lambda x: torch.tensor(1.0),
    "parameter": lambda x: torch.nn.Parameter(x),
    "requires grad": lambda x: x.clone().requires_grad_(),
    "conjugate": lambda x: x.to(torch.complex64).conj(),
    "numpy": lambda x: x.numpy(),
    "list": lambda x: x.tolist(),
    "none": lambda x: None,
    "text": lambda x: "x",
    "number": lambda x: 3,
    "large": lambda x: torch.zeros(1).expand(10**12),
}
WRAPPERS: dict[str, Callable[[Any], object]] = {
    "module.": lambda w: {f"module.{key}": value for key, value in w.items()},
    "_orig_mod.": lambda w: {f"_orig_mod.{key}": value for key, value in w.items()},
    "both prefixes": lambda w: {f"module._orig_mod.{key}": value for key, value in w.items()},
    "state_dict": lambda w: {"state_dict": w},
    "lightning": lambda w: {
        "epoch": 1,
        "pytorch-lightning_version": "2.0",
        "state_dict": {f"model.{k}": v for k, v in w.items()},
        "callbacks": {},
    },
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": {}},
    "ema": lambda w: {"ema": w},
    "bare": lambda w: w,
    "ordered": lambda w: OrderedDict(w),
    "with optimiser": lambda w: {
        "model": w,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-4}]},
    },
    "numpy scalars": lambda w: {"model": w, "step": np.int64(7), "loss": np.float64(0.1)},
    "itself": lambda w: _itself(w),
    "deep": lambda w: _deep(w),
    "list": lambda w: [w],
    "empty": lambda w: {},
    "one tensor": lambda w: next(iter(w.values())),
    "odd keys": lambda w: {1: 2, ("a",): 3, None: w},
    "lambda": lambda w: {"model": w, "hook": _Evil()},
}
ACCEPTED = (
    "module.",
    "_orig_mod.",
    "both prefixes",
    "state_dict",
    "model_state_dict",
    "bare",
    "ordered",
    "with optimiser",
)


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Make a strange file of PyTorch, and the command that reads it."""
    case = draw.choice([_foreign, _foreign, _mel, _run])(draw, folder, world)
    inner = case.check

    def check(result: Result) -> str | None:
        return "code was executed" if (result.folder / "pwned").exists() else inner(result) if inner else None

    case.check = check
    return case


def _itself(weights: Any) -> dict[str, Any]:
    content: dict[str, Any] = {"weights": weights}
    content["model"] = content
    return content


def _deep(weights: Any) -> Any:
    for _ in range(200):
        weights = {"a": weights}
    return weights


def _foreign(draw: Draw, folder: Path, world: World) -> Case:
    content = torch.load(world.checkpoint, weights_only=True)
    how = draw.choice(
        ["tensor"] * 3
        + ["wrapper"] * 3
        + ["params", "missing", "extra", "damage", "damage", "pointer", "pickle", "legacy", "text"]
    )
    about, expect = how, "either"
    weights = content["model"]
    name = draw.choice(sorted(weights))
    if how == "tensor":
        about = draw.choice(sorted(TENSORS))
        weights[name] = TENSORS[about](weights[name])
        about = f"{name} {about}"
    elif how == "wrapper":
        about = draw.choice(sorted(WRAPPERS))
        content = WRAPPERS[about](weights)
        expect = "accept" if about in ACCEPTED else "either"
    elif how == "params":
        key, value = (
            draw.choice(sorted(content["params"])),
            draw.choice([None, -1, 0, 10**9, float("nan"), "x", [], [float("nan")] * 5, 1e308, {}, [2.0], True]),
        )
        content["params"][key] = value
        about = f"params {key} = {str(value)[:30]}"
    elif how == "missing":
        del weights[name]
    elif how == "extra":
        weights[draw.choice(["x", "", 3, "module"])] = torch.zeros(3)
    data = _saved(content, legacy=how == "legacy")
    if how == "damage":
        data, about = damage(data, draw, draw.choice([100, None]))
    texts = {"pointer": POINTER, "pickle": pickle.dumps({"model": 1}), "text": b"hello"}
    path = folder / draw.choice(["weights.pt", "weights.pt", "weights.pkl", "weights.ckpt", "weights.bin"])
    path.write_bytes(texts.get(how, data))
    check = has_files("out/config.json", "out/model.safetensors")
    return Case(["convert", path.name, "out"], f"convert, {about}", expect, ["weights"], check)


def _saved(content: object, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _mel(draw: Draw, folder: Path, world: World) -> Case:
    mel = torch.from_numpy(np.load(world.mel))
    how = draw.choice(sorted(TENSORS))
    content: object = TENSORS[how](mel)
    if draw.random() < 0.2:
        content = draw.choice([{"mel": content}, [content], (content, content), _Evil()])
    data = _saved(content)
    if draw.random() < 0.2:
        data, what = damage(data, draw)
        how = f"{how}, {what}"
    name = draw.choice(["mel.pt", "mel.pt", "mel.pt", "mel.pth", "mel.npy", "mel.mel", "mel.ckpt"])
    (folder / name).write_bytes(data)
    run = ["vocode", name, "-o", "out.wav", "--model", str(world.vocoder)]
    accept = how in ("parameter", "requires grad", "float64") and name == "mel.pt" and isinstance(content, Tensor)
    return Case(run, f"mel {name} {how}", "accept" if accept else "either", [name], audio_is("out.wav", sounds=False))


def _run(draw: Draw, folder: Path, world: World) -> Case:
    """Damage a finished run, and continue, plot or use it."""
    run = world.copy(world.run, folder / "run")
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = draw.choice(files)
    how = draw.choice(["damage", "damage", "damage", "remove", "empty", "folder", "pointer", "values"])
    if how == "damage":
        data, what = damage(path.read_bytes(), draw)
        path.write_bytes(data)
        how = f"{how}: {what}"
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pointer":
        path.write_bytes(POINTER)
    elif how in ("remove", "folder"):
        path.unlink()
        if how == "folder":
            path.mkdir()
    elif path.suffix == ".safetensors":
        from safetensors.torch import load, save

        path.write_bytes(
            save({key: torch.full_like(value, float("nan")) for key, value in load(path.read_bytes()).items()})
        )
    about = f"run, {path.relative_to(run)} {how}"
    command = draw.choice(["train", "train", "plot", "loss", "vocode", "info"])
    if command == "train":
        more = draw.choice([[], ["--set", "training.steps=6"], ["--resume", "never"], ["--resume", "run"]])
        names = [str(file.relative_to(folder)) for file in files]
        return Case(
            ["train", str(world.conf), "--run", "run", *more],
            about,
            names=["run", path.name],
            check=_finite_weights,
            changes=names,
            keeps=True,
            seconds=30,
        )
    commands = {
        "plot": (["plot", "training", "run", "-o", "out.png"], has_files("out.png")),
        "loss": (["plot", "loss-by-noise-level", "run", "-o", "out.png"], has_files("out.png")),
        "vocode": (
            ["vocode", str(world.clip), "-o", "out.wav", "--model", "run/best"],
            audio_is("out.wav", 4000, sounds=False),
        ),
        "info": (["info", "run/last"], None),
    }
    argv, check = commands[command]
    return Case(argv, f"{command}, {about}", names=["run"], check=check, seconds=10)


def _finite_weights(result: Result) -> str | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in ("best", "last"):
        path = result.folder / "run" / name / "model.safetensors"
        if name == "best" and "warning" in result.err and "run/best" in result.err:
            continue
        try:
            weights = load_file(path)
        except (OSError, SafetensorError) as error:
            return f"{name} cannot be read: {error}"
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            return f"{name} has weights that are not finite"
    return None
