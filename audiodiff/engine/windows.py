"""Signals and conditions in pieces that are cut anywhere: what is still needed of them, and what belongs together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor


class Window:
    """The part of a long tensor that is still needed, addressed by its place in the whole.

    Args:
        dim: The axis of time.

    Attributes:
        end: Index, in the whole, after the last piece.
    """

    def __init__(self, dim: int) -> None:
        self.end = 0
        self._dim = dim
        self._pieces: deque[tuple[int, Tensor]] = deque()

    def append(self, piece: Tensor) -> None:
        """Add a piece of any length at the end."""
        self._pieces.append((self.end, piece))
        self.end += piece.shape[self._dim]

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield what is there of [start, stop), as (index in the whole, view), in order."""
        for first, piece in self._pieces:
            low, high = max(start, first), min(stop, first + piece.shape[self._dim])
            if low < high:
                yield low, piece.narrow(self._dim, low - first, high - low)

    def view(self, start: int, stop: int) -> Tensor:
        """Return [start, stop), a copy where it spans several pieces.

        Raises:
            IndexError: If a part of it has been discarded or has not been appended yet.
        """
        parts = [part for _, part in self.parts(start, stop)]
        if sum(part.shape[self._dim] for part in parts) != stop - start:
            raise IndexError(f"[{start}, {stop}) is not in the window, which ends at {self.end}")
        return parts[0] if len(parts) == 1 else torch.cat(parts, self._dim)

    def discard_before(self, index: int) -> None:
        """Discard the pieces that lie entirely before an index."""
        while self._pieces and self._pieces[0][0] + self._pieces[0][1].shape[self._dim] <= index:
            self._pieces.popleft()


class Length:
    """Length of a signal in samples, once it is known: at the latest when its last piece comes."""

    def __init__(self, n_samples: int | None = None) -> None:
        self.n_samples = n_samples


def with_last(signal: Iterable[Tensor], length: Length) -> Iterator[tuple[Tensor, bool]]:
    """Yield the pieces of a signal, and whether each is the last."""
    end = 0
    for piece in signal:
        end += piece.shape[2]
        yield piece, end == length.n_samples


def fill(window: Window, pieces: Iterator[Tensor | None], end: int) -> None:
    """Append the next pieces to a window until it reaches an index; None is that there is nothing to append."""
    while window.end < end and (piece := next(pieces, None)) is not None:
        window.append(piece)


def with_stretches(signal: Iterable[Tensor], other: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every piece of a signal and the same stretch of another, which may be cut elsewhere."""
    window, start = Window(dim=2), 0
    for piece in signal:
        stop = start + piece.shape[2]
        fill(window, other, stop)
        yield piece, window.view(start, stop)
        start = stop
        window.discard_before(start)


def with_halo(
    function: Callable[[Tensor, Tensor | None], Tensor],
    signal: Iterable[Tensor],
    conditions: Iterable[Tensor | None],
    length: Length,
    *,
    look_back: int,
    look_ahead: int,
    samples_per_row: int,
) -> Iterator[list[Tensor]]:
    """Apply a function to a signal in pieces, each stretch together with as much on either side as the function sees.

    Args:
        function: From a stretch of the signal `(batch, channels, time)` and its condition `(batch, rows, n)`, or None,
            to something of the same length.
        signal: Consecutive pieces of the signal, whole rows.
        conditions: Consecutive pieces of the condition, or None for each.
        length: That of the signal.
        look_back: Samples before a stretch that the function sees, whole rows.
        look_ahead: Samples beyond it that it sees, whole rows.
        samples_per_row: Samples per row of the condition.

    Yields:
        After every piece, the results that have become complete, if any; after the last, all that are left.
    """
    x, rows, done = Window(dim=2), Window(dim=1), 0
    conditions = iter(conditions)

    def until(stop: int) -> list[Tensor]:
        nonlocal done
        start = done
        if stop <= start:
            return []
        done, low, high = stop, max(0, start - look_back), min(x.end, stop + look_ahead)
        condition = rows.view(low // samples_per_row, high // samples_per_row) if rows.end else None
        result = function(x.view(low, high), condition)[..., start - low : stop - low]
        x.discard_before(stop - look_back)
        rows.discard_before((stop - look_back) // samples_per_row)
        return [result]

    for piece, last in with_last(signal, length):
        x.append(piece)
        fill(rows, conditions, x.end // samples_per_row)
        yield until(x.end if last else x.end - look_ahead)
