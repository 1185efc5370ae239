"""Speech corpora, fabricated in the layout that each is published in, become the manifests that they should."""

import numpy as np
import pytest
import soundfile

from audiodiff.errors import DataError
from recipes import cmu_arctic, fsdd, librispeech, libritts, ljspeech, speech_commands, vctk, yesno


def everything(parts):
    return {name: recording for part in parts.values() for name, recording in part.items()}


@pytest.mark.parametrize(("inner", "extension"), [("LJSpeech-1.1", "wav"), ("", "flac")])
def test_ljspeech(tmp_path, save_tone, prepare, inner, extension):
    folder = tmp_path / "corpus" / inner
    lines = []
    for chapter in range(1, 21):
        for clip in (1, 2):
            name = f"LJ{chapter:03d}-{clip:04d}"
            save_tone(folder / "wavs" / f"{name}.{extension}", 22050)
            lines.append(f"{name}|In 1900, said |In nineteen hundred, said {name}")
    (folder / "metadata.csv").write_text("\n".join(lines), encoding="utf-8")
    parts = prepare(ljspeech.RECIPE, tmp_path / "corpus")
    found = everything(parts)
    assert len(found) == 40
    assert found["LJ003-0002"].text == "In nineteen hundred, said LJ003-0002"
    chapters = [{name[:5] for name in parts[part]} for part in ("train", "valid", "test")]
    assert all(chapters)
    assert sum(map(len, chapters)) == 20  # no chapter is in two parts
    (folder / "wavs" / f"LJ001-0001.{extension}").unlink()
    with pytest.raises(
        DataError, match=r"metadata.csv lists 1 clips that are not in .*wavs: line 1 'LJ001-0001'; there is"
    ):
        list(ljspeech.find(tmp_path / "corpus"))


def test_ljspeech_without_its_files_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"wavs is missing: the clips. Give .* published. --download fetches it"):
        ljspeech.RECIPE.prepare(tmp_path, tmp_path / "lists")


def test_vctk(tmp_path, save_tone, prepare):
    for speaker in [f"p{225 + i}" for i in range(12)]:
        for mic in ("mic1", "mic2"):
            save_tone(tmp_path / "wav48_silence_trimmed" / speaker / f"{speaker}_001_{mic}.flac", 48000)
        (tmp_path / "txt" / speaker).mkdir(parents=True)
        (tmp_path / "txt" / speaker / f"{speaker}_001.txt").write_text("Please call Stella.\n")
    save_tone(tmp_path / "wav48_silence_trimmed" / "p315" / "p315_001_mic1.flac", 48000)
    found = everything(prepare(vctk.RECIPE, tmp_path))
    assert set(found) == {f"p{225 + i}_001_mic1" for i in range(12)} | {"p315_001_mic1"}
    assert (found["p225_001_mic1"].speaker, found["p225_001_mic1"].text) == ("p225", "Please call Stella.")
    assert found["p315_001_mic1"].text is None
    assert set(everything(prepare(vctk.RECIPE, tmp_path, mic="mic2"))) == {f"p{225 + i}_001_mic2" for i in range(12)}


def test_librispeech(tmp_path, save_tone, prepare):
    root = tmp_path / "LibriSpeech"
    for subset, speaker in (("train-clean-100", "103"), ("dev-clean", "84"), ("test-other", "367")):
        folder = root / subset / speaker / "1240"
        for clip in range(2):
            save_tone(folder / f"{speaker}-1240-{clip:04d}.flac")
        (folder / f"{speaker}-1240.trans.txt").write_text(
            f"{speaker}-1240-0000 CHAPTER ONE\n{speaker}-1240-0001 TWO WORDS\n"
        )
    parts = prepare(librispeech.RECIPE, tmp_path)
    assert [sorted(parts[part]) for part in ("train", "valid", "test")] == [
        [f"{speaker}-1240-0000", f"{speaker}-1240-0001"] for speaker in ("103", "84", "367")
    ]
    assert parts["valid"]["84-1240-0001"].text == "TWO WORDS"
    assert parts["valid"]["84-1240-0001"].speaker == "84"


def test_librispeech_with_one_subset_holds_out_speakers(tmp_path, save_tone, prepare):
    for speaker in range(100, 140):
        save_tone(tmp_path / "train-clean-100" / str(speaker) / "1" / f"{speaker}-1-0000.flac")
    parts = prepare(librispeech.RECIPE, tmp_path)
    assert min(len(parts["valid"]), len(parts["test"])) >= 1
    assert len(everything(parts)) == 40


