"""DiffWave on a CPU, tile by tile through all layers, each layer delayed against the one before it.

A layer needs its input as far ahead as its dilation, so its output lags the layer before it by that much, and it keeps
its last inputs: nothing is computed twice, a tile stays in the cache on its way through all layers, and memory does not
grow with the signal. The condition of all layers is computed once per utterance, not per step.

Per position and layer of C channels that is 6 C^2 multiply-adds for the taps, half of them in float32 (see
`audiodiff.engine.winograd`), and 2 C^2 after the gate, and once per utterance 2 C n_mels for the condition. Constants
are folded so that no pass over the rows is spent on them:

- tanh(s) = 2 sigmoid(2 s) - 1, so one sigmoid serves gate and signal; the factors go into the weights around it.
- The residual stream is kept without its biases, h = stored + offset; the offset, and the noise level, enter through
  the bias of the taps. Rows outside the signal hold what cancels both, so that the taps see zero there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from audiodiff.engine.windows import Length, Window, fill, with_last
from audiodiff.engine.winograd import MIN_CHANNELS, N_OUTPUTS, add_convolution, transform_taps
from audiodiff.networks.diffwave import DiffWave, ResidualLayer
from audiodiff.networks.layers import SQRT_HALF


@dataclass
class _PackedLayer:
    """Weights of a layer in the shape and precision of the matrix products.

    Attributes:
        dilation: Distance between taps, in positions.
        taps: `(3 C, 2 C)`: past, present and future rows, to gate and doubled signal.
        winograd_taps: What `transform_taps` made of them `(6, C, 2 C)`; None in bfloat16 and for few channels.
        residual: `(C, C)`.
        skip: `(C, C)`.
        bias: What the taps add to the products of the stored rows at any noise level, `(2 C,)`, float32.
        offset: What the stored rows lack, `(C,)`, float32.
        level: Float32 weight and bias of the noise level, `(C, embedding_width)` and `(C,)`.
        level_taps: Sum of the float32 taps, which the noise level passes, `(2 C, C)`.
    """

    dilation: int
    taps: Tensor
    winograd_taps: Tensor | None
    residual: Tensor
    skip: Tensor
    bias: Tensor
    offset: Tensor
    level: tuple[Tensor, Tensor]
    level_taps: Tensor


def _pack_layer(layer: ResidualLayer, offset: Tensor, dtype: torch.dtype) -> tuple[_PackedLayer, Tensor]:
    """Return the packed layer and the offset of its output, given that of its input."""
    channels = len(offset)
    double = torch.ones(2 * channels)
    double[channels:] = 2
    taps = layer.taps.weight.float() * double[:, None]
    by_tap = taps.unflatten(1, (3, channels)).permute(1, 0, 2)
    output, output_bias = layer.output.weight.float(), layer.output.bias.float()
    level_taps = by_tap.sum(0)
    has_winograd = dtype == torch.float32 and channels >= MIN_CHANNELS
    packed = _PackedLayer(
        dilation=layer.dilation,
        taps=taps.T.to(dtype).contiguous(),
        winograd_taps=transform_taps(by_tap.mT) if has_winograd else None,
        residual=(2 * SQRT_HALF * output[:channels]).T.to(dtype).contiguous(),
        skip=(2 * output[channels:]).T.to(dtype).contiguous(),
        bias=layer.taps.bias.float() * double + level_taps @ offset,
        offset=offset,
        level=(layer.level.weight.float(), layer.level.bias.float()),
        level_taps=level_taps,
    )
    return packed, SQRT_HALF * (offset + output_bias[:channels])


class TiledDiffWave:
    """The weights of a `DiffWave` network on the CPU, packed for streams at any noise level.

    Args:
        network: The network.
        dtype: Of the matrix products: float32 or bfloat16; sums within a product are in float32 either way.
        tile: Rows that go through all layers together; so many positions stay in the cache.
        multiple: Of how many positions each piece of a prediction consists.
    """

    @torch.no_grad()
    def __init__(self, network: DiffWave, dtype: torch.dtype, tile: int, multiple: int = 1) -> None:
        self.network, self.dtype, self.tile, self.multiple = network, dtype, tile, multiple
        stack = network.stack
        self.channels = network.input.out_features
        self.layers: list[_PackedLayer] = []
        layers = stack.gated_layers()
        offset, skip_bias = torch.zeros(self.channels), torch.zeros(self.channels)
        for layer in layers:
            packed, offset = _pack_layer(layer, offset, dtype)
            self.layers.append(packed)
            skip_bias += layer.output.bias[self.channels :]
        self.delay = stack.receptive_field
        self.input = _linear(network.input.weight, network.input.bias, dtype)
        weight = network.skip.weight * len(layers) ** -0.5
        self.skip = _linear(weight, network.skip.bias + weight @ skip_bias, dtype)
        self.output = _linear(network.output.weight, network.output.bias, dtype)
        self._condition_double = torch.ones(2 * self.channels)
        self._condition_double[self.channels :] = 2

    @torch.no_grad()
    def encode(self, features: Tensor, n_positions: int) -> Tensor:
        """Project a condition for all layers.

        Args:
            features: What the network's conditioner encoded of these positions `(1, rows, n_features)`.
            n_positions: How many positions it serves.

        Returns:
            `(layers, n_positions, 2 * channels)`, the part of the signal doubled as the packed taps have it.
        """
        projected = torch.empty(len(self.layers), n_positions, 2 * self.channels, dtype=self.dtype)
        conditioner = self.network.stack.conditioner
        if conditioner is None:
            raise TypeError("this network was built without a mel condition")
        for index, part in enumerate(conditioner.split(features)):
            layer = conditioner.for_layer(part, index, n_positions)[0]
            torch.mul(layer, self._condition_double, out=projected[index])
        return projected

    @torch.no_grad()
    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        length: Length,
        log_snr: Tensor,
        global_condition: Tensor | None = None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces `(1, 1, time)`; see `audiodiff.engine.choose.Engine.stream`.

        `global_condition` is what the network's `embed` returned of one clip `(1, width)`, or None.
        """
        state = _NetworkState(self, log_snr, global_condition, iter(conditions))
        for piece, last in with_last(signal, length):
            yield state.push(piece, last=last)


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return weight.float().T.to(dtype).contiguous(), bias.float().to(dtype)


