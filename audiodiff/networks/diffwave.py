"""DiffWave (Kong et al. 2021): gated dilated convolutions over samples, or over patches of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from audiodiff.config import ModelConfig
from audiodiff.networks.base import DilatedNetwork


class DiffWave(DilatedNetwork):
    """The noise predictor on non-overlapping patches of samples; patch 1 is the published layout.

    A patch of P samples becomes P channels (an orthonormal reshaping), which cuts the cost by about P. With
    `upsampling` 'transposed' and the step embedding 'lmnt' it computes what lmnt-com/diffwave does, with its weights.

    Args:
        config: The model; its network, diffusion range and conditions are used.
    """

    def __init__(self, config: ModelConfig) -> None:
        patch = config.network.patch
        super().__init__(config, n_inputs=patch, n_outputs=patch, n_samples=patch)
        self.patch = patch

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return (self.stack.receptive_field + 1) * self.patch

    def forward(
        self, x: Tensor, log_snr: Tensor, condition: Tensor | None = None, given: Tensor | None = None
    ) -> Tensor:
        """Predict the training target, which is the noise by default.

        Args:
            x: Noisy whitened audio `(batch, 1, n_blocks * block_length)`.
            log_snr: Noise levels `(batch,)`.
            condition: What `encode` returned, or None.
            given: What `embed` returned of the conditions of whole clips, `(batch, width)`; None means none of them.

        Returns:
            The prediction, of the shape of `x`, in float32; with a learned variance `(batch, 2, time)`, the variance
            behind it.

        Raises:
            TypeError: If something is given, but the network was built without conditions of whole clips.
        """
        patches = x[:, 0].unflatten(1, (-1, self.patch))
        outputs = self._transform(patches, self.embed_level(log_snr, given), condition).float().split(self.patch, dim=2)
        return torch.stack([output.flatten(1) for output in outputs], dim=1)
