"""Packed weights compute the same layers: padding adds nothing, and vectors find their way to where they belong."""

import pytest
import torch

from audiodiff.diffusion.process import Prediction
from audiodiff.diffusion.samplers import ddim
from audiodiff.engine.cuda import feature_widths, pad_parts, padded_width
from audiodiff.engine.fused import fused
from audiodiff.networks.conditioning import GlobalConditions

HOP = 16


@pytest.mark.parametrize(("n", "padded"), [(1, 16), (16, 16), (17, 32), (64, 64), (80, 128), (128, 128)])
def test_channels_are_padded_to_a_power_of_two_of_at_least_sixteen(n, padded):
    assert padded_width(n) == padded


@pytest.mark.parametrize("n", range(200))
def test_features_fit_two_powers_of_two_with_less_than_half_to_spare(n):
    widths = feature_widths(n)
    assert all(width == 0 or (width >= 16 and width & (width - 1) == 0) for width in widths)
    assert n <= sum(widths) <= max(1.5 * n, n + 15) or n < 16
    assert (sum(widths) == 0) == (n == 0)


def test_eighty_mels_need_no_padding():
    assert feature_widths(80) == (64, 16)


def test_each_part_of_an_axis_is_padded_by_itself():
    x = torch.tensor([[1, 2, 3, 4]])
    assert pad_parts(x, 2, 3, 1).tolist() == [[1, 2, 0, 3, 4, 0]]
    assert pad_parts(x.T, 2, 3, 0).flatten().tolist() == [1, 2, 0, 3, 4, 0]


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("diffwave", {"n_mels": 0}),
        ("diffwave", {"patch": 4, "channels": 24}),
        ("diffwave", {"patch": 4, "channels": 64, "dilation_cycle": 6, "layers": 7}),
        ("diffwave", {"upsampling": "transposed", "upsampling_factors": (4, 4), "n_mels": 20}),
        ("diffwave", {"upsampling": "transposed-per-layer", "upsampling_factors": (2, 4), "patch": 2}),
        ("stft", {"channels": 20}),
    ],
)
def test_packed_weights_compute_the_network(kind, network, make_fusible, plain_layers, relative_error):
    plain = make_fusible(kind, labels=("a", "b", "c"), **network)
    x, log_snr, label = torch.randn(2, 1, 6 * HOP), torch.tensor([-2.0, 3.0]), torch.tensor([2, 0])
    mel = torch.randn(2, network.get("n_mels", 5), 6) if network.get("n_mels", 5) else None
    results = []
    for each in (plain, fused(plain, torch.float32)):
        with torch.no_grad():
            results.append(
                each(x, log_snr, None if mel is None else each.encode(mel), each.embed(GlobalConditions(label)))
            )
    assert relative_error(results[1], results[0]) < 1e-5
    assert results[0].std() > 0.1


def test_six_steps_in_sixteen_bits_keep_40_decibels(make_fusible, plain_layers, relative_error):
    plain = make_fusible(patch=4, channels=64, layers=30, dilation_cycle=10)
    x, mel = torch.randn(2, 1, 64 * HOP), torch.randn(2, 5, 64)
    log_snrs = torch.tensor((*torch.linspace(-8, 10, 6).tolist(), float("inf")), dtype=torch.float64)
    results = []
    for network in (plain, fused(plain, torch.bfloat16)):
        with torch.no_grad():
            condition = network.encode(mel)

            def predict(x, log_snr, network=network, condition=condition):
                return Prediction(network(x, log_snr.float().expand(2), condition, None))

            results.append(ddim(predict, x, log_snrs, torch.zeros))
    assert 1e-4 < relative_error(results[1], results[0]) < 1e-2
