"""Reports in files, and an honest word on what changed."""

import json

import pytest

from audiodiff.benchmark.history import changes, read_report, write_report
from audiodiff.benchmark.results import Measurement, Roofline
from audiodiff.errors import ConfigError


def with_seconds(report, values, rate=(4.0, 4.1)):
    """Return a report with one row of synthesis."""
    roofline = Roofline(matmul_rate=Measurement.from_values(rate), copy_rate=Measurement.from_values([1.0]))
    changed = {"seconds": Measurement.from_values(values), "rooflines": {"bf16": roofline}}
    row = report.synthesis[0].model_copy(update=changed)
    return report.model_copy(update={"synthesis": (row,), "streaming": (), "training": (), "comparisons": ()})


@pytest.mark.parametrize(
    ("seconds", "rate", "judgement"),
    [
        ([1.00, 1.1, 1.2, 1.3], (4.0, 4.1), "within noise"),
        ([1.31, 1.4, 1.5, 1.6], (4.0, 4.1), "within noise"),  # one of the old ones took 1.5
        ([0.50, 0.6, 0.7, 0.8], (4.0, 4.1), "faster"),
        ([2.00, 2.1, 2.2, 2.3], (4.0, 4.1), "slower"),
        ([0.50, 0.6, 0.7, 0.8], (8.0, 8.2), "faster, and so was the machine"),
        ([2.00, 2.1, 2.2, 2.3], (2.0, 3.0), "slower, and so was the machine"),
        ([0.50, 0.6, 0.7], (4.0, 4.1), "too few repeats"),  # p = 2 / 35
        ([0.50], (4.0, 4.1), "too few repeats"),
    ],
)
def test_a_change_is_one_beyond_chance_and_machine(seconds, rate, judgement, report):
    old, new = with_seconds(report, [1.0, 1.1, 1.2, 1.5]), with_seconds(report, seconds, rate)
    ((name, then, now, ratio, _, found),) = changes(old, new).rows
    assert name == "synthesis, m, bf16, 6 steps, batch 2 x 4 s"
    assert (then, found) == ("1.15", judgement)
    expected = Measurement.from_values(seconds)
    assert float(now) == pytest.approx(expected.median, rel=0.01)
    assert ratio == f"{expected.median / 1.15:.2f} ({expected.low / 1.5:.2f}-{expected.high / 1.0:.2f})"


def test_every_kind_of_row_is_found_again(report):
    rows = changes(report, report).rows
    assert [row[0].partition(",")[0] for row in rows] == ["synthesis"] * 2 + ["stream", "training"] + [
        *["synthesis"] * 2,
        *["training"] * 2,
    ]
    assert len({row[0] for row in rows}) == len(rows)
    assert {row[4] for row in rows} == {"n/a"}  # no roofline beside these


def test_other_rows_and_another_machine_are_said(report):
    other = report.model_copy(
        update={"machine": report.machine.model_copy(update={"threads": 1, "versions": {"torch": "3"}})}
    )
    assert changes(report, other).title.endswith("; threads 2 → 1; torch 2 → 3")
    old = with_seconds(report, [1.0])
    new = old.model_copy(update={"synthesis": (old.synthesis[0].model_copy(update={"batch": 7}),)})
    assert changes(old, new).rows[0][0] == "no row in common"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("median", float("nan"), "finite"),
        ("high", float("inf"), "finite"),
        ("low", None, "number"),
        ("low", 9.0, "must rise"),
    ],
)
@pytest.mark.parametrize("file", ["speed.json", "speed.jsonl"])
def test_a_report_whose_times_are_no_numbers_is_refused(report, tmp_path, name, value, problem, file):
    values = report.model_dump(mode="json")
    values["synthesis"][0]["seconds"][name] = value
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=f"synthesis.*seconds.*{problem}"):
        read_report(tmp_path / file)


def test_nothing_is_a_ratio_to_no_time(report):
    assert changes(with_seconds(report, [0.0]), with_seconds(report, [1.0])).rows[0][3] == "n/a"


def test_a_history_has_one_line_a_run(report, tmp_path):
    path, later = tmp_path / "speed.jsonl", report.model_copy(update={"date": "2026-01-02T00:00:00+00:00"})
    for each in (report, report.model_copy(update={"synthesis": ()}), later.model_copy(update={"notes": ()}), later):
        write_report(each, path)
        path.write_text(path.read_text().rstrip())  # as some editors leave it
    assert len(path.read_text().splitlines()) == 2
    assert read_report(path) == later


def test_a_history_that_is_none_is_left_alone(report, tmp_path):
    path = tmp_path / "speed.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        write_report(report, path)
    assert path.read_bytes() == b"\xff\xfe\x00"
    with pytest.raises(ConfigError):
        read_report(path)
