"""What ends a run early, with everything saved: a signal, or the end of its time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

Clock = Callable[[], float]
"""Seconds, from any start."""

_SPARE = 1.5
"""What is kept for the last validation and checkpoint, as a multiple of the longest so far."""
_LEAST, _UNKNOWN, _MOST = 0.01, 0.04, 0.2
"""Fractions of the time that are kept for them: at least, as long as neither was measured, and at most."""


STOP_SIGNALS = [
    signal.SIGTERM,
    signal.SIGINT,
    *(signal.Signals[name] for name in ("SIGUSR1", "SIGHUP") if hasattr(signal, name)),
]
"""Signals that end a run: of the system and of schedulers, Ctrl-C, the early warning of Slurm, a closed terminal."""


class StopSignal:
    """While entered, notes a stop signal, so that a run can end between two steps; a second one acts at once.

    Attributes:
        received: The signal, or None so far.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            for number in STOP_SIGNALS:
                if number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # by nohup: the run is to outlive its terminal
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned
        self._previous = {}


class TimeBudget:
    """The wall-clock time of a run, over all its sessions.

    Args:
        minutes: How long the run may take; None is without limit.
        used: Seconds that earlier sessions took.
        clock: The time; a session begins when the budget is made, or at `began` of that clock.
        began: When this session began.
    """

    def __init__(
        self, minutes: float | None, used: float = 0.0, clock: Clock = time.monotonic, began: float | None = None
    ) -> None:
        self._total = None if minutes is None else 60 * minutes
        self._clock = clock
        self._start = (clock() if began is None else began) - used
        self._longest: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """Seconds used so far; 0 without a limit, so that checkpoints do not depend on the speed."""
        return 0.0 if self._total is None else self._clock() - self._start

    @property
    def left(self) -> float | None:
        """Seconds until the last step, or None without a limit."""
        return None if self._total is None else self._total - self._reserve(self._total) - self.seconds

    @property
    def fraction(self) -> float:
        """Fraction of the time for steps that is used, 0 to 1; 0 without a limit."""
        if self._total is None:
            return 0.0
        return min(self.seconds / (self._total - self._reserve(self._total)), 1.0)

    @property
    def is_over(self) -> bool:
        """Whether it is time to end."""
        return self.fraction >= 1

    @contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Note how long the block takes, which is done between steps."""
        began = self._clock()
        yield
        self._longest[what] = max(self._longest.get(what, 0.0), self._clock() - began)

    def allows(self, what: str) -> bool:
        """Tell whether something fits that has been measured before."""
        return self.left is None or self.left > _SPARE * self._longest.get(what, 0.0)

    def _reserve(self, total: float) -> float:
        known = [self._longest[what] for what in ("validation", "checkpoint") if what in self._longest]
        least = (_LEAST if len(known) == 2 else _UNKNOWN) * total
        return min(max(_SPARE * sum(known), least), _MOST * total)
