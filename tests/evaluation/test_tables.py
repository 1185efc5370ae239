"""Tables say what the stored results say, and no more."""

from __future__ import annotations

import pytest

from audiodiff.errors import DataError
from audiodiff.evaluation.results import Excluded, write_json
from audiodiff.evaluation.tables import (
    cell,
    comparison_rows,
    latex_summary,
    note_lines,
    rewrite_tables,
    score_table,
    summary_rows,
)

MARKED = """# Title
before | not touched
<!-- scores: results/*.json | m_stft rms_ratio_db -->
old
table
<!-- /scores -->
after
"""


@pytest.fixture
def page(tmp_path, evaluation):
    (tmp_path / "results").mkdir()
    write_json(tmp_path / "results" / "a.json", evaluation)
    (tmp_path / "page.md").write_text(MARKED, encoding="utf-8")
    return tmp_path / "page.md"


def test_latex_says_how_its_numbers_were_made(evaluation):
    made = evaluation.model_copy(
        update={"settings": evaluation.settings | {"command": "audiodiff evaluate pairs a b", "seed": 3}}
    )
    comments, table = latex_summary(made).split(r"\begin{tabular}")
    assert "% command: audiodiff evaluate pairs a b\n% seed: 3\n" in comments
    assert f"% created: {evaluation.created}\n" in comments
    assert "commit" not in comments
    mean, low, _, _ = evaluation.systems[0].summary("m_stft")
    assert rf"good & {mean:.3f} $\pm$ {mean - low:.3f} &" in table
    assert r"M-STFT $\downarrow$ &" in table


def test_summary_has_means_intervals_and_counts(evaluation):
    mean, low, _, _ = evaluation.systems[0].summary("m_stft")
    rows = summary_rows(evaluation)
    assert rows[0] == ["", "good", "bad"]
    assert rows[1][:2] == ["M-STFT ↓", f"{mean:.3f} ± {mean - low:.3f}"]
    lacking = evaluation.model_copy(deep=True)
    lacking.systems[0].excluded.append(Excluded(name="x", reason="silent."))
    assert summary_rows(lacking)[1][1].endswith("(4 of 5)")
    lacking.systems[0].files = []
    assert cell(lacking.systems[0], "m_stft") == "n/a"


def test_comparison_has_difference_and_p_value(evaluation):
    title, difference, interval, p_value, n = comparison_rows(evaluation)[1]
    assert title == "M-STFT, bad - good"
    assert float(difference) > 0
    assert " to " in interval
    assert (p_value, n) == ("0.1250", "4")


def test_a_marked_table_is_rewritten_and_nothing_else(page, evaluation):
    assert rewrite_tables(page) == 1
    once = page.read_text(encoding="utf-8")
    assert score_table([evaluation], ["m_stft", "rms_ratio_db"]) in once
    assert "| | M-STFT | RMS ratio (dB) |" in once
    assert f"| good | {evaluation.systems[0].summary('m_stft').mean:.3f} |" in once
    assert "old" not in once
    body = once[once.index("| | M-STFT") : once.index("<!-- /scores")]
    assert once.replace(body, "old\ntable\n") == MARKED
    rewrite_tables(page)
    assert page.read_text(encoding="utf-8") == once


def test_what_was_not_measured_is_empty_and_what_failed_is_not(evaluation):
    lacking = evaluation.model_copy(deep=True)
    for file in lacking.systems[0].files:
        del file.scores["m_stft"]
    assert "| good | n/a | |" in score_table([lacking], ["m_stft", "pesq_wb"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<!-- scores", "<!-- score", "has no line `<!-- scores: FILES"),
        ("results/*.json", "none.json", "no file none.json in"),
        ("m_stft rms", "m_stft rmse rms", "no metric 'rmse'"),
    ],
)
def test_a_wrong_mark_is_an_error_and_leaves_the_file_alone(page, old, new, message):
    page.write_text(MARKED.replace(old, new), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        rewrite_tables(page)
    assert page.read_text(encoding="utf-8") == MARKED.replace(old, new)


def test_notes_that_differ_in_numbers_alone_are_one_line(evaluation):
    noted = evaluation.model_copy(deep=True)
    for n, file in enumerate(noted.systems[0].files):
        file.notes = [f"clipped: {n} samples at full scale"]
    noted.systems[0].files[0].notes.append("moved by 3.0 ms")
    name, more = noted.systems[0].name, len(noted.systems[0].files) - 1
    first = noted.systems[0].files[0].name
    assert note_lines(noted) == [
        f"{name}, {first}: clipped: 0 samples at full scale (and {more} more recordings like it)",
        f"{name}, {first}: moved by 3.0 ms",
    ]
