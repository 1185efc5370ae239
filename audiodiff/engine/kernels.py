"""One Triton kernel per gated residual layer: taps, condition, gate, both output products, residual and skip.

A position of a layer of C channels and dilation d is (h and z being rows of C)

    y = W [h(t - d), h(t), h(t + d), features(t)] + offset(t),   z = sigmoid(y_gate) * tanh(y_signal)
    h'(t) = (h(t) + W_residual z) / sqrt(2),                     skip(t) += W_skip z

where rows outside `[0, n_valid)` count as zero. No vector is added to h: W (h + level) = W h + W level, so what the
noise level brings is one vector per tap (and none where the tap lies outside), made for all layers in one product.
The output biases travel the same way, from layer to layer; see `audiodiff.engine.cuda.PackedStack`.

**What it costs at least** per position and layer, in bf16: 16 C^2 operations (and 4 C n_mels with features), and
8 C bytes of device memory (read h, write h, read skip, write skip; neighbouring taps come from the L2 cache), and
2 n_mels with features. For C = 64 that is 65,536 operations (86,016 with 80 mels) and 512 bytes (672): 83 ps (109) at
790 TFLOP/s against 119 ps (156) at 4.3 TB/s, so memory decides, and the best possible share of the matrix rate is
70 %. For C = 128 (262,144; 1,024 bytes) arithmetic decides: 332 ps against 238. The gate costs two hyperbolic tangents
per channel, at 16 per cycle and multiprocessor: 34 ps for C = 64, beside the products if warps overlap. Were h and skip
float32, 1,024 bytes would hold C = 64 below 35 %; hence both are stored in bf16, the sums in registers being float32.

`resident_layer` keeps a layer's weights in shared memory while it walks over tiles (C up to 64: 64 KB, 84 KB with 80
mels): read per tile of 128 positions they alone would move 512 bytes per position out of the L2 cache.
`streamed_layer` reads them in pieces, for wider layers and for float32.

Both compute a layer of contiguous h and skip `(batch, capacity, channels)` with weights as `nn.Linear` has them, taps
`(2 * channels, 3 * channels + wide + narrow)` and output `(2 * channels, channels)`. `condition` has the layer's
`wide + narrow` features per position, or its vector of `2 * channels` per `repeat` positions, in rows `condition_row`
apart. `level` holds per clip what the past, present and future tap bring to y (the bias included), each as two vectors
whose sum it is, so that 16 bits lose nothing. The grid is (programs per clip, clips). `n_valid` is read on the device,
so that a captured graph serves every length up to its capacity.
"""

# Triton compiles functions from their source: they take many arguments, and see no constants of the module.
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain path needs no Triton; see `audiodiff.engine.fused`
    triton = tl = None

Function = TypeVar("Function", bound=Callable[..., Any])


def _jit(function: Function) -> Function:
    """Give a function to Triton where there is one; one machine program serves all dilations."""
    compiled: Function = function if triton is None else triton.jit(function, do_not_specialize=["dilation"])
    return compiled


@_jit
def _rows(
    h: tl.tensor, start: tl.tensor, shift: tl.tensor, n: tl.tensor,
    block: tl.constexpr, width: tl.constexpr, stride: tl.tensor,
) -> tl.tensor:  # fmt: skip
    """Load `(block, width)`, moved by `shift` from where h points, position `start`; zeros outside `[0, n)`."""
    rows = tl.arange(0, block) + shift
    inside = (start + rows >= 0) & (start + rows < n)
    return tl.load(h + rows[:, None] * stride + tl.arange(0, width)[None, :], mask=inside[:, None], other=0.0)


@_jit
def _weights(
    weight: tl.tensor, half: tl.constexpr, apart: tl.constexpr, inputs: tl.constexpr, depth: tl.constexpr
) -> tl.tensor:
    """Load `(inputs, 2 * half)` from a weight `(..., depth)`: `half` of its rows, and those `apart` rows below."""
    outputs = tl.arange(0, 2 * half)
    rows = outputs % half + outputs // half * apart
    return tl.load(weight + tl.arange(0, inputs)[:, None] + rows[None, :] * depth)


@_jit
def _level_vectors(level: tl.tensor, outputs: tl.constexpr, rows: tl.constexpr) -> tl.tensor:
    """Load a clip's six level vectors, padded with zeros to `(rows, outputs)`."""
    row = tl.arange(0, rows)[:, None]
    return tl.load(level + row * outputs + tl.arange(0, outputs)[None, :], mask=row < 6, other=0.0)


@_jit
def _halves(y: tl.tensor, block: tl.constexpr, width: tl.constexpr) -> tl.tensor:
    """Part `(block, 2 * width)` into its left and its right half; a thread holds the same columns of both."""
    return tl.split(tl.permute(tl.reshape(y, (block, 2, width)), (0, 2, 1)))