def test_libritts(tmp_path, save_tone, prepare):
    root = tmp_path / "LibriTTS"
    for subset, speaker in (("train-clean-360", "14"), ("dev-other", "116"), ("test-clean", "61")):
        wave = save_tone(root / subset / speaker / "208" / f"{speaker}_208_000001_000000.wav", 24000)
        wave.with_suffix(".normalized.txt").write_text("Unless to be rather cold hearted.\n")
        wave.with_suffix(".original.txt").write_text("Unless to be rather cold-hearted!\n")
    parts = prepare(libritts.RECIPE, tmp_path)
    assert [sorted(parts[part]) for part in ("train", "valid", "test")] == [
        [f"{speaker}_208_000001_000000"] for speaker in ("14", "116", "61")
    ]
    recording = parts["train"]["14_208_000001_000000"]
    assert (recording.speaker, recording.text, recording.sample_rate) == (
        "14",
        "Unless to be rather cold hearted.",
        24000,
    )


def test_cmu_arctic(tmp_path, save_tone, prepare):
    names = [f"arctic_a{i:04d}" for i in range(1, 31)]
    for voice in ("slt", "bdl"):
        folder = tmp_path / "ARCTIC" / f"cmu_us_{voice}_arctic"
        for name in names:
            save_tone(folder / "wav" / f"{name}.wav")
        (folder / "etc").mkdir()
        lines = [f"( {name} \"Author of the danger trail, '{name}'.\" )" for name in names]
        (folder / "etc" / "txt.done.data").write_text("\n".join(lines))
    outcome = cmu_arctic.RECIPE.prepare(tmp_path, tmp_path / "lists", workers=1)
    sentences = [{recording.audio.stem for recording in part} for part in outcome.split]
    assert sum(map(len, sentences)) == 30  # a sentence is in the same part of both voices
    assert [len(part) for part in outcome.split] == [2 * len(part) for part in sentences]
    assert {recording.speaker for recording in outcome.split.test} == {"slt", "bdl"}
    assert outcome.split.train[0].text.startswith("Author of the danger trail, 'arctic_a")


@pytest.fixture
def commands(tmp_path, save_tone):
    folder = tmp_path / "commands" / "SpeechCommands" / "speech_commands_v0.02"
    for word in (*speech_commands.DIGITS, "yes"):
        for speaker in ("00f0204f", "0c40e715", "ffd2ba2f"):
            save_tone(folder / word / f"{speaker}_nohash_0.wav")
    save_tone(folder / "_background_noise_" / "pink_noise.wav")
    (folder / "validation_list.txt").write_text("yes/00f0204f_nohash_0.wav\none/00f0204f_nohash_0.wav\n")
    (folder / "testing_list.txt").write_text("two/ffd2ba2f_nohash_0.wav\n")
    return folder


def test_speech_commands_follow_the_lists(commands):
    items = list(speech_commands.find(commands))
    assert len(items) == 33
    assert {item.label for item in items} == {*speech_commands.DIGITS, "yes"}
    held_out = {(item.label, item.speaker): item.part for item in items if item.part != "train"}
    assert held_out == {("yes", "00f0204f"): "valid", ("one", "00f0204f"): "valid", ("two", "ffd2ba2f"): "test"}


def test_words_of_speech_commands_can_be_chosen(commands, prepare):
    assert {item.label for item in speech_commands.find(commands, "sc09")} == set(speech_commands.DIGITS)
    parts = prepare(speech_commands.RECIPE, commands.parents[1], words="yes,two")
    assert {recording.label for part in parts.values() for recording in part.values()} == {"yes", "two"}
    with pytest.raises(DataError, match="no word 'maybe'; it has eight, five"):
        list(speech_commands.find(commands, "maybe"))


def test_clips_whose_word_is_cut_off_can_be_left_out(commands, capsys):
    (path, *_) = sorted((commands / "yes").glob("*.wav"))
    word = np.zeros(16000)
    word[6000:10000] = 0.5
    soundfile.write(path, word, 16000)
    assert speech_commands.is_whole(path)
    assert [item.audio for item in speech_commands.find(commands, "yes", whole=True)] == [path]  # the others are noise
    assert "2 clips are left out" in capsys.readouterr().err
    for cut in (word[9000:], word[:7000]):
        soundfile.write(path, cut, 16000)
        assert not speech_commands.is_whole(path)


def test_without_lists_the_published_hash_decides(commands):
    for name in ("validation_list.txt", "testing_list.txt"):
        (commands / name).unlink()
    # 0c40e715 is a speaker of the published testing list.
    assert {item.part for item in speech_commands.find(commands) if item.speaker == "0c40e715"} == {"test"}
    parts = [speech_commands.part_of(f"{number:08x}") for number in range(2000)]
    assert 0.08 < parts.count("valid") / 2000 < 0.12
    assert 0.08 < parts.count("test") / 2000 < 0.12


