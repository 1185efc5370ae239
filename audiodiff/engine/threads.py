"""How many CPU threads torch computes with: no more than make a network call faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

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
