"""The width of the EMA is searched after training: what is written is the best of the averages that can be had."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from audiodiff.checkpoint import load_config, load_model
from audiodiff.cli.main import main
from audiodiff.config.run import PostHocEMAConfig
from audiodiff.errors import ModelError, TrainingError
from audiodiff.search.ema import open_run, search_widths
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.post_hoc_ema import list_snapshots
from audiodiff.training.trainer import train


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_run_config):
    update = {"steps": 24, "post_hoc_ema": PostHocEMAConfig(snapshot_every=2), "sample_every": 100}
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_run_config.model_copy(update={"training": tiny_run_config.training.model_copy(update=update)}), folder)
    return folder


def search(*arguments):
    return CliRunner().invoke(main, ["search", "ema", *map(str, arguments)])


def test_the_best_width_is_written(tmp_path, run):
    result = search(run, "-o", tmp_path / "m", "--widths", "0.005,0.05,0.1,0.2")
    assert result.exit_code == 0, result.output
    fine, *widths, best, last, written = result.stdout.splitlines()
    assert fine.startswith("width 0.005  left out: its profile is ")
    losses = {float(line.split()[1]): float(line.split()[-1]) for line in widths}
    assert list(losses) == [0.05, 0.1, 0.2]
    width = min(losses, key=losses.get)
    assert written == f"{tmp_path / 'm'}: width {width:g}, validation loss {losses[width]:.5f}"
    curve = {step: loss for step, loss, _ in json.loads((run / "curve.json").read_text())["points"]}
    assert last == f"last         validation loss {curve[24]:.5f}, the EMA of training"  # as training measured it
    assert best == f"best         validation loss {min(curve.values()):.5f}, the EMA of training"
    assert ("No width is better" in result.stderr) == (losses[width] > min(curve.values()))
    noted = load_config(tmp_path / "m").provenance["training"]
    assert (noted["ema_width"], noted["steps"]) == (width, 24)
    assert noted["validation_loss"] == pytest.approx(losses[width], abs=1e-5)


def test_a_width_that_was_kept_is_what_training_has(tmp_path, run):
    assert search(run, "-o", tmp_path / "m", "--widths", "0.1").exit_code == 0
    network, config = load_model(tmp_path / "m")
    kept = RunFolder(run).newest().state["power_averages"]["averages"][1]
    for name, value in network.named_parameters():
        torch.testing.assert_close(value.detach(), kept[name], rtol=1e-5, atol=1e-6)
    assert config.whitening == load_config(run / "last").whitening  # with the gain that was measured


def test_the_recordings_may_be_others(tmp_path, run, speech_folder):
    ours = search(run, "-o", tmp_path / "m", "--widths", "0.1").stdout
    assert search(run, "-o", tmp_path / "m", "--widths", "0.1", "--data", speech_folder).stdout != ours


def test_what_cannot_be_searched_is_said(tmp_path, run):
    assert "resolve none of these widths" in search(run, "-o", tmp_path / "m", "--widths", "0.005").stderr
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    list_snapshots(copy / "snapshots")[3].write_bytes(b"nothing")
    assert "step-00000008.safetensors is damaged or no snapshot" in search(copy, "-o", tmp_path / "m").stderr
    shutil.rmtree(copy / "snapshots")
    assert "has no snapshots. Train with training.post_hoc_ema={}" in search(copy, "-o", tmp_path / "m").stderr
    assert not (tmp_path / "m").exists()
    with pytest.raises(TrainingError, match="has no snapshots"):
        open_run(tmp_path)


def test_snapshots_of_another_network_are_refused(tmp_path, run, tiny_generator_folder):
    opened = open_run(run)._replace(network=load_model(tiny_generator_folder)[0])
    opened.folder.best = opened.folder.last = tmp_path / "none"  # whose losses are not asked for here
    with pytest.raises(ModelError, match="are of another network than"):
        search_widths(opened, [0.1], tmp_path / "m")
