"""The networks with one kernel per residual layer, for NVIDIA GPUs from compute capability 8.0 on."""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.engine import kernels
from audiodiff.engine.packing import SMALLEST, PackedStack, pack_stack, pad_last, pad_parts, padded_width
from audiodiff.networks.base import DilatedNetwork
from audiodiff.networks.build import Network
from audiodiff.networks.conditioning import UpsampledConditioner
from audiodiff.networks.diffwave import DiffWave
from audiodiff.networks.frames import FrameDiffWave

WIDEST = 128
"""Channels up to which a tile of a layer fits into registers; wider networks take the plain path."""

WIDEST_RESIDENT = 64
"""Channels up to which the weights of a layer fit into shared memory, in 16 bits."""

_LOGGER = logging.getLogger(__name__)


def why_not_fused(network: nn.Module, device: torch.device | str) -> str | None:
    """Say what keeps a network from running with fused layers on a device; None if nothing does.

    Args:
        network: Any network.
        device: Where it would run.
    """
    if not isinstance(network, DiffWave | FrameDiffWave):
        return f"{type(network).__name__} has no fused form"
    channels = network.input.out_features
    if channels > WIDEST:
        return f"{channels} channels are more than {WIDEST}"
    if not torch.cuda.is_available() or torch.device(device).type != "cuda":
        return "there is no CUDA device"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"compute capability {major}.{minor} is below 8.0"
    if not kernels.AVAILABLE:
        return "Triton is not installed"
    return None


@functools.cache
def _log_once(message: str) -> None:
    _LOGGER.info("%s", message)


def accelerated(network: Network, dtype: torch.dtype = torch.bfloat16) -> Network:
    """Return the network with fused layers where that can run, else the network itself; says once why it cannot.

    Args:
        network: On the device where it is to run.
        dtype: Of the matrix operands and of what lies between layers: bfloat16, float16 or float32.

    Returns:
        A network of the same call, for inference only.
    """
    reason = why_not_fused(network, next(network.parameters()).device)
    if reason:
        _log_once(f"no fused layers: {reason}")
        return network
    return fused(network, dtype)


