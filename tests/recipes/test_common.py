"""What all recipes do: divide, convert, go on where they stopped, and speak on the command line."""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import mel_convention
from audiodiff.data.manifest import read_manifest
from audiodiff.errors import DataError
from recipes import _common
from recipes._cli import command
from recipes._common import Archive, FeatureOptions, Item, Recipe, find_audio

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py"))


def by_name(corpus_dir):
    return [Item(path) for path in find_audio(corpus_dir)]


RECIPE = Recipe(by_name, valid_fraction=0.25, test_fraction=0.25)


@pytest.fixture
def corpus(tmp_path, save_tone):
    for number in range(12):
        save_tone(tmp_path / "corpus" / "ab"[number % 2] / f"{number}.wav", 16000, 0.2)
    return tmp_path / "corpus"


def run(recipe, *arguments):
    return CliRunner().invoke(command(recipe, "A corpus."), [str(word) for word in arguments])


def read(folder):
    return {
        part: {recording.audio.stem: recording for recording in read_manifest(folder / f"{part}.jsonl")}
        for part in ("train", "valid", "test")
    }


def test_old_names_of_options_are_taken_with_a_warning(corpus, tmp_path, caplog):
    assert run(RECIPE, corpus, tmp_path / "new", "--valid-fraction", 0.5, "--test-fraction=0").exit_code == 0
    assert run(RECIPE, corpus, tmp_path / "old", "--valid-share", 0.5, "--test-share=0").exit_code == 0
    assert "--valid-share is deprecated; use --valid-fraction" in caplog.text
    assert read(tmp_path / "old").keys() == read(tmp_path / "new").keys()
    assert [set(part) for part in read(tmp_path / "old").values()] == [
        set(part) for part in read(tmp_path / "new").values()
    ]


def test_there_are_recipes_for_all_corpora():
    expected = "cmu_arctic drums esc50 folder fsdd gtzan librispeech libritts ljspeech maestro musdb18hq nsynth"
    assert set(RECIPES) >= {*expected.split(), "speech_commands", "vctk", "yesno"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_short_and_says_what_a_user_asks(name):
    text = (ROOT / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    assert text.count("\n") < 100
    docstring = text.split('"""')[1]
    for word in ("Source", "icence", "Layout: ", "Split: "):
        assert word in docstring
    assert re.search(r"\bhours?\b|\bminutes?\b", docstring)
    assert re.search(r"\sHz|rate", docstring)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in re.findall(r'"([0-9a-f]{40,})"', text))


def test_a_recipe_runs_as_a_module(corpus, tmp_path):
    arguments = [sys.executable, "-m", "recipes.folder", corpus, tmp_path / "lists"]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=ROOT, check=True)
    assert re.fullmatch(r"\S+train.jsonl: (1 recording|\d+ recordings), \d+\.\d s", result.stdout.splitlines()[0])
    assert sum(len(part) for part in read(tmp_path / "lists").values()) == 12


def test_a_split_is_the_same_wherever_the_corpus_is(corpus, tmp_path):
    RECIPE.prepare(corpus, tmp_path / "here", workers=2)
    here = read(tmp_path / "here")
    corpus.rename(tmp_path / "moved")
    RECIPE.prepare(tmp_path / "moved", tmp_path / "there", workers=1)
    assert {part: set(names) for part, names in here.items()} == {
        p: set(n) for p, n in read(tmp_path / "there").items()
    }
    assert all(here.values())


def test_files_that_are_added_move_no_others(corpus, tmp_path, save_tone):
    RECIPE.prepare(corpus, tmp_path / "few")
    for number in range(12, 40):
        save_tone(corpus / "c" / f"{number}.wav")
    RECIPE.prepare(corpus, tmp_path / "many")
    few, many = read(tmp_path / "few"), read(tmp_path / "many")
    assert all(set(few[part]) <= set(many[part]) for part in few)


def test_fractions_and_seed_divide_otherwise(corpus, tmp_path):
    divisions = []
    for options in (
        {},
        {"seed": 1},
        {"valid_fraction": 0.6},
        {"test_fraction": 0.6},
        {"valid_fraction": 0.0, "test_fraction": 0.0},
    ):
        RECIPE.prepare(corpus, tmp_path / "lists", **options)
        divisions.append(str({part: sorted(names) for part, names in read(tmp_path / "lists").items()}))
    assert len(set(divisions)) == 5


