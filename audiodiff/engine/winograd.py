"""Dilated convolutions of three taps in half the multiplications: Winograd's minimal filtering F(4, 3).

Lavin and Gray 2016, "Fast Algorithms for Convolutional Neural Networks", section 4.1, in one dimension. Four outputs a
dilation apart take 12 products of a row and a tap; here they take 6 products of combined rows and combined taps. The
rounding error in float32 is about one and a half times that of the plain products; bfloat16 is too coarse for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_OUTPUTS = 4
"""Outputs, a dilation apart, that are computed together."""
MIN_CHANNELS = 48
"""Inputs from which it pays: with 32 the sums take what the products save, with 64 it is 1.2 times as fast (AVX2)."""

_TAPS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def transform_taps(taps: Tensor) -> Tensor:
    """Combine three taps `(3, n_inputs, n_outputs)` into those of the six products `(6, n_inputs, n_outputs)`."""
    return torch.einsum("ij,jkl->ikl", torch.tensor(_TAPS, dtype=torch.float64), taps.double()).to(taps.dtype)


def add_convolution(rows: Tensor, taps: Tensor, dilation: int, out: Tensor, scratch: Tensor) -> None:
    """Add the convolution of rows to outputs.

    Args:
        rows: `(n_rows + 2 * dilation, n_inputs)`.
        taps: What `transform_taps` returned `(6, n_inputs, n_outputs)`.
        dilation: Distance between the taps, in rows.
        out: `(n_rows, n_outputs)`, added to; `n_rows` is a multiple of `N_OUTPUTS * dilation`.
        scratch: Contiguous room for `n_rows // 4 * (3 * n_inputs + 4 * n_outputs)` numbers.
    """
    n_rows, n_inputs, n_outputs = len(out), *taps.shape[1:]
    shape = (-1, N_OUTPUTS, dilation)
    d0, d1, d2, d3 = rows[:n_rows].unflatten(0, shape).unbind(1)
    d4, d5 = rows[2 * dilation : 2 * dilation + n_rows].unflatten(0, shape)[:, 2:].unbind(1)
    y0, y1, y2, y3 = out.unflatten(0, shape).unbind(1)
    quarter = n_rows // N_OUTPUTS
    sizes = [quarter * n_inputs] * 3 + [quarter * n_outputs] * 4
    parts = scratch.flatten()[: sum(sizes)].split(sizes)
    x, even, odd = (part.view(d0.shape) for part in parts[:3])
    total, difference = (part.view(y0.shape) for part in parts[3:5])
    x_rows, total_rows, difference_rows, p, q = (part.view(quarter, -1) for part in (parts[0], *parts[3:]))

    torch.sub(d4, d2, alpha=4, out=even)
    torch.sub(d3, d1, alpha=4, out=odd)
    torch.add(even, odd, out=x)
    torch.mm(x_rows, taps[1], out=p)
    torch.sub(even, odd, out=x)
    torch.mm(x_rows, taps[2], out=q)
    torch.add(p, q, out=total_rows)
    torch.sub(p, q, out=difference_rows)
    y1.add_(difference)
    y2.add_(total)
    torch.sub(even, d2, out=x).add_(d0, alpha=4)
    total_rows.addmm_(x_rows, taps[0])
    y0.add_(total)
    torch.sub(d4, d2, out=even)
    torch.sub(d3, d1, out=odd)
    torch.sub(d5, d3, out=x).sub_(odd, alpha=4)
    difference_rows.addmm_(x_rows, taps[5])
    y3.add_(difference)
    torch.add(even, odd, alpha=2, out=x)
    torch.mm(x_rows, taps[3], out=p)
    torch.sub(even, odd, alpha=2, out=x)
    torch.mm(x_rows, taps[4], out=q)
    torch.add(p, q, out=total_rows)
    torch.sub(p, q, out=difference_rows)
    y0.add_(total)
    y1.add_(difference, alpha=2)
    y2.add_(total, alpha=4)
    y3.add_(difference, alpha=8)
