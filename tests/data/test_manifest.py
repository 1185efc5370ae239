"""Manifests survive the disk, and name what is wrong with them."""

import json
import os

import pytest

from audiodiff.data.manifest import Recording, Synthesis, read_manifest, scan_folder, write_manifest
from audiodiff.errors import DataError


def recordings_named(names, **fields):
    return [Recording(audio=name, seconds=1.0, sample_rate=8000, **fields) for name in names]


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
        mel_convention="hifigan-22k",
        bandwidth=3400.0,
        vector=tmp_path / "vectors" / "grün.npy",
        synthesis=Synthesis(model="words", sha256="ab12", seed=7, nearest="a.wav", similarity=0.5),
    )
    path = tmp_path / "lists" / "train.jsonl"
    write_manifest(path, [recording])
    (read,) = read_manifest(path)
    assert {name for name, value in recording.model_dump().items() if value is None} == set()
    assert read.audio.resolve() == recording.audio
    assert read.mel.resolve() == recording.mel
    assert read.vector.resolve() == recording.vector
    paths = {"audio": recording.audio, "mel": recording.mel, "vector": recording.vector}
    assert read.model_copy(update=paths) == recording


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


def test_scan_tells_how_far_it_is(speech_folder):
    seen = []
    assert len(scan_folder(speech_folder, 2, lambda *numbers: seen.append(numbers)).recordings) == 8
    assert seen == [(number, 8) for number in range(1, 9)]


def test_a_manifest_of_another_program_is_read(tmp_path):
    texts = ["one \u2028 \x85 two", "nul \x00"]
    entries = [{"audio": f"{i}.wav", "seconds": 1, "sample_rate": 8000, "text": t} for i, t in enumerate(texts)]
    lines = "\r\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    (tmp_path / "m.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert [recording.text for recording in read_manifest(tmp_path / "m.jsonl")] == texts


def test_texts_and_names_survive_a_manifest(tmp_path):
    recordings = recordings_named([tmp_path / f"a{character}b.wav" for character in "\u2028\x85\x0b\x1e\r\n "])
    recordings = [recording.model_copy(update={"text": recording.audio.stem}) for recording in recordings]
    write_manifest(tmp_path / "m.jsonl", recordings)
    assert read_manifest(tmp_path / "m.jsonl") == recordings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": 3}, "label: Input should be a valid string, not 3; write it in quotes"),
        ({"seed": 1}, "seed: Extra inputs are not permitted, not 1"),
        ({"audio": "a\0b.wav"}, r"audio: .*NUL.*'a\\x00b.wav'"),
        ({"sample_rate": "fast"}, "sample_rate: .*'fast'"),
    ],
)
def test_a_bad_value_is_shown(tmp_path, values, message):
    entry = {"audio": "x.wav", "seconds": 1, "sample_rate": 8000} | values
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps(entry))
    with pytest.raises(DataError, match=f"m.jsonl:2 is no recording: {message}"):
        read_manifest(tmp_path / "m.jsonl")
