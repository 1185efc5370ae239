"""Checkpoints are there as a whole or not at all; damaged ones are noticed, named and put aside."""

import json
import logging
import pickle
import shutil

import pytest
import torch
import yaml

from audiodiff.checkpoint import load_model
from audiodiff.config import load_run_config
from audiodiff.errors import AudiodiffError, TrainingError
from audiodiff.networks import build_network
from audiodiff.training import checkpoints
from audiodiff.training.checkpoints import CHECKSUMS, STATE, RunFolder, load_checkpoint
from audiodiff.training.state import check_state_dict


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


def forge(path, state):
    """Replace the state of a checkpoint, and make its checksum right."""
    torch.save(state, path / STATE)
    checksums = json.loads((path / CHECKSUMS).read_text())
    (path / CHECKSUMS).write_text(json.dumps(checksums | {STATE: checkpoints._checksum(path / STATE)}))


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def unpickle_code(path):
    path.write_bytes(pickle.dumps(print, protocol=2))
    checksums = path.with_name(CHECKSUMS)
    written = json.loads(checksums.read_text()) | {path.name: checkpoints._checksum(path)}
    checksums.write_text(json.dumps(written))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / STATE).write_bytes((path / STATE).read_bytes()[:100]),
        lambda path: (path / STATE).write_bytes(b""),
        lambda path: (path / CHECKSUMS).write_bytes(b""),
        lambda path: (path / CHECKSUMS).write_text("[1]"),
        lambda path: (path / CHECKSUMS).write_text("[" * 100_000),
        lambda path: (path / CHECKSUMS).write_bytes(b"\xff\xfe"),
        lambda path: (path / CHECKSUMS).write_text(json.dumps({STATE: "0"})),
        lambda path: replace_by_folder(path / "config.json"),
        lambda path: (shutil.rmtree(path), path.write_bytes(b"a file")),
        lambda path: (shutil.rmtree(path), path.symlink_to("nowhere")),
        lambda path: unpickle_code(path / STATE),
        lambda path: forge(path, {"step": 5, "network": {"weight": torch.tensor([1.0, float("nan")])}}),
        lambda path: forge(path, [torch.tensor(float("inf"))]),
    ],
)
def test_whatever_makes_a_checkpoint_unreadable_is_damage(folder, damage, caplog):
    damage(folder.checkpoints()[-1])
    with caplog.at_level(logging.WARNING):
        assert folder.newest().path.name == "step-00000004"
    (said,) = caplog.messages
    assert "step-00000005" in said
    assert "The one before is used" in said


def test_what_the_system_refuses_to_read_is_damage(folder, monkeypatch, caplog):
    original = checkpoints._checksum

    def refuse(path):
        if path.parent.name == "step-00000005":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(checkpoints, "_checksum", refuse)
    monkeypatch.setattr(checkpoints.os, "rename", refuse_to_rename)
    with caplog.at_level(logging.WARNING):
        assert folder.newest().path.name == "step-00000004"
    assert "Permission denied" in caplog.text
    assert "The one before is used" in caplog.text


def refuse_to_rename(*_paths):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize(
    "state",
    [
        {},
        [],
        {"progress": {"step": 5}},
        {"progress": {"steps": 5}, "network": {}, "optimiser": {}},
        {"progress": {"step": 5}, "network": 3, "optimiser": {}},
    ],
)
def test_a_state_that_is_none_is_damage(folder, state):
    for path in folder.checkpoints()[:-1]:
        forge(path, {"progress": {"step": 4}, "network": {}, "optimiser": {}})
    forge(folder.checkpoints()[-1], state)
    assert folder.newest(check_state_dict).path.name == "step-00000004"


def test_if_all_are_damaged_nothing_is_begun_anew(folder):
    for path in folder.checkpoints():
        spoil(path / STATE)
    for _ in range(2):  # nor by the next attempt, which finds all of them put aside
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


@pytest.mark.parametrize("where", ["ema", "state", "best"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_replace_none_that_are(where, value, folder, network, tiny_model_config):
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    spoilt = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[spoilt].flatten()[-1] = value
    if where == "ema":
        network.load_state_dict(weights)
    save = {
        "ema": lambda: folder.save(6, {"network": {}}, network, tiny_model_config),
        "state": lambda: folder.save(6, {"network": weights}, network, tiny_model_config),
        "best": lambda: folder.save_best(weights, tiny_model_config),
    }[where]
    with pytest.raises(TrainingError, match=f"is not written: {spoilt} of the .* holds NaN or infinity"):
        save()
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
