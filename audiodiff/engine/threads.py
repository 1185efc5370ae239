"""How many CPU threads torch computes with: no more than make a network call faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

import torch

Given = TypeVar("Given")
T = TypeVar("T")

WORK_PER_THREAD = 75_000
"""Positions times channels of a network call that keep a thread busy.

With less, threads spend what they gain on waiting for each other. Of two threads instead of one, the CPU time of the
busier one was (torch 2.13, AVX2, medians): one clip of the bundled U-Nets (130,000) 1.00 of it for 1.4 times the CPU
time, two clips 0.76 for 1.17 times, eight 0.62 for 1.1 times; `speech-22k-tiny`, 5 s (55,000) and 10 s 0.8 for 1.2 to
1.4 times; `speech-22k`, 1 s (28,000) 0.95 for 1.4 times, 10 s (276,000) 0.63 for 1.1 times.
"""


def worthwhile_threads(work: float) -> int:
    """Return how many of torch's threads to use for a network call of so many positions times channels."""
    return min(torch.get_num_threads(), max(1, int(work // WORK_PER_THREAD)))


@contextmanager
def torch_threads(n_threads: int) -> Iterator[None]:
    """Have torch compute with so many threads."""
    before = torch.get_num_threads()
    if n_threads != before:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if n_threads != before:
            torch.set_num_threads(before)


def with_torch_threads(n_threads: int, values: Iterator[T]) -> Iterator[T]:
    """Yield what an iterator yields, each value computed with so many threads of torch."""
    while True:
        with torch_threads(n_threads):
            try:
                value = next(values)
            except StopIteration:
                return
        yield value


def begin_thread(n_threads: int) -> None:
    """Have torch compute with so many threads in a thread that begins: the initializer of a `ThreadPoolExecutor`."""
    torch.get_num_threads()  # the first look in a thread takes the number for all; only then it can have its own
    torch.set_num_threads(n_threads)


def map_unordered(
    function: Callable[[Given], T], items: Iterable[Given], workers: int, stop: Event, n_threads: int
) -> Iterator[T]:
    """Apply a function to every item in threads, and yield each result as soon as it is there.

    Args:
        function: What to do; it is called in several threads at once.
        items: What to do it to; the next one is taken when a thread is free for it.
        workers: How many threads.
        stop: Set at the end, also by an error or a caller that wants no more results; the function should end soon.
        n_threads: Threads of torch in each.

    Yields:
        The results, in any order.

    Raises:
        Exception: What the function raised for an item; what has not begun by then is left.
    """
    pool, futures = ThreadPoolExecutor(workers, "audiodiff", begin_thread, (n_threads,)), set[Future[T]]()
    try:
        for item in items:
            futures.add(pool.submit(function, item))
            if len(futures) == workers:
                done, futures = wait(futures, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(futures))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(torch.get_num_threads())  # for threads still to come, which would have those of the pool
