"""Bits per sample are the entropy of Gaussian audio where the reverse process is exact, and more where it is not."""

import math

import pytest
import torch

from audiodiff.config import DiffusionConfig, MelConfig, ModelConfig, NetworkConfig, WhiteningConfig
from audiodiff.diffusion.process import training_target
from audiodiff.diffusion.variance import posterior
from audiodiff.training.objective import Batch, Objective, band_limited
from audiodiff.training.validation import SAMPLE_WIDTH, bits_per_sample

DEVIATION = 0.8
"""Of the whitened audio, whose samples are independent and normal."""

N_CLIPS, N_SAMPLES = 4, 10_000


def objective_of(gain: float = 1.0, **diffusion) -> Objective:
    config = ModelConfig(
        sample_rate=8000,
        network=NetworkConfig(patch=8),
        whitening=WhiteningConfig(gain=(gain,)),
        diffusion=DiffusionConfig(**{"log_snr_min": -10, "log_snr_max": 9} | diffusion),
    )
    return Objective(config, torch.device("cpu"))


def gaussian() -> Batch:
    noise = torch.randn(N_CLIPS, 1, N_SAMPLES, generator=torch.Generator().manual_seed(0))
    return Batch(DEVIATION * noise, None, None, None)


def exact(objective: Objective, *, sharpness: float = 1.0):
    """Return the best network there is for such audio, with the exact variance where it is learned."""
    config = objective.config.diffusion

    def predict(x, log_snr, mel, label):
        level = log_snr.double().view(-1, 1, 1)
        alpha, sigma, variance = torch.sigmoid(level).sqrt(), torch.sigmoid(-level).sqrt(), DEVIATION**2
        marginal = alpha**2 * variance + sigma**2
        clean, noise = sharpness * alpha * variance / marginal * x, sigma / marginal * x
        noise = (x - alpha * clean) / sigma if sharpness != 1 else noise
        output = training_target(clean, noise, log_snr, config.target)
        if config.variance == "fixed":
            return output.float()
        known = posterior(log_snr, log_snr.double() + config.step_width)
        best = known.variance((variance / marginal).flatten())
        second = 2 * torch.log(best / known.beta_tilde) / torch.log(known.beta / known.beta_tilde) - 1
        return torch.cat([output, second.view(-1, 1, 1).expand_as(x)], dim=1).float()

    return predict


def measure(objective, **options) -> float:
    return float(bits_per_sample(objective, exact(objective, **options), gaussian(), range(N_CLIPS)).mean())


ENTROPY = math.log2(DEVIATION * math.sqrt(2 * math.pi * math.e) / SAMPLE_WIDTH)
ERROR = 4 / math.sqrt(2 * N_CLIPS * N_SAMPLES) / math.log(2) + 0.005  # of the sample, and of float32 and few levels


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("steps", [3, 25, 1000])
def test_with_the_exact_variance_the_bound_is_the_entropy_at_any_number_of_steps(steps, target):
    assert measure(objective_of(steps=steps, variance="learned", target=target)) == pytest.approx(ENTROPY, abs=ERROR)


@pytest.mark.parametrize("steps", [5, 25, 1000])
def test_the_fixed_variance_costs_what_its_divergence_says(steps):
    objective = objective_of(steps=steps)
    config = objective.config.diffusion
    level = config.log_snr_min + config.step_width * torch.arange(steps, dtype=torch.float64)
    left = torch.sigmoid(level) * DEVIATION**2 / (torch.sigmoid(level) * DEVIATION**2 + torch.sigmoid(-level))
    growth = math.expm1(config.step_width) * left  # what the clean signal adds to the variance, over the lower bound
    gap = float((growth - torch.log1p(growth)).sum()) / 2
    # the decoder's variance is sigma^2 in place of what is left of it
    last = torch.tensor(config.log_snr_max, dtype=torch.float64)
    share = DEVIATION**2 / (torch.sigmoid(last) * DEVIATION**2 + torch.sigmoid(-last))
    gap += float(share - 1 - torch.log(share)) / 2
    assert measure(objective) == pytest.approx(ENTROPY + gap / math.log(2), abs=ERROR + 0.01 * gap)


def test_a_worse_network_costs_more_and_both_figures_repeat():
    objective = objective_of(steps=100, variance="learned")
    best, worse = measure(objective), measure(objective, sharpness=0.9)
    assert worse > best + 0.05
    assert measure(objective) == best


def test_what_whitening_stretches_it_takes_from_the_bits():
    """The same whitened audio is louder audio where the gain was smaller, and costs a bit more for each factor of 2."""
    one, half = (measure(objective_of(gain, variance="learned")) for gain in (1.0, 0.5))
    assert half - one == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["none", "energy", "spectral"])
def test_the_log_scale_is_the_determinant_of_whitening(kind):
    mel = MelConfig(sample_rate=8000, n_fft=64, hop_length=16, win_length=64, n_mels=5, f_min=0, f_max=4000)
    config = ModelConfig(
        sample_rate=8000,
        mel=mel,
        network=NetworkConfig(patch=4),
        whitening=WhiteningConfig(kind=kind, exponent=0.7, gain=(3.0,)),
    )
    objective = Objective(config, torch.device("cpu"))
    frames = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1)) - 3
    whitening = objective._whitening.double()
    unit = torch.eye(6 * 16, dtype=torch.float64).unsqueeze(1)
    matrix = whitening.whiten(unit, frames.double().expand(96, -1, -1))[:, 0]
    scale = objective.log_scale(Batch(unit[:1], frames.double(), None, None))
    total = float(scale.sum() * 16 if scale.numel() > 1 else scale * 96)
    assert total == pytest.approx(float(torch.linalg.slogdet(matrix)[1]), rel=1e-4)


def test_an_error_in_band_keeps_what_is_below_and_its_power():
    noise = torch.randn(2, 1, 2**14, generator=torch.Generator().manual_seed(2))
    limited = band_limited(noise, torch.tensor([1000.0, math.inf]), 8000)
    assert float(limited[0].square().mean()) == pytest.approx(1.0, abs=0.05)
    above = torch.fft.rfft(limited[0, 0])[2**12 + 2 :]
    assert float(above.abs().max()) < 1e-2
    torch.testing.assert_close(limited[1], noise[1], rtol=1e-4, atol=1e-5)
