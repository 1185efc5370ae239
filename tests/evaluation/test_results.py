"""The document survives its files, and means follow from its scores."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
from scipy import stats

from audiodiff.errors import DataError
from audiodiff.evaluation.results import Excluded, compare, estimate, proportion, read_json, write_csv, write_json


def test_json_is_read_as_it_was_written(evaluation, tmp_path):
    write_json(tmp_path / "x.json", evaluation)
    assert read_json(tmp_path / "x.json") == evaluation
    document = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    summary = document["systems"][0]["summary"]["m_stft"]
    assert (summary["mean"], summary["n"], summary["n_failed"]) == (evaluation.systems[0].summary("m_stft").mean, 4, 0)
    (comparison,) = (item for item in document["comparisons"] if item["metric"] == "m_stft")
    assert comparison["second"] == "bad"
    assert comparison["mean"] > 0
    assert comparison["p_value"] == 0.125  # the least that four pairs can give, 2 / 2^4


def test_failed_recordings_are_counted_and_in_no_comparison(evaluation):
    lacking = evaluation.model_copy(deep=True)
    del lacking.systems[0].files[0].scores["m_stft"]
    lacking.systems[0].files[0].failures["m_stft"] = "too short."
    lacking.systems[0].excluded.append(Excluded(name="clip9", reason="silent."))
    assert lacking.systems[0].summary("m_stft").n == 3
    assert lacking.systems[0].n_failed("m_stft") == 2
    assert lacking.comparison("m_stft", 0, 1).n == 3
    assert lacking.problems == ["good, clip9: silent.", "good, clip0: no m_stft: too short."]


def test_csv_has_a_line_per_recording(evaluation, tmp_path):
    lacking = evaluation.model_copy(deep=True)
    lacking.systems[1].excluded.append(Excluded(name="clip9", reason="silent."))
    write_csv(tmp_path / "x.csv", lacking)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert float(rows[0]["m_stft"]) == evaluation.systems[0].files[0].scores["m_stft"]
    assert (rows[-1]["name"], rows[-1]["m_stft"], rows[-1]["problems"]) == ("clip9", "", "silent.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no evaluation of format 1"),
        ('{"audiodiff_evaluation": 2}', "no evaluation of format 1"),
        ('{"audiodiff_evaluation": 1, "systems": []}', "damaged at created"),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "x.json")


def test_interval_is_that_of_students_t():
    values = [1.0, 4.0, 2.0, 8.0, 5.5]
    expected = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert estimate(values)[:3] == pytest.approx((np.mean(values), *expected))


def test_interval_holds_the_truth_95_times_in_100():
    random = np.random.default_rng(0)
    found = [estimate(random.normal(3, 2, 8).tolist()) for _ in range(1000)]
    assert 930 < sum(low < 3 < high for _, low, high, _ in found) < 970


def test_one_value_has_no_interval():
    assert estimate([2.0]) == (2.0, None, None, 1)
    assert compare([2.0], [3.0]) == (1.0, None, None, 1, None)


def test_p_value_counts_sign_flips():
    """With six pairs all 64 flips are tried."""
    first, second = np.zeros(6), np.array([0.5, 1.0, -0.2, 0.7, 0.4, 0.9])
    observed = second.mean()
    means = [np.mean(np.array(signs) * second) for signs in itertools.product((-1, 1), repeat=6)]
    expected = 2 * min(np.mean(np.array(means) >= observed - 1e-12), np.mean(np.array(means) <= observed + 1e-12))
    assert compare(first.tolist(), second.tolist()).p_value == pytest.approx(expected)


def test_pairs_count_not_sets():
    """A small gain on every recording is sure, although recordings differ far more than systems."""
    random = np.random.default_rng(1)
    first = random.normal(0, 10, 30)
    second = first + 0.1 + random.normal(0, 0.05, 30)
    difference = compare(first.tolist(), second.tolist())
    assert difference.p_value < 0.001
    assert difference.low > 0
    assert compare(first.tolist(), second.tolist()) == difference


def test_no_difference_is_found_by_chance_as_often_as_it_says():
    random = np.random.default_rng(2)
    found = [compare([0.0] * 9, random.normal(0, 1, 9).tolist()).p_value < 0.05 for _ in range(200)]
    assert np.mean(found) < 0.1


def test_proportion_is_wilsons_with_a_binomial_test():
    low, high, p_value = proportion(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert p_value == pytest.approx((45 + 10 + 1) / 1024)
