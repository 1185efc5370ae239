"""Public functions with arguments of the wrong kind, and under odd states of torch and NumPy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from campaign.case import Case, Draw
from campaign.world import HOP, N_MELS, RATE, World

NAN = float("nan")
THINGS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "text": lambda: "x",
    "number": lambda: 3,
    "nan": lambda: NAN,
    "list": lambda: [[0.0] * 10] * N_MELS,
    "empty list": list,
    "mapping": dict,
    "bytes": lambda: b"x",
    "numpy": lambda: np.full((N_MELS, 10), -3.0, np.float32),
    "numpy float64": lambda: np.full((N_MELS, 10), -3.0),
    "numpy integers": lambda: np.zeros((N_MELS, 10), np.int16),
    "numpy objects": lambda: np.array([None, "x"], dtype=object),
    "tensor": lambda: torch.full((N_MELS, 10), -3.0),
    "float64": lambda: torch.full((N_MELS, 10), -3.0, dtype=torch.float64),
    "bfloat16": lambda: torch.full((N_MELS, 10), -3.0, dtype=torch.bfloat16),
    "integers": lambda: torch.zeros(N_MELS, 10, dtype=torch.long),
    "complex": lambda: torch.zeros(N_MELS, 10, dtype=torch.complex64),
    "nan tensor": lambda: torch.full((N_MELS, 10), NAN),
    "empty": lambda: torch.zeros(0),
    "no frames": lambda: torch.zeros(N_MELS, 0),
    "scalar": lambda: torch.tensor(1.0),
    "five axes": lambda: torch.zeros(1, 1, 1, N_MELS, 4),
    "meta": lambda: torch.zeros(N_MELS, 10, device="meta"),
    "sparse": lambda: torch.zeros(N_MELS, 10).to_sparse(),
    "transposed": lambda: torch.full((10, N_MELS), -3.0).T,
    "requires grad": lambda: torch.full((N_MELS, 10), -3.0, requires_grad=True),
}
STATES: dict[str, Callable[[], Any]] = {
    "plain": contextlib.nullcontext,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default float64": lambda: _default(torch.float64),
    "no grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic": lambda: _deterministic(),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "numpy raises": lambda: np.errstate(all="raise"),
}
SEEDS = (
    0,
    1,
    np.int64(3),
    np.uint32(4),
    np.int64(-1),
    -1,
    2**63,
    2**64,
    10**30,
    1.5,
    NAN,
    "1",
    None,
    True,
    torch.tensor(3),
    np.float64(2.0),
)


@contextlib.contextmanager
def _default(kind: torch.dtype):
    torch.set_default_dtype(kind)
    yield
    torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Draw a function, an argument and a state."""
    call = draw.choice([_vocode, _vocode, _save, _load, _mel, _stream, _generate, _seed])
    thing, state = draw.choice(sorted(THINGS)), draw.choice(sorted(STATES))
    if draw.random() < 0.3:
        thing = draw.choice(["tensor", "numpy"])
    seed, number = draw.choice(SEEDS), draw.choice([-1, 0, 1, 2.5, NAN, float("inf"), 10**19, "x", None, 8000, 1e308])

    def run() -> None:
        with STATES[state]():
            call(THINGS[thing](), folder, world, seed, number)

    named = f"seed {seed!r}" if call in (_seed, _generate) else f"{thing}, number {number!r}"
    return Case(run, f"{call.__name__}, {named}, {state}", keeps=True)


def _finite(audio: torch.Tensor | np.ndarray, n: int | None = None) -> None:
    audio = torch.as_tensor(audio)
    assert audio.numel(), "empty"
    assert bool(audio.isfinite().all()), "not finite"
    assert n is None or audio.shape[-1] == n, f"{audio.shape[-1]} samples, not {n}"


def _vocode(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import Vocoder

    _finite(Vocoder.from_pretrained(str(world.vocoder))(thing))


def _seed(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import Vocoder

    _finite(Vocoder.from_pretrained(str(world.vocoder))(torch.full((N_MELS, 10), -3.0), seed=seed), 10 * HOP)


def _generate(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import Generator

    _finite(Generator.from_pretrained(str(world.generator)).generate(label="yes", seconds=0.1, seed=seed))


def _stream(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import Vocoder

    vocoder = Vocoder.from_pretrained(str(world.vocoder))
    _finite(
        torch.cat([torch.as_tensor(chunk).reshape(-1) for chunk in vocoder.stream([thing, thing], chunk_seconds=0.05)])
    )


def _mel(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import Vocoder

    _finite(Vocoder.from_pretrained(str(world.vocoder)).mel(thing))


def _save(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import load_audio, save_audio

    save_audio(folder / "saved.wav", thing, number if number is not None else RATE)
    _finite(load_audio(folder / "saved.wav", mono=False))


def _load(thing: Any, folder: Path, world: World, seed: Any, number: Any) -> None:
    from audiodiff import load_audio

    _finite(load_audio(world.clip, sample_rate=number))
