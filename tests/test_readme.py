"""The commands of the README and of the egs exist as they are written there: verbs, options and files."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from audiodiff.cli.main import VERBS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "egs" / "README.md",
    *sorted(ROOT.glob("egs/*/*/README.md")),
]


def commands(text):
    """Return the words of every `audiodiff` command of a page, in its code blocks and between backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = re.sub(r"\\\n", " ", "\n".join(blocks)).splitlines()
    lines += re.findall(r"`(audiodiff [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0] == "audiodiff"]


COMMANDS = [words for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


def test_every_verb_is_shown():
    assert {words[1] for words in commands(README)} >= {*VERBS}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_has_known_options_and_configurations(words):
    context = main.make_context("audiodiff", [], resilient_parsing=True)
    command = main.get_command(context, words[1])
    assert words[1] in VERBS
    if isinstance(command, click.Group):
        command = command.get_command(context, words[2])
        assert command is not None
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    for word in words:
        if word.startswith("egs/"):
            assert (ROOT / word).is_file()


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_shipped_configurations_are_valid():
    from audiodiff.config import load_run_config

    configurations = sorted(ROOT.glob("egs/*/*/conf/*.yaml"))
    assert len(configurations) >= 4
    for path in configurations:
        load_run_config(path)


def test_bundled_models_are_shown_and_small():
    from audiodiff import Vocoder
    from audiodiff.checkpoint import DEFAULT_MODEL, bundled_models

    assert Vocoder.from_pretrained(device="cpu").mel_config.name == "hifigan-22k"
    largest = {DEFAULT_MODEL: 21e6, "speech-22k-stream": 21e6, "speech-22k-tiny": 3e6}
    for name, folder in bundled_models().items():
        assert sum(path.stat().st_size for path in folder.iterdir()) <= largest.get(name, 6e6), name
        assert f"`{name}`" in README


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- scores:" in page.read_text("utf-8")], ids=str)
def test_the_score_tables_are_those_of_the_stored_results(page, tmp_path):
    from click.testing import CliRunner

    copy = tmp_path / page.name
    shutil.copy(page, copy)
    shutil.copytree(page.parent / "results", tmp_path / "results")
    result = CliRunner().invoke(main, ["evaluate", "tables", str(copy)])
    assert result.exit_code == 0, result.output
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
