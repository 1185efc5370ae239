"""STFT networks computed incrementally: every layer keeps its last inputs, so that a stream computes nothing twice.

A chunk costs what its own frames cost, however short it is, plus one read of the weights. The predictions are those of
the whole signal: rows outside it count as zero, and a window that reaches beyond it has zeros there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.transforms import FramedSTFT
from audiodiff.engine.streaming import Window
from audiodiff.networks.diffwave import ResidualLayer, gated_unit
from audiodiff.networks.layers import SQRT_HALF
from audiodiff.networks.stft_diffwave import STFTBranch, STFTDiffWave, apply_mask


class _Linear:
    """A linear layer in the precision of the matrix products; float32 shares the network's own weights."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        self.weight, self.bias = layer.weight.to(dtype), layer.bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class _Layer:
    """The weights of a residual layer."""

    def __init__(self, layer: ResidualLayer, dtype: torch.dtype) -> None:
        self.dilation, self.ahead = layer.dilation, layer.look_ahead
        self.level = layer.level
        self.taps, self.output = _Linear(layer.taps, dtype), _Linear(layer.output, dtype)


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
        self.layers = [_Layer(layer, dtype) for layer in part.stack.gated_layers()]
        self.input, self.skip, self.output = (_Linear(x, dtype) for x in (part.input, part.skip, part.output))
        channels = part.input.out_features
        self.columns = [slice(at, at + 2 * channels) for at in range(first, first + self.width, 2 * channels)]
        self.dtype, self.channels = dtype, channels

    @property
    def width(self) -> int:
        """Columns of its condition."""
        return 2 * self.input.weight.shape[0] * len(self.layers)


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
            first = sum(before.width for before in self.branches)
            self.branches.append(_Branch(branch, branch.stft, hop_length, first, dtype))

    def stream(
        self,
        signal: Iterable[Tensor],
        conditions: Iterable[Tensor | None],
        log_snr: Tensor,
        global_condition: Tensor | None = None,
    ) -> Iterator[list[Tensor]]:
        """Run the network over a signal in pieces; see `audiodiff.engine.choose.Engine.stream`."""
        state: _NetworkState | None = None
        for x, condition in zip(signal, conditions, strict=True):
            if state is None:
                state = _NetworkState(self, log_snr.to(x).expand(len(x)), global_condition)
            yield state.push(x, condition)
        yield [] if state is None else state.finish()


class _Rows(NamedTuple):
    """Rows of a stack between two layers, `(batch, positions, channels)` each: residual stream and sum of skips."""

    h: Tensor
    total: Tensor


class _LayerState:
    """A layer at one noise level: its last inputs, and how far its outputs have got."""

    def __init__(self, layer: _Layer, embedding: Tensor, dtype: torch.dtype) -> None:
        self._layer, self._back = layer, 2 * layer.dilation - layer.ahead
        self._level: Tensor = layer.level(embedding).unsqueeze(1).to(dtype)
        self._h, self._total = Window(dim=1), Window(dim=1)
        self._h.append(self._outside(self._back))
        self.done = 0

    def _outside(self, count: int) -> Tensor:
        """Return rows that the taps see as zero, since the noise level is added to all rows."""
        return -self._level.expand(-1, count, -1)

    def push(self, rows: _Rows, condition: Window | None, branch: _Branch, index: int, *, last: bool) -> _Rows:
        """Take the next rows, maybe none; return those that have become complete."""
        layer, back = self._layer, self._back
        self._h.append(rows.h)
        self._total.append(rows.total)
        if last:
            self._h.append(self._outside(layer.ahead))
        start, stop = self.done, max(self.done, self._h.end - back - layer.ahead)
        if stop == start:
            return _Rows(rows.h[:, :0], rows.total[:, :0])
        n, window = stop - start, self._h.view(start, stop + back + layer.ahead)
        seen = window + self._level
        y = layer.taps(torch.cat([seen[:, i * layer.dilation : i * layer.dilation + n] for i in range(3)], dim=2))
        if condition is not None:
            y += _expanded(condition, start, stop, branch.positions_per_frame, branch.columns[index])
        residual, skip = layer.output(gated_unit(y)).chunk(2, dim=2)
        done = _Rows((window[:, back : back + n] + residual) * SQRT_HALF, self._total.view(start, stop) + skip)
        self.done = stop
        self._h.discard_before(stop)
        self._total.discard_before(stop)
        return done


