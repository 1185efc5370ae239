"""Mels of other toolkits on the command line: `mel-match` names them, `vocode` refuses or converts them."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from click.testing import CliRunner

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.cli.main import main
from audiodiff.config import MEL_CONVENTIONS
from audiodiff.data.manifest import Recording, write_manifest

CLIP = Path(__file__).parents[2] / "audiodiff" / "assets" / "clips" / "sense-and-sensibility-0920.flac"
MODEL = ("--model", "speech-22k-tiny", "--device", "cpu")


def run(*arguments, data=None):
    return CliRunner().invoke(main, [*map(str, arguments)], input=data)


@pytest.fixture(scope="module")
def speech():
    return load_audio(CLIP, 22050)[0, : 2 * 22016]


@pytest.fixture(scope="module")
def own(speech):
    return MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"])(speech).numpy()


@pytest.fixture
def work(tmp_path, speech, own, monkeypatch):
    """A folder with mels of one recording in several conventions, and the recording."""
    monkeypatch.chdir(tmp_path)
    for name in ("matcha", "tacotron2", "speecht5", "coqui"):
        config = MEL_CONVENTIONS[name]
        audio = load_audio(CLIP, config.sample_rate)[0, : 2 * config.sample_rate]
        np.save(f"{name}.npy", MelSpectrogram(config)(audio).numpy())
    np.save("own.npy", own)
    np.save("log10.npy", own / math.log(10))
    np.save("standard.npy", (own + 6.2) / 2.3)
    soundfile.write("standard.wav", speech.numpy(), 22050, subtype="FLOAT")
    return tmp_path


def vocode(mel, *options):
    result = run("vocode", mel, "-o", "out.wav", "--overwrite", *MODEL, *options)
    return result, soundfile.read("out.wav")[0] if result.exit_code == 0 else None


def test_mel_match_names_the_convention_with_its_evidence(work):
    result = run("mel-match", "coqui.npy")
    assert result.exit_code == 0
    first = result.stdout.splitlines()[0]
    assert first.startswith("coqui: likeliest; values from -4 to ")
    assert "dB against usual speech" in first
    result = run("mel-match", "log10.npy")
    assert result.stdout.startswith("log10: likeliest; ")


def test_what_mel_match_writes_converts(work, own):
    """The mean and deviation of a data set, fitted to a recording."""
    result = run("mel-match", "standard.npy", "--audio", "standard.wav", "--output", "mine.yaml")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(r"one mean and standard deviation: 0\.0\d dB", result.stdout.splitlines()[0])
    written = yaml.safe_load(Path("mine.yaml").read_text())
    assert written["base"] == "hifigan-22k"
    assert (written["mean"], written["std"]) == (pytest.approx(-6.2, abs=0.01), pytest.approx(2.3, rel=0.002))
    _, expected = vocode("own.npy")
    result, made = vocode("standard.npy", "--mel-convention", "mine.yaml")
    assert "converted to 'hifigan-22k', exactly" in result.stderr
    np.testing.assert_allclose(made, expected, atol=0.01)


def test_mel_match_lists_the_table():
    result = run("mel-match", "--list")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in MEL_CONVENTIONS)
    assert "tacotron2, speechbrain, philsyn: NVIDIA Tacotron 2" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give mels, or --list"),
        (("own.npy", "--audio", "other"), "has 0 recordings of its name in --audio"),
        (("own.npy", "standard.npy", "odd.npy"), "no number of bins in common"),
    ],
)
def test_mel_match_says_what_it_needs(work, arguments, message):
    (work / "other").mkdir()
    np.save("odd.npy", np.zeros((37, 50), np.float32))
    result = run("mel-match", *arguments)
    assert result.exit_code != 0
    assert message in result.stderr


def test_vocode_refuses_what_is_unlikely_but_with_force(work):
    result, _ = vocode("log10.npy")
    assert result.exit_code == 1
    assert "looks like log10" in result.stderr
    assert "not like hifigan-22k" in result.stderr
    assert not Path("out.wav").exists()
    result, made = vocode("log10.npy", "--force")
    assert result.exit_code == 0
    assert len(made) == 2 * 22016


def test_vocode_converts_exactly(work):
    _, expected = vocode("own.npy")
    result, made = vocode("matcha.npy", "--mel-convention", "matcha")
    assert "mels of convention 'matcha' are converted to 'hifigan-22k', exactly" in result.stderr
    n = min(len(made), len(expected))
    np.testing.assert_allclose(made[: n - 1024], expected[: n - 1024], atol=2e-3)
    result, _ = vocode("own.npy", "--mel-convention", "matcha")
    assert result.exit_code == 1
    assert "not like matcha" in result.stderr or "convention 'matcha' has them from" in result.stderr


def test_vocode_takes_another_rate_with_resample_alone(work):
    result, _ = vocode("speecht5.npy", "--mel-convention", "speecht5")
    assert result.exit_code == 1
    assert "one per 256 at 22050 Hz. Use --resample" in result.stderr
    result, made = vocode("speecht5.npy", "--mel-convention", "speecht5", "--resample")
    assert "with an error of about 1." in result.stderr
    assert "nothing is known above 7600 Hz" in result.stderr
    assert len(made) / 22050 == pytest.approx(2, abs=0.02)


def test_a_stream_is_converted_as_a_file_is(work):
    _, expected = vocode("tacotron2.npy", "--mel-convention", "tacotron2")
    stream = ("vocode", "-", "-o", "-", *MODEL)
    mel = np.load("tacotron2.npy")
    file = io.BytesIO()
    for piece in np.array_split(mel, 6, axis=1):
        np.save(file, piece)
    result = run(*stream, "--mel-convention", "tacotron2", "--output-format", "s16le", data=file.getvalue())
    assert result.exit_code == 0, result.stderr
    np.testing.assert_allclose(np.frombuffer(result.stdout_bytes, "<i2") / 32768, expected, atol=2e-3)
    log10 = io.BytesIO()
    np.save(log10, np.load("log10.npy"))
    refused = run(*stream, data=log10.getvalue())
    assert refused.exit_code == 1
    assert "looks like log10" in refused.stderr
    assert run(*stream, "--force", data=log10.getvalue()).exit_code == 0


def test_a_manifest_says_what_its_mels_follow(work):
    recording = {"audio": "standard.wav", "seconds": 2.0, "sample_rate": 22050, "speaker": "a"}
    mels = {"own": "hifigan-22k", "matcha": "matcha"}
    outputs = {}
    for name, convention in mels.items():
        one = Recording(**recording, mel=f"{name}.npy", mel_convention=convention)
        write_manifest(work / f"{name}.jsonl", [one])
        result = run("vocode", f"{name}.jsonl", "-o", name, *MODEL)
        assert result.exit_code == 0, result.stderr
        outputs[name] = soundfile.read(f"{name}/standard.wav")[0]
    n = min(map(len, outputs.values())) - 1024
    np.testing.assert_allclose(outputs["matcha"][:n], outputs["own"][:n], atol=2e-3)
