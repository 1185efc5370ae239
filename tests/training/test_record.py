"""A run says what trained each of its steps: settings that decide the result change only if allowed, and on record."""

import json
import logging
import shutil

import pytest
import torch

from audiodiff.checkpoint import load_config
from audiodiff.config import load_run_config
from audiodiff.errors import TrainingError
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.loss_curve import read_history
from audiodiff.training.trainer import train


def changed(config, **settings):
    """Change settings, named PART__KEY."""
    for name, value in settings.items():
        part, _, key = name.partition("__")
        config = config.model_copy(update={part: getattr(config, part).model_copy(update={key: value})})
    return config


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tiny_run_config):
    """A run of four steps; copy it."""
    run = tmp_path_factory.mktemp("runs") / "begun"
    train(changed(tiny_run_config, training__steps=4), run)
    return run


@pytest.fixture
def run(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "run")


@pytest.fixture
def config(tiny_run_config):
    return changed(tiny_run_config, training__steps=4)


def snapshot(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}


DECIDING = {
    "training__seed": 7,
    "training__learning_rate": 1e-3,
    "training__batch_size": 2,
    "training__steps": 6,
    "training__betas": (0.8, 0.9),
    "training__ema_decay": 0.5,
    "training__precision": "bf16",
    "training__validation_levels": 4,
    "data__crop_seconds": 0.5,
    "data__valid_fraction": 0.4,
    "data__polarity": False,
    "data__gain_db": (0.0, 0.0),
}


@pytest.mark.parametrize("setting", DECIDING)
def test_what_decides_the_result_is_refused_and_nothing_is_written(run, config, setting):
    before = snapshot(run)
    with pytest.raises(TrainingError, match="was trained with other settings") as error:
        train(changed(config, **{setting: DECIDING[setting]}), run)
    key = setting.replace("__", ".")
    assert f"{key} was " in str(error.value)
    assert "--allow-changes" in str(error.value)
    assert snapshot(run) == before


def test_what_does_not_decide_the_result_may_change(run, config):
    before = (run / "config.yaml").read_bytes()
    free = {"workers": 1, "resident": "off", "max_bad_fraction": 0.5}
    free_in_training = {"keep": 1, "validate_every": 3, "sample_every": 9, "checkpoint_every": 2, "minutes": 60.0}
    settings = {f"data__{key}": value for key, value in free.items()}
    settings |= {f"training__{key}": value for key, value in free_in_training.items()}
    assert train(changed(config, **settings), run).step == 4
    assert (run / "config.yaml").read_bytes() == before
    assert not (run / "history.jsonl").exists()  # no step was trained with them


def test_an_allowed_change_is_recorded_with_step_and_time(run, config, caplog):
    before = (run / "config.yaml").read_bytes()
    settings = {"training__steps": 6, "training__learning_rate": 1e-3}
    with caplog.at_level(logging.INFO):
        assert train(changed(config, **settings), run, allow_changes=True).step == 6
    assert "training.learning_rate was 0.002, is 0.001; training.steps was 4, is 6" in caplog.text
    assert (run / "config.yaml").read_bytes() == before
    (entry,) = read_history(run / "history.jsonl")
    assert entry["changes"] == {"training.learning_rate": [0.002, 0.001], "training.steps": [4, 6]}
    assert entry["step"] == 4
    assert entry["time"].startswith("20")
    assert load_config(run / "last").provenance["training"]["history"] == [entry]
    assert train(changed(config, **settings), run).step == 6  # what is on record is no change
    with pytest.raises(TrainingError, match=r"training.learning_rate was 0.001, is 0.002"):
        train(config, run)


def test_changes_of_steps_that_were_lost_are_forgotten(run, config):
    kept = shutil.copytree(run, run.with_name("kept"))
    longer = changed(config, training__steps=6)
    train(changed(longer, training__seed=3), run, allow_changes=True)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    again = changed(longer, training__seed=3)
    assert train(again, run).step == 6  # allowed before, for these very steps
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    train(longer, run, allow_changes=True)
    (entry,) = read_history(run / "history.jsonl")
    assert entry["changes"] == {"training.steps": [4, 6]}
    train(longer, kept, allow_changes=True)
    first, second = (RunFolder(path).newest().state["network"] for path in (run, kept))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_other_recordings_behind_the_same_path_are_a_change(tmp_path, config, speech_folder, save_voice):
    data = shutil.copytree(speech_folder, tmp_path / "data")
    config = changed(config, data__train=str(data))
    train(config, tmp_path / "run")
    save_voice(data / "more.wav", 2.0, seed=99)
    with pytest.raises(TrainingError, match="recordings was 7, is 8"):
        train(config, tmp_path / "run")


def test_a_record_that_is_lost_or_damaged_is_not_made_up(run, config):
    for damage in (lambda path: path.write_text("["), lambda path: path.unlink()):
        damage(run / "config.yaml")
        with pytest.raises(TrainingError, match="which is not known without"):
            train(config, run)
    (run / "history.jsonl").write_text("{")
    with pytest.raises(TrainingError, match=r"history.jsonl cannot be read"):
        train(config, run)


def test_a_run_that_goes_on_from_another_says_so(run, config, tmp_path):
    other = tmp_path / "other"
    longer = changed(config, training__steps=6)
    with pytest.raises(TrainingError, match=r"training.steps was 4, is 6"):
        train(longer, other, resume=run)
    assert not (other / "config.yaml").exists()
    train(longer, other, resume=run, allow_changes=True)
    (entry,) = read_history(other / "history.jsonl")
    assert entry["resumed_from"].endswith("run/checkpoints/step-00000004")
    assert load_run_config(other / "config.yaml") == longer
    assert train(longer, other).step == 6
    assert json.loads((other / "history.jsonl").read_text()) == entry
