"""Conditions: a mel spectrogram that enters every layer, and a class label that joins the noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MelNormalisation(nn.Module):
    """Bring every mel bin to zero mean and unit variance, with statistics measured on the training data.

    Args:
        n_mels: Number of bins.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, n_mels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_mels))
        self.register_buffer("deviation", torch.ones(n_mels))

    def forward(self, mel: Tensor) -> Tensor:
        """Normalise mels `(batch, n_mels, frames)` into features `(batch, frames, n_mels)`."""
        return (mel.transpose(1, 2) - self.mean) / self.deviation


class LabelEmbedding(nn.Module):
    """One learned vector per class, and one more for "no class" (classifier-free guidance needs it).

    Args:
        n_labels: Number of classes.
        width: Width of a vector.
    """

    def __init__(self, n_labels: int, width: int) -> None:
        super().__init__()
        self.n_labels = n_labels
        self.table = nn.Embedding(n_labels + 1, width)

    def forward(self, label: Tensor | None, batch: int) -> Tensor:
        """Map class indices `(batch,)` to vectors `(batch, width)`; None means no class for any clip."""
        if label is None:
            label = torch.full((batch,), self.n_labels, device=self.table.weight.device)
        vectors: Tensor = self.table(label)
        return vectors
