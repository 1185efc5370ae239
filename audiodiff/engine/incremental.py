"""STFT networks computed incrementally: every layer keeps its last inputs, so that a stream computes nothing twice.

A chunk costs what its own frames cost, however short it is, plus one read of the weights. The predictions are those of
the whole signal: rows outside it count as zero, and a window that reaches beyond it has zeros there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.transforms import FramedSTFT
from audiodiff.engine.windows import Length, Window, fill, with_last
from audiodiff.networks.conditioning import FrameConditioner
from audiodiff.networks.diffwave import ResidualLayer
from audiodiff.networks.layers import SQRT_HALF
from audiodiff.networks.stft_diffwave import STFTBranch, STFTDiffWave

_FEW_ROWS = 8
"""Up to so many rows, reading the weights is what a matrix product costs."""
_ALIGNED = 8
"""Outputs are padded with zeros to a multiple of it: BLAS takes twice as long for 1,539 as for 1,544."""


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return total + x @ weight.T as `_product` does; total may be overwritten."""
    return total.addmm_(x, weight.T) if x.shape[0] > _FEW_ROWS else _product(x, weight, total)


def _product(x: Tensor, weight: Tensor, added: Tensor, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return beta * added + alpha * x @ weight.T, few rows of x as a transposed product: BLAS reads weights faster so.

    Args:
        x: `(rows, n_inputs)`.
        weight: `(n_outputs, n_inputs)`.
        added: `(rows, n_outputs)` or `(1, n_outputs)`.
        beta: Factor of `added`.
        alpha: Factor of the product.
    """
    if x.shape[0] > _FEW_ROWS:
        return torch.addmm(added, x, weight.T, beta=beta, alpha=alpha)
    return torch.addmm(added.T, weight, x.contiguous().T, beta=beta, alpha=alpha).T


def _tanh_(x: Tensor) -> Tensor:
    """Overwrite x by its hyperbolic tangent; 2 sigmoid(2 x) - 1 takes half the time and is as good in float32."""
    return x.mul_(2).sigmoid_().mul_(2).sub_(1) if x.dtype == torch.float32 else x.tanh_()


class _Linear:
    """A linear layer in the precision of the matrix products; float32 shares the network's own weights, if not padded.

    Args:
        layer: The layer.
        dtype: Of the matrix products.
        padded_parts: In how many equal parts its outputs are padded, each at its end; 0 for none.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, padded_parts: int = 0) -> None:
        weight: Tensor = layer.weight
        bias: Tensor = layer.bias
        if padded_parts:
            padding = (0, -len(bias) // padded_parts % _ALIGNED)
            weight = functional.pad(weight.unflatten(0, (padded_parts, -1)), (0, 0, *padding)).flatten(0, 1)
            bias = functional.pad(bias.view(padded_parts, -1), padding).flatten()
        self.weight, self.bias = weight.to(dtype), bias.to(dtype).unsqueeze(0)

    def __call__(self, x: Tensor) -> Tensor:
        return _product(x, self.weight, self.bias)


class _Layer:
    """The weights of a residual layer.

    The residual stream is kept without what the biases of the layers before have added to it, `offset`; the bias of the
    taps takes it in, as it does the noise level. So a layer is three matrix products that add, and its gated unit.
    """

    def __init__(self, layer: ResidualLayer, offset: Tensor, dtype: torch.dtype) -> None:
        self.dilation, self.ahead = layer.dilation, layer.look_ahead
        self.level, self.taps_of, self.offset = layer.level, layer.taps, offset
        self.taps = layer.taps.weight.to(dtype)
        self.residual, self.skip = layer.output.weight.to(dtype).chunk(2)
        bias, self.skip_bias = layer.output.bias.chunk(2)
        self.next_offset = (offset + bias) * SQRT_HALF


class _Branch:
    """The weights of a stack on an STFT of its own: the main one, or an `STFTBranch`.

    Args:
        part: Which has the input and output projections.
        stft: Its transform.
        hop_length: Samples per row of the condition.
        first: Where its condition begins among those of all branches.
        dtype: Of the matrix products.
    """

    def __init__(
        self, part: STFTDiffWave | STFTBranch, stft: FramedSTFT, hop_length: int, first: int, dtype: torch.dtype
    ) -> None:
        self.stft, self.positions_per_frame = stft, hop_length // stft.hop_length
        self.input, self.output = _Linear(part.input, dtype), _Linear(part.output, dtype, padded_parts=3)
        self.dtype, self.channels = dtype, part.input.out_features
        self.layers: list[_Layer] = []
        offset = torch.zeros_like(part.input.bias)
        for layer in part.stack.gated_layers():
            self.layers.append(_Layer(layer, offset, dtype))
            offset = self.layers[-1].next_offset
        self.width = 2 * self.channels * len(self.layers)
        self.columns = slice(first, first + self.width)
        self.scale = len(self.layers) ** -0.5
        skip_biases = torch.stack([layer.skip_bias for layer in self.layers]).sum(0)
        self.skip_weight = part.skip.weight.to(dtype)
        self.skip_bias = (part.skip.bias + self.scale * part.skip.weight @ skip_biases).to(dtype).unsqueeze(0)


class IncrementalSTFT:
    """The weights of an `STFTDiffWave` with gated layers and a fixed variance, for streams at any noise level.

    Args:
        network: The network.
        dtype: Of the matrix products: float32 or bfloat16.
    """

    @torch.no_grad()
    def __init__(self, network: STFTDiffWave, dtype: torch.dtype) -> None:
        self.network = network
        hop_length = network.stft.hop_length
        self.branches = [_Branch(network, network.stft, hop_length, 0, dtype)]
        for branch in cast(Iterable[STFTBranch], network.branches):
            first = self.branches[-1].columns.stop
            self.branches.append(_Branch(branch, branch.stft, hop_length, first, dtype))
        parts: list[STFTDiffWave | STFTBranch] = [network, *cast(Iterable[STFTBranch], network.branches)]
        conditioners = [part.stack.conditioner for part in parts]
        projections = [one.weight for one in conditioners if isinstance(one, FrameConditioner)]
        self._projection = torch.cat(projections).to(dtype) if projections else None
        self.condition_bias = network.input.bias.new_zeros(self.branches[-1].columns.stop)
        if self._projection is not None and network.mel_encoder is not None:
            output = network.mel_encoder.output
            self._projection = torch.cat([self._projection, output.weight.to(dtype)], dim=1)
            self.condition_bias = output.bias

    def encode(self, mel: Tensor, start: int, stop: int) -> Tensor:
        """Prepare the condition of frames [start, stop); see `audiodiff.engine.choose.Engine`.

        What lies around them is only seen by the encoder of the mel, and not projected. `condition_bias` is still to be
        added.
        """
        network, weight = self.network, self._projection
        if network.normalise_mel is None or weight is None:
            raise TypeError("this network was built without a mel condition")
        features: Tensor = network.normalise_mel(mel)
        rows = features[:, start:stop].to(weight.dtype)
        if network.mel_encoder is not None:
            hidden = network.mel_encoder.hidden(features)[:, start:stop].to(weight.dtype)
            rows = torch.cat([rows, hidden], dim=2)
        x = rows.flatten(0, 1)
        product: Tensor = x @ weight.T if len(x) > _FEW_ROWS else (weight @ x.contiguous().T).T
        condition: Tensor = product.unflatten(0, rows.shape[:2])
        return condition

    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        length: Length,
        log_snr: Tensor,
        global_condition: Tensor | None = None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces; see `audiodiff.engine.choose.Engine.stream`."""
        state: _NetworkState | None = None
        conditions = iter(conditions)
        for x, last in with_last(signal, length):
            if state is None:
                state = _NetworkState(self, log_snr.to(x).expand(len(x)), global_condition, conditions)
            yield state.push(x, last=last)


class _Rows(NamedTuple):
    """Rows of a stack between two layers, `(positions, batch, channels)` each: residual stream and sum of skips."""

    h: Tensor
    total: Tensor


class _LayerState:
    """A layer at one noise level: its last inputs, and how far its outputs have got.

    Attributes:
        bias: Of its taps, noise level and offset included `(batch, 2 * channels)`.
        done: Outputs so far.
    """

    def __init__(self, layer: _Layer, embedding: Tensor, dtype: torch.dtype) -> None:
        self._layer = layer
        level = layer.level(embedding) + layer.offset
        self.bias: Tensor = layer.taps_of(level.repeat(1, 3)).to(dtype)
        self._outside = -level.to(dtype)  # what the taps see as zero
        self._past, self._totals = self._outside.expand(2 * layer.dilation, -1, -1), level.new_zeros(0)
        self._n_early = layer.ahead  # outputs before the first position, which the first inputs complete
        self.done = 0

    def push(self, rows: _Rows, conditions: _Conditions, index: int, *, last: bool) -> _Rows:
        """Take the next rows, maybe none; return those that have become complete."""
        layer, h, total = self._layer, rows.h, rows.total
        if last and layer.ahead:
            h = torch.cat([h, self._outside.expand(layer.ahead, -1, -1)])
        window = torch.cat([self._past, h])
        self._past = window[h.shape[0] :]
        if layer.ahead:
            total = torch.cat([self._totals, total]) if self._totals.shape[0] else total
        early = min(self._n_early, h.shape[0])
        n, self._n_early = h.shape[0] - early, self._n_early - early
        if layer.ahead:
            total, self._totals = total[:n], total[n:]
        if not n:
            return _Rows(rows.h[:0], total)
        window = window[early:]
        batch, channels = window.shape[1:]
        strides = (batch * channels, channels, layer.dilation * batch * channels, 1)
        taps = window.as_strided((n, batch, 3, channels), strides).reshape(n * batch, 3 * channels)
        y = _add_product(conditions.of_layer(index, self.done, self.done + n), taps, layer.taps)
        self.done += n
        gate, signal = y.chunk(2, dim=1)
        gated = gate.sigmoid_().mul_(_tanh_(signal))
        back = 2 * layer.dilation - layer.ahead
        h = window[back : back + n].flatten(0, 1)
        h = _product(gated, layer.residual, h, beta=SQRT_HALF, alpha=SQRT_HALF)
        total = _add_product(total.flatten(0, 1), gated, layer.skip)
        return _Rows(h.unflatten(0, (n, batch)), total.unflatten(0, (n, batch)))


class _Conditions:
    """What is added to the taps of all layers of a branch: the condition of each position, and their biases.

    Args:
        branch: Its weights.
        bias: Of the layers side by side `(batch, width)`.
        condition_bias: What is to be added where there is a condition `(width,)`.
    """

    def __init__(self, branch: _Branch, bias: Tensor, condition_bias: Tensor) -> None:
        self._width, self._step = 2 * branch.channels, branch.positions_per_frame
        self._bias, self._bias_of_rows = bias, bias + condition_bias
        self._rows = Window(dim=0)
        self._range, self._viewed, self._repeat = (0, 0), bias[:0], torch.arange(0)

    def append(self, condition: Tensor) -> None:
        """Add the condition of the next frames `(batch, frames, width)`."""
        self._rows.append(condition.to(self._bias.dtype).transpose(0, 1))

    def of_layer(self, index: int, start: int, stop: int) -> Tensor:
        """Return that of a layer at positions [start, stop) `(positions * batch, 2 * channels)`, to be overwritten."""
        columns = slice(index * self._width, (index + 1) * self._width)
        if not self._rows.end:
            return self._bias[:, columns].repeat(stop - start, 1)
        if self._range != (start, stop):
            first = start // self._step
            self._range, self._viewed = (start, stop), self._rows.view(first, -(-stop // self._step))
            self._repeat = torch.arange(start, stop).div_(self._step, rounding_mode="floor") - first
        rows = self._viewed[..., columns] + self._bias_of_rows[:, columns]
        if self._step > 1:
            rows = rows.index_select(0, self._repeat)
        return rows.flatten(0, 1)

    def discard_before(self, position: int) -> None:
        """Discard what lies before a position."""
        self._rows.discard_before(position // self._step)


class _BranchState:
    """A branch at one noise level: samples in, what it adds to y out."""

    def __init__(self, branch: _Branch, embedding: Tensor, condition_bias: Tensor) -> None:
        self._branch, self._stft = branch, branch.stft
        self._layers = [_LayerState(layer, embedding, branch.dtype) for layer in branch.layers]
        bias = torch.cat([layer.bias for layer in self._layers], dim=1)
        self._conditions = _Conditions(branch, bias, condition_bias[branch.columns].to(branch.dtype))
        self._samples, self._spectra, self._n_frames = Window(dim=1), Window(dim=1), 0
        self._overlap: Tensor | None = None
        self._ahead_of = self._stft.margin

    def push(self, x: Tensor, condition: Tensor | None, *, last: bool) -> Tensor:
        """Take the next samples `(batch, time)` and more of the condition; return what of y is complete now."""
        edge = x.new_zeros(len(x), self._stft.margin)
        if not self._samples.end:
            self._samples.append(edge)
        self._samples.append(x)
        if last:
            self._samples.append(edge)
        if condition is not None:
            self._conditions.append(condition[..., self._branch.columns])
        spectrum = self._analyse(x)
        self._spectra.append(spectrum)
        masked = self._mask(spectrum, last=last)
        return x[:, :0] if masked is None else self._synthesise(masked, last=last)

    def _mask(self, spectrum: Tensor, *, last: bool) -> Tensor | None:
        """Run the stack on new spectra; return the masked ones that have become complete, if any."""
        branch, start = self._branch, self._layers[-1].done
        features = torch.cat([spectrum.real, spectrum.imag], dim=2).to(branch.dtype).transpose(0, 1)
        h = branch.input(features.flatten(0, 1)).relu_().unflatten(0, features.shape[:2])
        rows = _Rows(h, torch.zeros_like(h))
        for index, layer in enumerate(self._layers):
            rows = layer.push(rows, self._conditions, index, last=last)
        stop = self._layers[-1].done
        if stop == start:
            return None
        self._conditions.discard_before(stop)
        h = _product(rows.total.flatten(0, 1), branch.skip_weight, branch.skip_bias, alpha=branch.scale).relu_()
        output = branch.output(h).float().unflatten(0, (stop - start, -1)).transpose(0, 1)
        mask, real, imaginary = (part[..., : self._stft.n_bins] for part in output.chunk(3, dim=2))
        masked = _masked(self._spectra.view(start, stop), mask, real, imaginary)
        self._spectra.discard_before(stop)
        return masked

    def _analyse(self, x: Tensor) -> Tensor:
        """Return the spectra of the frames that have become complete."""
        stft, first = self._stft, self._n_frames
        self._n_frames = max(first, (self._samples.end - stft.n_fft) // stft.hop_length + 1)
        if self._n_frames == first:
            return torch.zeros(len(x), 0, stft.n_bins, dtype=torch.complex64, device=x.device)
        low = first * stft.hop_length
        samples = self._samples.view(low, (self._n_frames - 1) * stft.hop_length + stft.n_fft)
        self._samples.discard_before(self._n_frames * stft.hop_length)
        return stft.analyse(samples)

    def _synthesise(self, spectrum: Tensor, *, last: bool) -> Tensor:
        """Overlap and add the next frames; return the samples to which no later frame adds."""
        stft = self._stft
        hops: tuple[Tensor, ...] = stft.windowed(spectrum).unflatten(2, (-1, stft.hop_length)).unbind(2)
        weights = stft.window.square().unflatten(0, (-1, stft.hop_length))  # summed as one more clip of the batch
        batch, n_frames = spectrum.shape[:2]
        summed = hops[0].new_zeros(batch + 1, n_frames + len(hops) - 1, stft.hop_length)
        for i, (part, weight) in enumerate(zip(hops, weights, strict=True)):
            summed[:-1, i : i + n_frames] += part
            summed[-1, i : i + n_frames] += weight
        total: Tensor = summed.flatten(1)
        if self._overlap is not None:
            total[:, : self._overlap.shape[1]] += self._overlap
        complete = total.shape[1] - stft.margin if last else spectrum.shape[1] * stft.hop_length
        self._overlap = total[:, complete:]
        skipped = min(self._ahead_of, complete)
        self._ahead_of -= skipped
        return total[:-1, skipped:complete] / total[-1:, skipped:complete].clamp_min(1e-8)


def _masked(spectrum: Tensor, mask: Tensor, real: Tensor, imaginary: Tensor) -> Tensor:
    """Return mask * spectrum + residual, each `(batch, frames, n_bins)`."""
    masked = torch.empty_like(spectrum)
    torch.addcmul(real, mask, spectrum.real, out=masked.real)
    torch.addcmul(imaginary, mask, spectrum.imag, out=masked.imag)
    return masked


class _NetworkState:
    """The network at one noise level, between two pieces of a signal."""

    def __init__(
        self,
        weights: IncrementalSTFT,
        log_snr: Tensor,
        global_condition: Tensor | None,
        conditions: Iterator[Tensor | None],
    ) -> None:
        embedding, self._conditions = weights.network.embed_level(log_snr, global_condition), conditions
        self._branches = [_BranchState(branch, embedding, weights.condition_bias) for branch in weights.branches]
        self._alpha, self._sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        self._x, self._condition = Window(dim=2), Window(dim=1)
        self._y = [Window(dim=1) for _ in weights.branches]
        self._done, self._hop_length = 0, weights.network.stft.hop_length

    def push(self, x: Tensor, *, last: bool) -> list[Tensor]:
        """Take the next piece `(batch, 1, time)`; return the predictions of whole hops that have become complete."""
        self._x.append(x)
        condition, given = None, self._condition.end
        fill(self._condition, self._conditions, self._x.end // self._hop_length)
        if self._condition.end > given:  # all of it goes on to the branches
            condition = self._condition.view(given, self._condition.end)
            self._condition.discard_before(self._condition.end)
        for branch, y in zip(self._branches, self._y, strict=True):
            y.append(branch.push(x[:, 0], condition, last=last))
        start, stop = self._done, min(y.end for y in self._y) // self._hop_length * self._hop_length
        if stop <= start:
            return []
        self._done = stop
        total = torch.stack([y.view(start, stop) for y in self._y]).sum(0)
        predicted = self._sigma * self._x.view(start, stop) + self._alpha * total.unsqueeze(1)
        for window in (self._x, *self._y):
            window.discard_before(stop)
        return [predicted]
