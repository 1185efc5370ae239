"""Every kernel compiles for the GPUs that matter, without one: registers, shared memory and spills are bounded."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from audiodiff.engine.cuda import AS_MANY_AS_TILES, is_resident, programs_per_clip, tilings

triton = pytest.importorskip("triton", reason="kernels need Triton")

SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes that a program may take, by compute capability (CUDA programming guide, technical specifications)."""

CONDITIONS = {
    "none": (0, 0, 0),
    "frames, few in a tile": (0, 0, 256),
    "frames, many in a tile": (0, 0, 8),
    "frames, one per position": (0, 0, 1),
    "features in two parts": (64, 16, 0),
}
"""(wide, narrow, repeat) of the kernels."""

LAYERS = [
    (dtype, channels, precision)
    for dtype, precisions in (("bfloat16", ("ieee",)), ("float16", ("ieee",)), ("float32", ("ieee", "tf32")))
    for channels in (16, 32, 64, 128)
    for precision in precisions
]


def compiled(jobs: list[dict], architecture: int) -> list[dict]:
    """Compile kernels in a process of its own, where Triton does not interpret, and return what each takes."""
    program = Path(__file__).with_name("compile_kernels.py")
    text = json.dumps({"architecture": architecture, "jobs": jobs})
    plain = os.environ | {"TRITON_INTERPRET": "0"}
    run = subprocess.run(
        [sys.executable, str(program)], env=plain, input=text, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def job(dtype: str, channels: int, precision: str, condition: str, tiling, *, first: bool = False) -> dict:
    wide, narrow, repeat = CONDITIONS[condition]
    constants = {"channels": channels, "wide": wide, "narrow": narrow, "repeat": repeat, "first": first}
    constants |= {"precision": precision, "fast": dtype != "float32", "block": tiling.block, "piece": tiling.piece}
    kernel = "resident_layer" if is_resident(getattr(torch, dtype), channels) else "streamed_layer"
    return {
        "kernel": kernel,
        "dtype": dtype,
        "constants": constants | {"per_processor": tiling.per_processor},
        "warps": tiling.warps,
        "stages": tiling.stages,
    }


def fits(made: dict, architecture: int) -> bool:
    return "error" not in made and made["shared"] <= SHARED_MEMORY[architecture]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHARED_MEMORY)
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(("dtype", "channels", "precision"), LAYERS)
def test_a_layer_compiles_with_a_tiling_that_fits_and_spills_nothing(
    dtype, channels, precision, condition, architecture
):
    """On each GPU the smallest tiling works, whatever the larger ones do there."""
    choices = tilings(getattr(torch, dtype), channels)
    smallest = min(choices, key=lambda tiling: (tiling.block, tiling.piece, tiling.stages))
    made = compiled(
        [job(dtype, channels, precision, condition, smallest, first=first) for first in (True, False)], architecture
    )
    for one in made:
        assert "error" not in one, one["error"]
        assert one["shared"] <= SHARED_MEMORY[architecture]
        assert one["registers"] <= 255
        assert one["stack"] == 0  # nothing is spilled


@pytest.mark.slow
@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(
    ("dtype", "channels"), [("bfloat16", 64), ("bfloat16", 128), ("float32", 64), ("float32", 128)]
)
def test_every_tiling_compiles_and_spills_little(dtype, channels, condition):
    made = compiled(
        [job(dtype, channels, "ieee", condition, tiling) for tiling in tilings(getattr(torch, dtype), channels)], 90
    )
    assert not [one["error"] for one in made if "error" in one]
    assert sum(fits(one, 90) and one["stack"] == 0 for one in made) >= 2, made
    assert all(one["stack"] <= 128 for one in made), made


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SHARED_MEMORY)
@pytest.mark.parametrize("start", ["i32", "i64"])
def test_noise_compiles_with_the_exact_functions(start, architecture):
    (made,) = compiled([{"kernel": "noise", "start": start, "turn": 2 * math.pi / 2**32}], architecture)
    assert "error" not in made, made["error"]
    assert not re.findall(r"\w+\.approx\S*", made["approximations"])
    assert made["shared"] == 0


@pytest.mark.parametrize("batch", [1, 3, 7, 16, 132, 133, 500])
@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("processors", [108, 132])
def test_persistent_programs_run_in_one_wave(batch, each, processors):
    programs = programs_per_clip(100_000, batch, processors, {"block": 64, "per_processor": each})
    assert programs >= 1
    assert programs * batch <= max(processors * each, batch)
    assert (programs + 1) * batch > processors * each  # there is no room for more


def test_there_are_no_more_programs_than_tiles():
    assert programs_per_clip(100, 1, 132, {"block": 64, "per_processor": 2}) == 2
    assert programs_per_clip(100_000, 16, 132, {"block": 64, "per_processor": AS_MANY_AS_TILES}) == 1563
