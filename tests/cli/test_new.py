"""`audiodiff new` takes recordings to a trained model and a page, and resumes wherever it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from audiodiff.cli import new
from audiodiff.cli.main import main
from audiodiff.data.manifest import read_manifest
from audiodiff.evaluation import listening_test
from audiodiff.project import begin, plan
from audiodiff.training import callbacks, trainer
from audiodiff.training.trainer import TrainResult

ROOT = Path(__file__).parents[2]
MINUTES = "5"  # at most: it ends after so many steps
SHORT = {"validate_every": 10_000, "validation_crops": 2, "steps": 10}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """Ten steps at most, in this process."""
    monkeypatch.setattr(plan, "_ALWAYS", plan._ALWAYS | SHORT)


@pytest.fixture
def plainly(monkeypatch):
    """No pictures, and the time of a step is not measured: most of the time of a short run."""
    monkeypatch.setattr(begin, "measure_step", lambda folder: 0.1)
    monkeypatch.setattr(callbacks, "_picture", lambda clip, rate: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(listening_test, "_plot_clips", lambda clips, rate: [b""] * len(clips))


@pytest.fixture(scope="module")
def voices(tmp_path_factory, save_voice):
    """Five sounds of 2 s, in names with spaces and letters of other scripts, mono and stereo."""
    folder = tmp_path_factory.mktemp("in") / "my recordings ä"
    for i in range(4):
        save_voice(folder / f"söng nr {i}.wav", 2, 8000 if i % 2 else 16000, seed=i)
    left = soundfile.read(save_voice(folder / "stereo.wav", 2, 16000, seed=9))[0]
    soundfile.write(folder / "stereo.wav", np.stack([left, 0.5 * left], 1), 16000)
    return folder


@pytest.fixture(scope="module")
def hits(tmp_path_factory, save_voice):
    """Two kinds of short sounds, in folders."""
    folder = tmp_path_factory.mktemp("hits")
    for i in range(5):
        save_voice(folder / "yes" / f"{i}.wav", 0.4, seed=i)
        save_voice(folder / "bell" / f"{i}.wav", 0.3, seed=10 + i)
    return folder


def run(*arguments, **more):
    return CliRunner().invoke(main, ["new", *map(str, arguments)], **more)


def scores_of(folder):
    systems = json.loads((folder / "scores.json").read_text())["systems"]
    files = [file for system in systems for file in system["files"]]
    return [score for file in files for _, score in sorted(file["scores"].items())]


def command_line(*arguments):
    return [sys.executable, "-m", "audiodiff", "new", *map(str, arguments)]


def test_a_voice_becomes_a_vocoder_and_a_page(tmp_path, voices, tiny_vocoder_folder):
    folder = tmp_path / "my voice"
    result = run(folder, voices, "--kind", "voice", "--minutes", MINUTES, "--model", tiny_vocoder_folder)
    assert result.exit_code == 0, result.output
    assert (folder / "run" / "last" / "model.safetensors").is_file()
    page = (folder / "page" / "index.html").read_text()
    assert "Stay with tiny-vocoder" in page or "Use my voice" in page
    assert page.count("<img") == page.count("<audio") == 2 * 3  # two recordings: original, before, after
    assert result.stdout.splitlines()[-1] == f"the model: {folder / 'run' / 'last'}"
    assert f"listen: {folder / 'page' / 'index.html'}" in result.stdout
    shell = (folder / "commands.sh").read_text().splitlines()
    printed = result.stdout.splitlines()
    assert all(line in printed for line in shell if line.startswith("audiodiff"))
    assert [line.split()[1] for line in shell[3:]] == ["train", "vocode", "vocode", "evaluate"]
    parts = {part: read_manifest(folder / "lists" / f"{part}.jsonl") for part in ("train", "valid", "test")}
    assert {part: len(held) for part, held in parts.items()} == {"train": 2, "valid": 1, "test": 2}


def test_one_shots_become_a_generator_with_labels(tmp_path, hits, tiny_generator_folder):
    folder = tmp_path / "hits"
    result = run(folder, hits, "--minutes", MINUTES, "--model", tiny_generator_folder)
    assert result.exit_code == 0, result.output
    assert "taken for one-shots" in result.stdout
    assert "labels: bell, yes" in result.stdout
    assert yaml.safe_load((folder / "conf.yaml").read_text())["model"]["labels"] == ["bell", "yes"]
    assert len(list((folder / "after").glob("**/*.wav"))) == 8
    scores = json.loads((folder / "scores.json").read_text())
    assert [system["name"] for system in scores["systems"]] == ["tiny-generator", "hits"]
    assert "M-STFT" in result.stdout
    assert (folder / "page" / "index.html").is_file()


@pytest.mark.usefixtures("plainly")
def test_the_commands_run_by_hand(tmp_path, voices, tiny_vocoder_folder, monkeypatch):
    folder = tmp_path / "v"
    assert run(folder, voices, "--kind", "voice", "--minutes", MINUTES, "--model", tiny_vocoder_folder).exit_code == 0
    before = scores_of(folder)
    for done in ("after", "page", "before"):
        shutil.rmtree(folder / done)
    (folder / "scores.json").unlink()
    path = tmp_path / "bin" / "audiodiff"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([os.getcwd(), *sys.argv[1:]]))\n")
    path.chmod(0o755)
    environment = os.environ | {"PATH": f"{path.parent}:{os.environ['PATH']}"}
    script = subprocess.run(["sh", folder / "commands.sh"], env=environment, check=True, capture_output=True, cwd="/")
    for here, *words in map(json.loads, script.stdout.splitlines()):
        monkeypatch.chdir(here)
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
    assert scores_of(folder) == pytest.approx(before, rel=0.01)


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize("stage", ["train", "vocode", "evaluate"])
def test_it_resumes_after_a_kill(tmp_path, voices, tiny_vocoder_folder, stage, monkeypatch):
    folder = tmp_path / "v"
    arguments = (folder, voices, "--kind", "voice", "--minutes", MINUTES, "--model", tiny_vocoder_folder)
    run_command, was_stopped = new._run, []

    class Killed(BaseException):
        """As a kill -9 leaves things: nothing is tidied."""

    def stop(words):
        if words[0] == stage and not was_stopped:
            was_stopped.append(True)
            raise Killed
        run_command(words)

    monkeypatch.setattr(new, "_run", stop)
    with pytest.raises(Killed):
        CliRunner().invoke(main, ["new", *map(str, arguments)], catch_exceptions=False)
    conf = (folder / "conf.yaml").stat().st_mtime_ns
    result = run(folder)  # without the recordings, the kind and the minutes
    assert result.exit_code == 0, result.output
    assert "going on, voice" in result.stdout
    assert (folder / "conf.yaml").stat().st_mtime_ns == conf
    assert (folder / "page" / "index.html").is_file()


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_ends_training_ends_it_all(tmp_path, voices, tiny_vocoder_folder, monkeypatch, number, code):
    ended = TrainResult(step=3, skipped=0, best_loss=1.0, best_step=3, stopped_by=number)
    monkeypatch.setattr(trainer, "train", lambda *given, **named: ended)
    folder = tmp_path / "v"
    result = run(folder, voices, "--kind", "voice", "--minutes", MINUTES, "--model", tiny_vocoder_folder)
    assert result.exit_code == code
    assert not (folder / "before").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_in_training_loses_nothing(tmp_path, voices, tiny_vocoder_folder, number, code):
    folder = tmp_path / "v"
    words = command_line(folder, voices, "--kind", "voice", "--minutes", "0.5", "--model", tiny_vocoder_folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "training on" in line:
                break
        time.sleep(3)
        process.send_signal(number)
        process.communicate(timeout=300)
    assert process.returncode == code
    saved = sorted((folder / "run" / "checkpoints").glob("step-*")) if code != -9 else []
    done = subprocess.run(command_line(folder), env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert bool(saved) == ("resuming from" in done.stderr)
    assert (folder / "page" / "index.html").is_file()


@pytest.mark.usefixtures("plainly")
def test_more_minutes_train_on(tmp_path, voices, tiny_vocoder_folder):
    folder = tmp_path / "v"
    result = run(folder, voices, "--kind", "voice", "--minutes", "1e-4", "--model", tiny_vocoder_folder)
    assert result.exit_code == 1
    assert "note: 0.0001 minutes are some 0 steps here; 30 or more are advisable" in result.stderr
    assert "ended before the first step. Give more --minutes" in result.stderr
    result = run(folder, "--minutes", "2")
    assert result.exit_code == 0, result.output
    assert "--minutes 2" in (folder / "commands.sh").read_text()
    assert json.loads((folder / "project.json").read_text())["minutes"] == 2


@pytest.mark.usefixtures("plainly")
def test_it_may_lie_in_the_recordings(tmp_path, voices, tiny_vocoder_folder):
    shutil.copytree(voices, tmp_path / "in")
    folder = tmp_path / "in" / "my voice"
    arguments = (folder, tmp_path / "in", "--kind", "voice", "--minutes", MINUTES, "--model", tiny_vocoder_folder)
    assert run(*arguments).exit_code == 0
    (folder / "project.json").unlink()  # as if it had never begun; what was made is no recording
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "train: 2 recordings" in result.stdout


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "no recording can be used"),
        (lambda folder: soundfile.write(folder / "a.wav", np.zeros(8000), 8000), "a.wav is silent."),
        (
            lambda folder: soundfile.write(folder / "a.wav", np.sin(np.arange(9000)), 8000),
            "1 usable recordings are too",
        ),
        (lambda folder: (folder / "a.txt").write_text("x"), "no recording can be used"),
        (lambda folder: (folder / "a.mp3").write_bytes(b"ID3" + bytes(500)), "a.mp3"),
    ],
)
def test_recordings_that_are_too_few_are_refused_in_a_sentence(tmp_path, make, words):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    result = run(tmp_path / "v", tmp_path / "in", "--minutes", "1")
    assert result.exit_code == 1
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "v" / "project.json").exists()


def test_folders_the_wrong_way_round_are_refused(tmp_path, voices):
    result = run(voices, tmp_path, "--minutes", "1")
    assert result.exit_code == 1
    assert "already holds other files" in result.stderr


def test_it_must_know_the_minutes_before_it_looks(tmp_path, voices):
    result = run(tmp_path / "v", voices)
    assert result.exit_code == 2
    assert "Give --minutes 5, 20 or 60" in result.stderr


@pytest.mark.usefixtures("plainly")
def test_a_terminal_is_asked(tmp_path, voices, tiny_vocoder_folder, monkeypatch):
    monkeypatch.setattr(new, "_is_terminal", lambda: True)
    monkeypatch.setattr(new, "_run", lambda words: Path("run/last").mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(new, "_conclude", lambda *paths: None)
    folder = tmp_path / "v"
    result = run(folder, voices, "--kind", "voice", "--model", tiny_vocoder_folder, input="many\n7\n")
    assert result.exit_code == 0, result.output
    assert "Minutes of training: 5 (" in result.output
    assert "'many'" in result.output
    assert "--minutes 7" in (folder / "commands.sh").read_text()


@pytest.mark.usefixtures("plainly")
def test_another_kind_is_another_project(tmp_path, voices, tiny_vocoder_folder, monkeypatch):
    monkeypatch.setattr(new, "_run", lambda words: Path("run/last").mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(new, "_conclude", lambda *paths: None)
    assert run(tmp_path / "v", voices, "--kind", "voice", "--minutes", 1, "--model", tiny_vocoder_folder).exit_code == 0
    result = run(tmp_path / "v", voices, "--kind", "one-shots")
    assert result.exit_code == 2
    assert "is a project of kind voice" in result.stderr


def test_a_model_of_the_other_kind_is_refused(tmp_path, voices, tiny_generator_folder):
    result = run(tmp_path / "v", voices, "--kind", "voice", "--minutes", 1, "--model", tiny_generator_folder)
    assert result.exit_code == 1
    assert "is a generator, and voice need" in result.stderr


@pytest.mark.usefixtures("plainly")
def test_without_the_extras_it_says_so_first_and_measures_what_it_can(
    tmp_path, voices, tiny_vocoder_folder, monkeypatch
):
    for package in ("pesq", "pystoi", "pyloudnorm", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    for module in ("scoring", "listening_test"):
        monkeypatch.setattr(f"audiodiff.evaluation.{module}.find_spec", lambda name: None)
    result = run(tmp_path / "v", voices, "--kind", "voice", "--minutes", MINUTES, "--model", tiny_vocoder_folder)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    first = next(i for i, line in enumerate(lines) if "PESQ is not installed" in line)
    assert first < next(i for i, line in enumerate(lines) if "training on" in line)
    assert any("The page has no pictures" in line for line in lines[: first + 3])
    assert "M-STFT" in result.stdout
    assert "<audio " in (tmp_path / "v" / "page" / "index.html").read_text(encoding="utf-8")


def test_a_damaged_project_is_named(tmp_path, voices):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "project.json").write_text('{"kind": "voice"}')
    result = run(tmp_path / "v", voices, "--minutes", 1)
    assert result.exit_code == 1
    assert "project.json is damaged. Remove it to begin anew" in result.stderr
