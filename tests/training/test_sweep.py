"""Sweeps name their runs, train them side by side, resume, and end with what they started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from audiodiff.errors import ConfigError
from audiodiff.training.sweep import plan_sweep

ROOT = Path(__file__).parents[2]


def test_every_combination_has_every_seed_in_a_folder_that_says_so():
    runs = plan_sweep(
        Path("exp"), {"model.network.embedding.kind": ["rbf", "fourier"], "training.ema_decay": [0.9]}, [3, 4]
    )
    assert [str(run.folder) for run in runs] == [
        f"exp/kind={kind},ema_decay=0.9/seed={seed}" for kind in ("rbf", "fourier") for seed in (3, 4)
    ]
    assert runs[1].settings == {"model.network.embedding.kind": "rbf", "training.ema_decay": 0.9, "training.seed": 4}


def test_keys_of_the_same_last_word_are_written_out_and_values_are_names():
    vary = {"model.network.kind": ["stft"], "model.network.embedding.kind": ["rbf"], "data.gain_db": [[-6, 3]]}
    (run,) = plan_sweep(Path("exp"), vary, [0])
    assert run.folder == Path("exp/model.network.kind=stft,model.network.embedding.kind=rbf,gain_db=-6_3/seed=0")


@pytest.mark.parametrize(("vary", "seeds"), [({"a": [1, 1]}, [0]), ({"a": [1, 2]}, [0, 0])])
def test_what_is_there_twice_is_refused(vary, seeds):
    with pytest.raises(ConfigError, match="has a value twice"):
        plan_sweep(Path("exp"), vary, seeds)


@pytest.fixture
def conf(tmp_path, tiny_run_config):
    path = tmp_path / "conf.yaml"
    path.write_text(yaml.safe_dump(tiny_run_config.model_dump(mode="json")))
    return path


def start(conf, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "audiodiff", "train", str(conf), "--run", "exp", *words]
    return subprocess.Popen(
        command, cwd=conf.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_sweep_trains_compares_and_has_nothing_to_do_the_second_time(conf):
    words = ["--vary", "training.learning_rate=0.001,0.0001", "--seeds", "0,1", "--set", "training.steps=4"]
    words += ["--set", "training.validate_every=2"]
    first = start(conf, *words)
    table, errors = first.communicate(timeout=240)
    assert first.returncode == 0, errors
    assert table.count("validation loss 0") == 4
    assert "| training.learning_rate=0.0001 | 2 |" in table
    folder = conf.parent / "exp" / "learning_rate=0.001" / "seed=1"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["training"]["seed"], config["training"]["learning_rate"]) == (1, 1e-3)
    weights = (folder / "last" / "model.safetensors").read_bytes()
    again = start(conf, *words)
    assert again.communicate(timeout=240)[0].splitlines()[-1] == table.splitlines()[-1]
    assert (folder / "last" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_a_stopped_sweep_stops_its_runs_which_save(conf):
    sweep = start(conf, "--seeds", "0,1,2", "--workers", "2", "--set", "training.steps=100000")
    logs = [conf.parent / "exp" / f"seed={seed}" / "train.log" for seed in (0, 1)]
    until = time.monotonic() + 120
    while not all(log.is_file() and "step 20" in log.read_text() for log in logs) and time.monotonic() < until:
        time.sleep(0.2)
    sweep.send_signal(signal.SIGTERM)
    sweep.communicate(timeout=60)
    assert sweep.returncode == 143
    assert all(list((log.parent / "checkpoints").iterdir()) for log in logs)
    assert not (conf.parent / "exp" / "seed=2").exists()


def test_options_of_one_run_are_refused(conf):
    for words, said in [
        (["--seeds", "0,1", "--resume", "never"], "--resume is of one run"),
        (["--seeds", "0,1", "--keep-curve"], "--keep-curve is of one run"),
        (["--workers", "2"], "--workers is for --vary and --seeds"),
        (["--vary", "training.seed"], "expected KEY=VALUE,VALUE"),
    ]:
        process = start(conf, *words)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 2
        assert said in errors
