"""Which recordings of a folder are used, what they are taken for, and how they are cut, labelled and divided."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.audio.io import load_audio
from audiodiff.data.manifest import Recording
from audiodiff.errors import DataError
from audiodiff.project.plan import nearest_model
from audiodiff.project.recordings import cut, guess_kind, hold_out, labels_of, look


def tone(path, frequency, seconds=3.0, rate=16000):
    time = np.arange(round(seconds * rate)) / rate
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path, 0.4 * np.exp(-time) * sum(np.sin(k * frequency * 2 * np.pi * time) / k for k in (1, 2, 3)), rate
    )
    return path


def recordings(n, **fields):
    return [Recording(audio=Path(f"{i}.wav"), seconds=1, sample_rate=8000, **fields) for i in range(n)]


@pytest.mark.filterwarnings("ignore:.*far beyond:UserWarning")
def test_what_cannot_be_used_is_left_out_with_a_reason(tmp_path, save_voice):
    for i in range(3):
        save_voice(tmp_path / f"ä voice {i}.wav", 2.5, seed=i)
    (tmp_path / "copy.wav").write_bytes((tmp_path / "ä voice 1.wav").read_bytes())
    soundfile.write(tmp_path / "silent.wav", np.zeros(8000), 8000)
    soundfile.write(tmp_path / "click.wav", np.full(80, 0.5), 8000)
    soundfile.write(tmp_path / "counts.wav", np.full(8000, 12345.0) * np.sin(np.arange(8000)), 8000, subtype="FLOAT")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    save_voice(tmp_path / "my voice" / "before" / "old.wav", 2.5)  # the project's own folder
    found = look([tmp_path], tmp_path / "my voice", 1)
    reasons = "\n".join(sorted(found.left_out))
    assert {one.recording.audio.name for one in found.usable} >= {"ä voice 0.wav", "ä voice 2.wav"}
    assert len(found.usable) == 3
    for name, words in {
        "broken.wav": "",
        "click.wav": "is only 10 ms long",
        "counts.wav": "whole numbers",
        "silent.wav": "is silent",
    }.items():
        assert any(name in line and words in line for line in found.left_out), reasons
    assert sum("is a copy of" in line for line in found.left_out) == 1
    assert "old.wav" not in reasons


def test_single_files_are_taken_too(tmp_path, save_voice):
    path = save_voice(tmp_path / "a.wav", 2)
    (tmp_path / "notes.txt").write_text("no sound")
    found = look([path, tmp_path / "notes.txt"], tmp_path / "project", 1)
    assert [one.recording.audio for one in found.usable] == [path]
    assert "notes.txt" in found.left_out[0]


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("voice", lambda folder, save_voice, i: save_voice(folder / f"{i}.wav", 3, 16000, i)),
        ("instrument", lambda folder, save_voice, i: tone(folder / f"{i}.wav", 110 * 2 ** (i / 4))),
        ("one-shots", lambda folder, save_voice, i: tone(folder / f"{i}.wav", 60 + 100 * i, 0.4)),
    ],
)
def test_the_kind_is_guessed(tmp_path, save_voice, kind, make):
    for i in range(4):
        make(tmp_path / "in", save_voice, i)
    guessed, why = guess_kind(look([tmp_path / "in"], tmp_path / "out", 1).usable)
    assert guessed == kind
    assert why


def test_the_bundled_recording_of_a_voice_is_taken_for_one():
    clips = Path(__file__).parents[2] / "audiodiff" / "assets" / "clips"
    assert guess_kind(look([clips], Path("nowhere"), 1).usable)[0] == "voice"


def test_a_long_recording_is_cut_where_it_is_quiet_and_nothing_is_lost(tmp_path):
    rate, noise = 8000, torch.Generator().manual_seed(0)
    audio = 0.5 * torch.rand(40 * rate, generator=noise) - 0.25
    for second in (8, 17, 27):
        audio[second * rate : second * rate + rate // 2] = 0
    soundfile.write(tmp_path / "talk.wav", audio.numpy(), rate, subtype="FLOAT")
    (one,) = look([tmp_path / "talk.wav"], tmp_path / "out", 1).usable
    pieces = cut(one, tmp_path / "pieces", "voice", as_it_is=True)
    joined = torch.cat([load_audio(piece.audio)[0] for piece in pieces])
    assert torch.allclose(joined, audio, atol=2**-23)
    ends = np.cumsum([piece.seconds for piece in pieces])[:-1]
    assert [int(end) for end in ends] == [8, 17, 27]
    assert all(6 <= piece.seconds <= 18 for piece in pieces)


@pytest.mark.parametrize("seconds", [40, 47, 61])
def test_one_recording_of_forty_seconds_is_enough(tmp_path, save_voice, seconds):
    (one,) = look([save_voice(tmp_path / "talk.wav", seconds)], tmp_path / "out", 1).usable
    pieces = cut(one, tmp_path / "pieces", "voice", as_it_is=True)
    assert all(hold_out(pieces, [one.name] * len(pieces), "voice").values())


def test_a_short_recording_stays_and_a_one_shot_is_copied_at_one_peak(tmp_path, save_voice):
    path = save_voice(tmp_path / "a.wav", 1)
    (one,) = look([path], tmp_path / "out", 1).usable
    assert [piece.audio for piece in cut(one, tmp_path / "p", "voice", as_it_is=True)] == [path]
    (copy,) = cut(one, tmp_path / "p", "one-shots", as_it_is=True)
    assert float(load_audio(copy.audio).abs().max()) == pytest.approx(10 ** (-1 / 20), abs=1e-4)
    (other,) = cut(one, tmp_path / "p", "voice", as_it_is=False)
    assert other.audio.parent == tmp_path / "p"
    assert torch.allclose(load_audio(other.audio), load_audio(path), atol=1e-4)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["kit/kick1.wav", "kit/kick2.wav", "kit/HiHat 3.wav", "kit/hi-hat_4.wav"], ["kick", "kick", "hihat", "hihat"]),
        (["a/808-snare.wav", "b/snare-909.wav", "b/clap.wav", "a/clap2.wav"], ["snare", "snare", "clap", "clap"]),
        (["Big Dog/1.wav", "Big Dog/2.wav", "cat/1.wav", "cat/2.wav"], ["big-dog", "big-dog", "cat", "cat"]),
        (["bark_1.wav", "bark_2.wav", "meow-1.wav", "meow-2.wav"], ["bark", "bark", "meow", "meow"]),
        (["q.wav", "w.wav", "e.wav", "1.wav"], ["sound"] * 4),
        (["été1.wav", "été2.wav"], ["été", "été"]),
    ],
)
def test_labels_come_from_folders_or_names(tmp_path, names, labels):
    known = ["kick", "snare", "hihat", "clap"]
    assert labels_of([tmp_path / name for name in names], [tmp_path], known) == labels


def test_three_in_ten_are_held_out_the_same_each_time(tmp_path):
    many = recordings(20)
    parts = hold_out(many, [str(one.audio) for one in many], "voice")
    assert {part: len(held) for part, held in parts.items()} == {"train": 12, "valid": 2, "test": 6}
    assert hold_out(many[::-1], [str(one.audio) for one in many[::-1]], "voice")["test"] == parts["test"][::-1]
    few = hold_out(recordings(3), ["a", "b", "c"], "voice")
    assert [len(held) for held in few.values()] == [1, 1, 1]


def test_pieces_of_one_recording_stay_together_where_there_are_enough(tmp_path):
    many = recordings(40)
    origins = [f"talk{i // 4}" for i in range(40)]
    parts = hold_out(many, origins, "voice")
    part_of = {one.audio: part for part, held in parts.items() for one in held}
    assert all(len({part_of[one.audio] for one in many[4 * k : 4 * k + 4]}) == 1 for k in range(10))


def test_a_label_keeps_a_sound_to_train_on(tmp_path):
    many = [one.model_copy(update={"label": "ab"[i > 0]}) for i, one in enumerate(recordings(10))]
    assert {one.label for one in hold_out(many, [str(one.audio) for one in many], "one-shots")["train"]} == {"a", "b"}


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_recordings_are_refused_with_what_would_do(n):
    with pytest.raises(DataError, match=rf"{n} usable recordings are too few.*one of 40 s or more"):
        hold_out(recordings(n), [str(i) for i in range(n)], "voice")


def test_recordings_of_a_telephone_are_converted_wherever_they_are_given(tmp_path, monkeypatch):
    """ffmpeg is stood in for by a program that copies its input, which here is FLAC under another name."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "ffmpeg").write_text(
        '#!/bin/sh\nfor last; do :; done\nwhile [ "$1" != -i ]; do shift; done\ncat "$2" > "$last"\n'
    )
    (tools / "ffmpeg").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    files = [tmp_path / folder / "note.M4A" for folder in ("a", "b")]
    for frequency, file in zip((220, 330), files, strict=True):
        tone(file.with_suffix(".flac"), frequency).rename(file)
    for sources in (files, [tmp_path / "a", tmp_path / "b"]):
        found = look(sources, tmp_path / "project", 1)
        assert len({one.recording.audio for one in found.usable}) == 2
        assert not found.left_out
    monkeypatch.setenv("PATH", "")
    found = look(files[:1], tmp_path / "elsewhere", 1)
    assert not found.usable
    assert "Install" in found.left_out[0]


@pytest.mark.parametrize(
    ("labels", "fields", "model"),
    [
        (["kick", "door"], {}, "drums-22k"),
        (["yes", "no", "kick"], {}, "words-16k"),
        (["door", "bell"], {"sample_rate": 44100, "bandwidth": 15000.0}, "drums-22k"),
        (["door", "bell"], {"sample_rate": 44100, "bandwidth": 3900.0}, "words-16k"),
        (["door", "bell"], {"sample_rate": 44100}, "drums-22k"),
        (["door", "bell"], {"sample_rate": 8000}, "words-16k"),
    ],
)
def test_one_shots_start_from_the_generator_of_their_labels_or_else_of_their_band(labels, fields, model):
    found = [one.model_copy(update=fields) for one in recordings(2)]
    assert nearest_model("one-shots", found, labels) == model
