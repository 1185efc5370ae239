"""Floating-point operations are those of the published network, and the condition counts once."""

import pytest

from audiodiff.benchmark.inputs import count_flops
from audiodiff.networks import build_network

KINDS = ["stft", "patches", "radial", "published", "an upsampler per layer", "no mel", "a U-Net"]


@pytest.mark.parametrize("kind", KINDS)
def test_flops_of_a_step_scale_with_the_batch(kind, small_configs):
    config = small_configs[kind]
    network = build_network(config)
    one, two = (count_flops(network, config, batch=batch, n_frames=3) for batch in (1, 2))
    assert (two.step, two.condition) == (2 * one.step, 2 * one.condition)
    assert (one.condition > 0) == (config.mel is not None)


def test_the_condition_counts_once(small_configs):
    config = small_configs["published"]
    flops = count_flops(build_network(config), config, batch=1, n_frames=2)
    assert flops.of_loop(7) == 7 * flops.step + flops.condition


def test_flops_of_the_published_network():
    """By hand: 64 channels, 30 layers, 80 bins, 22,016 positions (86 blocks of 256)."""
    from audiodiff.interop import published_base_config

    config = published_base_config()
    position = 2 * 64 + 30 * (2 * 192 * 128 + 2 * 64 * 128) + 2 * 64 * 64 + 2 * 64
    level = 2 * (128 * 512 + 512 * 512) + 30 * 2 * 512 * 64
    condition = 86 * (256 * 30 * 2 * 80 * 128 + 2 * 80 * 96 * (1 + 16))
    flops = count_flops(build_network(config), config, batch=1, n_frames=86)
    assert flops.step == 86 * 256 * position + level
    assert flops.condition == condition
