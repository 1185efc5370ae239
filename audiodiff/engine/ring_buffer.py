"""A sliding window of rows in one preallocated matrix, so that the loop over tiles allocates nothing."""

from __future__ import annotations

import torch
from torch import Tensor


class RingBuffer:
    """Rows addressed by their index in an endless sequence; old ones are forgotten, new ones join at the end.

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

    def forget(self, before: int) -> None:
        """Let go of rows before an index."""
        self.start = max(self.start, min(before, self.end))

    def __getitem__(self, indices: slice) -> Tensor:
        return self._store[indices.start - self._origin : indices.stop - self._origin]