def test_an_official_part_is_kept_and_only_the_other_is_drawn(corpus, tmp_path):
    official = replace(
        RECIPE,
        find=lambda folder: [
            replace(item, part="test" if item.audio.stem in "123" else None) for item in by_name(folder)
        ],
    )
    official.prepare(corpus, tmp_path / "lists")
    parts = read(tmp_path / "lists")
    assert set(parts["test"]) == {"1", "2", "3"}
    assert parts["valid"]
    official.prepare(corpus, tmp_path / "lists", resplit=True)
    assert set(read(tmp_path / "lists")["test"]) != {"1", "2", "3"}


def test_a_corpus_without_its_training_part_is_refused(corpus, tmp_path):
    only_test = replace(RECIPE, find=lambda folder: [replace(item, part="test") for item in by_name(folder)])
    with pytest.raises(DataError, match="12 recordings, none of them in the training part.* --resplit"):
        only_test.prepare(corpus, tmp_path / "lists")


def test_speakers_and_groups_stay_whole(corpus, tmp_path, save_tone):
    for number in range(60):
        save_tone(corpus / "more" / f"{number % 15}-{number}.wav")
    for field in ("speaker", "group"):
        grouped = replace(
            RECIPE,
            find=lambda folder, field=field: [
                replace(item, **{field: item.audio.stem.partition("-")[0]}) for item in by_name(folder / "more")
            ],
        )
        grouped.prepare(corpus, tmp_path / field)
        groups = [{name.partition("-")[0] for name in part} for part in read(tmp_path / field).values()]
        assert sum(map(len, groups)) == 15


@pytest.mark.parametrize(("convention", "precision"), [("hifigan-22k", "float16"), ("vocos-24k@16000", "float32")])
def test_mels_are_written_and_are_the_conventions(corpus, tmp_path, convention, precision):
    result = run(RECIPE, corpus, tmp_path / "lists", "--mels", convention, "--mel-precision", precision)
    assert result.exit_code == 0, result.output
    for part in read(tmp_path / "lists").values():
        for recording in part.values():
            assert recording.mel_convention == convention
            mel = np.load(recording.mel)
            assert mel.dtype == precision
            config = mel_convention(convention)
            expected = MelSpectrogram(config)(load_audio(recording.audio, config.sample_rate))[0].numpy()
            np.testing.assert_allclose(mel, expected, atol=0.005 if precision == "float16" else 1e-5)
    assert (tmp_path / "lists" / "mels" / convention / "a" / "0.npy").is_file()


def test_waves_are_written_and_listed_instead(corpus, tmp_path):
    assert run(RECIPE, corpus, tmp_path / "lists", "--waves", 22050, "--mels", "hifigan-22k").exit_code == 0
    recordings = [recording for part in read(tmp_path / "lists").values() for recording in part.values()]
    assert {(r.sample_rate, r.bandwidth, r.audio.suffix) for r in recordings} == {(22050, 8000.0, ".flac")}
    for recording in recordings:
        info = soundfile.info(recording.audio)
        assert (info.samplerate, info.frames, info.channels) == (22050, recording.n_samples, 1)
        assert recording.mel.is_file()
    assert run(RECIPE, corpus, tmp_path / "lists", "--waves", 8000).exit_code == 0
    assert {r.bandwidth for part in read(tmp_path / "lists").values() for r in part.values()} == {None}


