"""The frame-rate network has a full-rank path, by which it predicts v whatever its hidden width."""

import pytest
import torch
from torch.testing import assert_close

from audiodiff.diffusion.process import diffuse, noise_from

HOP, BLOCKS = 16, 30
LEVELS = torch.tensor([-8.0, 0.0, 10.0])


def noisy(seed=0):
    return torch.randn(3, 1, HOP * BLOCKS, generator=torch.Generator().manual_seed(seed))


def with_constant_mask(network, mask):
    """Let the output layer give one real mask everywhere, and no residual."""
    torch.nn.init.zeros_(network.output.weight)
    torch.nn.init.zeros_(network.output.bias)
    network.output.bias.data[: network.stft.n_bins] = mask
    return network


def test_the_prediction_starts_at_sigma_times_the_signal(make_network):
    network = make_network("stft", awake=False)
    x, mel = noisy(), torch.zeros(3, 5, BLOCKS)
    sigma = torch.sigmoid(-LEVELS).sqrt().view(3, 1, 1)
    assert_close(network(x, LEVELS, network.encode(mel)), sigma * x, rtol=1e-6, atol=0)


def test_the_start_is_the_best_linear_guess_for_a_signal_of_unit_variance(make_network):
    network, clean, noise = make_network("stft", awake=False), noisy(1), noisy(2)
    x = diffuse(clean, noise, LEVELS)

    def error(factor):
        return (factor * network(x, LEVELS) - noise).square().mean()

    assert error(1.0) < min(error(0.95), error(1.05))
    assert error(1.0) < noise.square().mean()


@pytest.mark.parametrize("mask", [1.0, -0.7])
@pytest.mark.parametrize("n_fft", [32, 64])
def test_a_mask_acts_on_every_frequency_and_the_result_is_read_as_v(mask, n_fft, make_network):
    network, x = with_constant_mask(make_network("stft", n_fft=n_fft, channels=2), mask), noisy()
    assert_close(network(x, LEVELS), noise_from(mask * x, x, LEVELS, "v"), rtol=1e-4, atol=1e-4)


def test_wide_band_noise_can_be_removed_entirely_through_two_channels(make_network):
    # silence under noise: x = sigma noise, so v = alpha noise, which is x times the mask alpha / sigma
    level = torch.tensor(1.0)
    mask = (torch.sigmoid(level) / torch.sigmoid(-level)).sqrt().item()
    network, noise = with_constant_mask(make_network("stft", channels=2), mask), noisy()
    x = diffuse(torch.zeros_like(noise), noise, level.expand(3))
    assert_close(network(x, level.expand(3)), noise, rtol=1e-4, atol=1e-4)


def test_a_residual_adds_a_spectrum_of_its_own(make_network):
    network = with_constant_mask(make_network("stft"), 0.0)
    bins = network.stft.n_bins
    network.output.bias.data[bins + 3], network.output.bias.data[2 * bins + 5] = 1.0, -2.0
    spectrum = torch.zeros(3, BLOCKS, bins, dtype=torch.complex64)
    spectrum[..., 3], spectrum[..., 5] = 1.0, -2.0j
    v = network.stft.inverse(spectrum).unsqueeze(1)
    assert_close(network(noisy(), LEVELS), noise_from(v, noisy(), LEVELS, "v"), rtol=1e-5, atol=1e-5)


def test_the_hidden_layers_see_the_whole_complex_spectrum(make_network):
    network, x, seen = make_network("stft"), noisy(), []
    network.input.register_forward_hook(lambda module, arguments, output: seen.append(arguments[0]))
    network(x, LEVELS)
    assert_close(torch.complex(*seen[0].chunk(2, dim=2)), network.stft(x[:, 0]))