class _LayerStream:
    """One layer at one noise level: its last inputs, and how far its outputs have got.

    Attributes:
        bias: What is added to the products of the taps, `(2 C,)`.
        outside: A row outside the signal, `(C,)`.
        kept: Room for the inputs [done - dilation, end), `(2 * dilation, C)`.
        done: Position after the last output.
        end: Position after the last input.
    """

    def __init__(self, packed: _PackedLayer, level: Tensor, dtype: torch.dtype) -> None:
        shift = packed.level[0] @ level + packed.level[1]
        self.packed = packed
        self.bias = (packed.bias + packed.level_taps @ shift).to(dtype)
        self.outside = -(packed.offset + shift).to(dtype)
        self.kept = self.outside.repeat(2 * packed.dilation, 1)
        self.done = self.end = 0


class _Rows:
    """The rows of a tile on their way through the layers, and room for what a layer computes of them.

    A layer finds its inputs under their position, and overwrites them by its outputs.

    Args:
        weights: The packed network.
        n_rows: Most outputs that a layer computes at once.
    """

    def __init__(self, weights: TiledDiffWave, n_rows: int) -> None:
        channels, dtype, dilations = weights.channels, weights.dtype, [layer.dilation for layer in weights.layers]
        self._before = weights.delay + max(dilations)
        self._stream = torch.empty(self._before + n_rows + max(dilations), channels, dtype=dtype)
        self._origin = 0
        self._taps, self._gates, self._gated = (
            torch.empty(n_rows, multiple * channels, dtype=dtype) for multiple in (3, 2, 1)
        )

    def move(self, position: int) -> None:
        """Make room for a tile that begins at a position."""
        self._origin = position - self._before

    def __getitem__(self, positions: slice) -> Tensor:
        return self._stream[positions.start - self._origin : positions.stop - self._origin]

    def gate(self, layer: _LayerStream, stop: int, condition: Iterator[tuple[int, Tensor]] | None) -> Tensor:
        """Return the gated rows [layer.done, stop), which are valid until the next call.

        Args:
            layer: The layer, whose inputs are here.
            stop: A position that its inputs allow.
            condition: The layer's rows of [layer.done, stop) as (position, rows), or None.
        """
        start, channels = layer.done, self._gated.shape[1]
        gates, gated = self._gates[: stop - start], self._gated[: stop - start]
        if condition is None:
            gates.copy_(layer.bias)
        else:
            for first, part in condition:
                torch.add(part, layer.bias, out=gates[first - start : first - start + len(part)])
        self._add_convolution(gates, layer.packed, start, stop)
        gates.sigmoid_()
        return torch.mul(gates[:, :channels], gates[:, channels:].sub_(0.5), out=gated)

    def _add_convolution(self, gates: Tensor, packed: _PackedLayer, start: int, stop: int) -> None:
        dilation, channels, middle = packed.dilation, self._gated.shape[1], start
        block = N_OUTPUTS * dilation
        if packed.winograd_taps is not None and stop - start >= block:
            middle = stop - (stop - start) % block
            rows = self[start - dilation : middle + dilation]
            add_convolution(rows, packed.winograd_taps, dilation, gates[: middle - start], self._taps)
        if middle < stop:
            taps = self._taps[: stop - middle]
            for i in range(3):
                shift = (i - 1) * dilation
                taps[:, i * channels : (i + 1) * channels] = self[middle + shift : stop + shift]
            gates[middle - start :].addmm_(taps, packed.taps)

    def final(self, count: int) -> Tensor:
        """Return room for what comes after the layers."""
        return self._gated[:count]


