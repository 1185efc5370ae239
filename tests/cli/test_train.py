"""`audiodiff train` reads its file and its options, trains, and ends with the right exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.config import load_run_config
from audiodiff.training import trainer
from audiodiff.training.loss_curve import LossCurve, LossPoint, load_curve
from audiodiff.training.trainer import TrainResult

ROOT = Path(__file__).parents[2]


def run(*arguments):
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


@pytest.fixture
def conf(tmp_path, tiny_run_config):
    """The tiny run as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_run_config.model_dump(mode="json")))
    return path


@pytest.fixture
def asked(monkeypatch):
    """Do not train, but note what was asked for."""
    calls, ending, references = [], [None], []

    def note(config, run_dir, resume, reference, allow_changes):
        calls.append((config, run_dir, resume))
        references.append(reference)
        return TrainResult(step=8, skipped=1, best_loss=0.25, best_step=4, stopped_by=ending[0])

    monkeypatch.setattr(trainer, "train", note)
    return calls, ending, references


def test_it_trains_and_says_where_the_models_are(conf, tmp_path, tiny_run_config):
    result = run(conf, "--run", tmp_path / "run")
    assert result.exit_code == 0
    best, last = result.stdout.splitlines()
    assert best.startswith(f"{tmp_path / 'run' / 'best'}: validation loss 0.")
    assert last == f"{tmp_path / 'run' / 'last'}: step 8 of 8, 0 skipped"
    assert "step 8 of 8: loss" in result.stderr
    assert load_run_config(tmp_path / "run" / "config.yaml") == tiny_run_config


def test_what_is_asked_for_arrives(conf, tmp_path, tiny_run_config, asked, speech_folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(conf).exit_code == 0
    assert asked[0].pop() == (tiny_run_config, Path("exp/tiny"), "auto")
    assert run(conf, "--run", "there", "--resume", "some/path", "--data", speech_folder / "a").exit_code == 0
    config, run_dir, resume = asked[0].pop()
    assert (str(run_dir), resume, config.data.train) == ("there", "some/path", str(speech_folder / "a"))


def test_a_curve_beside_the_file_is_the_reference(conf, asked):
    run(conf)
    conf.with_suffix(".curve.json").write_text('{"settings": {"a": 1}, "points": [[5, 0.5, null]]}')
    run(conf)
    assert asked[2] == [None, LossCurve({"a": 1}, (LossPoint(5, 0.5),))]


def test_a_run_can_leave_its_curve_for_later_ones(conf, tmp_path):
    curve = conf.with_suffix(".curve.json")
    assert run(conf, "--run", tmp_path / "first").exit_code == 0
    assert not curve.exists()
    kept = run(conf, "--run", tmp_path / "first", "--keep-curve")  # all steps are done: it is just kept
    assert f"{curve}: the reference curve of later runs" in kept.stdout
    assert load_curve(curve) == load_curve(tmp_path / "first" / "curve.json")
    again = run(conf, "--run-dir", tmp_path / "second")
    assert "step 8: validation loss is +0.0% of the reference curve's" in again.stderr


@pytest.mark.parametrize("stopped_by", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_an_interrupted_run_leaves_no_curve(conf, asked, stopped_by):
    asked[1][0] = stopped_by
    run(conf, "--keep-curve")
    assert not conf.with_suffix(".curve.json").exists()


def test_a_dry_run_prints_the_cost_and_writes_nothing(conf, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run(conf, "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        *("parameters", "FLOPs", "training", "memory", "step", "epoch", "run", "checkpoint", "disk"),
    ]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.steps=20", lambda config: config.training.steps == 20),
        ("training.learning_rate=1e-3", lambda config: config.training.learning_rate == 1e-3),
        ("data.gain_db=[-1, 1]", lambda config: config.data.gain_db == (-1, 1)),
        ("data.valid=null", lambda config: config.data.valid is None),
        ("model.network.embedding.kind=sinusoidal", lambda config: config.model.network.embedding.kind == "sinusoidal"),
        ("training.initial_model=a=b", lambda config: config.training.initial_model == "a=b"),
    ],
)
def test_set_changes_one_value(conf, asked, setting, value):
    result = run(conf, "--set", setting)
    assert result.exit_code == 0, result.stderr
    assert value(asked[0].pop()[0])


def test_set_may_be_repeated_and_fill_what_the_file_leaves_out(conf, asked, speech_folder):
    values = yaml.safe_load(conf.read_text())
    del values["data"], values["training"]
    conf.write_text(yaml.safe_dump(values))
    result = run(conf, "--data", speech_folder, "--set", "training.seed=1", "--set", "training.steps=2")
    assert result.exit_code == 0, result.stderr
    config = asked[0].pop()[0]
    assert (config.training.seed, config.training.steps, config.data.train) == (1, 2, str(speech_folder))


@pytest.mark.parametrize(
    ("setting", "exit_code", "said"),
    [
        ("training.stepps=20", 1, "training.stepps"),
        ("training.steps=many", 1, "training.steps"),
        ("model.sample_rate.hz=3", 1, "model.sample_rate is 8000, which has no parts"),
        ("training.steps", 2, "'training.steps' is not KEY=VALUE"),
        ("training.steps=[", 2, "the value of training.steps cannot be read as YAML"),
    ],
)
def test_a_wrong_setting_is_named(conf, asked, setting, exit_code, said):
    result = run(conf, "--set", setting)
    assert (result.exit_code, asked[0]) == (exit_code, [])
    assert said in result.stderr


@pytest.mark.parametrize(
    ("content", "said"), [("- a", "is no mapping"), ("a: [", "cannot be read as YAML"), ("a: 1", "a:")]
)
def test_a_wrong_file_is_named(tmp_path, content, said):
    (tmp_path / "conf.yaml").write_text(content)
    result = run(tmp_path / "conf.yaml")
    assert result.exit_code == 1
    assert said in result.stderr
    assert str(tmp_path / "conf.yaml") in result.stderr


def test_a_missing_file_is_wrong_usage(tmp_path):
    assert run(tmp_path / "absent.yaml").exit_code == 2


@pytest.mark.parametrize(
    ("stopped_by", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129), (signal.SIGINT, 130), (None, 0)],
)
def test_exit_code_of_an_interrupted_run(conf, asked, stopped_by, exit_code):
    asked[1][0] = stopped_by
    result = run(conf)
    assert result.exit_code == exit_code
    assert "step 8 of 8, 1 skipped" in result.stdout


@pytest.mark.parametrize(
    "backend",
    [
        "module://matplotlib_inline.backend_inline",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("module://nowhere", "nonsense")),
    ],
)
def test_the_backend_of_a_notebook_does_not_matter(conf, tmp_path, backend):
    arguments = [sys.executable, "-m", "audiodiff", "train", conf, "--run", tmp_path / "run"]
    done = subprocess.run(arguments, env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_saves_and_ends(conf, tmp_path, number, code):
    folder = tmp_path / "run"
    options = ["training.steps=1000000", "training.checkpoint_every=1000000", "data.workers=2"]
    arguments = [sys.executable, "-m", "audiodiff", "train", conf, "--run", folder]
    arguments += [word for option in options for word in ("--set", option)]
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (folder / "best").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert f"{number.name}: stopped after step" in said
    assert len(list((folder / "checkpoints").iterdir())) == 1
