"""What is counted on the parameters is what torch counts when the network runs."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiodiff.benchmark.counting import count_operations
from audiodiff.networks.build import build_network

KINDS = ["stft", "patches", "radial", "published", "an upsampler per layer", "no mel", "a U-Net"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "n_blocks"), [(1, 3), (2, 5)])
def test_counted_as_torch_counts(kind, batch, n_blocks, small_configs):
    config = small_configs[kind]
    network = build_network(config)
    x = torch.randn(batch, 1, n_blocks * config.block_length)
    level = torch.zeros(batch)
    plain_attention = sdpa_kernel(SDPBackend.MATH)  # torch counts no other on a CPU
    with torch.no_grad(), plain_attention, FlopCounterMode(display=False) as counter:
        condition = network.encode(torch.randn(batch, config.mel.n_mels, n_blocks)) if config.mel else None
        network(x, level, condition)
    operations = count_operations(network, config, batch=batch, n_blocks=n_blocks)
    assert operations.step + operations.condition == counter.get_total_flops()
    assert (operations.condition > 0) == (config.mel is not None)


def test_the_condition_is_needed_once(small_configs):
    config = small_configs["published"]
    operations = count_operations(build_network(config), config, batch=1, n_blocks=2)
    assert operations.of_loop(7) == 7 * operations.step + operations.condition


def test_the_published_network_is_known():
    """By hand: 64 channels, 30 layers, 80 bins, 22,016 positions (86 blocks of 256)."""
    from audiodiff.interop import published_base_config

    config = published_base_config()
    position = 2 * 64 + 30 * (2 * 192 * 128 + 2 * 64 * 128) + 2 * 64 * 64 + 2 * 64
    level = 2 * (128 * 512 + 512 * 512) + 30 * 2 * 512 * 64
    condition = 86 * (256 * 30 * 2 * 80 * 128 + 2 * 80 * 96 * (1 + 16))
    operations = count_operations(build_network(config), config, batch=1, n_blocks=86)
    assert operations.step == 86 * 256 * position + level
    assert operations.condition == condition