def test_the_band_is_measured_on_request(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    noise = np.random.default_rng(0).standard_normal(44100)
    spectrum = np.fft.rfft(noise)
    spectrum[len(spectrum) // 4 :] = 0
    soundfile.write(corpus / "cut.wav", 0.1 * np.fft.irfft(spectrum), 44100)
    soundfile.write(corpus / "full.wav", 0.1 * noise, 44100)
    for options in ((), ("--bandwidth",)):
        assert (
            run(RECIPE, corpus, tmp_path / "lists", "--valid-fraction", 0, "--test-fraction", 0, *options).exit_code
            == 0
        )
        bands = {name: recording.bandwidth for name, recording in read(tmp_path / "lists")["train"].items()}
        assert bands["full"] is None
        assert bands["cut"] == (pytest.approx(44100 / 8, rel=0.02) if options else None)


def test_what_is_there_is_not_made_again_unless_it_must(corpus, tmp_path):
    options = ("--mels", "hifigan-22k@16000", "--waves", "8000")
    folder = tmp_path / "lists"
    assert run(RECIPE, corpus, folder, *options).exit_code == 0
    made = [*(folder / "mels").rglob("*.npy"), *(folder / "waves").rglob("*.flac")]
    assert len(made) == 24
    for path in made:
        os.utime(path, ns=(path.stat().st_mtime_ns, 2 * 10**18))  # a time to come, to be recognised by
    (folder / "mels/hifigan-22k@16000/a/0.npy").write_bytes(b"half of a mel")
    (folder / "waves/8000/b/1.flac").write_bytes(b"half of a wave")
    os.utime(corpus / "a" / "2.wav", ns=(3 * 10**18, 3 * 10**18))  # changed since
    assert run(RECIPE, corpus, folder, *options).exit_code == 0
    again = {str(path.relative_to(folder)) for path in made if path.stat().st_mtime_ns != 2 * 10**18}
    assert again == {
        *("mels/hifigan-22k@16000/a/0.npy", "mels/hifigan-22k@16000/a/2.npy"),
        *("waves/8000/b/1.flac", "waves/8000/a/2.flac"),
    }
    assert run(RECIPE, corpus, folder, *options, "--mel-precision", "float32").exit_code == 0
    assert np.load(folder / "mels/hifigan-22k@16000/a/4.npy").dtype == "float32"


def test_broken_files_are_named_and_the_others_done(corpus, tmp_path):
    (corpus / "a" / "0.wav").write_bytes(b"no sound")
    result = run(RECIPE, corpus, tmp_path / "lists")
    assert result.exit_code == 1
    assert "left out: " in result.stderr
    assert "0.wav" in result.stderr
    assert "1 of 12 files could not be read" in result.stderr
    assert sum(len(part) for part in read(tmp_path / "lists").values()) == 11


def test_a_clip_too_short_for_a_mel_is_named(corpus, tmp_path, save_tone):
    save_tone(corpus / "short.wav", 16000, 0.005)
    result = run(RECIPE, corpus, tmp_path / "lists", "--mels", "hifigan-22k")
    assert result.exit_code == 1
    assert "too short for mel convention" in result.stderr


def test_errors_are_one_line(corpus, tmp_path, save_tone):
    for arguments, said in (
        ((tmp_path / "absent",), "Check the path"),
        ((corpus, "--mels", "mine"), "unknown mel convention 'mine'; choose from hifigan-22k"),
    ):
        result = run(RECIPE, arguments[0], tmp_path / "lists", *arguments[1:])
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert said in result.stderr
    save_tone(corpus / "a" / "0.flac")
    assert run(RECIPE, corpus, tmp_path / "lists").exit_code == 0
    result = run(RECIPE, corpus, tmp_path / "lists", "--mels", "hifigan-22k")
    assert "has a/0 2 times, in several formats" in result.stderr


def test_a_table_or_list_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="list.txt is missing"):
        list(_common.read_lines(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as text"):
        list(_common.read_lines(tmp_path / "list.txt"))


@pytest.fixture
def archives(corpus, tmp_path):
    """Two archives on disk with the corpus' halves; urllib opens file: URLs too."""
    found = []
    for half in "ab":
        path = tmp_path / f"{half}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(corpus / half, half)
        found.append(Archive(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest(), half, default=half == "a"))
    return tuple(found)


def test_download_fetches_unpacks_and_prepares(archives, tmp_path):
    recipe = replace(RECIPE, archives=archives)
    result = run(recipe, tmp_path / "new", tmp_path / "lists", "--download")
    assert result.exit_code == 0, result.output
    assert sum(len(part) for part in read(tmp_path / "lists").values()) == 6
    assert run(recipe, tmp_path / "new", tmp_path / "lists", "--download", "--part", "b", "--part", "a").exit_code == 0
    assert sum(len(part) for part in read(tmp_path / "lists").values()) == 12


def test_what_is_unpacked_is_not_unpacked_again(archives, tmp_path):
    recipe = replace(RECIPE, archives=archives)
    recipe.download(tmp_path / "new")
    (tmp_path / "new" / "a" / "0.wav").unlink()
    (tmp_path / "new" / "a.tar.gz").unlink()  # to save space, as users do
    recipe.download(tmp_path / "new")
    assert not (tmp_path / "new" / "a" / "0.wav").exists()


def test_wrong_parts_are_refused(archives, corpus, tmp_path):
    recipe = replace(RECIPE, archives=archives)
    assert run(recipe, corpus, tmp_path / "lists", "--part", "a").exit_code == 2
    assert run(recipe, corpus, tmp_path / "lists", "--download", "--part", "c").exit_code == 2
    with pytest.raises(DataError, match="no part 'c'; choose from a, b"):
        recipe.download(corpus, ["c"])


def test_features_are_off_by_default(corpus, tmp_path):
    assert FeatureOptions() == FeatureOptions(mels=None, waves=None, bandwidth=False)
    RECIPE.prepare(corpus, tmp_path / "lists")
    assert sorted(path.name for path in (tmp_path / "lists").iterdir()) == ["test.jsonl", "train.jsonl", "valid.jsonl"]
