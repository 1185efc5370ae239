"""`audiodiff prepare` turns a folder into manifests, and says what it could not read."""

import re

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.audio.io import audio_info
from audiodiff.cli.main import main
from audiodiff.data.manifest import read_manifest


def prepare(*arguments):
    return CliRunner().invoke(main, ["prepare", *map(str, arguments)])


def listed(folder):
    return {
        name: [recording.audio.name for recording in read_manifest(folder / f"{name}.jsonl")]
        for name in ("train", "valid", "test")
    }


def test_a_folder_becomes_three_manifests(speech_folder, tmp_path):
    result = prepare(speech_folder, tmp_path / "lists", "--valid-fraction", 0.25, "--test-fraction", 0.25)
    assert (result.exit_code, result.stderr) == (0, "")
    parts = listed(tmp_path / "lists")
    assert sorted(name for part in parts.values() for name in part) == sorted(
        path.name for path in speech_folder.rglob("*.*")
    )
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'lists' / 'train.jsonl'}: {len(parts['train'])} recordings, ")
    assert re.search(r" (\d+\.\d minutes|\d+\.\d s)$", lines[0])
    assert len(lines) == 3
    assert all(recording.audio.is_file() for recording in read_manifest(tmp_path / "lists" / "train.jsonl"))


def test_shares_and_seed_change_the_division(speech_folder, tmp_path):
    divisions = []
    for i, options in enumerate(
        (
            [],
            ["--seed", 1],
            ["--valid-fraction", 0.6],
            ["--test-fraction", 0.6],
            ["--valid-fraction", 0, "--test-fraction", 0],
        )
    ):
        assert prepare(speech_folder, tmp_path / str(i), *options).exit_code == 0
        divisions.append(str(listed(tmp_path / str(i))))
    assert len(set(divisions)) == 5


def test_unreadable_files_are_named_and_the_good_ones_done(tmp_path, save_voice):
    for i in range(4):
        save_voice(tmp_path / "corpus" / f"{i}.wav", 0.2, seed=i)
    (tmp_path / "corpus" / "text.wav").write_text("no sound")
    result = prepare(tmp_path / "corpus", tmp_path / "lists")
    assert result.exit_code == 1
    assert "left out:" in result.stderr
    assert "text.wav" in result.stderr
    assert "1 of 5 files could not be read" in result.stderr
    assert sum(len(part) for part in listed(tmp_path / "lists").values()) == 4


def test_a_folder_without_audio_is_an_error(tmp_path):
    result = prepare(tmp_path, tmp_path / "lists")
    assert result.exit_code == 1
    assert "holds no readable audio" in result.stderr
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize("arguments", [["absent", "lists"], [".", "lists", "--valid-fraction", "1"], ["."]])
def test_wrong_usage_is_2(arguments):
    assert prepare(*arguments).exit_code == 2


def test_impossible_shares_are_an_error(speech_folder, tmp_path):
    result = prepare(speech_folder, tmp_path, "--valid-fraction", 0.5, "--test-fraction", 0.5)
    assert result.exit_code == 1
    assert "cannot hold out" in result.stderr


def test_lists_decide_instead_of_shares(speech_folder, tmp_path):
    (tmp_path / "valid.txt").write_text("clip0\nclip3\n")
    (tmp_path / "test.txt").write_text("clip5\n")
    options = ("--valid-list", tmp_path / "valid.txt", "--test-list", tmp_path / "test.txt")
    assert prepare(speech_folder, tmp_path / "lists", *options).exit_code == 0
    parts = listed(tmp_path / "lists")
    assert (sorted(parts["valid"]), parts["test"]) == (["clip0.wav", "clip3.wav"], ["clip5.flac"])
    assert len(parts["train"]) == 5


@pytest.mark.parametrize(
    ("valid", "test", "message"),
    [
        ("clip0\nno body", "", "1 of the names listed belong to no recording, such as 'no body'"),
        ("clip0", "clip0.wav", "'clip0' is in the validation list"),
        ("clip0", "\n \n", "test.txt lists no names"),
        ("\n".join(f"clip{i}" for i in range(8)), "", "the lists name all 8 recordings"),
    ],
)
def test_lists_that_cannot_be_are_refused(speech_folder, tmp_path, valid, test, message):
    (tmp_path / "valid.txt").write_text(valid)
    (tmp_path / "test.txt").write_text(test)
    options = ["--valid-list", tmp_path / "valid.txt"] + ["--test-list", tmp_path / "test.txt"] * bool(test)
    result = prepare(speech_folder, tmp_path / "lists", *options)
    assert result.exit_code == 1
    assert message in result.stderr


def test_workers_change_nothing(speech_folder, tmp_path):
    divisions = []
    for workers in (1, 3):
        assert prepare(speech_folder, tmp_path, "--workers", workers, "--bandwidth").exit_code == 0
        divisions.append(listed(tmp_path))
    assert divisions[0] == divisions[1]
    assert prepare(speech_folder, tmp_path, "--workers", 0).exit_code == 2


def test_a_file_whose_samples_cannot_be_read_is_left_out_unless_headers_are_enough(tmp_path, save_voice):
    for i in range(4):
        save_voice(tmp_path / "corpus" / f"{i}.wav", 0.2, seed=i)
    soundfile.write(tmp_path / "corpus" / "nan.wav", np.full(1000, np.nan), 8000, subtype="FLOAT")
    assert prepare(tmp_path / "corpus", tmp_path / "lists", "--headers-only").exit_code == 0
    for more in ([], ["--headers-only", "--bandwidth"]):
        result = prepare(tmp_path / "corpus", tmp_path / "lists", *more)
        assert result.exit_code == 1
        assert "nan.wav has 1000 samples that are NaN" in result.stderr


def test_a_header_that_was_never_finished_is_warned_of_and_its_length_is_the_true_one(tmp_path, save_voice):
    for number in range(12):
        save_voice(tmp_path / "in" / f"{number}.wav", 0.5, seed=number)
    path = tmp_path / "in" / "7.wav"
    true_length, content = audio_info(path).n_samples, bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = bytes(4)
    path.write_bytes(content)
    result = prepare(tmp_path / "in", tmp_path / "out", "--valid-fraction", 0.25, "--test-fraction", 0.25)
    assert result.exit_code == 0, result.output
    assert f"{path}: its header was never finished: it promises 0 bytes of audio" in result.stderr
    manifests = [read_manifest(tmp_path / "out" / f"{part}.jsonl") for part in ("train", "valid", "test")]
    assert {one.audio.name: one.n_samples for part in manifests for one in part}[path.name] == true_length