def fused(network: Network, dtype: torch.dtype = torch.bfloat16, *, tf32: bool = False) -> FusedNetwork:
    """Pack a network's weights and return it with fused layers, whatever the machine.

    Args:
        network: On the device where it is to run. Later changes of its weights are not seen.
        dtype: As in `accelerated`.
        tf32: Whether float32 products in the layers may round their operands to 10 bits.
    """
    layers = FusedTransform(network, dtype, tf32=tf32)
    return FusedDiffWave(network, layers) if isinstance(network, DiffWave) else FusedFrameDiffWave(network, layers)


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
            level: Noise-level embedding `(batch, level_width)`, float32.
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
    resident = constants["channels"] <= WIDEST_RESIDENT and h.element_size() == 2
    batch, capacity = h.shape[:2]
    if not h.is_cuda:  # Triton's interpreter, for tests
        kernel: Any = kernels.resident_layer if resident else kernels.streamed_layer
        kernel[(2, batch)](*arguments, **constants, block=32, piece=16, per_processor=1)
        return
    processors = torch.cuda.get_device_properties(h.device).multi_processor_count

    def grid(choice: dict[str, Any]) -> tuple[int, int]:
        tiles = -(-capacity // choice["block"])
        return min(tiles, -(-processors * choice["per_processor"] // batch)), batch

    with torch.cuda.device(h.device):
        _tuned(resident, h.dtype, constants["channels"])[grid](*arguments, **constants)


RESIDENT_TILINGS = ((64, 4, 1, 2), (64, 4, 2, 1), (128, 8, 1, 1), (128, 8, 2, 1))
"""(positions of a tile, warps, stages, programs per multiprocessor) to choose from."""

STREAMED_TILINGS = ((128, 64, 8, 3), (128, 32, 8, 4), (64, 64, 4, 3), (64, 32, 4, 3), (64, 16, 4, 2))
"""(positions of a tile, inputs read at once, warps, stages) to choose from, 16 bits."""

STREAMED_TILINGS_FLOAT32 = ((64, 32, 8, 3), (64, 32, 4, 3), (64, 16, 8, 2), (32, 16, 4, 2))


@functools.cache
def _tuned(resident: bool, dtype: torch.dtype, channels: int) -> Any:
    """Return a kernel that times a few tilings when it first meets a kind of layer, and keeps the fastest.

    A stack's first layer is met first, and may run any number of times: it only writes to what it does not read.
    """
    import triton

    if resident:
        choices = {(block, SMALLEST, *rest) for block, *rest in RESIDENT_TILINGS}
    else:  # as many programs as tiles
        tilings = STREAMED_TILINGS_FLOAT32 if dtype == torch.float32 else STREAMED_TILINGS
        choices = {(block, min(piece, channels), *rest, 1 << 20) for block, piece, *rest in tilings}
    configs = [
        triton.Config({"block": block, "piece": piece, "per_processor": programs}, num_warps=warps, num_stages=stages)
        for block, piece, warps, stages, programs in sorted(choices)
    ]
    kernel: Any = kernels.resident_layer if resident else kernels.streamed_layer
    return triton.autotune(configs, key=["wide", "narrow", "repeat", "precision"])(kernel)


class FusedTransform:
    """What `DilatedNetwork` does between the projections of its subclasses, with fused layers.

    Args:
        network: A network of either kind.
        dtype: Of matrix operands and of what lies between layers; the noise level stays in float32.
        tf32: As in `fused`.
    """

    def __init__(self, network: DilatedNetwork, dtype: torch.dtype, *, tf32: bool = False) -> None:
        self.network, self.dtype = network, dtype
        self.stack = FusedStack(pack_stack(network.stack, dtype), tf32=tf32)
        packed, plain = self.stack.packed, network.input.out_features
        scale = len(packed.dilations) ** -0.5
        with torch.no_grad():
            skipped = functional.linear(packed.skip_bias[:plain], network.skip.weight, None) * scale
            self._input = self._padded(network.input.weight, network.input.bias)
            inner = pad_last(network.skip.weight * scale, packed.channels)
            self._skip = self._padded(inner, network.skip.bias + skipped)
            self._output = pad_last(network.output.weight, packed.channels).to(dtype), network.output.bias.to(dtype)

    def _padded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        channels = padded_width(len(bias))
        return pad_parts(weight, 1, channels, 0).to(self.dtype), pad_last(bias, channels).to(self.dtype)

    def arrange(self, condition: Tensor) -> Tensor:
        """Lay out what the network's own `encode` returned as the kernels read it.

        Args:
            condition: Of frames `(batch, frames, L * 2 * channels)`, or of positions `(batch, positions, n_mels)`, or
                of positions for each layer `(batch, positions, L * n_mels)`.

        Returns:
            `(batch, frames, L * 2 * C)`, or `(batch, positions, (1 or L) * (wide + narrow))`, zeros where it is padded.
        """
        packed, conditioner = self.stack.packed, self.network.stack.conditioner
        parts, width = 2 * len(packed.dilations), packed.channels
        if isinstance(conditioner, UpsampledConditioner):
            parts, width = len(conditioner.upsamplers), packed.wide + packed.narrow
        return pad_parts(condition.to(self.dtype), parts, width, 2).contiguous()

    @torch.no_grad()
    def __call__(self, features: Tensor, log_snr: Tensor, condition: Tensor | None, label: Tensor | None) -> Tensor:
        """Map features `(batch, positions, n_inputs)` to `(batch, positions, n_outputs)`, in the layers' dtype."""
        with torch.autocast(features.device.type, enabled=False):  # precision is chosen here, part by part
            level = self.network.level(log_snr)
            if self.network.label is not None:
                level = level + self.network.label(label, len(features))
            elif label is not None:
                raise TypeError("this network was built without labels")
            h = torch.relu_(self._project(features.to(self.dtype)))
            h = torch.relu_(functional.linear(self.stack(h, level, condition), *self._skip))
            return functional.linear(h, *self._output)

    def _project(self, features: Tensor) -> Tensor:
        weight, bias = self._input
        if weight.shape[1] == 1:  # a matrix product of depth 1 would be slow
            return torch.addcmul(bias, features, weight[:, 0])
        return functional.linear(features, weight, bias)


class FusedDiffWave(DiffWave):
    """`DiffWave` with fused layers, for inference; see `fused`.

    Args:
        network: Where it comes from.
        layers: Its weights, packed.
    """

    def __init__(self, network: DiffWave, layers: FusedTransform) -> None:
        nn.Module.__init__(self)
        self.patch, self.layers, self.plain, self.stack = network.patch, layers, network, network.stack

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return self.plain.receptive_field

    @torch.no_grad()
    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel `(batch, n_mels, n_blocks)` for the kernels, once for all steps."""
        return self.layers.arrange(self.plain.encode(mel))

    def _transform(self, features: Tensor, log_snr: Tensor, condition: Tensor | None, label: Tensor | None) -> Tensor:
        return self.layers(features, log_snr, condition, label)


class FusedFrameDiffWave(FrameDiffWave):
    """`FrameDiffWave` with fused layers, for inference; arguments as in `FusedDiffWave`."""

    def __init__(self, network: FrameDiffWave, layers: FusedTransform) -> None:
        nn.Module.__init__(self)
        self.stft, self.layers, self.plain, self.stack = network.stft, layers, network, network.stack

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return self.plain.receptive_field

    @torch.no_grad()
    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel `(batch, n_mels, n_blocks)` for the kernels, once for all steps."""
        return self.layers.arrange(self.plain.encode(mel))

    def _transform(self, features: Tensor, log_snr: Tensor, condition: Tensor | None, label: Tensor | None) -> Tensor:
        return self.layers(features, log_snr, condition, label)


FusedNetwork = FusedDiffWave | FusedFrameDiffWave
