"""Winograd's products are those of the plain convolution, at any dilation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from audiodiff.engine.winograd import N_OUTPUTS, add_convolution, transform_taps


def plain(rows: Tensor, taps: Tensor, dilation: int, n_rows: int) -> Tensor:
    return sum(rows[i * dilation : i * dilation + n_rows] @ taps[i] for i in range(3))


def added(rows: Tensor, taps: Tensor, dilation: int, out: Tensor) -> Tensor:
    width = 3 * taps.shape[1] + 4 * taps.shape[2]
    scratch = torch.full((len(out) // N_OUTPUTS, width), float("nan"), dtype=rows.dtype)
    out = out.clone()
    add_convolution(rows, transform_taps(taps), dilation, out, scratch)
    return out


@pytest.mark.parametrize("dilation", [1, 2, 3, 16])
@pytest.mark.parametrize("blocks", [1, 5])
def test_it_adds_the_convolution(dilation, blocks):
    torch.manual_seed(0)
    n_rows = blocks * N_OUTPUTS * dilation
    rows = torch.randn(n_rows + 2 * dilation, 6, dtype=torch.float64)
    taps, out = torch.randn(3, 6, 10, dtype=torch.float64), torch.randn(n_rows, 10, dtype=torch.float64)
    expected = out + plain(rows, taps, dilation, n_rows)
    torch.testing.assert_close(added(rows, taps, dilation, out), expected, rtol=0, atol=1e-12)


def test_float32_loses_little():
    torch.manual_seed(0)
    rows, taps = torch.randn(2048 + 2 * 8, 64), torch.randn(3, 64, 128) / 192**0.5
    exact = plain(rows.double(), taps.double(), 8, 2048)
    made = added(rows, taps, 8, torch.zeros(2048, 128))
    assert (made - exact).norm() / exact.norm() < 6e-7
