"""`audiodiff vocode --ray` makes what `audiodiff vocode` makes, resumes, and is not stopped by a bad file."""

import sys

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.audio.io import load_audio
from audiodiff.cli.main import main
from audiodiff.data.manifest import Recording
from audiodiff.pipelines import Vocoder
from audiodiff.pipelines.vocode_files import RayWorker, VocodeOptions


def run(verb, *arguments):
    return CliRunner().invoke(main, [verb, *map(str, arguments)])


@pytest.fixture
def mels(tmp_path, tiny_vocoder_folder, save_voice):
    """Five mels, and one that is none."""
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")
    (tmp_path / "mels").mkdir()
    for i in range(5):
        audio = load_audio(save_voice(tmp_path / "audio" / f"{i}.wav", 0.3 + 0.1 * (i % 2), seed=i))
        np.save(tmp_path / "mels" / f"{i}.npy", vocoder.mel(audio)[0].numpy())
    (tmp_path / "mels" / "bad.npy").write_bytes(b"no mel")
    return tmp_path / "mels"


def test_a_process_vocodes_its_batch_and_says_what_failed(mels, tiny_vocoder_folder, tmp_path):
    line = Recording(audio=mels / "1.wav", mel=mels / "1.npy", seconds=0.4, sample_rate=8000).model_dump_json()
    batch = {
        "source": [str(mels / "0.npy"), str(mels / "bad.npy"), str(mels / "1.wav")],
        "target": [str(tmp_path / "0.wav"), "bad.wav", str(tmp_path / "1.wav")],
        "recording": ["", "", line],
    }
    result = RayWorker(str(tiny_vocoder_folder), "cpu", "auto", VocodeOptions())(batch)
    assert sorted(error is not None for error in result["error"]) == [False, False, True]
    assert soundfile.info(tmp_path / "1.wav").duration == pytest.approx(0.4)
    assert soundfile.info(tmp_path / "0.wav").samplerate == 8000


def test_without_ray_the_error_says_what_to_install(mels, tiny_vocoder_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("vocode", mels, "--ray", "local", "--output", tmp_path / "out", "--model", tiny_vocoder_folder)
    assert result.exit_code == 1
    assert "pip install 'audiodiff[cluster]'" in result.stderr


def test_with_everything_there_ray_is_not_even_asked_for(mels, tiny_vocoder_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "out").mkdir()
    for path in mels.iterdir():
        (tmp_path / "out" / f"{path.stem}.wav").touch()
    result = run("vocode", mels, "--ray", "local", "--output", tmp_path / "out", "--model", tiny_vocoder_folder)
    assert (result.exit_code, result.stderr) == (0, "6 of 6 skipped; --overwrite replaces them\n")


@pytest.mark.slow
def test_on_a_local_ray_it_equals_vocode_and_goes_on_where_it_was(mels, tiny_vocoder_folder, tmp_path):
    pytest.importorskip("ray")
    model = ["--model", tiny_vocoder_folder, "--device", "cpu"]
    assert run("vocode", mels, "--output", tmp_path / "one", *model).exit_code == 1
    (tmp_path / "many").mkdir()
    (tmp_path / "one" / "3.wav").rename(tmp_path / "many" / "3.wav")
    before = (tmp_path / "many" / "3.wav").stat().st_mtime_ns
    result = run("bulk", mels, "--output", tmp_path / "many", *model, "--batch-size", 2, "--processes", 1)
    assert "`audiodiff bulk` is now `audiodiff vocode --ray ADDRESS|local`" in result.stderr
    assert result.exit_code == 1, result.output
    assert "1 of 6 skipped" in result.stderr
    assert result.stdout.count(" s, synthesised in ") == 4
    assert "bad.npy cannot be read as a mel" in result.stderr
    assert (tmp_path / "many" / "3.wav").stat().st_mtime_ns == before
    for i in (0, 1, 2, 4):
        ours, theirs = (soundfile.read(tmp_path / name / f"{i}.wav")[0] for name in ("many", "one"))
        assert np.abs(ours - theirs).max() < 1e-4
    again = run("vocode", mels, "--ray", "local", "--output", tmp_path / "many", *model)
    assert "5 of 6 skipped" in again.stderr
