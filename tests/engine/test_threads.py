"""Threads of torch: as many as a network call keeps busy, and afterwards as many as before."""

from __future__ import annotations

import threading
from collections import deque

import pytest
import torch

from audiodiff import Generator, Vocoder
from audiodiff.engine.threads import (
    WORK_PER_THREAD,
    map_unordered,
    torch_threads,
    with_torch_threads,
    worthwhile_threads,
)


@pytest.fixture(autouse=True)
def four_threads():
    with torch_threads(4):
        yield


@pytest.mark.parametrize(("work", "n_threads"), [(0, 1), (1, 1), (1.9, 1), (2, 2), (3.5, 3), (4, 4), (1000, 4)])
def test_every_thread_has_enough_to_do(work, n_threads):
    assert worthwhile_threads(work * WORK_PER_THREAD) == n_threads


def test_the_number_is_as_before_after_an_error():
    seen = []

    def failing():
        with torch_threads(2):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert (seen, torch.get_num_threads()) == ([2], 4)


def test_the_number_is_as_before_between_values():
    values = with_torch_threads(3, iter(lambda: torch.get_num_threads(), None))
    assert next(values) == 3
    assert torch.get_num_threads() == 4
    assert next(values) == 3
    values.close()
    assert torch.get_num_threads() == 4


@pytest.fixture
def seen():
    """Return the numbers of threads that `note` was called with."""
    return deque()


@pytest.fixture
def note(seen):
    return lambda _step, _x: seen.append(torch.get_num_threads())


@pytest.mark.parametrize(("count", "n_threads"), [(1, 1), (3, 4)])
def test_one_short_clip_is_generated_by_one_thread(count, n_threads, seen, note):
    Generator.from_pretrained("words-16k", "cpu").generate("yes", count, steps=1, guidance=1, on_step=note)
    assert set(seen) == {n_threads}
    assert torch.get_num_threads() == 4


def test_a_short_mel_and_short_chunks_are_vocoded_by_one_thread(seen, note):
    vocoder = Vocoder.from_pretrained("speech-22k-stream", "cpu", "fp32")
    vocoder(torch.full((80, 86), -5.0), on_step=note)
    assert set(seen) == {1}
    for _ in vocoder.stream([torch.full((80, 86), -5.0)], on_step=note):
        assert torch.get_num_threads() == 4
    assert set(seen) == {1}
    seen.clear()
    vocoder(torch.full((80, 8 * 86), -5.0), on_step=note)
    assert set(seen) == {2}


def test_threads_do_not_change_the_audio():
    generator = Generator.from_pretrained("words-16k", "cpu")
    together = generator.generate("yes", 3, steps=2)
    with torch_threads(1):
        alone = generator.generate("yes", 3, steps=2)
    assert (together - alone).abs().max() < 1e-5


def test_results_come_as_they_are_made():
    first, stop = threading.Event(), threading.Event()

    def work(number):
        if number == 0:
            first.wait(10)
        if number == 3:
            first.set()
        return number

    results = list(map_unordered(work, iter(range(5)), 2, stop, 1))
    assert results[:2] == [1, 2]
    assert sorted(results) == list(range(5))


def test_items_are_taken_when_a_thread_is_free():
    taken = []

    def items():
        for number in range(9):
            taken.append(number)
            yield number

    results = map_unordered(lambda number: number, items(), 3, threading.Event(), 1)
    next(results)
    assert len(taken) <= 3
    results.close()


def test_an_error_stops_the_others():
    stop = threading.Event()

    def work(number):
        if number == 1:
            raise OSError("a disk")
        return stop.wait(10)

    with pytest.raises(OSError, match="a disk"):
        list(map_unordered(work, range(5), 2, stop, 1))
    assert stop.is_set()
