"""Manifests survive the disk, name what is wrong with them, and are split without moving what was there before."""

import json
import os

import numpy as np
import pytest

from audiodiff.data.manifest import Recording, read_manifest, scan_folder, split, write_manifest
from audiodiff.errors import DataError


def recordings_named(names, **fields):
    return [Recording(audio=name, seconds=1.0, sample_rate=8000, **fields) for name in names]


@pytest.fixture
def recordings():
    return recordings_named([f"clips/{i}.wav" for i in range(400)])


def test_every_field_survives(tmp_path):
    recording = Recording(
        audio=tmp_path / "corpus" / "grün.wav",
        seconds=1.25,
        sample_rate=8000,
        n_samples=10000,
        channels=2,
        speaker="anna",
        label="yes",
        text="Grüße",
        mel=tmp_path / "mels" / "grün.npy",
        bandwidth=3400.0,
    )
    path = tmp_path / "lists" / "train.jsonl"
    write_manifest(path, [recording])
    (read,) = read_manifest(path)
    assert {name for name, value in recording.model_dump().items() if value is None} == set()
    assert read.audio.resolve() == recording.audio
    assert read.mel.resolve() == recording.mel
    assert read.model_copy(update={"audio": recording.audio, "mel": recording.mel}) == recording


def test_paths_in_the_file_are_relative_and_move_with_it(tmp_path):
    write_manifest(tmp_path / "a" / "m.jsonl", recordings_named([tmp_path / "a" / "x.wav", tmp_path / "b" / "y.wav"]))
    assert [json.loads(line)["audio"] for line in (tmp_path / "a" / "m.jsonl").open()] == ["x.wav", "../b/y.wav"]
    (tmp_path / "a").rename(tmp_path / "c")
    assert read_manifest(tmp_path / "c" / "m.jsonl")[0].audio == tmp_path / "c" / "x.wav"


def test_relative_paths_hold_behind_a_linked_folder(tmp_path, save_voice):
    save_voice(tmp_path / "deep" / "er" / "corpus" / "x.wav", 0.1)
    os.symlink(tmp_path / "deep" / "er", tmp_path / "link")
    write_manifest(tmp_path / "link" / "lists" / "m.jsonl", recordings_named([tmp_path / "link" / "corpus" / "x.wav"]))
    assert read_manifest(tmp_path / "link" / "lists" / "m.jsonl")[0].audio.is_file()


def test_an_absolute_path_is_read_too(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"audio": "/corpus/x.wav", "seconds": 1, "sample_rate": 8000}\n\n')
    assert str(read_manifest(tmp_path / "m.jsonl")[0].audio) == "/corpus/x.wav"


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("not json", "line"),
        ('{"audio": "x.wav", "seconds": 1}', "sample_rate"),
        ('{"audio": "x.wav", "seconds": 0, "sample_rate": 8000}', "seconds"),
        ('{"audio": "x.wav", "seconds": NaN, "sample_rate": 8000}', "seconds"),
        ('{"audio": "x.wav", "seconds": 1, "sample_rate": 8000, "speeker": "a"}', "speeker"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, named):
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"audio": "a.wav", "seconds": 1, "sample_rate": 8000}}\n{line}\n')
    with pytest.raises(DataError, match=f"m.jsonl:2 is no recording: {named}"):
        read_manifest(path)


def test_a_missing_or_binary_manifest_is_refused(tmp_path):
    with pytest.raises(DataError, match="absent.jsonl cannot be read"):
        read_manifest(tmp_path / "absent.jsonl")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="binary.jsonl cannot be read"):
        read_manifest(tmp_path / "binary.jsonl")


