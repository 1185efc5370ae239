"""Model folders: files that are missing, cut off, exchanged or something else, and damaged safetensors."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path

from campaign.case import Case, Draw, damage
from campaign.oracle import audio_is, has_files
from campaign.world import World

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Damage the folder of a model, and use it."""
    model = world.copy(world.vocoder, folder / "model")
    weights, config = model / "model.safetensors", model / "config.json"
    damages = {
        "whole": lambda: None,
        "extra files": lambda: _extra(model),
        "missing": lambda: draw.choice([weights, config]).unlink(),
        "empty folder": lambda: [path.unlink() for path in model.iterdir()],
        "a file instead": lambda: (shutil.rmtree(model), model.write_bytes(b"x")),
        "no such folder": lambda: shutil.rmtree(model),
        "damaged weights": lambda: weights.write_bytes(
            damage(weights.read_bytes(), draw, draw.choice([8, 200, 3000, None]))[0]
        ),
        "damaged config": lambda: config.write_bytes(damage(config.read_bytes(), draw)[0]),
        "exchanged weights": lambda: shutil.copy(world.generator / "model.safetensors", weights),
        "exchanged config": lambda: shutil.copy(world.generator / "config.json", config),
        "generator": lambda: (shutil.rmtree(model), shutil.copytree(world.generator, model)),
        "pointer": lambda: draw.choice([weights, config]).write_bytes(POINTER),
        "folder instead": lambda: (weights.unlink(), weights.mkdir()),
        "link to itself": lambda: (weights.unlink(), os.symlink("model.safetensors", weights)),
        "dangling link": lambda: (config.unlink(), os.symlink("nowhere", config)),
        "pickle": lambda: weights.write_bytes(world.checkpoint.read_bytes()),
        "header": lambda: _header(weights, draw),
        "header": lambda: _header(weights, draw),  # noqa: F601
        "values": lambda: _values(weights, draw),
        "format": lambda: config.write_text(
            json.dumps(
                json.loads(config.read_text()) | {"audiodiff_model": draw.choice([0, 2, "1", None, 1e400, True])}
            )
        ),
    }
    how = draw.choice([*damages, "header", "values", "damaged weights"])
    damages[how]()
    fine = how in ("whole", "extra files")
    command = draw.choice(["vocode", "vocode", "vocode", "info", "export", "rbf", "bench", "train", "generate"])
    name = draw.choice(["model", "./model", str(model), "model/"])
    clip = str(world.clip)
    run, check = {
        "vocode": (["vocode", clip, "-o", "out.wav", "--model", name], audio_is("out.wav", 4000, sounds=fine)),
        "info": (["info", name], None),
        "export": (["export", name, "out"], has_files("out/config.json", "out/model.safetensors")),
        "rbf": (["plot", "rbf", name, "-o", "out.png"], has_files("out.png")),
        "bench": (["plot", "steps", clip, "--model", name, "-o", "out.png", "--seconds", "0.2"], has_files("out.png")),
        "train": (["train", str(world.conf), "--dry-run", "--set", f"training.initial_model={name}"], None),
        "generate": (["generate", "--model", name, "-o", "out"], None),
    }[command]
    return Case(
        run,
        f"{command}, {how}",
        "accept" if fine and command != "generate" else "either",
        ["model", "NaN or infinite"],
        check,
        seconds=10,
    )


def _extra(model: Path) -> None:
    (model / "README.md").write_text("hello")
    (model / ".hidden").write_bytes(b"\xff")
    (model / "inner").mkdir()


def _header(weights: Path, draw: Draw) -> None:
    """Write another header over the tensors."""
    data = weights.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = draw.choice(sorted(set(header) - {"__metadata__"}))
    entry = header[name]
    changes = {
        "dtype": lambda: entry.update(dtype=draw.choice(["F64", "F16", "I64", "BOOL", "F8_E4M3", "X", 3, None, "U8"])),
        "shape": lambda: entry.update(
            shape=draw.choice([[], [0], [-1], [10**12], entry["shape"][::-1], [2**63], "x", None, [1.5], [1] * 100])
        ),
        "offsets": lambda: entry.update(
            data_offsets=draw.choice([[0, 0], [0, 10**15], [-1, 4], [4, 0], [], None, ["a", "b"], [0, 4]])
        ),
        "remove": lambda: header.pop(name),
        "rename": lambda: header.update({draw.choice(["", "x", "\0", "x" * 10_000, "../x"]): header.pop(name)}),
        "metadata": lambda: header.update(__metadata__=draw.choice([{"a": 1}, [], "x", {"a": "b" * 10_000}])),
        "empty": header.clear,
        "list": lambda: None,
    }
    how = draw.choice(sorted(changes))
    changes[how]()
    text = b"[1, 2]" if how == "list" else json.dumps(header).encode()
    length = draw.choice([len(text)] * 6 + [0, 1, 2**63, 2**64 - 1, 10**9, len(text) + 1])
    weights.write_bytes(struct.pack("<Q", length) + text + data[8 + size :])


def _values(weights: Path, draw: Draw) -> None:
    """Write odd numbers into one tensor, or all."""
    from safetensors.torch import load, save

    tensors = load(weights.read_bytes())
    value = draw.choice([float("nan"), float("inf"), -float("inf"), 0.0, 1e30, -1e38, 1e-38])
    for name in draw.choice([[draw.choice(sorted(tensors))], list(tensors)]):
        if tensors[name].is_floating_point():
            tensors[name].fill_(value)
    weights.write_bytes(save(tensors))
