"""Corpora of music and sounds, fabricated in the layout that each is published in, become the right manifests."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.errors import DataError
from recipes import drums, esc50, folder, gtzan, maestro, musdb18hq, nsynth, piano
from recipes._cli import command


def names(parts):
    return [sorted(parts[part]) for part in ("train", "valid", "test")]


def test_maestro(tmp_path, save_tone, prepare):
    root = tmp_path / "maestro-v3.0.0"
    rows = ["canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration"]
    for number, split in enumerate(("train", "validation", "test", "train")):
        save_tone(root / "2018" / f"piece{number}.wav", 44100, channels=2)
        rows.append(
            f'"Domenico Scarlatti","Sonata in D, K. {number}",{split},2018,2018/p.midi,2018/piece{number}.wav,0.1'
        )
    (root / "maestro-v3.0.0.csv").write_text("\n".join(rows), encoding="utf-8")
    parts = prepare(maestro.RECIPE, tmp_path)
    assert names(parts) == [["piece0", "piece3"], ["piece1"], ["piece2"]]
    assert parts["train"]["piece3"].text == "Domenico Scarlatti: Sonata in D, K. 3"
    assert parts["train"]["piece3"].channels == 2
    (root / "maestro-v3.0.0.csv").write_text("composer,split\na,b\n")
    with pytest.raises(DataError, match="no column 'audio_filename'; it has composer, split"):
        list(maestro.find(tmp_path))


def test_musdb18hq(tmp_path, save_tone):
    for song in (
        "train/A Classic Education - NightOwl",
        "train/Leaf - Summerghost",
        "test/AM Contra - Heart Peripheral",
    ):
        for stem in musdb18hq.STEMS:
            save_tone(tmp_path / song / f"{stem}.wav", 44100, channels=2)
    mixtures = {item.text: (item.part, item.label) for item in musdb18hq.find(tmp_path)}
    assert mixtures == {
        "A Classic Education - NightOwl": ("train", "mixture"),
        "Leaf - Summerghost": ("valid", "mixture"),
        "AM Contra - Heart Peripheral": ("test", "mixture"),
    }
    assert {item.label for item in musdb18hq.find(tmp_path, "drums")} == {"drums"}
    assert len(list(musdb18hq.find(tmp_path, "all"))) == 15


def test_gtzan(tmp_path, save_tone, prepare):
    for genre in ("blues", "jazz"):
        for number in range(20):
            save_tone(tmp_path / "genres_original" / genre / f"{genre}.{number:05d}.wav", 22050)
    (tmp_path / "genres_original" / "jazz" / "jazz.00005.wav").write_bytes(b"damaged, as jazz.00054 is in one copy")
    outcome = gtzan.RECIPE.prepare(tmp_path, tmp_path / "lists", workers=1)
    assert sum(map(len, outcome.split)) == 39
    assert len(outcome.unreadable) == 1
    assert "jazz.00005.wav" in outcome.unreadable[0]
    assert {recording.label for recording in outcome.split.train} == {"blues", "jazz"}


def test_nsynth(tmp_path, save_tone, prepare):
    for part in ("train", "valid", "test"):
        note = f"bass_synthetic_{len(part):03d}-033-100"
        save_tone(tmp_path / f"nsynth-{part}" / "audio" / f"{note}.wav")
        facts = {"instrument_family_str": "bass", "instrument_str": note[:18], "pitch": 33, "velocity": 100}
        (tmp_path / f"nsynth-{part}" / "examples.json").write_text(json.dumps({note: facts}))
    parts = prepare(nsynth.RECIPE, tmp_path)
    assert [len(part) for part in names(parts)] == [1, 1, 1]
    recording = parts["test"]["bass_synthetic_004-033-100"]
    assert (recording.label, recording.speaker) == ("bass", "bass_synthetic_004")
    (tmp_path / "nsynth-valid" / "examples.json").write_text("{")
    with pytest.raises(DataError, match=r"examples.json is no JSON"):
        list(nsynth.find(tmp_path))


def test_esc50(tmp_path, save_tone, prepare):
    root = tmp_path / "ESC-50-master"
    rows = ["filename,fold,target,category,esc10,src_file,take"]
    for fold in range(1, 6):
        for source in range(100 * fold, 100 * fold + 6):
            for take in "AB":
                name = f"{fold}-{source}-{take}-0.wav"
                save_tone(root / "audio" / name, 44100)
                rows.append(f"{name},{fold},0,dog,True,{source},{take}")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(rows))
    parts = prepare(esc50.RECIPE, tmp_path)
    assert {name[0] for name in parts["test"]} == {"5"}
    assert len(parts["test"]) == 12
    sources = [{name[:5] for name in parts[part]} for part in ("train", "valid")]
    assert all(sources)
    assert sum(map(len, sources)) == 24  # both takes of a source are in the same part
    assert {name[0] for name in prepare(esc50.RECIPE, tmp_path, test_fold=2)["test"]} == {"2"}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("CR-78/hihat-accent.wav", "hihat"),
        ("LM-2/hihat-closed-long.wav", "hihat"),
        ("LM-2/conga-lll.wav", "conga"),
        ("MRK-2/cymball-short.wav", "cymbal"),
        ("TR-505/tr505-tom-m.wav", "tom"),
        ("TR-505/tr505-timbal.wav", "percussion"),
        ("TR-505/tr505-cowb-h.wav", "cowbell"),
        ("CR-78/kick.wav", "kick"),
        ("any/BD 01 (long).wav", "kick"),
        ("any/Snare3.wav", "snare"),
        ("any/808.wav", "percussion"),
    ],
)
def test_names_of_drums_tell_the_instrument(tmp_path, name, label):
    assert drums.label_of(tmp_path / name) == label


def test_drums(tmp_path, save_tone, prepare):
    for machine in ("CR-78", "TR-505"):
        for name in ("kick", "snare", "hihat"):
            save_tone(tmp_path / machine / f"{name}-{machine.lower()}.wav", 44100)
    parts = prepare(drums.RECIPE, tmp_path)
    assert sorted(r.label for part in parts.values() for r in part.values()) == 2 * ["hihat"] + 2 * ["kick"] + 2 * [
        "snare"
    ]
    by_folder = prepare(drums.RECIPE, tmp_path, label_from="folder")
    assert {r.label for part in by_folder.values() for r in part.values()} == {"CR-78", "TR-505"}


def test_folder(tmp_path, save_tone, prepare):
    for speaker in ("anna", "bert"):
        for number in range(4):
            save_tone(tmp_path / "mine" / speaker / f"{speaker}{number}.ogg", 44100)
    (tmp_path / "mine" / "anna" / "anna1.txt").write_text("Guten Tag.\n", encoding="utf-8")
    plain = prepare(folder.RECIPE, tmp_path / "mine")
    found = {name: recording for part in plain.values() for name, recording in part.items()}
    assert len(found) == 8
    assert (found["anna1"].text, found["anna1"].speaker, found["anna1"].label) == ("Guten Tag.", None, None)
    named = prepare(folder.RECIPE, tmp_path / "mine", label_from="folder", speaker_from="folder")
    assert {(r.speaker, r.label) for part in named.values() for r in part.values()} == {
        (2 * (n,)) for n in ("anna", "bert")
    }


@pytest.mark.parametrize("module", [musdb18hq, gtzan, nsynth, esc50, drums, folder], ids=lambda module: module.__name__)
def test_what_may_not_be_downloaded_says_where_it_is(module, tmp_path):
    with pytest.raises(DataError, match="no download here. Get it from "):
        module.RECIPE.download(tmp_path)
    assert "--download" not in CliRunner().invoke(command(module.RECIPE, module.__doc__), ["--help"]).output


def test_piano(tmp_path, prepare):
    time = np.arange(16000) / 16000
    for name, frequency in (("FF_A3", 440.0), ("FF_C4", 523.25), ("Mp_A3", 440.0), ("readme", 100.0)):
        soundfile.write(tmp_path / f"{name}.wav", 0.5 * np.sin(2 * np.pi * frequency * time), 16000)
    parts = prepare(piano.RECIPE, tmp_path, valid_fraction=0.0)["train"]
    assert {name: (r.label, r.speaker) for name, r in parts.items()} == {
        "FF_A3": ("A4", "ff"),
        "FF_C4": ("C5", "ff"),
        "Mp_A3": ("A4", "mp"),
    }
    for _ in range(2):  # what is filled in is no recording to fill in from
        parts = prepare(piano.RECIPE, tmp_path, valid_fraction=0.0, fill=True)["train"]
        assert sorted(parts) == ["FF_A3", "FF_C4", "Mp_A3", "ff_As4", "ff_B4"]
    for name, frequency in (("ff_As4", 466.16), ("ff_B4", 493.88)):
        samples, rate = soundfile.read(parts[name].audio)
        spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 10 * rate))
        assert spectrum.argmax() / 10 == pytest.approx(frequency, rel=0.001)


def test_notes_have_midi_numbers():
    assert piano.midi_number("C4") == 60
    assert all(piano.midi_number(piano.label_of(midi)) == midi for midi in range(21, 109))
