"""Which jobs a plan has, and that a job that fails is one job."""

import pytest

from audiodiff.benchmark import suite
from audiodiff.benchmark.jobs import Environment, MachineJob
from audiodiff.benchmark.suite import Plan, run_benchmark
from audiodiff.benchmark.timing import JobError
from audiodiff.benchmark.training import TrainingLimits


def plan(**changes):
    values = {"lengths": (5.0, 60.0), "batches": (1, 16), "steps": (None, 50), "dtypes": ("fp32", "bf16")}
    return Plan(**{"environment": Environment(), "models": ("a", "b")} | values | changes)


def test_one_thing_is_varied_at_a_time():
    assert list(plan().points()) == [
        (1, 5.0, None, "fp32"),
        (1, 5.0, None, "bf16"),
        (1, 60.0, None, "bf16"),
        (16, 5.0, None, "bf16"),
        (1, 5.0, 50, "bf16"),
    ]


def test_every_combination():
    assert len(set(plan(every_combination=True).points())) == 16


def test_every_model_has_its_jobs():
    assert [job.model for job in plan().synthesis()] == ["a"] * 5 + ["b"] * 5
    assert [(job.model, job.dtype) for job in plan().train()] == [
        ("a", "fp32"),
        ("a", "bf16"),
        ("b", "fp32"),
        ("b", "bf16"),
    ]
    assert [job.seconds for job in plan().precision()] == [5.0, 5.0]
    assert list(plan(training=None).train()) == []
    assert list(plan(dtypes=("bf16",)).precision()) == []


def test_streams():
    streaming = plan(streams=("b",), stream_chunks=(0.02, 0.5), environment=Environment("cpu", 4))
    jobs = list(streaming.streaming())
    assert [(job.environment.threads, job.chunk_seconds) for job in jobs] == [(4, 0.02), (4, 0.5)]
    assert {(job.model, job.dtype, job.steps) for job in jobs} == {("b", "bf16", None)}
    assert streaming.n_jobs == plan().n_jobs + 2
    assert list(plan().streaming()) == []


@pytest.mark.parametrize(("against", "models"), [("diffwave", [None]), ("vocos", ["v", "w"])])
def test_a_baseline_is_compared_once_at_every_point(against, models):
    assert list(plan().comparisons()) == []
    jobs = list(plan(against=(against,), vocoders=("v", "w")).comparisons())
    points = [(1, 5.0, None), (1, 60.0, None), (16, 5.0, None), (1, 5.0, 50)]
    assert [(job.batch, job.seconds, job.steps) for job in jobs] == points * len(models)
    assert list(dict.fromkeys(getattr(job, "model", None) for job in jobs)) == models


def test_only_diffwave_is_trained_against():
    assert plan(against=("vocos",)).training_comparison is None
    assert plan(against=("diffwave",), training=None).training_comparison is None
    assert plan(against=("vocos", "diffwave")).training_comparison is not None


@pytest.fixture
def asked(monkeypatch):
    """Answer every row but that of the machine by an error, and list their names."""
    names = []

    def refuse(function, job):
        if isinstance(job, MachineJob):
            return MachineJob(job.environment, job.dtypes, square=8).run()
        raise JobError("not here")

    monkeypatch.setattr(suite, "run_in_process", refuse)
    return names


def test_a_job_that_fails_is_noted(asked):
    wanted = plan(against=("diffwave",), training=TrainingLimits())
    report = run_benchmark(wanted, "audiodiff bench", lambda name, number, total: asked.append((number, total)))
    assert report.synthesis == report.training == report.comparisons == ()
    assert "synthesis, b, bf16, batch 1 x 60 s: not measured, not here" in report.notes
    assert any("batch 16 x 5 s: left out, the baseline is given 40 s" in note for note in report.notes)
    assert asked[0] == (1, wanted.n_jobs)
    assert [number for number, _ in asked] == list(range(1, len(asked) + 1))


def test_results_are_saved_as_they_come(monkeypatch, report):
    def answer(function, job):
        if isinstance(job, MachineJob):
            return MachineJob(job.environment, job.dtypes, square=8).run()
        if len(saved) == 2:
            raise KeyboardInterrupt
        return report.synthesis[0]

    saved = []
    monkeypatch.setattr(suite, "run_in_process", answer)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(plan(), "audiodiff bench", save=saved.append)
    assert [part.synthesis for part in saved] == [(), report.synthesis[:1]]
    assert saved[-1].copy_rate.median > 0


def test_memory_may_be_left_out():
    with_memory, without = (plan(against=("diffwave",), training=None, memory=memory) for memory in (True, False))
    assert with_memory.n_jobs - without.n_jobs == 3 * len(list(without.comparisons()))


def test_without_a_machine_there_is_no_report(monkeypatch):
    def refuse(function, job):
        raise JobError("no memory")

    monkeypatch.setattr(suite, "run_in_process", refuse)
    with pytest.raises(JobError, match="no memory"):
        run_benchmark(plan(), "audiodiff bench")
