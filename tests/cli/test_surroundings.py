"""Full disks, and output in every encoding: a sentence, an exit code, and nothing half-written."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.config import DataConfig, parse_config

RUN = "training: {steps: 12, batch_size: 2, validate_every: 4, validation_crops: 2, validation_levels: 2, \
checkpoint_every: 4, sample_every: 4}"


def audiodiff(*words, limit=None, **environment):
    """Run the command line in a process of its own, whose files may have so many bytes."""

    def restrict():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "audiodiff", *map(str, words)],
        capture_output=True,
        timeout=300,
        env=os.environ | environment,
        preexec_fn=restrict,
    )


@pytest.fixture
def recording(tmp_path, write_voice):
    return write_voice(tmp_path / "in" / "sound.wav", 2.0, 8000)


@pytest.fixture
def write_voice(voice):
    import soundfile

    def write(path: Path, seconds: float, rate: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, voice(seconds, rate, 1), rate)
        return path

    return write


VERBS = {
    "vocode": ("vocode", "{recording}", "-o", "{out}/a.wav", "--model", "{vocoder}", "--steps", "1"),
    "generate": ("generate", "--model", "{generator}", "--label", "yes", "--seconds", "2", "-o", "{out}/clips"),
    "repair": (
        "repair",
        "{recording}",
        "--gap",
        "0.5-0.51",
        "-o",
        "{out}/a.wav",
        "--model",
        "{vocoder}",
        "--steps",
        "1",
    ),
    "plot": ("plot", "waveform", "{recording}", "-o", "{out}/a.png"),
    "export": ("export", "{vocoder}", "{out}/model"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    verb, tmp_path, recording, tiny_vocoder_folder, tiny_generator_folder
):
    out = tmp_path / "out"
    out.mkdir()
    names = {"out": out, "recording": recording, "vocoder": tiny_vocoder_folder, "generator": tiny_generator_folder}
    result = audiodiff(*(word.format(**names) for word in VERBS[verb]), limit=4000)
    lines = result.stderr.decode()
    assert result.returncode == 1, lines
    assert "Traceback" not in lines
    assert "unexpected" not in lines
    assert f"{out}/" in lines
    assert "cannot be written: File too large. The system allows no larger file here: raise `ulimit -f`" in lines
    assert [path for path in out.rglob("*") if path.is_file()] == []


def test_training_on_a_full_disk_prints_no_traceback(tmp_path, write_voice):
    for name in "abc":
        write_voice(tmp_path / "in" / f"{name}.wav", 1.0, 8000)
    conf = tmp_path / "run.yaml"
    model = "model: {sample_rate: 8000, network: {channels: 8, layers: 2, patch: 16}}"
    conf.write_text(f"{model}\ndata: {{train: {tmp_path / 'in'}, crop_seconds: 0.1}}\n{RUN}\n")
    result = audiodiff("train", conf, "--run", tmp_path / "run", limit=4000)
    lines = result.stderr.decode()
    assert result.returncode == 1, lines
    assert "Traceback" not in lines
    assert "Exception in thread" not in lines
    assert "cannot be written: File too large" in lines
    assert not (tmp_path / "run" / "last").exists()


def test_a_full_stdout_is_a_sentence():
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "audiodiff", "plot", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=100
        )
        assert b"Traceback" not in result.stderr
        result = subprocess.run(
            [sys.executable, "-m", "audiodiff", "info"], stdout=full, stderr=subprocess.PIPE, timeout=100
        )
    assert result.returncode == 1
    assert result.stderr.decode().strip() == (
        "error: the output cannot be written: No space left on device. Make room on the disk, or choose another folder."
    )


@pytest.mark.parametrize(
    "encoding", ["ascii", *(pytest.param(name, marks=pytest.mark.slow) for name in ("latin-1", "cp1252", "utf-8"))]
)
def test_names_that_the_output_cannot_hold_end_no_batch(encoding, tmp_path, write_voice, tiny_vocoder_folder):
    inputs = [write_voice(tmp_path / "in" / name, 0.3, 8000) for name in ("é☃.wav", "z.wav")]
    words = ("vocode", tmp_path / "in", "-o", tmp_path / "out", "--model", tiny_vocoder_folder, "--steps", "1")
    result = audiodiff(*words, PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
    assert all((tmp_path / "out" / path.name).is_file() for path in inputs)
    if encoding in ("latin-1", "cp1252"):
        assert "é\\u2603.wav" in result.stdout.decode(encoding)
    facts = audiodiff("doctor", tmp_path / "in", "--json", PYTHONIOENCODING=encoding)
    assert json.loads(facts.stdout.decode("utf-8" if encoding == "ascii" else encoding))["recordings"] == 2


def test_help_is_printed_in_every_encoding():
    result = audiodiff("evaluate", "sets", "--help", PYTHONIOENCODING="koi8-r")
    assert result.returncode == 0
    assert "Fr\\xe9chet" in result.stdout.decode("koi8-r")


@pytest.mark.parametrize("name", ["pipe.wav", "pipe.npy", "loop.wav", "/dev/zero"])
def test_pipes_devices_and_loops_end_no_batch_and_are_not_waited_for(
    name, tmp_path, monkeypatch, write_voice, tiny_vocoder_folder
):
    monkeypatch.chdir(tmp_path)
    write_voice(tmp_path / "z.wav", 0.3, 8000)
    for pipe in ("pipe.wav", "pipe.npy"):
        os.mkfifo(pipe)
    Path("loop.wav").symlink_to("loop.wav")
    result = audiodiff("vocode", name, "z.wav", "-o", "out", "--model", tiny_vocoder_folder, "--steps", "1")
    assert result.returncode == 1
    assert (tmp_path / "out" / "z.wav").is_file()
    assert b"1 of 2 failed" in result.stderr
    assert f"{name} {'does not exist' if 'loop' in name else 'is no regular file'}".encode() in result.stderr
    assert b"unexpected" not in result.stderr


def test_a_folder_with_a_pipe_and_a_loop_is_read(tmp_path, write_voice):
    for name in "abc":
        write_voice(tmp_path / "in" / f"{name}.wav", 1.0, 8000)
    for pipe in ("x.wav", "x", "x.txt"):
        os.mkfifo(tmp_path / "in" / pipe)
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in" / "loop")
    (tmp_path / "in" / "loop.wav").symlink_to(tmp_path / "in" / "loop.wav")
    result = audiodiff("prepare", tmp_path / "in", tmp_path / "out")
    assert b"2 of 5 files could not be read" in result.stderr
    assert b"x.wav is no regular file" in result.stderr


@pytest.mark.parametrize(
    "words", [("train", "{}"), ("doctor", "{}"), ("evaluate", "show", "{}"), ("plot", "mel", "{}")]
)
@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_pipes_and_devices_are_no_files(words, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    result = CliRunner().invoke(
        main, [*(word.format(name) for word in words), *(["-o", "x.png"] * (words[0] == "plot"))]
    )
    assert result.exit_code == 2
    assert f"'{name}' is a pipe or a device. Give a file or a folder on a disk." in result.output


def test_the_home_folder_is_expanded(tmp_path, monkeypatch, write_voice):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_voice(tmp_path / "a.wav", 0.3, 8000)
    result = CliRunner().invoke(main, ["plot", "waveform", "~/a.wav", "--output=~/a.png"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.png").is_file()
    data = parse_config(DataConfig, {"train": "~/clips", "valid": "~/more"}, "it")
    assert (data.train, data.valid) == (str(tmp_path / "clips"), str(tmp_path / "more"))
