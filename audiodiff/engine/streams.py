"""What a network predicts of a signal that arrives in pieces, equal to what it predicts of the whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from audiodiff.engine.window import Window

Predict = Callable[[Tensor, Tensor | None], Tensor]
"""(x `(batch, 1, time)`, encoded condition or None) -> prediction of the shape of x, at one noise level."""


class Stream(Protocol):
    """A network at one noise level, fed piece by piece."""

    def push(self, x: Tensor, condition: Tensor | None, *, last: bool) -> list[Tensor]:
        """Take the next piece.

        Args:
            x: Noisy signal `(batch, 1, time)`, whole blocks.
            condition: What the engine encoded for these blocks, or None.
            last: Whether the signal ends with it.

        Returns:
            The predictions of the pieces that have become complete, each of the shape of its piece, in order. A piece
            is complete when the signal has arrived as far beyond it as the network looks ahead.
        """
        ...


class HaloStream:
    """Any network: each piece is computed together with as much on either side as the network can see.

    Args:
        predict: The network at one noise level.
        reach: How far it sees to either side, in samples; a multiple of `block_length`.
        block_length: Samples per block.
        rows_per_block: Rows of the encoded condition per block.
    """

    def __init__(self, predict: Predict, *, reach: int, block_length: int, rows_per_block: int) -> None:
        self._predict, self._reach = predict, reach
        self._block_length, self._rows_per_block = block_length, rows_per_block
        self._x, self._condition = Window(dim=2), Window(dim=1)
        self._waiting: deque[tuple[int, int]] = deque()

    def push(self, x: Tensor, condition: Tensor | None, *, last: bool) -> list[Tensor]:
        """Take the next piece; see `Stream.push`."""
        self._waiting.append((self._x.end, self._x.end + x.shape[2]))
        self._x.append(x)
        if condition is not None:
            self._condition.append(condition)
        done = []
        while self._waiting and (last or self._waiting[0][1] + self._reach <= self._x.end):
            start, stop = self._waiting.popleft()
            done.append(self._evaluate(start, stop))
            self._x.forget(stop - self._reach)
            self._condition.forget(self._row(stop - self._reach))
        return done

    def _row(self, sample: int) -> int:
        return sample * self._rows_per_block // self._block_length

    def _evaluate(self, start: int, stop: int) -> Tensor:
        low, high = max(0, start - self._reach), min(self._x.end, stop + self._reach)
        condition = None
        if self._condition.end:
            condition = self._condition.view(self._row(low), self._row(high))
        return self._predict(self._x.view(low, high), condition)[..., start - low : stop - low]


class WholeStream:
    """A network that sees the whole signal, however long: pieces wait until the last one is there.

    Args:
        predict: The network at one noise level.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self._pieces: list[tuple[Tensor, Tensor | None]] = []

    def push(self, x: Tensor, condition: Tensor | None, *, last: bool) -> list[Tensor]:
        """Take the next piece; see `Stream.push`."""
        self._pieces.append((x, condition))
        if not last:
            return []
        conditions = [condition for _, condition in self._pieces if condition is not None]
        whole = torch.cat([x for x, _ in self._pieces], dim=2)
        predicted = self._predict(whole, torch.cat(conditions, dim=1) if conditions else None)
        return list(predicted.split([x.shape[2] for x, _ in self._pieces], dim=2))
