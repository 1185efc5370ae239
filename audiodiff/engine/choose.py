"""Which engine runs a network, in which precision: an engine is the same network with the same weights, made fast."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Protocol, get_args

import torch
from torch import Tensor

from audiodiff.choices import Dtype as Dtype
from audiodiff.config import ModelConfig
from audiodiff.engine.fused import accelerated
from audiodiff.engine.graphs import ReverseGraphs
from audiodiff.engine.incremental import IncrementalSTFT
from audiodiff.engine.tiled import TiledDiffWave
from audiodiff.engine.windows import Length, with_halo
from audiodiff.errors import ConfigError
from audiodiff.networks import Network
from audiodiff.networks.diffwave import DiffWave
from audiodiff.networks.stft_diffwave import STFTDiffWave

DTYPES: tuple[Dtype, ...] = get_args(Dtype)

PLAIN_PIECE_SECONDS = 12.0
"""Length of the pieces of a plain network: long relative to its context, short enough to bound memory."""

TILE_PER_THREAD, SMALLEST_TILE, LARGEST_TILE = 1024, 4096, 16384
"""Rows of a tile: enough to keep every thread busy, few enough for the cache."""


class Engine(Protocol):
    """A network, ready to be streamed.

    Attributes:
        dtype: Of the matrix products.
        largest_batch: How many clips go together at most; None for any number.
        piece_frames: Preferred length of the pieces, in frames.
        reach_frames: How far an output looks ahead, in frames; None for the whole signal.
        context_frames: Mel frames to either side that the encoded condition of a frame depends on.
        graphs: What runs whole reverse processes at once, or None where there is no such thing.
        has_short_operations: Whether network calls are better shared out among threads than each split among them.
    """

    dtype: torch.dtype
    graphs: ReverseGraphs | None
    has_short_operations: bool
    largest_batch: int | None
    piece_frames: int
    reach_frames: int | None
    context_frames: int

    def encode(self, mel: Tensor, start: int, stop: int) -> Tensor:
        """Prepare the condition of frames [start, stop) of a mel `(batch, n_mels, n_frames)` with their context."""
        ...

    def whole(self, x: Tensor, condition: Tensor | None, log_snr: Tensor, global_condition: Tensor | None) -> Tensor:
        """Run the network over a whole signal `(batch, 1, time)`; the other arguments are those of `stream`."""
        ...

    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        length: Length,
        log_snr: Tensor,
        global_condition: Tensor | None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces: one network call.

        Args:
            signal: Consecutive pieces `(batch, 1, time)`, whole hops.
            conditions: What `encode` returned for consecutive pieces, maybe cut elsewhere, or None for each.
            length: That of the signal.
            log_snr: The noise level, a scalar.
            global_condition: What the network's `embed` returned `(batch, width)`, or None.

        Yields:
            After each piece, the network's outputs for the whole hops that have become complete, as one piece or none;
            after the last piece, the rest. A hop is complete when the signal has come as far beyond it as the network
            looks ahead.
        """
        ...


def cpu_has_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-bf16)."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")  # without them: a torch that cannot tell
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def choose_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Return the precision of the matrix products; "auto" is bfloat16 where the hardware has it, else float32.

    Raises:
        ConfigError: If there is no precision of that name.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}.")
    if dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if dtype == "bf16" else torch.float32


