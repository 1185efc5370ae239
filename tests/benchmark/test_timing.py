"""Functions take turns and nothing else is timed; a job runs by itself, and its failure is reported."""

import os
import signal

import pytest
import torch

from audiodiff.benchmark.comparison import BASELINE_KEY, OURS, summarise
from audiodiff.benchmark.machine import MemoryMonitor, available_bytes
from audiodiff.benchmark.results import Measurement
from audiodiff.benchmark.timing import (
    JobError,
    TimingOptions,
    run_in_process,
    speedup,
    synchroniser,
    time_interleaved,
)
from audiodiff.errors import ConfigError


class Clock:
    """A clock that only the things that are timed advance."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def taking(self, name, *seconds):
        remaining = list(seconds)

        def run():
            self.log.append(name)
            self.now += remaining.pop(0)

        return run


def test_functions_alternate():
    clock = Clock()
    runs = {"a": clock.taking("a", 1, 2, 3), "b": clock.taking("b", 10, 20, 30)}
    assert time_interleaved(runs, TimingOptions(3, 1000), clock=clock) == {"a": [1, 2, 3], "b": [10, 20, 30]}
    assert clock.log == ["a", "b"] * 3


@pytest.mark.parametrize(("seconds", "rounds"), [(1, 1), (11, 1), (12, 2), (1000, 3)])
def test_no_round_begins_when_the_time_is_up(seconds, rounds):
    clock = Clock()
    runs = {"a": clock.taking("a", 1, 1, 1), "b": clock.taking("b", 10, 10, 10)}
    assert len(time_interleaved(runs, TimingOptions(3, seconds), clock=clock)["b"]) == rounds


def test_the_device_is_waited_for_within_the_time():
    clock = Clock()
    wait = clock.taking("wait", 5, 0.5, 5, 0.5)  # what was queued before is not this one's
    assert time_interleaved({"a": clock.taking("a", 1, 1)}, TimingOptions(2, 1000), wait, clock) == {"a": [1.5, 1.5]}


def test_a_ratio_is_of_the_medians_and_its_span_of_the_rounds():
    figure = speedup([1.0, 1.0, 4.0], [10.0, 8.0, 8.0])
    assert figure == Measurement(median=8.0, low=2.0, high=10.0, repeats=3)


def test_steps_of_the_baseline_that_were_not_timed_are_scaled_up():
    times = {(OURS, "fp32"): [2.0, 4.0], (OURS, "bf16"): [1.0, 1.0], BASELINE_KEY: [3.0, 5.0]}
    fp32, bf16, baseline = summarise(times, 6.0)
    assert (fp32.seconds.median, bf16.seconds.median, baseline.seconds.median) == (3.0, 1.0, 24.0)
    assert (fp32.speedup.median, bf16.speedup.median, baseline.speedup) == (8.0, 24.0, None)
    assert (bf16.speedup.low, bf16.speedup.high) == (18.0, 30.0)


def test_figures_in_other_units():
    figure = Measurement.from_values([1.0, 2.0, 4.0])
    assert figure.scaled(10) == Measurement.from_values([10.0, 20.0, 40.0])
    assert figure.rate_of(8) == Measurement.from_values([8.0, 4.0, 2.0])


def test_between_rounds_something_else_may_be_measured():
    order = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    time_interleaved(runs, TimingOptions(2, 10), after_round=lambda: order.append("roofline"))
    assert order == ["a", "b", "roofline"] * 2


def test_a_cpu_is_not_waited_for():
    assert synchroniser(torch.device("cpu"))() is None


CPU = torch.device("cpu")
BLOCK = 200_000_000


def double(value):
    return 2 * value


def own_process(_):
    return os.getpid()


def fail(error):
    raise error


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def memory_of(n_bytes):
    watch = MemoryMonitor(CPU)
    torch.ones(n_bytes, dtype=torch.uint8)
    return watch.memory()


def test_results_come_back_from_another_process():
    assert run_in_process(double, 21) == 42
    assert run_in_process(own_process, None) != os.getpid()


@pytest.mark.parametrize(
    ("error", "message"),
    [(ConfigError("no such thing"), "^no such thing$"), (RuntimeError("no\nmemory"), "^RuntimeError: no memory$")],
)
def test_errors_are_told(error, message):
    with pytest.raises(JobError, match=message):
        run_in_process(fail, error)


def test_killed_job_is_reported():
    with pytest.raises(JobError, match="most likely because memory ran out"):
        run_in_process(die, None)


def test_a_peak_is_of_its_row_alone():
    held = torch.ones(2 * BLOCK, dtype=torch.uint8)  # here, not there
    small, large = (run_in_process(memory_of, n_bytes) for n_bytes in (1, BLOCK))
    assert len(held) == 2 * BLOCK
    assert large.peak - large.before == pytest.approx(BLOCK, rel=0.1)
    assert small.peak - small.before < 0.1 * BLOCK


def test_what_is_left_is_told():
    available = available_bytes(CPU)
    assert available is None or available > 1_000_000
