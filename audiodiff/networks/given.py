"""Conditions of whole clips: a class, a speaker, any vector; and how a vector joins the noise level."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Conditions(NamedTuple):
    """What is given of whole clips, beside the mel; None where it is given of no clip.

    Attributes:
        label: Class indices `(batch,)`; the number of classes means no class.
        speaker: Speaker indices `(batch,)`; the number of speakers means no speaker.
        vector: `(batch, vector_width)`, float32; a row of NaN means no vector.
    """

    label: Tensor | None = None
    speaker: Tensor | None = None
    vector: Tensor | None = None


class VectorEmbedding(nn.Module):
    """A linear map of any vector, with statistics measured on the training data, and a learned vector for "none".

    Args:
        n_features: Length of what is given.
        width: Width of what is made of it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("deviation", torch.ones(n_features))
        self.project = nn.Linear(n_features, width)
        self.none = nn.Parameter(torch.randn(width) * 3**-0.5)  # of the size of what the projection starts with

    def forward(self, vector: Tensor | None) -> Tensor:
        """Map vectors `(batch, n_features)` to `(batch, width)`, or None, as a row of NaN, to that of "none"."""
        if vector is None:
            return self.none.unsqueeze(0)
        missing = vector.isnan().any(1, keepdim=True)
        projected = self.project((torch.where(missing, self.mean, vector) - self.mean) / self.deviation)
        return torch.where(missing, self.none.to(projected.dtype), projected)