def make_engine(network: Network, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Engine:
    """Return the fastest engine that there is for a network where it is.

    A network with a learned variance runs as it is: tiles and fused layers have no second output.

    Args:
        network: The network, its weights final.
        config: The model it belongs to.
        dtype: Of the matrix products.
        device: Where the network is.
    """
    if device.type == "cpu" and network.variance is None:
        if isinstance(network, STFTDiffWave) and network.stack.is_gated:
            return IncrementalEngine(network, config, dtype)
        if isinstance(network, DiffWave) and network.stack.is_gated and not network.stack.has_limited_look_ahead:
            return TiledEngine(network, config, dtype)
    if device.type == "cuda":
        fast = accelerated(network, dtype)
        return PlainEngine(fast, config, dtype, device, ReverseGraphs(fast))
    return PlainEngine(network, config, dtype, device)


class PlainEngine:
    """Any network as it is, under autocast where that is wanted; see `Engine`."""

    def __init__(
        self,
        network: Network,
        config: ModelConfig,
        dtype: torch.dtype,
        device: torch.device,
        graphs: ReverseGraphs | None = None,
    ) -> None:
        self._network, self._device, self._hop_length = network, device, config.hop_length
        conditioner = network.stack.conditioner
        self._positions_per_frame = conditioner.positions_per_frame if conditioner else 1
        self.dtype, self.graphs, self.has_short_operations = dtype, graphs, False
        self.largest_batch: int | None = None
        self.piece_frames = max(1, round(PLAIN_PIECE_SECONDS * config.sample_rate / config.hop_length))
        self.reach_frames: int | None = None
        self._look_back = 0
        if math.isfinite(network.receptive_field):
            self._look_back = math.ceil(network.receptive_field / config.hop_length) * config.hop_length
            self.reach_frames = math.ceil(network.look_ahead / config.hop_length)
        self.context_frames = network.context_frames

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def encode(self, mel: Tensor, start: int, stop: int) -> Tensor:
        """Prepare a condition; see `Engine.encode`."""
        with self._autocast():
            encoded = self._network.encode(mel)
        return encoded[:, start * self._positions_per_frame : stop * self._positions_per_frame]

    def whole(self, x: Tensor, condition: Tensor | None, log_snr: Tensor, global_condition: Tensor | None) -> Tensor:
        """Run the network over a whole signal; see `Engine.whole`."""
        with self._autocast():
            log_snrs = x.new_full((len(x),), float(log_snr))  # unlike `to`, no copy from the host, for CUDA graphs
            output: Tensor = self._network(x, log_snrs, condition, global_condition)
        return output

    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        length: Length,
        log_snr: Tensor,
        global_condition: Tensor | None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces; see `Engine.stream`. It must have a reach."""
        if self.reach_frames is None:
            raise TypeError("this network needs the whole signal")
        return with_halo(
            lambda x, condition: self.whole(x, condition, log_snr, global_condition),
            signal,
            conditions,
            length,
            look_back=self._look_back,
            look_ahead=self.reach_frames * self._hop_length,
            samples_per_row=self._hop_length // self._positions_per_frame,
        )


class IncrementalEngine(PlainEngine):
    """STFT networks on the CPU, whose layers keep their last inputs; see `audiodiff.engine.incremental`."""

    def __init__(self, network: STFTDiffWave, config: ModelConfig, dtype: torch.dtype) -> None:
        super().__init__(network, config, dtype, torch.device("cpu"))
        self._weights = IncrementalSTFT(network, dtype)

    def encode(self, mel: Tensor, start: int, stop: int) -> Tensor:
        """Prepare a condition; see `Engine.encode`."""
        with self._autocast():
            return self._weights.encode(mel, start, stop)

    def whole(self, x: Tensor, condition: Tensor | None, log_snr: Tensor, global_condition: Tensor | None) -> Tensor:
        """Run the network over a whole signal; see `Engine.whole`."""
        ((output,),) = self.stream([x], [condition], Length(x.shape[2]), log_snr, global_condition)
        return output

    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        length: Length,
        log_snr: Tensor,
        global_condition: Tensor | None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces; see `Engine.stream`."""
        return self._weights.stream(signal, conditions, length, log_snr, global_condition)


class TiledEngine:
    """DiffWave on the CPU, in tiles, one clip at a time; see `Engine` and `audiodiff.engine.tiled`."""

    def __init__(self, network: DiffWave, config: ModelConfig, dtype: torch.dtype) -> None:
        self._network, self._hop_length = network, config.hop_length
        self.dtype = dtype
        self.graphs: ReverseGraphs | None = None
        self.has_short_operations = True
        self.largest_batch: int | None = 1
        conditioner = network.stack.conditioner
        self._rows_per_frame = conditioner.positions_per_frame if conditioner else 1
        self._positions_per_frame = config.hop_length // network.patch
        tile = max(SMALLEST_TILE, min(TILE_PER_THREAD * torch.get_num_threads(), LARGEST_TILE))
        self.piece_frames = max(1, tile // self._positions_per_frame)
        self._weights = TiledDiffWave(
            network, dtype, self.piece_frames * self._positions_per_frame, self._positions_per_frame
        )
        self.reach_frames: int | None = -(-self._weights.delay // self._positions_per_frame)
        self.context_frames = network.context_frames

    def encode(self, mel: Tensor, start: int, stop: int) -> Tensor:
        """Prepare a condition; see `Engine.encode`."""
        features = self._network.encode(mel)[:, start * self._rows_per_frame : stop * self._rows_per_frame]
        return self._weights.encode(features, (stop - start) * self._positions_per_frame)

    def whole(self, x: Tensor, condition: Tensor | None, log_snr: Tensor, global_condition: Tensor | None) -> Tensor:
        """Run the network over a whole signal; see `Engine.whole`."""
        ((output,),) = self.stream([x], [condition], Length(x.shape[2]), log_snr, global_condition)
        return output

    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        length: Length,
        log_snr: Tensor,
        global_condition: Tensor | None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces; see `Engine.stream`."""
        return self._weights.stream(signal, conditions, length, log_snr, global_condition)
