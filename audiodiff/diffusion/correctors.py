"""Correctors: what is done at a noise level to come nearer to the distribution there, before the step to the next."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from audiodiff.diffusion.process import alpha_sigma, score
from audiodiff.diffusion.samplers import NoiseSource, Predictor

FIRST_DRAW = 1 << 19
"""Draws of noise from this number on belong to correctors; those of samplers are numbered by their steps."""


@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin steps at every noise level (Song et al. 2021, "Score-based generative modeling", Alg. 5).

    x moves by d * score + sqrt(2 d) * noise. The paper sets d by the norms of this very score and noise; here these are
    replaced by what they are expected to be, sqrt(n) / sigma and sqrt(n) for n samples, so that d = 2 (snr * sigma)^2
    depends neither on the length of a clip nor on its content, and a clip in pieces is the clip as a whole. Of noise of
    standard deviation sigma the steps make noise of sigma / sqrt(1 - snr^2): their bias is snr^2 / 2 at most.

    Attributes:
        steps: How many at each level, each one network call.
        snr: Size of a step: the expected norm of d * score over that of sqrt(2 d) * noise.
    """

    steps: int = 1
    snr: float = 0.16

    def __call__(self, predict: Predictor, x: Tensor, log_snr: Tensor, step: int, noise: NoiseSource) -> Tensor:
        """Move x at one noise level; see `audiodiff.diffusion.samplers.Corrector`."""
        d = 2 * (self.snr * alpha_sigma(log_snr)[1]) ** 2
        for draw in range(step * self.steps, (step + 1) * self.steps):
            gradient = score(predict(x, log_snr).noise, log_snr)
            x = x + d * gradient + (2 * d).sqrt() * noise(FIRST_DRAW + draw)
        return x
