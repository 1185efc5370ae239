"""The residual layers of a stack on an NVIDIA GPU: packed weights, one kernel per layer, tiled for the machine."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.networks.conditioning import UpsampledConditioner
from audiodiff.networks.diffwave import DilatedStack

WIDEST_RESIDENT = 64
"""Channels up to which the weights of a layer fit into shared memory, in 16 bits."""

RESIDENT_TILINGS = ((64, 4, 1, 2), (64, 4, 2, 1), (128, 8, 1, 1), (128, 8, 2, 1))
"""(positions of a tile, warps, stages, programs per multiprocessor) to choose from."""

STREAMED_TILINGS = ((128, 64, 8, 3), (128, 32, 8, 4), (64, 64, 4, 3), (64, 32, 4, 3), (64, 16, 4, 2))
"""(positions of a tile, inputs read at once, warps, stages) to choose from, 16 bits."""

AS_MANY_AS_TILES = 1 << 20
"""Programs per multiprocessor of a kernel that does not persist."""

STREAMED_TILINGS_FLOAT32 = ((64, 32, 8, 3), (64, 32, 4, 3), (64, 16, 8, 2), (32, 16, 4, 2))

SMALLEST = 16
"""Channels are padded with zeros to a power of two from here on: what the matrix units take at least."""


def padded_width(n: int) -> int:
    """Return the power of two that `n` features are padded to, at least `SMALLEST`."""
    return max(SMALLEST, 1 << (n - 1).bit_length())


def feature_widths(n: int) -> tuple[int, int]:
    """Split `n` features into two powers of two that hold them with little to spare: 80 is 64 + 16; 0 is 0 + 0."""
    if n <= SMALLEST:
        return (SMALLEST if n else 0), 0
    wide = 1 << n.bit_length() - 1
    return wide, (padded_width(n - wide) if n > wide else 0)


def pad_last(x: Tensor, width: int) -> Tensor:
    """Append zeros to the last axis of x until it is `width` long."""
    return functional.pad(x, (0, width - x.shape[-1]))


def pad_parts(x: Tensor, parts: int, width: int, axis: int) -> Tensor:
    """Cut an axis of x into equal parts and pad each with zeros to `width`."""
    pieces = x.movedim(axis, -1).unflatten(-1, (parts, -1))
    return pad_last(pieces, width).flatten(-2).movedim(-1, axis)


class PackedStack(NamedTuple):
    """A `DilatedStack` of L layers, its C channels padded to a power of two.

    Attributes:
        channels: C after padding.
        wide: Features of the condition that are part of the taps' product, first part after padding.
        narrow: Second part.
        dilations: One per layer, in positions.
        taps: `(L, 2 * C, 3 * C + wide + narrow)`: past, present, future, features.
        output: `(L, 2 * C, C)`: residual, skip.
        level: `(L * 3 * 2 * C, embedding_width)`, float32: from the noise-level embedding to what each tap brings.
        offset: `(L * 3 * 2 * C,)`, float32: the same at an embedding of zero, and the bias at the present tap.
        skip_bias: `(C,)`, float32: the sum of all skip biases, which the kernels leave out.
    """

    channels: int
    wide: int
    narrow: int
    dilations: tuple[int, ...]
    taps: Tensor
    output: Tensor
    level: Tensor
    offset: Tensor
    skip_bias: Tensor


def _projections(stack: DilatedStack) -> list[nn.Linear]:
    """List the layers' own projections of the condition; empty where one projection serves all layers at once."""
    conditioner = stack.conditioner
    return cast(list[nn.Linear], list(conditioner.projections)) if isinstance(conditioner, UpsampledConditioner) else []


@torch.no_grad()
def pack_stack(stack: DilatedStack, dtype: torch.dtype) -> PackedStack:
    """Arrange the weights of a stack for the kernels.

    The output biases are not added in the kernels. Those of skip are summed up. Those of residual make h differ from
    the stack's by a constant vector, c' = (c + b_residual) / sqrt(2) from c = 0, which enters the next layer's taps as
    its noise level does. All of that is computed in float64.

    Args:
        stack: The layers; their conditioner's `projections`, if it has any, become part of the taps.
        dtype: Of the matrix operands.

    Returns:
        The packed weights, on the stack's device.
    """
    layers, projections = stack.gated_layers(), _projections(stack)
    plain = layers[0].output.in_features
    channels = padded_width(plain)
    wide, narrow = feature_widths(projections[0].in_features if projections else 0)
    constant = layers[0].output.bias.new_zeros(plain, dtype=torch.float64)
    skip_bias = torch.zeros_like(constant)
    taps, output, level, offset = [], [], [], []
    for i, layer in enumerate(layers):
        weight, bias = layer.taps.weight.double(), layer.taps.bias.double()
        columns = pad_parts(weight, 3, channels, 1)
        if projections:
            columns = torch.cat([columns, pad_last(projections[i].weight.double(), wide + narrow)], dim=1)
            bias = bias + projections[i].bias.double()
        taps.append(pad_parts(columns, 2, channels, 0).to(dtype))
        output.append(pad_last(pad_parts(layer.output.weight, 2, channels, 0), channels).to(dtype))
        per_tap = torch.stack(weight.chunk(3, dim=1))  # (3, 2 * plain, plain)
        level.append(pad_parts(per_tap @ layer.level.weight.double(), 2, channels, 1).flatten(0, 1).float())
        vectors = per_tap @ (layer.level.bias.double() + constant)
        vectors[1] += bias
        offset.append(pad_parts(vectors, 2, channels, 1).flatten().float())
        residual, skip = layer.output.bias.double().chunk(2)
        constant, skip_bias = (constant + residual) * 0.5**0.5, skip_bias + skip
    return PackedStack(
        channels, wide, narrow, tuple(layer.dilation for layer in layers), torch.stack(taps), torch.stack(output),
        torch.cat(level), torch.cat(offset), pad_last(skip_bias, channels).float(),
    )  # fmt: skip


class FusedStack:
    """The residual layers of a `DilatedStack`, one kernel each.

    Args:
        packed: Its weights.
        tf32: Whether float32 products may round their operands to 10 bits.

    Attributes:
        n_valid: One int32 on the device: the positions that count; those after them are treated as zero padding; None
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
        _kernel(resident)[(2, batch)](*arguments, **constants, block=32, piece=16, per_processor=1)
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
    kernel = _kernel(is_resident(dtype, channels))
    return triton.autotune(configs, key=["wide", "narrow", "repeat", "precision"])(kernel)


def _kernel(resident: bool) -> Any:
    from audiodiff.engine import kernels  # here, because Triton takes 0.2 s

    return kernels.resident_layer if resident else kernels.streamed_layer
