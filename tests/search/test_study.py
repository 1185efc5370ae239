"""A study file keeps what is done through a kill, and refuses what does not belong to it."""

import pytest

from audiodiff.errors import ConfigError
from audiodiff.search.study import Study

SUBJECT = {"model": "abc", "metric": "m_stft", "over": ["centres"]}


def test_trials_are_there_again(tmp_path):
    study = Study(tmp_path / "new" / "s.jsonl", SUBJECT)
    assert list(study) == []
    study.add({"levels": [1.0, 2.5], "score": 0.5})
    study.add({"levels": [1.0], "score": None, "reason": "Ω"})
    assert list(Study(tmp_path / "new" / "s.jsonl", SUBJECT)) == list(study)
    assert len(list(study)) == 2


def test_what_a_kill_left_of_the_last_line_is_cut_off(tmp_path):
    path = tmp_path / "s.jsonl"
    study = Study(path, SUBJECT)
    study.add({"score": 1})
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"score": 2')
    again = Study(path, SUBJECT)
    assert list(again) == [{"score": 1}]
    again.add({"score": 3})
    assert [trial["score"] for trial in Study(path, SUBJECT)] == [1, 3]


def test_the_study_of_another_search_is_refused_by_what_differs(tmp_path):
    Study(tmp_path / "s.jsonl", SUBJECT)
    with pytest.raises(ConfigError, match=r"another search: metric is 'm_stft' there and 'mcd' here. Choose another"):
        Study(tmp_path / "s.jsonl", SUBJECT | {"metric": "mcd"})


@pytest.mark.parametrize("content", ["no JSON\n", "[1, 2]\n", "cut off"])
def test_a_file_that_is_no_study_is_refused(tmp_path, content):
    (tmp_path / "s.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="is no study of audiodiff"):
        Study(tmp_path / "s.jsonl", SUBJECT)
