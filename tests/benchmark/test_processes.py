"""A row runs by itself: its result comes back, its errors and its death are told, its memory is its own."""

import os
import signal

import pytest
import torch

from audiodiff.benchmark.memory import MemoryWatch, available_bytes
from audiodiff.benchmark.processes import RowError, in_a_process
from audiodiff.errors import ConfigError

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
    watch = MemoryWatch(CPU)
    torch.ones(n_bytes, dtype=torch.uint8)
    return watch.memory()


def test_results_come_back_from_another_process():
    assert in_a_process(double, 21) == 42
    assert in_a_process(own_process, None) != os.getpid()


@pytest.mark.parametrize(
    ("error", "message"),
    [(ConfigError("no such thing"), "^no such thing$"), (RuntimeError("no\nmemory"), "^RuntimeError: no memory$")],
)
def test_errors_are_told(error, message):
    with pytest.raises(RowError, match=message):
        in_a_process(fail, error)


def test_death_is_told():
    with pytest.raises(RowError, match="most likely because memory ran out"):
        in_a_process(die, None)


def test_a_peak_is_of_its_row_alone():
    held = torch.ones(2 * BLOCK, dtype=torch.uint8)  # here, not there
    small, large = (in_a_process(memory_of, n_bytes) for n_bytes in (1, BLOCK))
    assert len(held) == 2 * BLOCK
    assert large.peak - large.before == pytest.approx(BLOCK, rel=0.1)
    assert small.peak - small.before < 0.1 * BLOCK


def test_what_is_left_is_told():
    available = available_bytes(CPU)
    assert available is None or available > 1_000_000