class _NetworkState:
    """The network at one noise level, between two pieces of a signal. One clip at a time.

    Args:
        weights: The packed network.
        log_snr: The noise level, a scalar.
        global_condition: What the network's `embed` returned of one clip `(1, width)`, or None.
        conditions: Consecutive pieces of the condition, a row per position, or None for each.
    """

    def __init__(
        self,
        weights: TiledDiffWave,
        log_snr: Tensor,
        global_condition: Tensor | None,
        conditions: Iterator[Tensor | None],
    ) -> None:
        self._weights, self._conditions = weights, conditions
        level = weights.network.embed_level(log_snr.reshape(1).float(), global_condition)
        delay, joining = weights.delay, max(weights.tile, weights.delay)
        self._rows = _Rows(weights, joining)
        self._layers = [_LayerStream(layer, level[0].float(), weights.dtype) for layer in weights.layers]
        self._skips = RingBuffer(weights.channels, first=0, kept=delay + joining, joining=joining, dtype=weights.dtype)
        self._condition = Window(dim=1)
        self._predicted = Window(dim=2)
        self._received = self._given = 0

    def push(self, x: Tensor, *, last: bool) -> list[Tensor]:
        """Take the next piece `(1, 1, time)`; return the predictions that have become complete."""
        patches = x[0, 0].reshape(-1, self._weights.network.patch)
        fill(self._condition, self._conditions, self._received + len(patches))
        for tile in patches.split(self._weights.tile):
            self._enter(tile)
            self._advance(None)
        if last:
            self._rows.move(self._received)
            self._advance(self._received)
        return self._complete()

    def _complete(self) -> list[Tensor]:
        length = self._weights.multiple * self._weights.network.patch
        start, stop = self._given, self._predicted.end // length * length
        if stop <= start:
            return []
        self._given = stop
        predicted = self._predicted.view(start, stop)
        self._predicted.discard_before(stop)
        return [predicted]

    def _enter(self, patches: Tensor) -> None:
        weight, bias = self._weights.input
        start, stop = self._received, self._received + len(patches)
        self._rows.move(start)
        torch.addmm(bias, patches.to(self._weights.dtype), weight, out=self._rows[start:stop]).relu_()
        self._received = stop

    def _advance(self, length: int | None) -> None:
        """Take every layer as far as its inputs allow; `length` ends the signal."""
        end = self._received
        for index, layer in enumerate(self._layers):
            dilation = layer.packed.dilation
            first = layer.done - dilation
            self._rows[first : layer.end].copy_(layer.kept[: layer.end - first])
            if length is not None:
                self._rows[end : end + dilation].copy_(layer.outside)
                end += dilation
            stop = max(layer.done, end - dilation)
            layer.kept[: end - stop + dilation].copy_(self._rows[stop - dilation : end])
            if stop > layer.done:
                self._run(index, layer, stop)
            layer.end, layer.done = end, stop
            end = stop
        self._finish(self._layers[-1].done)

    def _run(self, index: int, layer: _LayerStream, stop: int) -> None:
        start, condition = layer.done, None
        if self._condition.end:
            condition = ((first, part[index]) for first, part in self._condition.parts(start, stop))
        gated = self._rows.gate(layer, stop, condition)
        if index == 0:
            torch.mm(gated, layer.packed.skip, out=self._skips.append(stop - start))
        else:
            self._skips[start:stop].addmm_(gated, layer.packed.skip)
        if index + 1 < len(self._layers):
            self._rows[start:stop].addmm_(gated, layer.packed.residual, beta=SQRT_HALF)

    def _finish(self, stop: int) -> None:
        """Turn the complete sums of skips before `stop` into predictions."""
        start = self._skips.start
        if stop <= start:
            return
        hidden = self._rows.final(stop - start)
        torch.addmm(self._weights.skip[1], self._skips[start:stop], self._weights.skip[0], out=hidden).relu_()
        output = torch.addmm(self._weights.output[1], hidden, self._weights.output[0])
        self._predicted.append(output.float().reshape(1, 1, -1))
        self._skips.discard_before(stop)
        self._condition.discard_before(stop)


class RingBuffer:
    """Rows addressed by their index in an endless sequence; old ones are discarded, new ones are appended.

    Args:
        width: Columns.
        first: Index of the first row.
        kept: Most rows that are held when new ones join.
        joining: Most rows that join at once.
        dtype: Of the numbers.
    """

    def __init__(self, width: int, *, first: int, kept: int, joining: int, dtype: torch.dtype) -> None:
        # Twice the room that is needed: rows move to the front rarely, and never onto themselves.
        self._store = torch.empty(2 * (kept + joining), width, dtype=dtype)
        self._origin = first
        self.start = self.end = first

    def append(self, count: int) -> Tensor:
        """Add rows at the end and return them, to be written to."""
        if self.end + count - self._origin > len(self._store):
            held = self.end - self.start
            self._store[:held] = self[self.start : self.end]
            self._origin = self.start
        self.end += count
        return self[self.end - count : self.end]

    def discard_before(self, index: int) -> None:
        """Discard the rows before an index."""
        self.start = max(self.start, min(index, self.end))

    def __getitem__(self, indices: slice) -> Tensor:
        return self._store[indices.start - self._origin : indices.stop - self._origin]
