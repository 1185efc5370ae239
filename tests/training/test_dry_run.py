"""The cost of a run is what its parts add up to, and a dry run leaves nothing behind."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audiodiff.checkpoint import load_model
from audiodiff.training.dry_run import format_cost, measure_cost
from audiodiff.training.trainer import train


def changed(config, **settings):
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


@pytest.fixture(scope="module")
def cost(tiny_run_config):
    return measure_cost(tiny_run_config)


def test_what_is_said_of_disk_is_what_a_run_takes(tmp_path, tiny_run_config, cost):
    train(changed(tiny_run_config, steps=4, sample_every=100), tmp_path)
    checkpoint = sum(path.stat().st_size for path in (tmp_path / "checkpoints" / "step-00000004").iterdir())
    assert cost.checkpoint_bytes == pytest.approx(checkpoint, rel=0.2)  # headers and config.json
    network, _ = load_model(tmp_path / "last")
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert cost.disk_bytes == 4 * cost.checkpoint_bytes + 2 * sum(
        value.numel() * value.element_size() for value in network.state_dict().values()
    )


def test_an_epoch_is_as_long_as_the_recordings(tiny_run_config, cost):
    seconds = sum((1, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4)) - cost.epoch_steps * 4 * 0.256
    assert 1 <= seconds <= 2.4  # the length of the one recording that is held out
    assert measure_cost(changed(tiny_run_config, batch_size=2)).epoch_steps == pytest.approx(2 * cost.epoch_steps)


def test_operations_are_those_of_the_matrix_products(tiny_run_config, cost):
    """Count by hand: every linear layer, two per weight and position, at 125 positions per second."""
    network = tiny_run_config.model.network
    width, n_bins, n_mels = network.channels, 129, 20
    per_position = width * (2 * n_bins + 3 * n_bins + width)  # input, output, skip
    per_position += network.layers * (3 * width * 2 * width + width * 2 * width + n_mels * 2 * width)
    assert cost.flops_per_second == pytest.approx(2 * 125 * per_position, rel=0.1)
    with FlopCounterMode(display=False) as counter:
        torch.ones(2, 3) @ torch.ones(3, 4)
    assert counter.get_total_flops() == 2 * 2 * 3 * 4


def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing(tiny_run_config, cost):
    double = measure_cost(changed(tiny_run_config, batch_size=8))
    frugal = measure_cost(changed(tiny_run_config, batch_size=8, gradient_checkpointing=True))
    assert cost.memory < frugal.memory < double.memory


def test_lines_have_units(cost):
    lines = format_cost(cost)
    assert len(lines) == 9
    assert lines[0] == f"parameters            {cost.parameters / 1e6:.2f} M, {cost.parameters / 1e6:.2f} M trained"
    assert any("GFLOP per second of audio" in line for line in lines)
    assert lines[2] == f"training step         {cost.step_flops / 1e9:.2f} GFLOP, MFU {cost.mfu:.1%}"
    assert sum("MB" in line for line in lines) == 3
