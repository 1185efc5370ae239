"""The residual layers of a stack as kernels on an NVIDIA GPU: one launch per layer, tiled for the machine."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.engine import kernels
from audiodiff.engine.kernels import SMALLEST, PackedStack

WIDEST_RESIDENT = 64
"""Channels up to which the weights of a layer fit into shared memory, in 16 bits."""

RESIDENT_TILINGS = ((64, 4, 1, 2), (64, 4, 2, 1), (128, 8, 1, 1), (128, 8, 2, 1))
"""(positions of a tile, warps, stages, programs per multiprocessor) to choose from."""

STREAMED_TILINGS = ((128, 64, 8, 3), (128, 32, 8, 4), (64, 64, 4, 3), (64, 32, 4, 3), (64, 16, 4, 2))
"""(positions of a tile, inputs read at once, warps, stages) to choose from, 16 bits."""

AS_MANY_AS_TILES = 1 << 20
"""Programs per multiprocessor of a kernel that does not persist."""

STREAMED_TILINGS_FLOAT32 = ((64, 32, 8, 3), (64, 32, 4, 3), (64, 16, 8, 2), (32, 16, 4, 2))


class FusedStack:
    """The residual layers of a `DilatedStack`, one kernel each.

    Args:
        packed: Its weights.
        tf32: Whether float32 products may round their operands to 10 bits.

    Attributes:
        n_valid: One int32 on the device: the positions that count, those behind it being taken for zero padding; None
            means all. It is read when kernels run, so a captured graph serves every length up to its own.
    """

    def __init__(self, packed: PackedStack, *, tf32: bool = False) -> None:
        self.packed = packed
        self.tf32 = tf32
        self.n_valid: Tensor | None = None

    def __call__(self, h: Tensor, level: Tensor, condition: Tensor | None) -> Tensor:
        """Run all layers.

        Args:
            h: Residual stream `(batch, positions, C)` in the packed dtype, contiguous; it is overwritten.
            level: Noise-level embedding `(batch, embedding_width)`, float32.
            condition: What `FusedTransform.arrange` returned, or None.

        Returns:
            The sum of the skips without their biases `(batch, positions, C)`; undefined from `n_valid` on.

        Raises:
            ValueError: If the condition is of another length than h.
        """
        if condition is not None:
            self._check_length(condition.shape[1], h.shape[1])
        vectors = self._level_vectors(level)
        n_valid = self.n_valid
        if n_valid is None:
            n_valid = torch.full((1,), h.shape[1], dtype=torch.int32, device=h.device)
        other, skip = torch.empty_like(h), torch.empty_like(h)
        for i in range(len(self.packed.dilations)):
            self._layer(i, (h, other, skip), vectors, condition, n_valid)
            h, other = other, h
        return skip

    def _check_length(self, n_frames: int, n_positions: int) -> None:
        if self.packed.wide and n_frames != n_positions:
            raise ValueError(f"the condition has {n_frames} positions, the signal {n_positions}")
        if n_positions % n_frames:
            raise ValueError(
                f"the signal's {n_positions} positions are no multiple of the condition's {n_frames} frames"
            )

    def _level_vectors(self, level: Tensor) -> Tensor:
        """Return `(batch, L, 6, 2 * C)`: what past, present and future tap bring, as sums of two vectors each."""
        packed = self.packed
        exact = functional.linear(level.float(), packed.level, packed.offset)
        exact = exact.view(len(level), len(packed.dilations), 3, 1, 2 * packed.channels)
        rounded = exact.to(packed.taps.dtype)
        rest = (exact - rounded.float()).to(packed.taps.dtype)
        return torch.cat([rounded, rest], dim=3).flatten(2, 3)

    def _layer(
        self, i: int, streams: tuple[Tensor, Tensor, Tensor], vectors: Tensor, condition: Tensor | None, n_valid: Tensor
    ) -> None:
        packed, h = self.packed, streams[0]
        rows, repeat = h, 0  # without a condition the kernels read nothing of it
        if condition is not None and packed.wide:
            n_features = packed.wide + packed.narrow
            rows = condition[:, :, i * n_features % condition.shape[2] :]  # all layers share one set, or have their own
        elif condition is not None:
            repeat = h.shape[1] // condition.shape[1]
            rows = condition[:, :, 2 * packed.channels * i :]
        arguments = (
            *streams, rows, vectors[:, i], packed.taps[i], packed.output[i], n_valid,
            h.shape[1], packed.dilations[i], rows.stride(0), rows.stride(1), vectors.stride(0),
        )  # fmt: skip
        constants = {
            "channels": packed.channels,
            "wide": packed.wide,
            "narrow": packed.narrow,
            "repeat": repeat,
            "first": i == 0,
            "precision": "tf32" if self.tf32 else "ieee",
            "fast": h.is_cuda and h.dtype != torch.float32,  # the interpreter knows no tanh of the hardware
        }
        _launch(h, arguments, constants)


def _launch(h: Tensor, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
    resident = is_resident(h.dtype, constants["channels"])
    batch, capacity = h.shape[:2]
    if not h.is_cuda:  # Triton's interpreter, for tests
        kernel: Any = kernels.resident_layer if resident else kernels.streamed_layer
        kernel[(2, batch)](*arguments, **constants, block=32, piece=16, per_processor=1)
        return
    processors = torch.cuda.get_device_properties(h.device).multi_processor_count

    def grid(choice: dict[str, Any]) -> tuple[int, int]:
        return programs_per_clip(capacity, batch, processors, choice), batch

    with torch.cuda.device(h.device):
        kernel = _tuned(h.dtype, constants["channels"], _power_of_two(batch), _power_of_two(capacity))
        kernel[grid](*arguments, **constants)


def _power_of_two(n: int) -> int:
    """Round up, so that few kinds of call are tuned apart."""
    return 1 << (n - 1).bit_length()


def programs_per_clip(capacity: int, batch: int, processors: int, choice: Mapping[str, int]) -> int:
    """Return how many programs walk over the tiles of one clip: all programs together run at once, in one wave.

    Args:
        capacity: Positions of a clip.
        batch: Clips.
        processors: Multiprocessors of the device.
        choice: The tiling: "block" positions per tile, and "per_processor" programs at once.
    """
    tiles = -(-capacity // choice["block"])
    return min(tiles, max(1, processors * choice["per_processor"] // batch))


class Tiling(NamedTuple):
    """How a layer is cut up for the machine.

    Attributes:
        block: Positions of a tile.
        piece: Inputs whose weights are read at once.
        per_processor: Programs that a multiprocessor runs at once; `AS_MANY_AS_TILES` where they do not persist.
        warps: Of a program.
        stages: Of its pipeline.
    """

    block: int
    piece: int
    per_processor: int
    warps: int
    stages: int


def is_resident(dtype: torch.dtype, channels: int) -> bool:
    """Return whether the weights of a layer stay in shared memory."""
    return channels <= WIDEST_RESIDENT and dtype.itemsize == 2


def tilings(dtype: torch.dtype, channels: int) -> list[Tiling]:
    """Return the tilings to choose from for a kind of layer."""
    if is_resident(dtype, channels):
        return [Tiling(block, SMALLEST, each, warps, stages) for block, warps, stages, each in RESIDENT_TILINGS]
    streamed = STREAMED_TILINGS_FLOAT32 if dtype == torch.float32 else STREAMED_TILINGS
    cuts = sorted({(block, min(piece, channels), warps, stages) for block, piece, warps, stages in streamed})
    return [Tiling(block, piece, AS_MANY_AS_TILES, warps, stages) for block, piece, warps, stages in cuts]


@functools.cache
def _tuned(dtype: torch.dtype, channels: int, batch: int, capacity: int) -> Any:
    """Return a kernel that times a few tilings when it first meets a kind of layer, and keeps the fastest.

    The fastest depends on the batch and the length too, which is why they are arguments here. A stack's first layer is
    met first, and may run any number of times: it only writes to what it does not read.
    """
    import triton

    configs = [
        triton.Config(
            {"block": tiling.block, "piece": tiling.piece, "per_processor": tiling.per_processor},
            num_warps=tiling.warps,
            num_stages=tiling.stages,
        )
        for tiling in tilings(dtype, channels)
    ]
    kernel: Any = kernels.resident_layer if is_resident(dtype, channels) else kernels.streamed_layer
    return triton.autotune(configs, key=["wide", "narrow", "repeat", "precision"])(kernel)
