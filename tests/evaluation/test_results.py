"""The document survives its files, and means follow from its scores."""

from __future__ import annotations

import csv
import json

import pytest

from audiodiff.errors import DataError
from audiodiff.evaluation.results import Excluded, read_json, write_csv, write_json


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
