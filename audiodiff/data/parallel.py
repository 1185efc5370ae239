"""Many files at once: a function over a list in threads, in order, with results as they come."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Given = TypeVar("Given")
Result = TypeVar("Result")


def default_workers() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel_map(function: Callable[[Given], Result], items: Iterable[Given], workers: int) -> Iterator[Result]:
    """Apply a function to every item, several at a time.

    Threads, not processes: reading and transforming audio runs outside Python's lock, nothing is copied, and Ctrl-C
    ends all at once. Within a thread torch uses one processor.

    Args:
        function: What to do; it may be called in several threads at once.
        items: What to do it to.
        workers: How many threads; 1 works in the caller's.

    Yields:
        The results, in the order of the items.

    Raises:
        Exception: What the function raised for an item, when its turn comes; what has not begun by then is left.
    """
    if workers == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
        yield from pool.map(function, items)
