"""Times of things that take turns, so that what disturbs the machine disturbs all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from audiodiff.benchmark.report import Figure


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        repeats: Rounds at most.
        seconds: After these no further round is begun; one is always taken.
    """

    repeats: int = 5
    seconds: float = 10.0


def waiting_for(device: torch.device) -> Callable[[], None]:
    """Return what waits until a device has done all it was asked to do."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    effort: Effort,
    wait: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each of several things once per round, in their order.

    Args:
        contestants: Name to the thing that is timed, and nothing but that.
        effort: How many rounds.
        wait: Called before the clock is read for each, and after it, which counts: see `waiting_for`.
        clock: Seconds.

    Returns:
        Name to seconds, one value per round.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    began = clock()
    for _ in range(effort.repeats):
        for name, run in contestants.items():
            wait()
            started = clock()
            run()
            wait()
            times[name].append(clock() - started)
        if clock() - began >= effort.seconds:
            break
    return times


def time_one(run: Callable[[], object], effort: Effort, wait: Callable[[], None] = lambda: None) -> Figure:
    """Time a single thing, in seconds."""
    return Figure.of(take_turns({"": run}, effort, wait)[""])


def advantage(ours: list[float], theirs: list[float]) -> Figure:
    """Return how many times as long another takes: the ratio of the medians, with the span of the rounds' ratios.

    Args:
        ours: Seconds, one value per round.
        theirs: Seconds in the same rounds.

    Returns:
        The ratio; above 1 the other is slower.

    Example:
        >>> advantage([1.0, 2.0, 4.0], [6.0, 8.0, 10.0])
        Figure(median=4.0, low=2.5, high=6.0, repeats=3)
    """
    by_round = Figure.of([their / our for our, their in zip(ours, theirs, strict=True)])
    middle = Figure.of(theirs).median / Figure.of(ours).median
    return by_round.model_copy(update={"median": middle})