def test_fsdd(tmp_path, save_tone, prepare):
    for digit in range(2):
        for take in range(12):
            save_tone(tmp_path / "recordings" / f"{digit}_jackson_{take}.wav", 8000)
    parts = prepare(fsdd.RECIPE, tmp_path)
    assert set(parts["test"]) == {f"{digit}_jackson_{take}" for digit in range(2) for take in range(5)}
    assert len(parts["valid"]) >= 1
    assert len(parts["train"]) + len(parts["valid"]) == 14
    assert (parts["test"]["1_jackson_0"].label, parts["test"]["1_jackson_0"].speaker) == ("1", "jackson")
    save_tone(tmp_path / "recordings" / "notes.wav")
    with pytest.raises(DataError, match="not named DIGIT_SPEAKER_TAKE"):
        list(fsdd.find(tmp_path))


def test_yesno(tmp_path, save_tone, prepare):
    for number in range(20):
        save_tone(tmp_path / "waves_yesno" / f"{'_'.join(f'{number:08b}')}.wav", 8000)
    (tmp_path / "waves_yesno" / "README~").write_text("not looked at")
    found = everything(prepare(yesno.RECIPE, tmp_path))
    assert len(found) == 20
    assert found["0_0_0_0_0_0_1_1"].text == "no no no no no no yes yes"
    save_tone(tmp_path / "waves_yesno" / "2_0.wav")
    with pytest.raises(DataError, match="not named like"):
        list(yesno.find(tmp_path))


def save_ljspeech(folder, save_tone, lines):
    for name in ("LJ001-0001", "LJ001-0002", "a b"):
        save_tone(folder / "wavs" / f"{name}.wav", 22050)
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())


def test_a_table_that_other_programs_wrote_is_read(tmp_path, save_tone, caplog):
    lines = ["LJ001-0001.wav |one \u2028 two|one \x85 two", "wavs/a b.WAV|three", ""]
    save_ljspeech(tmp_path, save_tone, lines)
    found = {item.audio.name: item.text for item in ljspeech.find(tmp_path)}
    assert found == {"LJ001-0001.wav": "one \x85 two", "a b.wav": "three"}
    assert "metadata.csv does not list them: 1 recordings (LJ001-0002.wav)" in caplog.text


def test_a_name_in_a_table_that_is_not_there_is_shown_with_its_line(tmp_path, save_tone):
    save_ljspeech(tmp_path, save_tone, ["id|text", "", "LJ001-0001|one", "LJ001-0003\x00|two"])
    with pytest.raises(DataError, match=r"lists 2 clips that .*: line 1 'id', line 4 'LJ001-0003\\x00'; there is"):
        list(ljspeech.find(tmp_path))


def test_a_text_in_another_encoding_is_named_by_its_line(tmp_path, save_tone):
    wave = save_tone(tmp_path / "LibriTTS" / "train-clean-100" / "14" / "208" / "14_208_000001_000000.wav", 24000)
    wave.with_suffix(".normalized.txt").write_bytes("one\nGrüße".encode("latin-1"))
    with pytest.raises(DataError, match=r"normalized.txt cannot be read as text: line 2 has the bytes b'\\xfc"):
        list(libritts.find(tmp_path))
    wave.with_suffix(".normalized.txt").write_bytes("Grüße\r\n".encode("utf-16"))
    assert [item.text for item in libritts.find(tmp_path)] == ["Grüße"]


def test_linked_subsets_have_their_texts(tmp_path, save_tone):
    save_tone(tmp_path / "elsewhere" / "103" / "1240" / "103-1240-0000.flac")
    (tmp_path / "elsewhere" / "103" / "1240" / "103-1240.trans.txt").write_text("103-1240-0000 CHAPTER \u2028 ONE\n")
    (tmp_path / "LibriSpeech").mkdir()
    (tmp_path / "LibriSpeech" / "train-clean-100").symlink_to(tmp_path / "elsewhere")
    assert [item.text for item in librispeech.find(tmp_path)] == ["CHAPTER \u2028 ONE"]


