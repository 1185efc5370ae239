"""Windows and sliding rows hold what was put in, under the index it has in the whole."""

from __future__ import annotations

import pytest
import torch

from audiodiff.engine.tiled import RingBuffer
from audiodiff.engine.windows import Window


@pytest.mark.parametrize("lengths", [[10], [1] * 10, [3, 4, 3], [5, 0, 5]])
def test_a_window_shows_the_whole_that_its_pieces_are_of(lengths):
    whole = torch.randn(2, 10, 3)
    window = Window(dim=1)
    for piece in whole.split(lengths, dim=1):
        window.append(piece)
    for start in range(10):
        for stop in range(start + 1, 11):
            torch.testing.assert_close(window.view(start, stop), whole[:, start:stop], rtol=0, atol=0)
    assert window.end == 10


def test_a_window_forgets_whole_pieces_and_says_so():
    window = Window(dim=0)
    for i in range(4):
        window.append(torch.full((5,), float(i)))
    window.discard_before(11)
    assert window.view(10, 20).tolist() == [2.0] * 5 + [3.0] * 5
    with pytest.raises(IndexError, match=r"\[9, 12\) is not in the window"):
        window.view(9, 12)
    with pytest.raises(IndexError):
        window.view(18, 21)
    assert [(first, part.tolist()) for first, part in window.parts(13, 17)] == [(13, [2.0] * 2), (15, [3.0] * 2)]


@pytest.mark.parametrize(("kept", "joining"), [(0, 1), (3, 5), (7, 2), (16, 16)])
def test_rows_slide_without_mixing(kept, joining):
    rows = RingBuffer(2, first=-kept, kept=kept, joining=joining, dtype=torch.float32)
    for count in [joining, 1, joining, 0, joining // 2] * 20:
        new = rows.append(count)
        new[:] = torch.arange(rows.end - count, rows.end).unsqueeze(1)
        rows.discard_before(rows.end - kept)
        assert rows[rows.start : rows.end].tolist() == [[float(i)] * 2 for i in range(rows.start, rows.end)]
        assert rows.end - rows.start <= kept
