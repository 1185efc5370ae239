"""Several at a time, in order, and an error ends it."""

import threading
import time

import pytest

from audiodiff.data.parallel import default_workers, parallel_map


@pytest.mark.parametrize("workers", [1, 3])
def test_results_keep_the_order(workers):
    assert list(parallel_map(lambda n: n * n, range(20), workers)) == [n * n for n in range(20)]


def test_workers_work_at_the_same_time():
    together = threading.Barrier(3, timeout=10)
    assert list(parallel_map(lambda n: together.wait() >= 0 and n, [0, 1, 2], 3)) == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_it_and_the_rest_is_left(workers):
    done = []

    def fail_at_three(number):
        if number == 3:
            raise ValueError("three")
        time.sleep(0.002)
        done.append(number)

    with pytest.raises(ValueError, match="three"):
        list(parallel_map(fail_at_three, range(1000), workers))
    assert len(done) < 500


def test_there_is_a_default():
    assert default_workers() >= 1
