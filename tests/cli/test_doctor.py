"""`audiodiff doctor` finds what was planted in a corpus, and nothing in a sound one."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.data.manifest import probe, read_manifest, scan_folder, write_manifest


def doctor(*arguments):
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def findings(*arguments):
    result = doctor(*arguments, "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == facts["is_error"], result.stderr
    return {finding["check"]: finding for finding in facts["findings"]}


@pytest.fixture
def corpus(tmp_path, save_voice):
    """Twelve sounds that nothing is wrong with."""
    for number in range(12):
        save_voice(tmp_path / "corpus" / f"{number}.wav", 1.0 + 0.1 * number, seed=number)
    return tmp_path / "corpus"


def change(corpus, number, function):
    path = corpus / f"{number}.wav"
    audio, rate = soundfile.read(path)
    soundfile.write(path, function(audio), rate)


def test_a_sound_corpus_has_no_findings(corpus):
    result = doctor(corpus)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "12 recordings, 18.6 s (corpus 12)"
    assert lines[1] == "rates 8000 Hz"
    assert lines[-1] == "nothing found"


@pytest.mark.parametrize(
    ("check", "is_error", "number", "function"),
    [
        ("silent", True, 1, lambda audio: 0 * audio),
        ("clipped", False, 2, lambda audio: np.clip(audio, -0.2, 0.2)),
        ("offset", False, 3, lambda audio: audio + 0.03),
        ("silent ends", False, 4, lambda audio: np.concatenate([audio, np.zeros(9000)])),
        ("short", False, 5, lambda audio: audio[:4000]),
        ("level", False, 6, lambda audio: 0.03 * audio),
    ],
)
def test_what_is_wrong_with_one_recording_is_found(corpus, check, is_error, number, function):
    change(corpus, number, function)
    found = findings(corpus)
    assert set(found) == {check}
    assert found[check]["is_error"] == is_error
    assert [path.rsplit("/", 1)[-1] for path in found[check]["files"]] == [f"{number}.wav"]
    line = next(line for line in doctor(corpus).stdout.splitlines() if f"{check}: 1 of 12" in line)
    assert line.startswith("ERROR" if is_error else "WARNING")


@pytest.mark.parametrize(
    ("checks", "is_error", "function"),
    [
        ({"scale", "level"}, True, lambda audio: 32768 * audio),
        ({"beyond full scale"}, False, lambda audio: 1.5 * audio / np.abs(audio).max()),
        ({"quiet", "level"}, False, lambda audio: 0.005 * audio),
        ({"silent", "offset"}, True, lambda audio: 0 * audio + 0.5),
        ({"not finite"}, True, lambda audio: np.where(np.arange(len(audio)) == 77, np.inf, audio)),
    ],
)
def test_levels_that_no_recording_has_are_named(corpus, checks, is_error, function):
    path = corpus / "3.wav"
    audio, rate = soundfile.read(path)
    soundfile.write(path, function(audio), rate, subtype="FLOAT")
    found = findings(corpus)
    assert set(found) == checks
    assert any(finding["is_error"] for finding in found.values()) == is_error
    assert all("3.wav" in file for finding in found.values() for file in finding["files"])


def test_a_header_that_was_never_finished_is_named(corpus):
    content = bytearray((corpus / "2.wav").read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = bytes(4)
    (corpus / "2.wav").write_bytes(content)
    found = findings(corpus)
    assert set(found) == {"header"}
    assert "1 of 12 recordings have a header that was never finished" in found["header"]["found"]


def test_unreadable_files_must_be_mended(corpus):
    (corpus / "0.wav").write_bytes(b"no sound")
    soundfile.write(corpus / "1.wav", np.full(8000, np.nan), 8000, subtype="FLOAT")  # its header is in order
    found = findings(corpus)
    for check, name in (("unreadable", "0.wav"), ("not finite", "1.wav")):
        assert found[check]["is_error"]
        assert [path.rsplit("/", 1)[-1] for path in found[check]["files"]] == [name]


def test_what_is_all_unreadable_is_still_reported(tmp_path):
    (tmp_path / "0.wav").write_bytes(b"no sound")
    result = doctor(tmp_path)
    assert result.exit_code == 1
    assert "0 recordings, 0.0 s (none can be read)" in result.stdout


def test_mixed_rates_are_found(corpus, save_voice):
    save_voice(corpus / "fast.wav", 1.0, 16000, seed=99)
    found = findings(corpus)["mixed rates"]
    assert "12 at 8000 Hz, 1 at 16000 Hz" in found["found"]
    assert [path.rsplit("/", 1)[-1] for path in found["files"]] == ["fast.wav"]


def test_copies_are_found_whatever_their_format(corpus):
    audio, rate = soundfile.read(corpus / "3.wav", dtype="int16")
    soundfile.write(corpus / "copy.flac", audio, rate)
    found = findings(corpus)
    assert set(found) == {"duplicates"}
    assert {path.rsplit("/", 1)[-1] for path in found["duplicates"]["files"]} == {"3.wav", "copy.flac"}


def test_a_band_is_found_unless_the_manifest_says_it(tmp_path):
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(44100))
    spectrum[len(spectrum) // 2 :] = 0
    soundfile.write(tmp_path / "cut.wav", 0.1 * np.fft.irfft(spectrum), 22050)
    assert set(findings(tmp_path)) == {"band"}
    prepare = ["prepare", tmp_path, tmp_path / "lists", "--valid-fraction", 0, "--test-fraction", 0]
    for options, expected in (([], {"band"}), (["--bandwidth"], set())):
        result = CliRunner().invoke(main, [str(word) for word in [*prepare, *options]])
        assert result.exit_code == 0, result.stderr
        assert set(findings(tmp_path / "lists")) == expected
    assert read_manifest(tmp_path / "lists" / "train.jsonl")[0].bandwidth == pytest.approx(22050 / 4, rel=0.03)


@pytest.fixture
def lists(corpus, tmp_path):
    """Train, valid and test manifests of the corpus, each speaker in one."""
    recordings = scan_folder(corpus).recordings
    parts = {"train": recordings[:8], "valid": recordings[8:10], "test": recordings[10:]}
    for part, members in parts.items():
        named = [recording.model_copy(update={"speaker": recording.audio.stem}) for recording in members]
        write_manifest(tmp_path / "lists" / f"{part}.jsonl", named)
    return tmp_path / "lists"


def test_manifests_are_compared_by_content(lists, corpus):
    assert findings(lists) == {}
    shutil.copy(corpus / "0.wav", corpus / "other-name.wav")
    write_manifest(lists / "test.jsonl", [probe(corpus / "other-name.wav")])
    found = findings(lists)
    assert found["overlap"]["is_error"]
    assert found["overlap"]["found"].startswith("2 recordings with equal content are in more than one of test, train")
    assert "duplicates" not in found
    assert findings(lists / "train.jsonl") == {}


def test_shared_speakers_are_found_where_there_are_many(lists):
    assert "speakers" not in findings(lists)
    moved = [recording.model_copy(update={"speaker": "0"}) for recording in read_manifest(lists / "valid.jsonl")]
    write_manifest(lists / "valid.jsonl", moved)
    found = findings(lists)["speakers"]
    assert found["found"] == "1 of 10 speakers are in more than one part, such as 0"
    assert not found["is_error"]


def test_a_manifest_that_is_out_of_date_must_be_mended(lists, corpus, save_voice):
    first = read_manifest(lists / "train.jsonl")[0].audio
    save_voice(first, 2.0, seed=5)
    found = findings(lists)["changed"]
    assert found["is_error"]
    assert [path.rsplit("/", 1)[-1] for path in found["files"]] == [first.name]


def test_the_crop_decides_what_is_short_and_workers_change_nothing(corpus):
    assert set(findings(corpus, "--crop-seconds", 1.55)) == {"short"}
    assert len(findings(corpus, "--crop-seconds", 1.55)["short"]["files"]) == 6
    assert doctor(corpus, "--workers", 1).stdout == doctor(corpus, "--workers", 3).stdout


@pytest.mark.parametrize("content", [None, "notes.txt"])
def test_what_is_no_data_is_refused(tmp_path, content):
    if content:
        (tmp_path / content).write_text("")
    result = doctor(tmp_path / content if content else tmp_path)
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert doctor(tmp_path / "absent").exit_code == 2
    assert doctor().exit_code == 2
