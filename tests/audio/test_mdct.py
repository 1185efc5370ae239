"""The lapped transform is an orthogonal matrix whose rows are local in time and in frequency."""

import math

import pytest
import torch
from torch.testing import assert_close

from audiodiff.audio.transforms import MDCT
from audiodiff.errors import AudioError

ROUNDING = 1e-6  # the buffers are float32


def transform(hop_length):
    return MDCT(hop_length).double()


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("hop_length", "n_hops"), [(2, 1), (2, 9), (16, 1), (16, 2), (16, 5), (30, 4)])
def test_the_whole_transform_is_an_orthogonal_matrix_edges_included(hop_length, n_hops):
    n = hop_length * n_hops
    matrix = transform(hop_length)(torch.eye(n, dtype=torch.float64)).flatten(1)
    assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("shape", [(64,), (3, 16), (2, 3, 160)])
def test_the_inverse_undoes_the_transform_and_the_other_way_round(shape):
    lapped, signal = transform(16), normal(*shape)
    coefficients = lapped(signal)
    assert coefficients.shape == (*shape[:-1], shape[-1] // 16, 16)
    assert_close(lapped.inverse(coefficients), signal, rtol=0, atol=10 * ROUNDING)
    coefficients = normal(*coefficients.shape)
    assert_close(lapped(lapped.inverse(coefficients)), coefficients, rtol=0, atol=10 * ROUNDING)


def test_inner_frames_are_the_mdct_with_a_sine_window():
    n, signal = 16, normal(16 * 6)
    time, index = torch.arange(2 * n, dtype=torch.float64), torch.arange(n, dtype=torch.float64)
    # the DCT-IV of the hop, continued into half a hop on either side; a mirror image in time of that of
    # Princen, Johnson and Bradley 1987
    cosines = torch.cos(math.pi / n * (time[:, None] + 0.5 - n / 2) * (index + 0.5))
    basis = math.sqrt(2 / n) * torch.sin(math.pi / (2 * n) * (time + 0.5))[:, None] * cosines
    expected = torch.stack([signal[i * n - n // 2 :][: 2 * n] @ basis for i in range(1, 5)])
    assert_close(transform(n)(signal)[1:-1], expected, rtol=0, atol=10 * ROUNDING)


def test_white_noise_stays_white():
    n_hops = 20_000
    coefficients = transform(16)(normal(16 * n_hops))
    covariance = coefficients.T.cov()
    assert (coefficients.mean(0).abs() < 5 / n_hops**0.5).all()
    assert (covariance - torch.eye(16)).abs().max() < 5 * (2 / n_hops) ** 0.5
    neighbours = (coefficients[1:].T @ coefficients[:-1]) / n_hops
    assert neighbours.abs().max() < 5 / n_hops**0.5


@pytest.mark.parametrize("sample", [0, 1, 7, 8, 15])
def test_an_impulse_stays_in_its_hop_and_the_nearer_neighbour(sample):
    signal = torch.zeros(16 * 7, dtype=torch.float64)
    signal[3 * 16 + sample] = 1.0
    energy = transform(16)(signal).square().sum(-1)
    neighbour = 2 if sample < 8 else 4
    assert energy[[3, neighbour]].sum().item() == pytest.approx(1.0, abs=ROUNDING)
    assert energy.argmax() == 3


def test_a_burst_around_the_centre_of_a_hop_has_its_energy_centred_on_that_frame():
    # which is where frame 3 of a mel that is centred on hops lies
    signal = torch.zeros(256 * 7, dtype=torch.float64)
    burst = torch.hann_window(256, periodic=False, dtype=torch.float64)
    signal[3 * 256 : 4 * 256] = burst * torch.cos(0.3 * (torch.arange(256) - 127.5))
    energy = transform(256)(signal).square().sum(-1)
    assert (energy * torch.arange(7)).sum() / energy.sum() == pytest.approx(3.0, abs=1e-4)
    assert energy[3] / energy.sum() > 0.95


@pytest.mark.parametrize("index", [0.5, 3.0, 20.3, 40.5, 63.0])
def test_a_tone_has_its_energy_at_the_coefficients_of_its_frequency(index):
    tone = torch.cos(math.pi * index / 64 * torch.arange(64 * 40, dtype=torch.float64) + 0.4)
    energy = transform(64)(tone)[2:-2].square().sum(0)
    near = (torch.arange(64) + 0.5 - index).abs() <= 2
    assert energy[near].sum() / energy.sum() > 0.99


def test_hop_length_must_be_even():
    with pytest.raises(AudioError, match="even hop length, got 15"):
        MDCT(15)
