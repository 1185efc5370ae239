"""The verdict follows its rule: one score decides, and none may lose much."""

import pytest

from audiodiff.evaluation.results import Evaluation, FileResult, SystemResult
from audiodiff.evaluation.verdict import judge


def evaluation(**scores):
    """Two systems with these scores: name=(first's, second's), a value per recording."""

    def system(name, number):
        n = len(next(iter(scores.values()))[0])
        files = [
            FileResult(
                name=str(i),
                generated="g",
                reference="r",
                seconds=1,
                sample_rate=8000,
                scores={metric: values[number][i] for metric, values in scores.items()},
            )
            for i in range(n)
        ]
        return SystemResult(name=name, path=name, files=files)

    return Evaluation(
        created="2026", reference="r", metrics=list(scores), settings={}, systems=[system("old", 0), system("new", 1)]
    )


LOW, HIGH = [1.0, 1.2, 0.9, 1.1, 1.0], [2.0, 2.3, 1.9, 2.0, 2.1]


@pytest.mark.parametrize(
    ("scores", "is_better", "words"),
    [
        ({"m_stft": (HIGH, LOW)}, True, "Use new: it is better than old."),
        ({"m_stft": (LOW, HIGH)}, False, "Stay with old: new is worse."),
        ({"m_stft": (LOW, [1.2, 1.0, 1.1, 0.9, 1.0])}, False, "Stay with old: new is not significantly better."),
        ({"m_stft": (HIGH, [x - 0.01 for x in HIGH])}, False, "Stay with old: new is better by less than 1 %."),
        ({"pesq_wb": (LOW, HIGH)}, True, "Use new: it is better than old."),
        ({"m_stft": (HIGH, LOW), "pesq_wb": (HIGH, LOW)}, False, "better in M-STFT, but worse in another score"),
        ({"m_stft": (HIGH, LOW), "estoi": (HIGH, [x - 0.001 for x in HIGH])}, True, "Use new"),
        ({"m_stft": (HIGH, LOW), "peak": (HIGH, LOW)}, True, "Use new"),  # which is neither good nor bad
        ({"m_stft": ([2.0], [1.0])}, False, "one recording does not tell"),
    ],
)
def test_the_rule(scores, is_better, words):
    verdict = judge(evaluation(**scores))
    assert verdict.is_better is is_better
    assert words in verdict.headline
    assert "The rule: use new if" in verdict.reason


def test_the_reason_gives_difference_and_interval():
    reason = judge(evaluation(m_stft=(HIGH, LOW))).reason
    assert reason.startswith("M-STFT -1.020 (lower is better; 95 % interval -1.")
    assert "5 recordings" in reason


def test_without_a_score_that_decides_there_is_no_verdict():
    assert judge(evaluation(peak=(LOW, HIGH))) is None