@_jit
def _taps_inside(
    start: tl.tensor, n: tl.tensor, dilation: tl.tensor, block: tl.constexpr, rows: tl.constexpr
) -> tl.tensor:
    """Return `(block, rows)` of 0 and 1: which rows of a level's vectors count at each position from `start`."""
    position, tap = start + tl.arange(0, block)[:, None], tl.arange(0, rows)[None, :] // 2
    return ((tap == 0) & (position >= dilation)) | (tap == 1) | ((tap == 2) & (position + dilation < n))


@_jit
def _add_condition(
    y: tl.tensor, condition: tl.tensor, condition_row: tl.tensor, start: tl.tensor, n: tl.tensor,
    block: tl.constexpr, outputs: tl.constexpr, repeat: tl.constexpr, frames: tl.constexpr, precision: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Add to every position the condition of its frame; picked by a product where a tile has few frames."""
    across = tl.arange(0, outputs)[None, :]
    position, first = start + tl.arange(0, block)[:, None], start // repeat
    condition += first * condition_row.to(tl.int64)
    if block // repeat < frames - 1:
        frame = tl.arange(0, frames)
        there = (first + frame) * repeat < n
        picked = position // repeat - first == frame[None, :]
        rows = tl.load(condition + frame[:, None] * condition_row + across, mask=there[:, None], other=0.0)
        return tl.dot(picked.to(rows.dtype), rows, y, input_precision=precision)
    else:
        place = condition + (position // repeat - first) * condition_row + across
        return y + tl.load(place, mask=position < n, other=0.0).to(tl.float32)


@_jit
def _gated(y: tl.tensor, block: tl.constexpr, channels: tl.constexpr, fast: tl.constexpr) -> tl.tensor:
    """Return sigmoid(gate) * tanh(signal); `fast` takes both from the hardware's tanh, exact to 11 bits."""
    gate, signal = _halves(y, block, channels)
    if fast:
        tanh: tl.constexpr = "tanh.approx.f32 $0, $1;"
        gate = tl.inline_asm_elementwise(tanh, "=f,f", [0.5 * gate], dtype=tl.float32, is_pure=True, pack=1)
        signal = tl.inline_asm_elementwise(tanh, "=f,f", [signal], dtype=tl.float32, is_pure=True, pack=1)
        return (0.5 + 0.5 * gate) * signal
    else:
        return tl.sigmoid(gate) * (2 * tl.sigmoid(2 * signal) - 1)


@_jit
def _skipped(
    skip: tl.tensor, n_left: tl.tensor,
    block: tl.constexpr, width: tl.constexpr, channels: tl.constexpr, first: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Load what earlier layers left in skip `(block, width)`: zeros for the first."""
    if first:
        return tl.zeros((block, width), skip.dtype.element_ty)
    else:
        rows = tl.arange(0, block)[:, None]
        return tl.load(skip + rows * channels + tl.arange(0, width)[None, :], mask=rows < n_left, other=0.0)


@_jit
def _finish(
    both: tl.tensor, here: tl.tensor, skipped: tl.tensor, h_out: tl.tensor, skip: tl.tensor, n_left: tl.tensor,
    block: tl.constexpr, width: tl.constexpr, channels: tl.constexpr,
) -> None:  # fmt: skip
    """Store `width` channels of both outputs `(block, 2 * width)`, in the first `n_left` rows."""
    rows = tl.arange(0, block)[:, None]
    place, inside = rows * channels + tl.arange(0, width)[None, :], rows < n_left
    residual, added = _halves(both, block, width)
    h = (here.to(tl.float32) + residual) * 0.7071067811865476
    tl.store(h_out + place, h.to(h_out.dtype.element_ty), mask=inside)
    tl.store(skip + place, (skipped.to(tl.float32) + added).to(skip.dtype.element_ty), mask=inside)


@_jit
def resident_layer(
    h_in: tl.tensor, h_out: tl.tensor, skip: tl.tensor, condition: tl.tensor, level: tl.tensor,
    taps: tl.tensor, output: tl.tensor, n_valid: tl.tensor,
    capacity: tl.tensor, dilation: tl.tensor,
    condition_clip: tl.tensor, condition_row: tl.tensor, level_clip: tl.tensor,
    channels: tl.constexpr, wide: tl.constexpr, narrow: tl.constexpr, repeat: tl.constexpr,
    first: tl.constexpr, precision: tl.constexpr, fast: tl.constexpr,
    block: tl.constexpr, piece: tl.constexpr, per_processor: tl.constexpr,
) -> None:  # fmt: skip
    """Run a layer with its weights in shared memory; see `audiodiff.engine.fused` for the arguments."""
    outputs: tl.constexpr = 2 * channels
    depth: tl.constexpr = 3 * channels + wide + narrow
    n, clip = tl.load(n_valid), tl.program_id(1).to(tl.int64)
    condition += clip * condition_clip
    level_vectors = _level_vectors(level + clip * level_clip, outputs, 16)
    past_weights = _weights(taps, channels, channels, channels, depth)
    here_weights = _weights(taps + channels, channels, channels, channels, depth)
    future_weights = _weights(taps + 2 * channels, channels, channels, channels, depth)
    output_weights = _weights(output, channels, channels, channels, channels)
    if wide > 0:
        wide_weights = _weights(taps + 3 * channels, channels, channels, wide, depth)
    if narrow > 0:
        narrow_weights = _weights(taps + 3 * channels + wide, channels, channels, narrow, depth)
    for start in tl.range(tl.program_id(0) * block, n, tl.num_programs(0) * block):
        offset = clip * capacity + start
        h, column = h_in + offset * channels, condition + start * condition_row.to(tl.int64)
        place = skip + offset * channels
        skipped = _skipped(place, n - start, block, channels, channels, first)  # early: it is needed last
        inside = _taps_inside(start, n, dilation, block, 16).to(h_in.dtype.element_ty)
        y = tl.dot(inside, level_vectors, input_precision=precision)
        rows = _rows(h, start, -dilation, n, block, channels, channels)
        y = tl.dot(rows, past_weights, y, input_precision=precision)
        here = _rows(h, start, 0, n, block, channels, channels)
        y = tl.dot(here, here_weights, y, input_precision=precision)
        rows = _rows(h, start, dilation, n, block, channels, channels)
        y = tl.dot(rows, future_weights, y, input_precision=precision)
        if wide > 0:
            rows = _rows(column, start, 0, n, block, wide, condition_row)
            y = tl.dot(rows, wide_weights, y, input_precision=precision)
        if narrow > 0:
            rows = _rows(column + wide, start, 0, n, block, narrow, condition_row)
            y = tl.dot(rows, narrow_weights, y, input_precision=precision)
        if repeat > 0:
            y = _add_condition(y, condition, condition_row, start, n, block, outputs, repeat, 16, precision)
        z = _gated(y, block, channels, fast).to(here.dtype)
        both = tl.dot(z, output_weights, input_precision=precision)
        _finish(both, here, skipped, h_out + offset * channels, place, n - start, block, channels, channels)


@_jit
def streamed_layer(
    h_in: tl.tensor, h_out: tl.tensor, skip: tl.tensor, condition: tl.tensor, level: tl.tensor,
    taps: tl.tensor, output: tl.tensor, n_valid: tl.tensor,
    capacity: tl.tensor, dilation: tl.tensor,
    condition_clip: tl.tensor, condition_row: tl.tensor, level_clip: tl.tensor,
    channels: tl.constexpr, wide: tl.constexpr, narrow: tl.constexpr, repeat: tl.constexpr,
    first: tl.constexpr, precision: tl.constexpr, fast: tl.constexpr,
    block: tl.constexpr, piece: tl.constexpr, per_processor: tl.constexpr,
) -> None:  # fmt: skip
    """Run a layer with its weights read in pieces of `piece` inputs; arguments as in `resident_layer`."""
    outputs: tl.constexpr = 2 * channels
    depth: tl.constexpr = 3 * channels + wide + narrow
    n, clip = tl.load(n_valid), tl.program_id(1).to(tl.int64)
    condition += clip * condition_clip
    level_vectors = _level_vectors(level + clip * level_clip, outputs, 16)
    for start in tl.range(tl.program_id(0) * block, n, tl.num_programs(0) * block):
        offset = clip * capacity + start
        h, column = h_in + offset * channels, condition + start * condition_row.to(tl.int64)
        inside = _taps_inside(start, n, dilation, block, 16).to(h_in.dtype.element_ty)
        y = tl.dot(inside, level_vectors, input_precision=precision)
        for i in tl.range(0, 3 * channels, piece):
            rows = _rows(h + i % channels, start, (i // channels - 1) * dilation, n, block, piece, channels)
            y = tl.dot(rows, _weights(taps + i, channels, channels, piece, depth), y, input_precision=precision)
        if wide > 0:
            rows = _rows(column, start, 0, n, block, wide, condition_row)
            y = tl.dot(
                rows, _weights(taps + 3 * channels, channels, channels, wide, depth), y, input_precision=precision
            )
        if narrow > 0:
            rows = _rows(column + wide, start, 0, n, block, narrow, condition_row)
            narrow_weights = _weights(taps + 3 * channels + wide, channels, channels, narrow, depth)
            y = tl.dot(rows, narrow_weights, y, input_precision=precision)
        if repeat > 0:
            y = _add_condition(y, condition, condition_row, start, n, block, outputs, repeat, 16, precision)
        z = _gated(y, block, channels, fast).to(h_in.dtype.element_ty)
        for i in tl.range(0, channels, piece):
            here = _rows(h + i, start, 0, n, block, piece, channels)
            place = skip + offset * channels + i
            skipped = _skipped(place, n - start, block, piece, channels, first)
            output_weights = _weights(output + i * channels, piece, channels, channels, channels)
            both = tl.dot(z, output_weights, input_precision=precision)
            _finish(both, here, skipped, h_out + offset * channels + i, place, n - start, block, piece, channels)
