"""Manifests survive the disk, and name what is wrong with them."""

import json
import os

import pytest

from audiodiff.data.manifest import (
    Recording,
    Synthesis,
    find_audio,
    list_folder,
    read_manifest,
    scan_folder,
    write_manifest,
)
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
        ("not json", "Invalid JSON"),
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
        ({"seed": 1}, "seed: unknown key"),
        ({"labels": "cat"}, r"labels: unknown key; did you mean label\?"),
        ({"audio": "a\0b.wav"}, r"audio: .*NUL.*'a\\x00b.wav'"),
        ({"sample_rate": "fast"}, "sample_rate: .*'fast'"),
        ({"vector": 5}, "vector: Input is not a valid path, not 5; vector: Input should be a valid array, not 5"),
        ({"n_samples": 80000}, "80000 samples are 10 s, not 1"),
    ],
)
def test_a_bad_value_is_shown(tmp_path, values, message):
    entry = {"audio": "x.wav", "seconds": 1, "sample_rate": 8000} | values
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps(entry))
    with pytest.raises(DataError, match=f"m.jsonl:2 is no recording: {message}"):
        read_manifest(tmp_path / "m.jsonl")


def test_a_field_that_is_there_twice_is_named(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        '{"audio": "x.wav", "seconds": 1, "sample_rate": 8000, "text": "\\":", "seconds": 2}'
    )
    with pytest.raises(DataError, match="m.jsonl:1 is no recording: 'seconds' is there twice"):
        read_manifest(tmp_path / "m.jsonl")


# --- folders ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def touch(tmp_path):
    """Give a function that makes files in a folder, by their names there, and returns the folder."""

    def make(*names, content=b""):
        for name in names:
            (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "corpus" / name).write_bytes(content)
        return tmp_path / "corpus"

    return make


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_find_audio_is_recursive_sorted_and_ignores_the_rest(touch, caplog):
    folder = touch("b/2.FLAC", "b/1.wav", "a.mp3", "notes.txt", "c.opus", "README")
    (folder / "folder.wav").mkdir()
    assert names(find_audio(folder), folder) == ["a.mp3", "b/1.wav", "b/2.FLAC", "c.opus"]
    assert not caplog.records
    with pytest.raises(DataError, match=r"a.mp3 is no folder; expected one with audio files"):
        find_audio(folder / "a.mp3")


def test_hidden_files_and_folders_are_not_read_but_named(touch, caplog):
    caplog.set_level("INFO")
    folder = touch("a.wav", "._a.wav", ".Trash-1000/x/b.wav", "c/.cache/d.flac", ".git/notes")
    assert names(find_audio(folder), folder) == ["a.wav"]
    assert names(list_folder(folder).hidden, folder) == [".Trash-1000/x/b.wav", "._a.wav", "c/.cache/d.flac"]
    assert "being hidden: 3 audio files (.Trash-1000/x/b.wav, ._a.wav, c/.cache/d.flac)" in caplog.text


def test_a_folder_within_a_hidden_folder_is_read(touch):
    folder = touch(".cache/corpus/a.wav") / ".cache" / "corpus"
    assert names(find_audio(folder), folder) == ["a.wav"]


def test_links_are_followed_once(touch, tmp_path):
    folder = touch("real/a.wav", "real/b.wav")
    for name in ("1.wav", "deep/2.wav"):
        (tmp_path / "elsewhere" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere" / name).touch()
    os.symlink(tmp_path / "elsewhere", folder / "linked")
    os.symlink(folder / "real", folder / "again")  # sorts before the folder itself
    os.symlink(tmp_path / "elsewhere" / "deep", folder / "z")
    os.symlink(tmp_path / "elsewhere" / "1.wav", folder / "one.wav")
    assert names(find_audio(folder), folder) == [
        *("linked/1.wav", "linked/deep/2.wav", "one.wav", "real/a.wav", "real/b.wav")
    ]
    assert names(list_folder(folder).repeated, folder) == ["again", "z"]


def test_links_that_lead_back_end(touch, tmp_path, caplog):
    caplog.set_level("INFO")
    folder = touch("a/1.wav")
    for name, target in (("a/up", ".."), ("a/self", "self"), ("root", "/"), ("a/here", "."), ("out", "../other")):
        os.symlink(target, folder / name)
    (tmp_path / "other").mkdir()
    os.symlink(folder / "a", tmp_path / "other" / "back")
    os.symlink(tmp_path / "other", tmp_path / "other" / "around")
    assert names(find_audio(folder), folder) == ["a/1.wav"]
    assert sorted(names(list_folder(folder).repeated, folder)) == ["a/here", "a/up", "out/around", "out/back", "root"]
    assert "lead back, or were listed before, are not entered" in caplog.text
    assert names(find_audio(tmp_path / "other"), tmp_path / "other") == ["back/1.wav"]


def test_a_link_that_leads_nowhere_is_no_silent_loss(touch):
    folder = touch("notes.txt")
    os.symlink(folder / "gone.wav", folder / "a.wav")
    ((path, reason),) = scan_folder(folder).unreadable
    assert path.name == "a.wav"
    assert "a.wav" in reason


def test_a_folder_that_cannot_be_listed_is_named(touch, caplog, monkeypatch):
    folder = touch("a/1.wav", "b/2.wav")
    scandir = os.scandir

    def refuse(path):
        if path == folder / "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(find_audio(folder), folder) == ["a/1.wav"]
    assert f"cannot be listed are left out ({folder / 'b'}: Permission denied)" in caplog.text


def test_other_formats_are_counted_by_extension(touch, caplog):
    kinds = ["m4a", "M4A", "aac", "webm", "mp4", "wma", "amr", "mkv", "wv", "txt", "pdf"]
    folder = touch(*(f"{i}.{kind}" for i, kind in enumerate(kinds)))
    touch("recorder.dat", "take1", content=b"RIFF1234WAVEfmt ")
    touch("phone.bin", content=b"\0\0\0\x20ftypM4A ")
    assert find_audio(folder) == []
    assert len(list_folder(folder).foreign) == 12
    for kind in (
        "2 .m4a",
        "1 .aac",
        "1 .webm",
        "1 .mp4",
        "1 .wma",
        "1 .amr",
        "1 .dat",
        "1 .bin",
        "1 without extension",
    ):
        assert kind in caplog.text
    assert ".txt" not in caplog.text


def test_what_is_left_out_is_said_once(touch, caplog):
    folder = touch("a.wav", "b.m4a")
    for _ in range(2):
        find_audio(folder)
    assert [".m4a" in message for message in caplog.messages] == [True]


def test_what_is_converted_already_is_not_left_out(touch, caplog):
    folder = touch("a.m4a", "a.wav", "b/video.mp4", "b/video.flac")
    assert names(find_audio(folder), folder) == ["a.wav", "b/video.flac"]
    assert not caplog.records


def test_results_of_an_earlier_run_do_not_count(touch):
    folder = touch("a.wav", "lists/converted/m4a/b.flac")
    assert names(list_folder(folder, without=folder / "lists" / "converted").files, folder) == ["a.wav"]
    assert names(list_folder(folder, without=folder).files, folder) == ["a.wav", "lists/converted/m4a/b.flac"]


@pytest.mark.parametrize("field", ["n_samples", "sample_rate"])
def test_numbers_beyond_any_file_are_refused(tmp_path, field):
    line = {"audio": "a.wav", "seconds": 1.0, "sample_rate": 8000, "n_samples": 8000} | {field: 10**400}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    with pytest.raises(DataError, match=f"list.jsonl:1 is no recording: {field}"):
        read_manifest(tmp_path / "list.jsonl")
