"""A computation that reports as it goes, turned into an iterator: it runs in a thread, and ends with its reader."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from queue import SimpleQueue
from typing import TypeVar

_Report = TypeVar("_Report")
_NAME = "audiodiff-ui-computation"
"""Of the threads."""


def reported(compute: Callable[[Callable[[_Report], None]], _Report], closed: threading.Event) -> Iterator[_Report]:
    """Run a computation in a thread.

    Args:
        compute: Called with a function that takes each report, and raises `CancelledError` once nobody reads on.
        closed: Set when everything is to end.

    Yields:
        What it reports, then what it returns. What it raises is raised here.
    """
    reports: SimpleQueue[_Report | Future[_Report]] = SimpleQueue()
    done: Future[_Report] = Future()
    left = threading.Event()

    def report(item: _Report) -> None:
        if left.is_set() or closed.is_set():
            raise CancelledError
        reports.put(item)

    def run() -> None:
        try:
            done.set_result(compute(report))
        except Exception as error:  # raised again where it is read
            done.set_exception(error)
        reports.put(done)

    threading.Thread(target=run, name=_NAME).start()  # no daemon: torch aborts where Python leaves one behind
    try:
        while not isinstance(item := reports.get(), Future):
            yield item
        yield item.result()
    finally:
        left.set()


def join_computations() -> None:
    """Wait for the threads that have yet to notice that everything ends, and write files until then."""
    for thread in threading.enumerate():
        if thread.name == _NAME:
            thread.join()
