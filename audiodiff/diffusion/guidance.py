"""Classifier-free guidance: what a network predicts with its conditions, moved away from what it predicts without.

Ho and Salimans 2022, "Classifier-Free Diffusion Guidance". In scores: with scale w the reverse process follows
(1 - w) * score(x) + w * score(x | condition), so 1 is the condition as trained, 0 none, and more than 1 sharpens it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.diffusion.process import Prediction, denoised_from_noise, scales_like
from audiodiff.diffusion.samplers import Predictor

_SILENCE = 1e-8
"""Standard deviation below which a clip is not rescaled."""


class Guidance(NamedTuple):
    """How strongly a condition steers, and where.

    Attributes:
        scale: w above.
        rescale: By how much, 0 to 1, the predicted clean signal is brought back to the standard deviation that the
            condition alone gives it, for guidance inflates it (Lin et al. 2024, "Common Diffusion Noise Schedules and
            Sample Steps are Flawed", section 3.4; there it is done to what the network predicts, here to the clean
            signal, so that it means the same for every target). It is that of a clip, which must be there whole.
        interval: Lowest and highest log-SNR at which it acts; elsewhere the condition counts as trained (Kynkäänniemi
            et al. 2024, "Applying Guidance in a Limited Interval"). None means everywhere.
    """

    scale: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] | None = None

    def acts_at(self, log_snr: float) -> bool:
        """Return whether it changes anything at a noise level."""
        return self.scale != 1 and (self.interval is None or self.interval[0] <= log_snr <= self.interval[1])

    def combine(self, conditional: Tensor, null: Tensor, x: Tensor, log_snr: Tensor) -> Tensor:
        """Combine two predictions into one.

        Args:
            conditional: Predicted noise with the condition `(batch, channels, time)`.
            null: Predicted noise without, of the same shape.
            x: The noisy signal, of the same shape.
            log_snr: Noise levels `(batch,)`, or a scalar.

        Returns:
            Predicted noise of the same shape.
        """
        guided = null + self.scale * (conditional - null)
        if self.rescale == 0:
            return guided
        denoised = denoised_from_noise(guided, x, log_snr)
        target, actual = (
            signal.std((1, 2), keepdim=True) for signal in (denoised_from_noise(conditional, x, log_snr), denoised)
        )
        factor = torch.where(actual > _SILENCE, target / actual.clamp_min(_SILENCE), 1.0)
        alpha, sigma = scales_like(log_snr, x)
        # the noise that the scaled signal implies
        return guided + self.rescale * (1 - factor) * (alpha / sigma) * denoised


def guided(predict: Predictor, predict_null: Predictor, guidance: Guidance) -> Predictor:
    """Bind guidance, so that a sampler sees one predictor.

    Args:
        predict: The network with its conditions bound.
        predict_null: The network without them.
        guidance: How to guide.

    Returns:
        A predictor that calls the second one only where guidance acts; a learned variance is that with conditions.
    """

    def predict_guided(x: Tensor, log_snr: Tensor) -> Prediction:
        conditional = predict(x, log_snr)
        if not guidance.acts_at(float(log_snr)):
            return conditional
        null = predict_null(x, log_snr)
        return Prediction(guidance.combine(conditional.noise, null.noise, x, log_snr), conditional.variance)

    return predict_guided
