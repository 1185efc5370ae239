"""The part of a long tensor that is still needed, addressed by its place in the whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor


class Window:
    """A queue of tensor pieces along one axis; new ones join at the end, old ones are forgotten at the start.

    Args:
        dim: The axis along which the pieces follow each other.

    Attributes:
        end: Index, in the whole, behind the last piece.
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
            IndexError: If a part of it is forgotten, or not there yet.
        """
        parts = [part for _, part in self.parts(start, stop)]
        if sum(part.shape[self._dim] for part in parts) != stop - start:
            raise IndexError(f"[{start}, {stop}) is not in the window, which ends at {self.end}")
        return parts[0] if len(parts) == 1 else torch.cat(parts, self._dim)

    def forget(self, before: int) -> None:
        """Let go of pieces that lie before an index entirely."""
        while self._pieces and self._pieces[0][0] + self._pieces[0][1].shape[self._dim] <= before:
            self._pieces.popleft()