@pytest.mark.parametrize("bad", [{"seconds": -1.0}, {"audio": "a.wav"}])
def test_a_manifest_that_would_be_wrong_is_not_written(tmp_path, bad):
    path = tmp_path / "m.jsonl"
    write_manifest(path, recordings_named([tmp_path / "a.wav"]))
    before = path.read_text()
    first, second = recordings_named([tmp_path / "a.wav", tmp_path / "b.wav"])
    if "audio" in bad:
        bad = {"audio": tmp_path / bad["audio"]}
    with pytest.raises(DataError):
        write_manifest(path, [first, second.model_copy(update=bad)])
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_scan_reads_headers_and_collects_what_is_broken(tmp_path, speech_folder, save_voice):
    save_voice(tmp_path / "good" / "b.flac", 0.5, 16000)
    save_voice(tmp_path / "a.wav", 0.25)
    (tmp_path / "text.wav").write_text("I am no sound.")
    (tmp_path / "notes.txt").write_text("not looked at")
    cut = save_voice(tmp_path / "cut.wav", 0.5)
    cut.write_bytes(cut.read_bytes()[:3000])
    scan = scan_folder(tmp_path)
    assert [(r.audio.name, r.seconds, r.sample_rate, r.n_samples, r.channels) for r in scan.recordings] == [
        ("a.wav", 0.25, 8000, 2000, 1),
        ("b.flac", 0.5, 16000, 8000, 1),
    ]
    assert [path.name for path, reason in scan.unreadable if reason] == ["cut.wav", "text.wav"]
    assert len(scan_folder(speech_folder).recordings) == 8


def test_scan_lists_a_name_that_no_manifest_can_hold(tmp_path, save_voice):
    wave = save_voice(tmp_path / "x.wav", 0.1)
    os.rename(wave, os.fsencode(tmp_path) + b"/\xff.wav")
    assert "no UTF-8" in scan_folder(tmp_path).unreadable[0][1]


def test_scan_of_no_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="absent is no folder"):
        scan_folder(tmp_path / "absent")


def test_split_has_the_shares_and_loses_nothing(recordings):
    parts = split(recordings, 0.2, 0.1)
    assert sorted(r.audio for part in parts for r in part) == sorted(r.audio for r in recordings)
    # A binomial count is within three standard deviations of its mean.
    for part, share in zip(parts, (0.7, 0.2, 0.1), strict=True):
        assert abs(len(part) - 400 * share) < 3 * np.sqrt(400 * share * (1 - share))


def test_added_files_do_not_move_the_others(recordings):
    few, many = split(recordings[::2], 0.2, 0.1), split(recordings, 0.2, 0.1)
    assert all(set(ours) <= set(theirs) for ours, theirs in zip(few, many, strict=True))


def test_seed_and_nothing_else_decides_the_split(recordings):
    assert split(recordings, 0.2, 0.1, 1) == split(recordings, 0.2, 0.1, 1)
    assert split(recordings, 0.2, 0.1, 1) != split(recordings, 0.2, 0.1, 2)


def test_a_corpus_may_move(recordings, tmp_path):
    moved = [r.model_copy(update={"audio": tmp_path / r.audio}) for r in recordings]
    here, there = split(recordings, 0.2, root="."), split(moved, 0.2, root=tmp_path)
    assert [r.audio for r in here.valid] == [r.audio.relative_to(tmp_path) for r in there.valid]


def test_a_share_is_never_empty_and_no_share_always_is():
    few = recordings_named(["a.wav", "b.wav", "c.wav"])
    assert [len(part) for part in split(few, 0.01, 0.01)] == [1, 1, 1]
    assert [len(part) for part in split(few, 0, 0)] == [3, 0, 0]
    assert [len(part) for part in split([], 0.1, 0.1)] == [0, 0, 0]


def test_many_speakers_stay_whole_and_few_do_not():
    def spoken(n_speakers):
        return [
            r.model_copy(update={"speaker": str(i % n_speakers)})
            for i, r in enumerate(recordings_named([f"{i}.wav" for i in range(200)]))
        ]

    many = split(spoken(20), 0.2, 0.2)
    assert set.isdisjoint(*({r.speaker for r in part} for part in many[1:]))
    assert {r.speaker for r in many.train}.isdisjoint(r.speaker for part in many[1:] for r in part)
    few = split(spoken(2), 0.2, 0.2)
    assert all({r.speaker for r in part} == {"0", "1"} for part in few)


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5)])
def test_impossible_shares_are_refused(recordings, shares):
    with pytest.raises(DataError, match="cannot hold out"):
        split(recordings, *shares)