SPEAKERS = [str(number) for number in range(20, 40)]
LAYOUTS = {
    "fsdd/recordings": (fsdd, [f"fsdd/recordings/{digit}_ann_{take}.wav" for digit in "01" for take in range(9)]),
    "LibriSpeech/train-clean-100": (
        librispeech,
        [f"LibriSpeech/{part}/{s}/1/{s}-1-0000.flac" for part in ("train-clean-100", "dev-clean") for s in SPEAKERS],
    ),
    "LibriSpeech/train-clean-100/22": (
        librispeech,
        [f"LibriSpeech/train-clean-100/{s}/1/{s}-1-000{i}.flac" for s in SPEAKERS for i in range(4)],
    ),
    "LibriTTS/train-other-500": (
        libritts,
        [f"LibriTTS/train-other-500/{s}/1/{s}_1_0_{i}.wav" for s in SPEAKERS for i in "01"],
    ),
    "VCTK-Corpus/wav48_silence_trimmed": (
        vctk,
        [f"VCTK-Corpus/wav48_silence_trimmed/p{s}/p{s}_001_mic1.flac" for s in SPEAKERS],
    ),
    "VCTK-Corpus/wav48_silence_trimmed/p22": (
        vctk,
        [f"VCTK-Corpus/wav48_silence_trimmed/p{s}/p{s}_00{i}_mic1.flac" for s in SPEAKERS for i in range(3)],
    ),
    "LJSpeech-1.1/wavs": (ljspeech, [f"LJSpeech-1.1/wavs/LJ001-00{s}.wav" for s in SPEAKERS]),
    "cmu_us_slt_arctic/wav": (cmu_arctic, [f"cmu_us_slt_arctic/wav/arctic_a00{s}.wav" for s in SPEAKERS]),
    "speech_commands_v0.02/yes": (
        speech_commands,
        [f"speech_commands_v0.02/{word}/{s}_nohash_0.wav" for word in ("yes", "no") for s in SPEAKERS],
    ),
    "waves_yesno": (yesno, [f"waves_yesno/{'_'.join(f'{i:08b}')}.wav" for i in range(9)]),
}


@pytest.mark.parametrize("inner", LAYOUTS)
def test_an_inner_folder_may_be_given_instead_of_the_corpus(inner, tmp_path, save_tone, prepare, monkeypatch):
    recipe, files = LAYOUTS[inner]
    for name in files:
        save_tone(tmp_path / "data" / name, 16000, 0.05)
    (tmp_path / "data" / "LJSpeech-1.1").mkdir(exist_ok=True)
    lines = [f"{name.rpartition('/')[2].removesuffix('.wav')}|text" for name in files]
    (tmp_path / "data" / "LJSpeech-1.1" / "metadata.csv").write_text("\n".join(lines))
    (tmp_path / "data" / "cmu_us_slt_arctic" / "etc").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / "cmu_us_slt_arctic" / "etc" / "txt.done.data").touch()
    expected = {name.rpartition("/")[2].partition(".")[0] for name in files if name.startswith(f"{inner}/")}
    (tmp_path / "link").symlink_to(tmp_path / "data" / inner)
    monkeypatch.chdir(tmp_path / "data" / inner)
    for given in (tmp_path / "data" / inner, tmp_path / "link", tmp_path / "data" / inner / "..", "."):
        found = everything(prepare(recipe.RECIPE, type(tmp_path)(given)))
        assert expected <= set(found) if str(given).endswith("..") else expected == set(found)


def test_a_folder_that_is_no_part_of_a_corpus_is_refused(tmp_path, save_tone):
    save_tone(tmp_path / "wavs" / "LJ001-0001.wav")
    with pytest.raises(DataError, match="wavs/wavs is missing: the clips.* --download fetches it"):
        ljspeech.RECIPE.prepare(tmp_path / "wavs", tmp_path / "lists")
    with pytest.raises(DataError, match=r"wavs holds no recordings in the layout of this corpus, which --help shows"):
        librispeech.RECIPE.prepare(tmp_path / "wavs", tmp_path / "lists")


def test_a_corpus_that_was_unpacked_and_deleted_says_what_to_delete(tmp_path):
    marker = tmp_path / ".LJSpeech-1.1.tar.bz2.unpacked"
    marker.touch()
    with pytest.raises(DataError, match=rf"--download after deleting {marker} fetches it"):
        ljspeech.RECIPE.prepare(tmp_path, tmp_path / "lists")


def test_a_corpus_wholly_in_one_part_says_which(tmp_path, save_tone):
    for speaker in SPEAKERS:
        save_tone(tmp_path / "LibriSpeech" / "dev-clean" / speaker / "1" / f"{speaker}-1-0000.flac")
    with pytest.raises(
        DataError, match="20 recordings, none of them in the training part .*: 20 in the validation part"
    ):
        librispeech.RECIPE.prepare(tmp_path / "LibriSpeech" / "dev-clean", tmp_path / "lists")
    librispeech.RECIPE.prepare(tmp_path / "LibriSpeech" / "dev-clean", tmp_path / "lists", resplit=True)
