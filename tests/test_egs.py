"""Every eg has its files, runs by the shared stage runner, and has a network that trains."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiodiff.config import load_run_config
from audiodiff.training.loss_curve import differing_settings, load_curve
from audiodiff.training.trainer import train

ROOT = Path(__file__).parents[1]
EGS = sorted(path.parent for path in ROOT.glob("egs/*/*/run.sh"))
CONFIGURATIONS = sorted(ROOT.glob("egs/*/*/conf/*.yaml"))
CURVES = sorted(ROOT.glob("egs/*/*/conf/*.curve.json"))
RUNNER = ROOT / "egs" / "run.sh"


def name(path):
    return path.relative_to(ROOT / "egs").as_posix()


def run(script, *arguments, folder, timeout=20):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=timeout,
    )


def test_the_egs_are_there():
    expected = "quick/vocoder ljspeech/vocoder libritts/vocoder vctk/vocoder music/vocoder "
    expected += "speech_commands/generation fsdd/generation piano/generation drums/generation"
    assert {name(path) for path in EGS} >= set(expected.split())


@pytest.mark.parametrize("eg", EGS, ids=name)
def test_an_eg_is_complete_and_listed(eg):
    assert (eg / "README.md").read_text(encoding="utf-8").startswith("# ")
    script = (eg / "run.sh").read_text(encoding="utf-8")
    assert list((eg / "conf").glob("*.yaml")) or "conf=() # nothing is trained\n" in script
    assert os.access(eg / "run.sh", os.X_OK)
    assert 'source "$here/../../run.sh"' in script
    assert f"]({name(eg)})" in (ROOT / "egs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("eg", EGS, ids=name)
def test_its_configurations_read_what_its_stages_write(eg):
    script = (eg / "run.sh").read_text(encoding="utf-8")
    for path in (eg / "conf").glob("*.yaml"):
        assert path.name in script
        config = load_run_config(path)
        for source in (config.data.train, config.data.valid):
            exp = "/".join(source.split("/")[:2])
            assert f"exp={exp}\n" in script


@pytest.mark.parametrize("eg", [eg for eg in EGS if eg.parts[-2] != "speech"], ids=name)
def test_keys_are_explained(eg):
    for path in (eg / "conf").glob("*.yaml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# ")
        assert sum("  # " in line or " # " in line for line in lines) >= 4


def test_the_runner_says_how_it_is_used(tmp_path):
    eg = ROOT / "egs" / "ljspeech" / "vocoder"
    result = run(eg / "run.sh", "--help", folder=tmp_path)
    assert result.returncode == 0
    assert "CORPUS_DIR [--stage N] [--stop-stage N] [--conf FILE.yaml]" in result.stdout
    for wrong in ([], ["corpus", "--stages", "1"], ["corpus", "more"]):
        result = run(eg / "run.sh", *wrong, folder=tmp_path)
        assert (result.returncode, result.stdout) == (2, "")
        assert "usage: " in result.stderr


@pytest.fixture
def toy(tmp_path):
    """An eg whose stages only say what they would do."""
    (tmp_path / "run.sh").write_text(
        f'here=$(dirname "$0") usage=CORPUS exp=exp/toy\nconf=(a.yaml b.yaml)\n'
        f'data() {{ echo "data $1"; }}\n'
        f'audiodiff() {{ echo "audiodiff $*"; }}\nsource "{RUNNER}"\n'
    )
    return tmp_path / "run.sh"


def stages(script, *arguments):
    result = run(script, "corpus", *arguments, folder=script.parent)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_all_stages_run_in_order(toy):
    (toy.parent / "exp" / "toy").mkdir(parents=True)
    vocode = "audiodiff vocode exp/toy/data/test.jsonl --model exp/toy/b/best --output exp/toy/wav --resample"
    assert stages(toy) == [
        "data corpus",
        "audiodiff train a.yaml --run exp/toy/a",
        "audiodiff train b.yaml --run exp/toy/b",
        f"{vocode} --overwrite",
        f"{vocode} --score --overwrite",
    ]


def test_stages_configuration_and_settings_can_be_chosen(toy):
    assert stages(toy, "--stop-stage", 0) == ["data corpus"]
    assert len(stages(toy, "--stage", 1, "--stop-stage", 2)) == 3
    assert stages(toy, "--stage", 1, "--stop-stage", 1, "--conf", "x/c.yaml", "--set", "training.steps=5") == [
        "audiodiff train x/c.yaml --run exp/toy/c --set training.steps=5"
    ]


def test_a_curve_can_be_kept(toy):
    assert stages(toy, "--stage", 1, "--stop-stage", 1, "--keep-curve")[-1] == (
        "audiodiff train b.yaml --run exp/toy/b --keep-curve"
    )


@pytest.mark.parametrize("path", CURVES, ids=name)
def test_a_shipped_curve_is_of_the_configuration_beside_it(path):
    config, curve = load_run_config(path.with_name(path.name.replace(".curve.json", ".yaml"))), load_curve(path)
    assert differing_settings(curve.settings, config) == []
    assert curve.points[-1].step == config.training.steps


def test_a_failing_stage_ends_it(toy):
    toy.write_text(toy.read_text().replace('echo "data $1"', "false"))
    result = run(toy, "corpus", folder=toy.parent)
    assert result.returncode != 0
    assert "audiodiff" not in result.stdout


@pytest.mark.parametrize("eg", [eg for eg in EGS if list((eg / "conf").glob("*.yaml"))], ids=name)
def test_a_stopped_training_ends_every_eg(eg, tmp_path):
    stub = tmp_path / "bin" / "audiodiff"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/called\n[ "$1" != train ] || exit 143\n')
    stub.chmod(0o755)
    usage = re.search(r"usage=(\"[^\"]*\"|\S+)", (eg / "run.sh").read_text(encoding="utf-8"))
    words = [str(tmp_path)] * len(usage[1].strip('"').split() if usage else [])
    environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}"}
    command = ["bash", str(eg / "run.sh"), *words, "--stage", "1"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=20)
    assert result.returncode == 143, result.stderr
    assert (tmp_path / "called").read_text().splitlines().count("train") == 1
    assert (tmp_path / "called").read_text().endswith("train\n")


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGURATIONS, ids=name)
def test_its_network_trains_a_step(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_run_config(path)
    for i in range(4):
        label = config.model.labels[i % len(config.model.labels)] if config.model.labels else "any"
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        noise = 0.1 * np.random.default_rng(i).standard_normal(2 * config.model.sample_rate)
        soundfile.write(tmp_path / "data" / label / f"{i}.wav", noise, config.model.sample_rate)
    arguments = [
        sys.executable,
        "-m",
        "recipes.folder",
        "data",
        "lists",
        "--label-from",
        "folder",
        "--test-fraction",
        "0",
    ]
    subprocess.run(arguments, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    changes = {"data.train": "lists/train.jsonl", "data.valid": "lists/valid.jsonl", "training.steps": 1}
    changes |= {"training.batch_size": 1, "training.validation_crops": 1, "training.validation_levels": 2}
    changes |= {"training.sample_every": 2, "model.synthesis.steps": 2}
    if config.training.initial_model != "speech-22k":
        changes["training.initial_model"] = None
    outcome = train(load_run_config(path, changes), tmp_path / "run", "auto")
    assert outcome.step == 1
    assert outcome.skipped == 0


@pytest.mark.slow
def test_the_quick_eg_runs_all_stages(tmp_path):
    script = ROOT / "egs" / "quick" / "vocoder" / "run.sh"
    result = run(script, folder=tmp_path, timeout=600)
    assert result.returncode == 0, result.stderr
    scores = (tmp_path / "exp" / "quick" / "scores.txt").read_text()
    assert float(scores.partition("M-STFT ")[2].split()[0]) < 1.2
    assert "of the reference curve's" in result.stderr
    assert "higher: other data, or a mistake" not in result.stderr
    again = run(script, "--stage", 1, folder=tmp_path, timeout=120)
    assert again.returncode == 0
