"""What an error or a warning advises is done here, and helps."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tarfile
from dataclasses import replace

import pytest
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.config import DataConfig, ModelConfig, parse_config
from audiodiff.data.corpus import open_recordings, open_source
from audiodiff.data.manifest import list_folder, read_manifest
from audiodiff.errors import ConfigError, DataError
from audiodiff.text import parse_yaml, read_text
from recipes import librispeech, ljspeech
from recipes._archives import Archive
from recipes._cli import command

FFMPEG = """#!/bin/sh
while [ $# -gt 1 ]; do
  case "$1" in
    -n) keep=1 ;;
    -i) source="$2" ;;
  esac
  shift
done
[ -n "$keep" ] && [ -e "$1" ] && exit 1
cp "$source" "$1"
"""
"""Stands in for ffmpeg: copies what it is to convert, here sounds that bear the extensions of other formats."""


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FFMPEG)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def corpus(tmp_path, save_voice):
    """Give a function that makes a folder of sounds by their names, whatever the extensions."""

    def make(*names):
        folder = tmp_path / "my corpus"
        for seed, name in enumerate(names):
            sound = save_voice(tmp_path / "sound.wav", 0.3, seed=seed)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(sound, folder / name)
        return folder

    return make


def run(*arguments):
    return CliRunner().invoke(main, [str(word) for word in arguments])


def run_recipe(recipe, *arguments):
    return CliRunner().invoke(command(recipe, ""), [str(word) for word in arguments])


def refusal(function, *arguments, kind=DataError):
    with pytest.raises(kind) as caught:
        function(*arguments)
    return str(caught.value)


def n_listed(folder):
    return sum(len(read_manifest(folder / f"{part}.jsonl")) for part in ("train", "valid", "test"))


@pytest.mark.parametrize("n", [1, 2])
def test_the_options_that_leave_something_to_train_on(corpus, tmp_path, n):
    folder = corpus(*(f"{i}.wav" for i in range(n)))
    result = run("prepare", folder, tmp_path / "lists")
    assert result.exit_code == 1
    assert not (tmp_path / "lists").exists()
    options = re.search(r"or use (--.*)\.$", result.stderr)[1]
    assert run("prepare", folder, tmp_path / "lists", *options.split(" ")).exit_code == 0
    assert read_manifest(tmp_path / "lists" / "train.jsonl")
    assert n_listed(tmp_path / "lists") == n


def test_cutting_into_several_files(corpus, tmp_path):
    assert "cut long ones into several files" in run("prepare", corpus("a.wav"), tmp_path / "lists").stderr
    assert run("prepare", corpus("a.wav", "b.wav", "c.wav"), tmp_path / "lists").exit_code == 0
    assert all(read_manifest(tmp_path / "lists" / f"{part}.jsonl") for part in ("train", "valid", "test"))


FOREIGN = ("a.m4a", "it's b/c.AAC", "it's b/d.webm", "it's b/e.mp4", "f.wma")


@pytest.mark.usefixtures("ffmpeg")
def test_the_command_that_converts_what_is_left_out(corpus, tmp_path):
    folder = corpus("0.wav", "1.wav", "2.wav", *FOREIGN)
    (tmp_path / "linked").mkdir()
    shutil.move(folder / "f.wma", tmp_path / "linked" / "f.wma")
    (folder / "link").symlink_to(tmp_path / "linked")
    result = run("prepare", folder, tmp_path / "lists")
    assert n_listed(tmp_path / "lists") == 3
    line = re.search(r"(?m)or: (find .*)$", result.stderr)[1]
    subprocess.run(["sh", "-c", line], check=True, cwd=tmp_path)
    result = run("prepare", folder, tmp_path / "lists")
    assert (result.exit_code, result.stderr) == (0, "")
    assert n_listed(tmp_path / "lists") == 8


@pytest.mark.usefixtures("ffmpeg")
def test_the_option_that_converts_what_is_left_out(corpus, tmp_path):
    folder = corpus("0.wav", "1.wav", "2.wav", *FOREIGN, "a.mp4")
    assert "`audiodiff prepare --ffmpeg` converts them" in run("prepare", folder, folder / "lists").stderr
    for _ in range(2):  # the results of the first time are no recordings the second time
        result = run("prepare", folder, folder / "lists", "--ffmpeg")
        assert (result.exit_code, result.stderr) == (0, "")
        assert n_listed(folder / "lists") == 9
    (folder / "bad.mkv").mkdir()
    (folder / "bad.m4b").symlink_to(folder / "nothing")
    result = run("prepare", folder, folder / "lists", "--ffmpeg")
    assert result.exit_code == 1
    assert re.search(r"bad.m4b cannot be read by ffmpeg \(.*\). Remove or replace it", result.stderr)
    (folder / "bad.m4b").unlink()
    assert run("prepare", folder, folder / "lists", "--ffmpeg").exit_code == 0


def test_without_ffmpeg_the_option_says_so(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = corpus("0.wav", "1.wav", "2.wav", "a.m4a")
    result = run("prepare", folder, tmp_path / "lists", "--ffmpeg")
    assert result.exit_code == 1
    assert "ffmpeg cannot be started (No such file or directory). Install it, or do without it." in result.stderr
    assert run("prepare", folder, tmp_path / "lists").exit_code == 0


def test_giving_a_file_its_extension(corpus, tmp_path):
    folder = corpus("0.wav", "1.wav", "2.wav", "take")
    result = run("prepare", folder, tmp_path / "lists")
    extension = re.search(r"without an extension their own, such as (\.\w+)\.", result.stderr)[1]
    (folder / "take").rename(folder / f"take{extension}")
    assert run("prepare", folder, tmp_path / "lists").stderr == ""
    assert n_listed(tmp_path / "lists") == 4


def test_names_of_lists_that_are_there(corpus, tmp_path):
    folder = corpus("a.wav", "b.wav", "c.wav")
    (tmp_path / "valid.txt").write_text("nobody\n")
    arguments = ("prepare", folder, tmp_path / "lists", "--valid-list", tmp_path / "valid.txt")
    name = re.search(r"one per line, such as '(.*)'\.$", run(*arguments).stderr)[1]
    (tmp_path / "valid.txt").write_text(name)
    assert run(*arguments).exit_code == 0


def test_a_manifest_that_prepare_writes(corpus, tmp_path):
    folder = corpus("a.wav", "b.wav", "c.wav")
    (tmp_path / "train.jsonl").write_text('{"audio_filepath": "a.wav", "duration": 1}\n')
    assert "Write manifests with `audiodiff prepare`" in refusal(open_source, str(tmp_path / "train.jsonl"))
    run("prepare", folder, tmp_path)
    assert len(open_source(str(tmp_path / "train.jsonl"))) == 1
    (folder / "a.wav").rename(folder / "d.wav")
    manifests = [str(tmp_path / f"{part}.jsonl") for part in ("train", "valid", "test")]
    assert "write the manifest again" in "".join(refusal(open_source, m) for m in manifests if "a.wav" in read_text(m))
    run("prepare", folder, tmp_path)
    assert all(open_source(manifest) for manifest in manifests)


def test_an_empty_manifest(corpus, tmp_path):
    folder = corpus("a.wav", "b.wav", "c.wav")
    run("prepare", folder, tmp_path, "--valid-fraction", 0)
    assert re.search(
        "by `audiodiff prepare` with a --valid-fraction above 0", refusal(open_source, f"{tmp_path}/valid.jsonl")
    )
    run("prepare", folder, tmp_path, "--valid-fraction", 0.1)
    assert open_source(f"{tmp_path}/valid.jsonl")


def test_validation_of_its_own(corpus):
    folder = str(corpus("a.wav", "b.wav"))
    assert "leave out data.valid" in refusal(open_recordings, DataConfig(train=folder, valid=folder))
    assert all(open_recordings(DataConfig(train=folder)))


@pytest.mark.parametrize("value", ["true", "7", "1.0", "null"])
def test_quotes_around_a_word(value):
    text = "sample_rate: 8000\nlabels: [a, {}]"
    message = refusal(parse_config, ModelConfig, parse_yaml(text.format(value), "x"), "x", kind=ConfigError)
    assert "write it in quotes" in message
    assert parse_config(ModelConfig, parse_yaml(text.format(f'"{value}"'), "x"), "x").labels == ("a", value)


def test_saving_as_utf_8(tmp_path):
    (tmp_path / "x.txt").write_text("Müller", encoding="latin-1")
    encoding = re.search(r"Save it as (\S+)\.$", refusal(read_text, tmp_path / "x.txt"))[1]
    (tmp_path / "x.txt").write_text("Müller", encoding=encoding)
    assert read_text(tmp_path / "x.txt") == "Müller"


@pytest.fixture
def dev_clean(corpus):
    names = (f"{s}/1/{s}-1-0000.flac" for s in range(20, 40))
    return corpus(*(f"LibriSpeech/dev-clean/{name}" for name in names))


def test_dividing_anew_what_is_wholly_in_one_part(dev_clean, tmp_path):
    result = run_recipe(librispeech.RECIPE, dev_clean, tmp_path / "lists")
    option = re.search(r"divide these anew with (--\S+)\.", result.stderr)[1]
    assert run_recipe(librispeech.RECIPE, dev_clean, tmp_path / "lists", option).exit_code == 0
    assert n_listed(tmp_path / "lists") == 20


def test_deleting_lines_of_a_table(corpus, tmp_path):
    folder = corpus(*(f"wavs/{i}.wav" for i in range(3)))
    table = folder / "metadata.csv"
    table.write_text("id|text\n0|a\n1|b\n9|c\n2|d\n")
    message = run_recipe(ljspeech.RECIPE, folder, tmp_path / "lists").stderr
    wrong = {int(number) for number in re.findall(r"line (\d+)", message)}
    lines = table.read_text().split("\n")
    table.write_text("\n".join(line for number, line in enumerate(lines, 1) if number not in wrong))
    assert run_recipe(ljspeech.RECIPE, folder, tmp_path / "lists").exit_code == 0
    assert n_listed(tmp_path / "lists") == 3


def test_downloading_what_was_deleted(corpus, tmp_path):
    folder = corpus(*(f"wavs/{i}.wav" for i in range(3)))
    (folder / "metadata.csv").write_text("0|a\n1|b\n2|c\n")
    with tarfile.open(tmp_path / "corpus.tar", "w") as archive:
        archive.add(folder, "LJSpeech-1.1")
    digest = hashlib.sha256((tmp_path / "corpus.tar").read_bytes()).hexdigest()
    recipe = replace(ljspeech.RECIPE, archives=(Archive((tmp_path / "corpus.tar").as_uri(), digest),))
    target = tmp_path / "target"
    target.mkdir()
    assert "--download fetches it" in run_recipe(recipe, target, tmp_path / "lists").stderr
    assert run_recipe(recipe, target, tmp_path / "lists", "--download").exit_code == 0
    shutil.rmtree(target / "LJSpeech-1.1")
    result = run_recipe(recipe, target, tmp_path / "lists", "--download")  # what was unpacked is not unpacked again
    os.unlink(re.search(r"--download after deleting (.*) fetches it", result.stderr)[1])
    assert run_recipe(recipe, target, tmp_path / "lists", "--download").exit_code == 0
    assert n_listed(tmp_path / "lists") == 3


def test_what_stands_in_for_ffmpeg_is_listed_as_it_is(corpus):
    assert len(list_folder(corpus(*FOREIGN)).foreign) == len(FOREIGN)
