"""Turns are taken, nothing but the thing is timed, and ratios are of what was timed."""

import pytest
import torch

from audiodiff.benchmark.contest import OURS, THEIRS, sum_up
from audiodiff.benchmark.report import Figure
from audiodiff.benchmark.timing import Effort, advantage, take_turns, time_one, waiting_for


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


def test_contestants_alternate():
    clock = Clock()
    runs = {"a": clock.taking("a", 1, 2, 3), "b": clock.taking("b", 10, 20, 30)}
    assert take_turns(runs, Effort(3, 1000), clock=clock) == {"a": [1, 2, 3], "b": [10, 20, 30]}
    assert clock.log == ["a", "b"] * 3


@pytest.mark.parametrize(("seconds", "rounds"), [(1, 1), (11, 1), (12, 2), (1000, 3)])
def test_no_round_begins_when_the_time_is_up(seconds, rounds):
    clock = Clock()
    runs = {"a": clock.taking("a", 1, 1, 1), "b": clock.taking("b", 10, 10, 10)}
    assert len(take_turns(runs, Effort(3, seconds), clock=clock)["b"]) == rounds


def test_the_device_is_waited_for_within_the_time():
    clock = Clock()
    wait = clock.taking("wait", 5, 0.5, 5, 0.5)  # what was queued before is not this one's
    assert take_turns({"a": clock.taking("a", 1, 1)}, Effort(2, 1000), wait, clock) == {"a": [1.5, 1.5]}


def test_a_ratio_is_of_the_medians_and_its_span_of_the_rounds():
    figure = advantage([1.0, 1.0, 4.0], [10.0, 8.0, 8.0])
    assert figure == Figure(median=8.0, low=2.0, high=10.0, repeats=3)


def test_what_the_peer_left_out_is_multiplied():
    times = {(OURS, "fp32"): [2.0, 4.0], (OURS, "bf16"): [1.0, 1.0], THEIRS: [3.0, 5.0]}
    fp32, bf16, peer = sum_up(times, 6.0)
    assert (fp32.seconds.median, bf16.seconds.median, peer.seconds.median) == (3.0, 1.0, 24.0)
    assert (fp32.advantage.median, bf16.advantage.median, peer.advantage) == (8.0, 24.0, None)
    assert (bf16.advantage.low, bf16.advantage.high) == (18.0, 30.0)


def test_figures_in_other_units():
    figure = Figure.of([1.0, 2.0, 4.0])
    assert figure.times(10) == Figure.of([10.0, 20.0, 40.0])
    assert figure.under(8) == Figure.of([8.0, 4.0, 2.0])


def test_a_cpu_is_not_waited_for():
    assert waiting_for(torch.device("cpu"))() is None
    assert time_one(lambda: None, Effort(4, 10)).repeats == 4
