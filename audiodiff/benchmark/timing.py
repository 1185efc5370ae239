"""Timing: functions in turns, so that a disturbance meets all of them alike, and jobs in processes of their own."""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import TypeVar

import torch

from audiodiff.benchmark.results import Measurement
from audiodiff.data.parallel import deaf_to_interruptions, end_with_parent
from audiodiff.errors import AudiodiffError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TimingOptions:
    """How long to measure.

    Attributes:
        repeats: Rounds at most.
        max_seconds: No further round starts after these; there is always one.
    """

    repeats: int = 5
    max_seconds: float = 10.0


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until a device has finished."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    options: TimingOptions,
    synchronise: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    after_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time each of several functions once per round, in their order.

    Args:
        functions: By name.
        options: How many rounds.
        synchronise: Called before each starts, and before its end is timed; see `synchroniser`.
        clock: Seconds.
        after_round: Called after every round; not timed.

    Returns:
        Name to seconds, one value per round.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    began = clock()
    for _ in range(options.repeats):
        for name, run in functions.items():
            synchronise()
            started = clock()
            run()
            synchronise()
            times[name].append(clock() - started)
        after_round()
        if clock() - began >= options.max_seconds:
            break
    return times


def speedup(ours: list[float], baseline: list[float]) -> Measurement:
    """Return how many times as long a baseline takes: the ratio of medians, and the range of the rounds' ratios.

    Args:
        ours: Seconds, one value per round.
        baseline: Seconds in the same rounds.

    Returns:
        The ratio; above 1 the baseline is slower.

    Example:
        >>> speedup([1.0, 2.0, 4.0], [6.0, 8.0, 10.0])
        Measurement(median=4.0, low=2.5, high=6.0, repeats=3)
    """
    by_round = Measurement.from_values([slow / fast for fast, slow in zip(ours, baseline, strict=True)])
    ratio = Measurement.from_values(baseline).median / Measurement.from_values(ours).median
    return by_round.model_copy(update={"median": ratio})


class JobError(AudiodiffError):
    """A job could not be measured."""


def _serve(function: Callable[[Job], Result], job: Job, sender: Connection) -> None:
    end_with_parent()
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
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["audiodiff.benchmark.suite"])
    with deaf_to_interruptions():
        forkserver.ensure_running()
    return context


def run_in_process(function: Callable[[Job], Result], job: Job) -> Result:
    """Call a function in a fresh process.

    Args:
        function: A function of a module.
        job: Its argument; it can be pickled, and so can the result.

    Returns:
        The result.

    Raises:
        JobError: If the function failed, or its process was killed, for example because memory ran out.
    """
    context = _context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(function, job, sender), daemon=True)
    process.start()
    sender.close()
    try:
        result, reason = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        killed = " (killed, most likely because memory ran out)" if process.exitcode == -9 else ""
        raise JobError(f"its process ended with code {process.exitcode}{killed}") from None
    finally:
        receiver.close()
        process.kill()  # which has ended, unless Ctrl-C ends the wait for it
    if reason is not None:
        raise JobError(reason)
    answer: Result = result
    return answer
