"""The STFT has one frame per hop and an inverse that is exact on signals and least squares on other spectra."""

import math

import pytest
import torch
from torch.testing import assert_close

from audiodiff.audio.transforms import FramedSTFT
from audiodiff.errors import ConfigError

SIZES = [(8, 4), (16, 4), (12, 4), (64, 8), (9, 3)]


def stft_of(n_fft, hop_length):
    return FramedSTFT(n_fft, hop_length).double()


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
@pytest.mark.parametrize("n_frames", [1, 2, 11])
def test_there_is_one_frame_per_hop_and_one_bin_per_frequency(n_fft, hop_length, n_frames):
    stft = stft_of(n_fft, hop_length)
    assert stft(normal(3, n_frames * hop_length)).shape == (3, n_frames, n_fft // 2 + 1)
    assert stft.n_bins == n_fft // 2 + 1


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
@pytest.mark.parametrize("n_frames", [1, 2, 11])
def test_the_inverse_gives_the_signal_back_edges_included(n_fft, hop_length, n_frames):
    stft, signal = stft_of(n_fft, hop_length), normal(3, n_frames * hop_length)
    assert_close(stft.inverse(stft(signal)), signal, rtol=0, atol=1e-9)


def test_a_frame_is_the_transform_of_the_windowed_samples_around_the_centre_of_its_hop():
    stft, signal = stft_of(16, 4), normal(1, 4 * 10)
    window = torch.sin(math.pi * torch.arange(16, dtype=torch.float64) / 16) ** 2
    first = 5 * 4 + 2 - 8  # hop 5 is samples 20 to 23; its centre less half a window
    expected = torch.fft.fft(signal[0, first : first + 16] * window / window.norm())[:9]
    assert_close(stft(signal)[0, 5], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n_fft", "hop_length"), SIZES)
def test_the_inverse_is_the_best_signal_for_a_spectrum_that_belongs_to_none(n_fft, hop_length):
    # normal equations: what is left of the spectrum is orthogonal to the spectrum of every signal
    stft, signals = stft_of(n_fft, hop_length), normal(5, 7 * hop_length)
    spectrum = torch.complex(normal(1, 7, stft.n_bins, seed=1), normal(1, 7, stft.n_bins, seed=2))
    left = torch.fft.irfft(spectrum - stft(stft.inverse(spectrum)), n=n_fft)
    products = (left * torch.fft.irfft(stft(signals), n=n_fft)).sum((1, 2))
    assert left.norm() > 1
    assert_close(products, torch.zeros_like(products), rtol=0, atol=1e-9)


def test_white_noise_of_unit_variance_has_coefficients_of_unit_mean_square():
    n_frames = 20_000
    power = stft_of(16, 8)(normal(1, 8 * n_frames)).abs().square()[0, 1:-1]
    # neighbouring frames overlap, so count every other one; a real coefficient's square has variance 2
    assert (power.mean(0) - 1).abs().max() < 5 * (2 / (n_frames / 2)) ** 0.5


def test_a_tone_has_its_energy_at_its_frequency():
    tone = torch.cos(2 * math.pi * 5 / 64 * torch.arange(64 * 20, dtype=torch.float64)).unsqueeze(0)
    power = stft_of(64, 16)(tone)[0, 4:-4].abs().square().mean(0)
    assert power.argmax() == 5
    assert power[4:7].sum() / power.sum() > 0.999


def test_gradients_through_both_directions_are_right():
    stft = stft_of(8, 4)

    def mask(signal, weight):
        return stft.inverse(stft(signal) * weight)

    inputs = (normal(2, 20).requires_grad_(), normal(2, 5, 5).requires_grad_())
    assert torch.autograd.gradcheck(mask, inputs)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(10, 4), (4, 4), (8, 16), (10, 5)])
def test_sizes_without_whole_overlaps_are_refused(n_fft, hop_length):
    with pytest.raises(ConfigError, match=f"got {n_fft}, {hop_length}"):
        FramedSTFT(n_fft, hop_length)
