"""An orthonormal lapped transform (MDCT) of a finite signal: hop-sized blocks, one row of coefficients per block.

Block i holds the samples [i * hop, (i + 1) * hop), so that its centre is where a mel frame centred on hops lies. The
transform is a square orthogonal matrix: white noise stays white, and the inverse is exact to rounding, edges included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from audiodiff.errors import AudioError


class LappedTransform(nn.Module):
    """Fold neighbouring blocks into each other, then take a DCT-IV of each block.

    The fold is a rotation of mirror-image samples across each block boundary (Malvar 1990, "Lapped transforms for
    efficient transform/subband coding"); the two ends of the signal stay unfolded.

    Args:
        block_length: Samples per block, which is also the number of coefficients; must be even.
    """

    cosine: Tensor
    sine: Tensor
    basis: Tensor

    def __init__(self, block_length: int) -> None:
        super().__init__()
        if block_length % 2:
            raise AudioError(f"a lapped transform needs an even block length, got {block_length}")
        self.block_length = block_length
        distance = torch.arange(block_length // 2, dtype=torch.float64) + 0.5
        angle = math.pi / 4 * (1 + 2 * distance / block_length)
        self.register_buffer("cosine", angle.sin().float(), persistent=False)
        self.register_buffer("sine", angle.cos().float(), persistent=False)
        index = torch.arange(block_length, dtype=torch.float64) + 0.5
        basis = math.sqrt(2 / block_length) * torch.cos(math.pi / block_length * index[:, None] * index[None, :])
        self.register_buffer("basis", basis.float(), persistent=False)

    def _rotate(self, blocks: Tensor, sine: Tensor) -> Tensor:
        half = self.block_length // 2
        before, after = blocks[..., :-1, half:].flip(-1), blocks[..., 1:, :half]
        right = (self.cosine * before - sine * after).flip(-1)
        left = self.cosine * after + sine * before
        left = torch.cat([blocks[..., :1, :half], left], dim=-2)
        right = torch.cat([right, blocks[..., -1:, half:]], dim=-2)
        return torch.cat([left, right], dim=-1)

    def forward(self, signal: Tensor) -> Tensor:
        """Transform signals `(..., n_blocks * block_length)` into coefficients `(..., n_blocks, block_length)`."""
        blocks = signal.unflatten(-1, (-1, self.block_length))
        return self._rotate(blocks, self.sine) @ self.basis

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Transform coefficients `(..., n_blocks, block_length)` back into signals `(..., time)`."""
        return self._rotate(coefficients @ self.basis, -self.sine).flatten(-2)
