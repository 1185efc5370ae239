"""Mels in .npy and .pt files: shapes, types, orders, conventions, odd numbers, damaged headers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch

from campaign.case import Case, Draw, damage
from campaign.oracle import audio_is
from campaign.world import HOP, N_MELS, World

TYPES = (
    "<f4",
    ">f4",
    "<f8",
    ">f8",
    "<f2",
    ">f2",
    "<i4",
    ">i2",
    "u1",
    "<i8",
    "bool",
    "<c8",
    "<c16",
    "longdouble",
    "S4",
    "U3",
    "O",
    "M8[s]",
    "m8[s]",
    "V8",
    "record",
)
SHAPES = (
    "as it is",
    "as it is",
    "transposed",
    "batch of one",
    "batch of two",
    "flat",
    "no frames",
    "no bins",
    "one frame",
    "other bins",
    "scalar",
    "four axes",
    "long",
)
VALUES = ("nan", "inf", "-inf", "linear", "log10", "decibels", "huge", "tiny", "zeros", "noise", "negated", "one nan")
REAL = ("<f4", ">f4", "<f8", ">f8")


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Make a mel, and the command that vocodes it."""
    mel = np.load(world.mel)[:, : draw.choice([5, 20, 40, 63])].astype(np.float64)
    shape, value, kind = "as it is", "as it is", "<f4"
    for change in draw.sample(["shape", "value", "type"], draw.choice([0, 1, 1, 1, 2])):
        shape = draw.choice(SHAPES) if change == "shape" else shape
        value = draw.choice(VALUES) if change == "value" else value
        kind = draw.choice(TYPES) if change == "type" else kind
    mel = _shaped(_valued(mel, value, draw), shape, draw)
    name, data, how = _stored(mel, kind, draw)
    (folder / name).write_bytes(data)
    about = f"{kind}, {shape}, {value}, {how}"
    right = (
        kind in REAL and shape in ("as it is", "batch of one", "one frame") and value == "as it is" and how == "whole"
    )
    frames = mel.shape[-1] if mel.ndim else 0
    check = audio_is("out.wav", frames * HOP if right else None, sounds=False)
    expect = "accept" if right else "refuse" if "nan" in value and kind in (*REAL, "<f2", ">f2") else "either"
    return Case(["vocode", name, "-o", "out.wav", "--model", str(world.vocoder)], about, expect, [name], check)


def _valued(mel: np.ndarray, value: str, draw: Draw) -> np.ndarray:
    if value in ("nan", "inf", "-inf"):
        return np.full_like(mel, float(value))
    if value == "one nan":
        mel[draw.randrange(len(mel)), draw.randrange(mel.shape[1])] = np.nan
        return mel
    return {
        "linear": np.exp(mel),
        "log10": mel / np.log(10),
        "decibels": mel * 20 / np.log(10),
        "huge": mel * 1e30,
        "tiny": mel * 1e-30,
        "zeros": mel * 0,
        "noise": draw.numpy.normal(size=mel.shape),
        "negated": -mel,
    }.get(value, mel)


def _shaped(mel: np.ndarray, shape: str, draw: Draw) -> np.ndarray:
    return {
        "transposed": mel.T,
        "batch of one": mel[None],
        "batch of two": np.stack([mel, mel]),
        "flat": mel.ravel(),
        "no frames": mel[:, :0],
        "no bins": mel[:0],
        "one frame": mel[:, :1],
        "other bins": np.resize(mel, (draw.choice([1, 19, 21, 80, 128]), 20)),
        "scalar": mel[0, 0],
        "four axes": mel[None, None],
        "long": np.resize(mel, (N_MELS, 5000)),
    }.get(shape, mel)


def _stored(mel: np.ndarray, kind: str, draw: Draw) -> tuple[str, bytes, str]:
    """Return name, content and what was done to a file."""
    buffer, array = io.BytesIO(), _typed(np.asarray(mel), kind)
    form = draw.choice(["npy"] * 6 + ["pt", "npz", "savez as npy", "fortran", "text", "nested pt"])
    if (
        form in ("pt", "nested pt")
        and array.dtype.kind in "fiub"
        and array.dtype.byteorder != ">"
        and array.dtype.itemsize < 16
    ):
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        torch.save({"mel": tensor} if form == "nested pt" else tensor, buffer)
        return "mel.pt", buffer.getvalue(), "whole" if form == "pt" else form
    if form in ("npz", "savez as npy"):
        np.savez(buffer, mel=mel)
        return ("mel.npz" if form == "npz" else "mel.npy"), buffer.getvalue(), form
    if form == "text":
        return "mel.npy", "\n".join(map(str, np.ravel(mel)[:1000])).encode(), form
    np.save(buffer, np.asfortranarray(array) if form == "fortran" else array, allow_pickle=True)
    data = buffer.getvalue()
    if draw.random() < 0.6:
        return "mel.npy", data, "whole"
    if draw.random() < 0.5:
        return "mel.npy", *_wrong_header(data, draw)
    data, how = damage(data, draw, draw.choice([10, 128, None]))
    return "mel.npy", data, how


def _typed(mel: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        if kind == "record":
            return np.zeros(mel.shape, dtype=[("a", "f4"), ("b", "i4")])
        if kind in ("V8", "S4", "U3", "M8[s]", "m8[s]"):
            return np.zeros(mel.shape, dtype=kind)
        return mel.astype(kind)


def _wrong_header(data: bytes, draw: Draw) -> tuple[bytes, str]:
    """Let the header of a .npy file promise something else."""
    end = 10 + int.from_bytes(data[8:10], "little")
    text = draw.choice(
        [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 1000000000000), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 100000000), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-20, 5), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (20.0, 5), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (), }",
            "{'descr': '<f99', 'fortran_order': False, 'shape': (20, 5), }",
            "{'descr': '|O', 'fortran_order': False, 'shape': (20, 5), }",
            "{'descr': '<f4', 'fortran_order': 3, 'shape': (20, 5), }",
            "{'descr': [('a', '<f4', (2, 99999999))], 'fortran_order': False, 'shape': (20, 5), }",
            "{'shape': (20, 5), }",
            "[1, 2, 3]",
            "__import__('os').system('touch pwned')",
            "(" * 3000,
            "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 5), }\0",
        ]
    )
    header = text.encode().ljust(118) + b"\n"
    return data[:8] + len(header).to_bytes(2, "little") + header + data[end:], f"header {text[:70]}"
