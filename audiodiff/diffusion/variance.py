"""One step of the reverse process: its mean, the bounds of its variance, and a learned variance between them.

If the clean signal were known, the step would be a draw from q(x_s | x_t, clean), whose variance is the lower bound; if
clean signals were white noise of unit variance, the variance of x_s given x_t would be the upper bound, that of the
forward step. A network with a second output says where between the two it is (Nichol and Dhariwal 2021, "Improved
denoising diffusion probabilistic models").
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.config import DiffusionConfig
from audiodiff.diffusion.process import Prediction, alpha_sigma, noise_from


class Posterior(NamedTuple):
    """What is known of x at a level, given x at a noisier one; all float64, of the shape of the levels.

    Attributes:
        coef_x: Factor of the noisier signal in the mean of q(x_s | x_t, clean).
        coef_denoised: Factor of the clean signal in it.
        beta_tilde: Variance of q(x_s | x_t, clean), the lower bound; beta-tilde of Ho et al. 2020.
        beta: Variance of q(x_t | x_s), the upper bound; beta of Ho et al. 2020.
    """

    coef_x: Tensor
    coef_denoised: Tensor
    beta_tilde: Tensor
    beta: Tensor

    def variance(self, variance_fraction: Tensor) -> Tensor:
        """Return the variance of the step, given that of the clean signal.

        Exact for a step of any width: the mean of q(x_s | x_t, clean) is linear in the clean signal, so its variance
        given x_t adds to the lower bound, and where it is all that is left of sigma_t^2 the sum is the upper bound.

        Args:
            variance_fraction: Variance of the clean signal given x_t over sigma_t^2; 0 is the lower bound and 1
                the upper.
        """
        return self.beta_tilde + (self.beta - self.beta_tilde) * variance_fraction


def posterior(log_snr: Tensor, log_snr_next: Tensor) -> Posterior:
    """Return mean and variances of a step of the reverse process from one noise level to a cleaner one.

    With c = 1 - exp(log_snr_t - log_snr_s), the mean of q(x_s | x_t, clean) is alpha_s ((1 - c) x / alpha_t + c clean)
    and its variance sigma_s^2 c (Ho et al. 2020, Eq. 6-7; Kingma et al. 2021, Eq. 33-34); the upper bound is
    sigma_t^2 c. `coef_x` is written such that a first level without signal needs no division by zero.

    Args:
        log_snr: Noise levels before the step, scalar or `(batch,)`.
        log_snr_next: Noise levels after it, above `log_snr`; infinite for the clean signal itself.
    """
    log_snr, log_snr_next = log_snr.double(), log_snr_next.double()
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(log_snr), alpha_sigma(log_snr_next)
    c = -torch.expm1(log_snr - log_snr_next)
    coef_x = alpha * sigma_next.square() / (alpha_next * sigma.square())
    return Posterior(coef_x, alpha_next * c, sigma_next.square() * c, sigma.square() * c)


def log_ratio(output: Tensor, log_snr: Tensor, width: float) -> Tensor:
    """Return the log of the learned over the lower variance, for a step of the discrete process.

    The output interpolates the logarithm between the bounds (Nichol and Dhariwal 2021, Eq. 15): -1 is the lower, 1 the
    upper, and 0 their geometric mean.

    Args:
        output: A network's second output `(batch, channels, time)`.
        log_snr: Noise levels before the step `(batch,)`.
        width: How far a step goes, in log-SNR.
    """
    return (1 + output) / 2 * _log_bounds(log_snr, width).to(output).view(-1, 1, 1)


def _log_bounds(log_snr: Tensor, width: float) -> Tensor:
    """Return the log of the upper over the lower bound, sigma_t^2 / sigma_s^2, of the shape of `log_snr`."""
    return torch.log1p(torch.sigmoid(log_snr.double()) * torch.expm1(torch.tensor(width, dtype=torch.float64)))


def variance_fraction_from(output: Tensor, log_snr: Tensor, width: float) -> Tensor:
    """Return the variance of the clean signal over sigma^2, not below 0, that a second output implies.

    Arguments as in `log_ratio`; the result is of the shape of `output`.
    """
    bounds = torch.expm1(_log_bounds(log_snr, width)).view(-1, 1, 1)
    above = torch.expm1(log_ratio(output, log_snr, width).double())  # ONNX has no expm1: float32 would lose digits
    return (above / bounds).clamp_min(0).to(output)


def split_output(output: Tensor, config: DiffusionConfig) -> tuple[Tensor, Tensor | None]:
    """Split a network's output into its prediction and what its variance is learned by; None where that is fixed."""
    if config.variance == "fixed":
        return output, None
    prediction, variance = output.chunk(2, dim=1)
    return prediction, variance


def prediction_from(output: Tensor, x: Tensor, log_snr: Tensor, config: DiffusionConfig) -> Prediction:
    """Convert a network's output into predicted noise and variance.

    Args:
        output: What the network returned: `(batch, channels, time)`, or with a learned variance twice the channels.
        x: The noisy signal it was given `(batch, channels, time)`.
        log_snr: Noise levels `(batch,)`, or a scalar.
        config: What the network was trained to predict, and the steps its variance belongs to.
    """
    output, variance = split_output(output, config)
    if variance is not None:
        variance = variance_fraction_from(variance, log_snr, config.step_width)
    return Prediction(noise_from(output, x, log_snr, config.target), variance)
