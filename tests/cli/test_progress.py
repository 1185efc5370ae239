"""Signs of life: on a terminal from the first moment, never in a pipe or where logging is quiet."""

from __future__ import annotations

import io
import logging
import re
import time
from types import SimpleNamespace

import pytest

from audiodiff.cli import progress
from audiodiff.cli.progress import above_the_line, loading, progress_bar


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and what one would show."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """What is on the screen: what follows a carriage return lies over what was there."""
        screen = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for part in line.split("\r"):
                seen = part + seen[len(part) :]
            screen.append(seen.rstrip())
        return screen


@pytest.fixture
def terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    monkeypatch.setenv("COLUMNS", "80")
    logger = logging.getLogger("audiodiff")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    yield stream
    logger.manager._clear_cache()


def test_a_bar_is_there_at_once_and_goes_away(terminal):
    with progress_bar(4, "vocoding") as bar:
        assert re.fullmatch(r"vocoding +0% \| +\| 0:00 elapsed", terminal.lines[-1])
        bar.update(1)
        bar.line.draw()
        assert re.fullmatch(r"vocoding +25% \|█+ +\| 0:00 elapsed, 0:00 left", terminal.lines[-1])
    assert terminal.lines == [""]


def test_a_bar_moves_while_nothing_happens(terminal, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_DRAWINGS", 0.01)
    with loading("a model"):
        began = time.monotonic()
        while "0:01" not in terminal.getvalue():
            assert time.monotonic() - began < 30
            time.sleep(0.01)
    assert terminal.lines == [""]


def test_lines_are_written_above_the_bar(terminal):
    with progress_bar(2, "scoring"), above_the_line():
        terminal.write("a result\n")
    assert terminal.lines == ["a result", ""]


def test_a_bar_within_a_bar_takes_its_place(terminal):
    with progress_bar(2, "vocoding"):
        with loading("speech-22k"):
            assert terminal.lines[-1] == "loading speech-22k ... 0:00"
        assert terminal.lines[-1] == ""


def test_more_than_all_is_all(terminal):
    with progress_bar(1, "generating") as bar:
        for _ in range(11):
            bar.update(0.1)
        bar.line.draw()
        assert "100%" in terminal.lines[-1]


@pytest.mark.parametrize("width", [10, 20, 40, 200])
def test_a_bar_is_no_wider_than_the_terminal(width, terminal, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    with progress_bar(3, "generating") as bar:
        bar.update(1)
        bar.line.draw()
        assert 0 < len(terminal.lines[-1]) < width


def test_ascii_terminals_have_bars(terminal):
    terminal.encoding = "ascii"
    with progress_bar(1, "generating") as bar:
        bar.update(1)
        bar.line.draw()
        assert terminal.lines[-1].isascii()
        assert "###" in terminal.lines[-1]


@pytest.mark.parametrize("quiet", ["a pipe", "--quiet"])
def test_pipes_and_quiet_runs_get_nothing(quiet, terminal, monkeypatch):
    if quiet == "a pipe":
        monkeypatch.setattr(Terminal, "isatty", lambda _self: False)
    else:
        logging.getLogger("audiodiff").level = logging.WARNING
    with progress_bar(2, "scoring") as bar, loading("a model"), above_the_line():
        bar.update(1)
        bar.set(1, 3)
    assert terminal.getvalue() == ""
