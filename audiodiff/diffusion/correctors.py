"""Correctors: what a walk does at a noise level to come closer to the distribution there, before it goes on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from audiodiff.diffusion.process import alpha_sigma, score
from audiodiff.diffusion.samplers import NoiseSource, Question, Walk
from audiodiff.diffusion.variance import split_answer

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

    def __call__(self, x: Tensor, log_snr: Tensor, step: int, noise: NoiseSource) -> Walk:
        """Walk at one level; see `audiodiff.diffusion.samplers.Corrector`."""
        size = 2 * (self.snr * float(alpha_sigma(log_snr)[1])) ** 2
        for number in range(step * self.steps, (step + 1) * self.steps):
            epsilon, _ = split_answer((yield Question(x, log_snr, step)), x)
            x = x + size * score(epsilon, log_snr.reshape(1)) + (2 * size) ** 0.5 * noise(FIRST_DRAW + number)
        return x
