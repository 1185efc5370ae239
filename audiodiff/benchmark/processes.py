"""Every row is measured in a process of its own: its peak of memory is its own, and a row that dies is only one row."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import TypeVar

from audiodiff.errors import AudiodiffError

Job = TypeVar("Job")
Result = TypeVar("Result")


class RowError(AudiodiffError):
    """A row could not be measured."""


def _serve(function: Callable[[Job], Result], job: Job, sender: Connection) -> None:
    warnings.simplefilter("ignore", UserWarning)  # those of the library are about sound, and this is noise
    try:
        sender.send((function(job), None))
    except (AudiodiffError, RuntimeError, MemoryError) as error:  # RuntimeError is torch without memory, for example
        message = " ".join(str(error).split())
        sender.send((None, message if isinstance(error, AudiodiffError) else f"{type(error).__name__}: {message}"))


def _context() -> ForkServerContext | SpawnContext:
    """Return how processes are started.

    A fork of a process that has computed with threads may hang; that of one that has only imported torch does not, and
    is there at once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["audiodiff.benchmark.suite"])
    return context


def in_a_process(function: Callable[[Job], Result], job: Job) -> Result:
    """Call a function in a fresh process.

    Args:
        function: A function of a module.
        job: Its argument; it can be pickled, and so can the result.

    Returns:
        The result.

    Raises:
        RowError: If the function failed, or its process was killed, for example because memory ran out.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(function, job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        result, reason = receiver.recv()
    except EOFError:
        process.join()
        killed = " (killed, most likely because memory ran out)" if process.exitcode == -9 else ""
        raise RowError(f"its process ended with code {process.exitcode}{killed}") from None
    finally:
        receiver.close()
    process.join()
    if reason is not None:
        raise RowError(reason)
    answer: Result = result
    return answer
