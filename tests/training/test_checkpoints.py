"""Checkpoints are there as a whole or not at all; damaged ones are noticed, named and put aside."""

import logging

import pytest
import torch
import yaml

from audiodiff.checkpoint import load_model
from audiodiff.config import load_run_config
from audiodiff.errors import AudiodiffError, TrainingError
from audiodiff.networks import build_network
from audiodiff.training import checkpoints
from audiodiff.training.checkpoints import CHECKSUMS, STATE, RunFolder, load_checkpoint


@pytest.fixture
def network(tiny_model_config):
    return build_network(tiny_model_config)


@pytest.fixture
def folder(tmp_path, network, tiny_model_config):
    """A run with checkpoints at steps 1 to 5."""
    folder = RunFolder(tmp_path / "run")
    for step in range(1, 6):
        folder.save(step, {"step": step, "tensor": torch.full((3,), step)}, network, tiny_model_config)
    return folder


def names(folder):
    return [path.name for path in folder.checkpoints()]


def spoil(path):
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_was_saved_is_loaded(folder, network, tiny_model_config):
    checkpoint = folder.newest()
    assert checkpoint.path.name == "step-00000005"
    assert checkpoint.config == tiny_model_config
    assert checkpoint.state["step"] == 5
    assert torch.equal(checkpoint.state["tensor"], torch.full((3,), 5))
    for name, value in network.state_dict().items():
        assert torch.equal(checkpoint.ema.state_dict()[name], value)


def test_checkpoints_and_last_are_model_folders(folder, tiny_model_config):
    for path in (folder.last, *folder.checkpoints()):
        assert load_model(path)[1] == tiny_model_config


def test_a_state_holds_no_pickled_code(folder):
    state = torch.load(folder.checkpoints()[0] / STATE, weights_only=True)
    assert state["step"] == 1


def test_pruning_keeps_the_newest_and_clears_what_was_half_written(folder):
    (folder.path / "checkpoints" / ".half").mkdir()
    folder.prune(3)
    assert names(folder) == ["step-00000003", "step-00000004", "step-00000005"]
    assert not list((folder.path / "checkpoints").glob(".*"))


def test_a_kill_while_pruning_leaves_no_half_checkpoint(folder, monkeypatch):
    def killed(path):
        (path / STATE).unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.prune(3)
    for path in folder.checkpoints():
        load_checkpoint(path)


def test_steps_are_ordered_as_numbers(folder, network, tiny_model_config):
    for step in (100_000_000, 99_999_999):
        folder.save(step, {}, network, tiny_model_config)
    assert names(folder)[-2:] == ["step-99999999", "step-100000000"]


def test_a_checkpoint_of_the_same_step_is_replaced(folder, network, tiny_model_config):
    folder.save(5, {"step": "again"}, network, tiny_model_config)
    assert folder.newest().state["step"] == "again"
    assert len(names(folder)) == 5


@pytest.mark.parametrize("file", [STATE, "model.safetensors", "config.json", CHECKSUMS])
@pytest.mark.parametrize("damage", [spoil, lambda path: path.unlink()], ids=["changed", "missing"])
def test_a_damaged_newest_is_named_and_the_one_before_used(folder, file, damage, caplog):
    damage(folder.checkpoints()[-1] / file)
    with caplog.at_level(logging.WARNING):
        assert folder.newest().path.name == "step-00000004"
    assert "step-00000005" in caplog.text
    assert names(folder)[-1] == "step-00000004"
    assert (folder.path / "checkpoints" / "step-00000005.damaged").is_dir()


def test_if_all_are_damaged_nothing_is_begun_anew(folder):
    for path in folder.checkpoints():
        spoil(path / STATE)
    with pytest.raises(TrainingError, match="all 5 checkpoints"):
        folder.newest()


def test_a_failure_while_saving_leaves_all_as_it_was(folder, network, tiny_model_config, monkeypatch):
    def fail(path):
        raise OSError("disk full")

    before = sorted(folder.path.rglob("*"))
    monkeypatch.setattr(checkpoints, "flush_to_disk", fail)
    with pytest.raises(TrainingError, match="step-00000006 cannot be written: disk full"):
        folder.save(6, {}, network, tiny_model_config)
    assert sorted(folder.path.rglob("*")) == before


def test_without_checkpoints_there_is_no_newest(tmp_path):
    assert RunFolder(tmp_path / "new").newest() is None


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(AudiodiffError, match="is no checkpoint"):
        load_checkpoint(tmp_path)


def test_the_configuration_survives(tmp_path, tiny_run_config):
    folder = RunFolder(tmp_path / "run")
    folder.save_config(tiny_run_config)
    assert load_run_config(folder.path / "config.yaml") == tiny_run_config
    assert list(yaml.safe_load((folder.path / "config.yaml").read_text())) == ["model", "data", "training"]


def test_the_best_is_a_model_folder(tmp_path, network, tiny_model_config):
    folder = RunFolder(tmp_path / "run")
    folder.save_best(network.state_dict(), tiny_model_config)
    assert load_model(folder.best)[1] == tiny_model_config
