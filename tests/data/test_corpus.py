"""A run finds its recordings in a folder or a manifest, holds some out, and says what is missing."""

import logging

import pytest

from audiodiff.config import DataConfig
from audiodiff.data.corpus import open_recordings
from audiodiff.data.manifest import scan_folder, write_manifest
from audiodiff.errors import DataError


def names(recordings):
    return {recording.audio.name for recording in recordings}


def opened(train, **options):
    return open_recordings(DataConfig(train=str(train), **options))


def test_a_share_of_a_folder_is_held_out(speech_folder):
    train, valid = opened(speech_folder, valid_fraction=0.3)
    assert names(train).isdisjoint(names(valid))
    assert len(train) + len(valid) == 8
    assert len(opened(speech_folder, valid_fraction=0.6)[1]) > len(valid) > 0


def test_a_manifest_and_its_folder_hold_out_the_same(speech_folder, tmp_path, save_voice):
    for i in range(6):
        save_voice(tmp_path / "corpus" / f"{i}.wav", 0.1, seed=i)
    write_manifest(tmp_path / "corpus" / "m.jsonl", scan_folder(tmp_path / "corpus").recordings)
    manifest, folder = (opened(tmp_path / "corpus" / source, valid_fraction=0.3) for source in ("m.jsonl", "."))
    assert [names(part) for part in manifest] == [names(part) for part in folder]


def test_validation_can_be_given(speech_folder):
    train, valid = opened(speech_folder / "a", valid=str(speech_folder / "b"))
    assert (len(train), len(valid)) == (4, 4)


def test_the_same_file_in_both_is_refused(speech_folder):
    with pytest.raises(DataError, match=r"4 files are \(.*, \.\.\.\) in both"):
        opened(speech_folder, valid=str(speech_folder / "b"))


def test_unreadable_files_are_left_out_with_a_warning(tmp_path, save_voice, caplog):
    for i in range(3):
        save_voice(tmp_path / f"{i}.wav", 0.1)
    (tmp_path / "bad.wav").write_text("no sound")
    with caplog.at_level(logging.WARNING):
        train, valid = opened(tmp_path)
    assert len(train) + len(valid) == 3
    assert "1 file is" in caplog.text
    assert "bad.wav" in caplog.text


def test_files_that_a_manifest_misses_are_named(tmp_path, save_voice):
    for i in range(5):
        save_voice(tmp_path / f"{i}.wav", 0.1)
    write_manifest(tmp_path / "m.jsonl", scan_folder(tmp_path).recordings)
    (tmp_path / "3.wav").unlink()
    with pytest.raises(DataError, match=r"1 file is \(.*3.wav\) in .*m.jsonl but not there"):
        opened(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no readable audio"),
        ({"one.wav": 0.1}, "too few recordings"),
        ({"empty.jsonl": ""}, "lists no recordings"),
        ({"a.txt": "text"}, "neither a manifest"),
        ({"gone/": None}, "does not exist"),
    ],
)
def test_nothing_to_train_on_is_refused_with_advice(tmp_path, save_voice, content, message):
    source = tmp_path
    for name, what in content.items():
        if isinstance(what, float):
            save_voice(tmp_path / name, what)
        else:
            source = tmp_path / name
            if what is not None:
                source.write_text(what)
    with pytest.raises(DataError, match=message):
        opened(source)
