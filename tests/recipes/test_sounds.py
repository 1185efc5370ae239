"""Corpora of music and sounds, fabricated in the layout that each is published in, become the right manifests."""

import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.data.manifest import read_manifest
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
    with pytest.raises(DataError, match="no column 'audio_filename'; it has 'composer', 'split'"):
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
    with pytest.raises(DataError, match=r"examples.json cannot be read as JSON"):
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


@pytest.mark.parametrize("recipe", [maestro, esc50, nsynth, musdb18hq], ids=lambda module: module.__name__)
def test_an_inner_folder_may_be_given_instead_of_the_corpus(recipe, tmp_path, save_tone, prepare):
    files = {
        maestro: ("maestro-v3.0.0/2018", [f"2018/{i}.wav" for i in range(20)] + ["2017/x.wav"]),
        esc50: ("ESC-50-master/audio", [f"audio/{i}.wav" for i in range(20)]),
        nsynth: ("nsynth-train/audio", [f"audio/{i}.wav" for i in range(20)]),
        musdb18hq: ("musdb18hq/train", [f"train/song{i}/mixture.wav" for i in range(20)] + ["test/x/mixture.wav"]),
    }[recipe]
    root = tmp_path / files[0].partition("/")[0]
    for name in files[1]:
        save_tone(root / name, 44100, 0.05)
    (root / "meta").mkdir()
    rows = [f"{i},{1 + i % 4},dog,{i}.wav" for i in range(20)]
    (root / "meta" / "esc50.csv").write_text("\n".join(["src_file,fold,category,filename", *rows]))
    rows = [f"train,{name},a,b" for name in files[1]]
    columns = "split,audio_filename,canonical_composer,canonical_title"
    (root / "maestro-v3.0.0.csv").write_text("\n".join([columns, *rows]))
    notes = {str(i): {"instrument_str": "a", "instrument_family_str": "b"} for i in range(20)}
    (root / "examples.json").write_text(json.dumps(notes))
    recipe.RECIPE.prepare(tmp_path / files[0], tmp_path / "lists", valid_fraction=0.1, test_fraction=0.1, resplit=True)
    lists = [read_manifest(tmp_path / "lists" / f"{part}.jsonl") for part in ("train", "valid", "test")]
    assert sum(map(len, lists)) == 20


@pytest.mark.parametrize(
    ("recipe", "table", "text", "message"),
    [
        (
            esc50,
            "meta/esc50.csv",
            "filename,fold,category,src_file\na.wav,x,dog,1",
            r"esc50.csv:2 has fold 'x'; expected 1",
        ),
        (
            esc50,
            "meta/esc50.csv",
            "filename,fold,category,src_file\na.wav,1,dog",
            r"esc50.csv:2 has 3 cells; the header",
        ),
        (
            esc50,
            "meta/esc50.csv",
            "filename;fold;category;src_file\r\n/b.wav;1;dog;1",
            r"'/b.wav' is listed, and is not in",
        ),
        (
            esc50,
            "meta/esc50.csv",
            "filename,fold,category,src_file\n../../b.wav,1,a,1",
            r"b.wav' is listed, and is not in",
        ),
        (
            maestro,
            "maestro-v3.0.0.csv",
            "split,audio_filename,canonical_composer,canonical_title\ndev,a,b,c",
            "split 'dev'",
        ),
        (nsynth, "nsynth-train/examples.json", '{"a": {}}', r"is no table of notes: KeyError\('instrument_str'\)"),
        (nsynth, "nsynth-train/examples.json", '["a"]', "is no table of notes"),
        (nsynth, "nsynth-train/examples.json", "[" * 99999, "nested more than 100 deep"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_line_and_value(recipe, table, text, message, tmp_path):
    (tmp_path / "corpus" / table).parent.mkdir(parents=True)
    (tmp_path / "corpus" / table).write_text(text, newline="")
    with pytest.raises(DataError, match=message):
        recipe.RECIPE.prepare(tmp_path / "corpus", tmp_path / "lists")


def test_recordings_of_other_names_are_left_out_with_a_warning(tmp_path, save_tone, caplog):
    for i in range(9):
        save_tone(tmp_path / "genres" / "jazz" / f"jazz.0000{i}.wav", 22050)
        save_tone(tmp_path / "notes" / f"FF_C{i}.wav", 22050)
    save_tone(tmp_path / "genres" / "jazz" / "mine.wav", 22050)
    save_tone(tmp_path / "notes" / "bell.wav", 22050)
    assert len(list(gtzan.find(tmp_path / "genres"))) == len(list(piano.find(tmp_path / "notes"))) == 9
    assert "not named GENRE/GENRE.NNNNN: 1 recordings (mine.wav)" in caplog.text
    assert "not named VELOCITY_NOTE: 1 recordings (bell.wav)" in caplog.text


def test_waveforms_of_an_earlier_run_are_no_recordings(tmp_path, save_tone):
    for i in range(9):
        save_tone(tmp_path / f"{i}.wav", 22050)
    for _ in range(2):
        command(folder.RECIPE, "")([str(tmp_path), str(tmp_path / "lists"), "--waves", "16000"], standalone_mode=False)
        parts = [read_manifest(tmp_path / "lists" / f"{part}.jsonl") for part in ("train", "valid", "test")]
        assert sum(map(len, parts)) == 9


def test_a_training_part_that_cannot_be_read_is_no_empty_manifest(tmp_path, save_tone):
    save_tone(tmp_path / "test" / "song" / "mixture.wav", 44100)
    (tmp_path / "train" / "song").mkdir(parents=True)
    (tmp_path / "train" / "song" / "mixture.wav").write_text("no sound")
    with pytest.raises(
        DataError, match="of 1 recordings of the training part none can be read; the first because: .*mix"
    ):
        musdb18hq.RECIPE.prepare(tmp_path, tmp_path / "lists")
    assert not (tmp_path / "lists" / "train.jsonl").exists()
