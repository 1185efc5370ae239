"""Listeners' answers become means with the intervals of statistics, whatever files they come in."""

from __future__ import annotations

import csv
import logging

import pytest

from audiodiff.errors import DataError
from audiodiff.evaluation.ratings import COLUMNS, opinion_scores, rating_tables, read_ratings


def mos(listener, item, system, score, seconds=1.0):
    return ["mos", listener, item, system, "", "", score, score, seconds]


def abx(listener, item, right, first="a", second="b", seconds=1.0):
    return ["abx", listener, item, first, second, "A", "A" if right else "B", int(right), seconds]


@pytest.fixture
def save(tmp_path):
    def write(name, rows, columns=COLUMNS):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([columns, *rows])
        return tmp_path / name

    return write


def test_means_are_those_of_listeners(save):
    """Ann rates twice as often, and counts no more for it: (1 + 4) / 2 and not (1 + 1 + 4) / 3."""
    file = save("x.csv", [mos("Ann", "1", "a", 1), mos("Ann", "2", "a", 1), mos("Bob", "1", "a", 4)])
    (estimate, n) = opinion_scores(read_ratings([file]))["a"]
    assert (estimate.mean, n) == (2.5, 3)
    assert estimate.low == pytest.approx(2.5 - 12.706 * 1.5, abs=0.01)  # t of one degree of freedom, deviation 2.12


def test_one_listener_says_nothing_of_others(save):
    table = rating_tables(read_ratings([save("x.csv", [mos("Ann", "1", "a", 3), mos("Ann", "2", "a", 4)])]))
    assert "3.50" in table
    assert "One listener" in table


def test_abx_is_a_binomial_test_whichever_system_was_a(save):
    rows = [abx("Ann", str(i), True, *("ab" if i % 2 else "ba")) for i in range(8)]
    table = rating_tables(read_ratings([save("x.csv", rows)]))
    assert "a - b" in table
    assert "1.00" in table
    assert f"{0.5**8:.4f}" in table
    assert "0.68 to 1.00" in table  # Wilson: 8 / (8 + 1.96^2)


def test_answers_in_two_files_count_once(save, caplog):
    first = save("x.csv", [mos("Ann", "1", "a", 3)])
    both = save("y.csv", [mos("Ann", "1", "a", 3), mos("Ann", "1", "a", 3, seconds=2.0)])
    with caplog.at_level(logging.WARNING, "audiodiff"):
        assert len(read_ratings([first, both])) == 2
    assert "1 answers are in more than one file" in caplog.text


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([["mos", "A", "1", "a", "", "", "6", "6", "1"]], COLUMNS, r"x.csv:2: test 'mos' with score '6'; expected"),
        ([["abc", "A", "1", "a", "", "", "1", "1", "1"]], COLUMNS, "test 'abc'"),
        ([["1", "2"]], ("a", "b"), "has not the columns test, listener"),
        ([["mos", "A"]], COLUMNS, "has not the columns"),
        ([], COLUMNS, "hold no answers"),
    ],
)
def test_what_is_no_answer_is_named(save, rows, columns, message):
    with pytest.raises(DataError, match=message):
        read_ratings([save("x.csv", rows, columns)])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="none.csv cannot be read"):
        read_ratings([tmp_path / "none.csv"])