def _expanded(condition: Window, start: int, stop: int, positions_per_frame: int, columns: slice) -> Tensor:
    """Return the condition of positions [start, stop), each that of its frame."""
    low, high = start // positions_per_frame, -(-stop // positions_per_frame)
    rows = condition.view(low, high)[..., columns]
    if positions_per_frame == 1:
        return rows
    first = start - low * positions_per_frame
    return rows.repeat_interleave(positions_per_frame, dim=1)[:, first : first + stop - start]


class _BranchState:
    """A branch at one noise level: samples in, what it adds to y out."""

    def __init__(self, branch: _Branch, embedding: Tensor) -> None:
        self._branch, self._stft = branch, branch.stft
        self._layers = [_LayerState(layer, embedding, branch.dtype) for layer in branch.layers]
        self._samples, self._spectra, self._n_frames = Window(dim=1), Window(dim=1), 0
        self._overlap: Tensor | None = None
        self._ahead_of = self._stft.margin

    @property
    def frames_done(self) -> int:
        """Frames of the condition that no layer needs any more."""
        return self._layers[-1].done // self._branch.positions_per_frame

    def push(self, x: Tensor, condition: Window | None, *, last: bool) -> Tensor:
        """Take the next samples `(batch, time)`; return the samples of y that have become complete."""
        edge = x.new_zeros(len(x), self._stft.margin)
        if not self._samples.end:
            self._samples.append(edge)
        self._samples.append(x)
        if last:
            self._samples.append(edge)
        spectrum = self._analyse(x)
        self._spectra.append(spectrum)
        branch = self._branch
        h = torch.relu(branch.input(torch.cat([spectrum.real, spectrum.imag], dim=2).to(branch.dtype)))
        rows, start = _Rows(h, torch.zeros_like(h)), self._layers[-1].done
        for index, layer in enumerate(self._layers):
            rows = layer.push(rows, condition, branch, index, last=last)
        stop = self._layers[-1].done
        if stop == start:
            return x[:, :0]
        output = branch.output(torch.relu(branch.skip(rows.total * len(self._layers) ** -0.5))).float()
        masked = apply_mask(self._spectra.view(start, stop), output)
        self._spectra.discard_before(stop)
        return self._synthesise(masked, last=last)

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
        weights = stft.window.square().expand(1, spectrum.shape[1], -1)  # summed as one more clip of the batch
        total = stft.overlap_add(torch.cat([stft.windowed(spectrum), weights]))
        if self._overlap is not None:
            total[:, : self._overlap.shape[1]] += self._overlap
        complete = total.shape[1] - stft.margin if last else spectrum.shape[1] * stft.hop_length
        self._overlap = total[:, complete:]
        skipped = min(self._ahead_of, complete)
        self._ahead_of -= skipped
        return total[:-1, skipped:complete] / total[-1:, skipped:complete].clamp_min(1e-8)


class _NetworkState:
    """The network at one noise level, between two pieces of a signal."""

    def __init__(self, weights: IncrementalSTFT, log_snr: Tensor, global_condition: Tensor | None) -> None:
        self._embedding = weights.network.embed_level(log_snr, global_condition)
        self._branches = [_BranchState(branch, self._embedding) for branch in weights.branches]
        self._alpha, self._sigma = (torch.sigmoid(sign * log_snr).sqrt().view(-1, 1, 1) for sign in (1, -1))
        self._x, self._condition = Window(dim=2), Window(dim=1)
        self._y = [Window(dim=1) for _ in weights.branches]
        self._waiting: deque[tuple[int, int]] = deque()

    def push(self, x: Tensor, condition: Tensor | None) -> list[Tensor]:
        """Take the next piece `(batch, 1, time)`; return the predictions of pieces that have become complete."""
        self._waiting.append((self._x.end, self._x.end + x.shape[2]))
        self._x.append(x)
        if condition is not None:
            self._condition.append(condition)
        return self._advance(x[:, 0], last=False)

    def finish(self) -> list[Tensor]:
        """End the signal; return the predictions that are left."""
        return self._advance(self._embedding.new_zeros(len(self._embedding), 0), last=True)

    def _advance(self, x: Tensor, *, last: bool) -> list[Tensor]:
        condition = self._condition if self._condition.end else None
        for branch, y in zip(self._branches, self._y, strict=True):
            y.append(branch.push(x, condition, last=last))
        self._condition.discard_before(min(branch.frames_done for branch in self._branches))
        done = []
        while self._waiting and self._waiting[0][1] <= min(y.end for y in self._y):
            start, stop = self._waiting.popleft()
            total = torch.stack([y.view(start, stop) for y in self._y]).sum(0)
            done.append(self._sigma * self._x.view(start, stop) + self._alpha * total.unsqueeze(1))
            for window in (self._x, *self._y):
                window.discard_before(stop)
        return done
