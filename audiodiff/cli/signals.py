"""Signals that end a command as Ctrl-C does, so that nothing half-written is left."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Have SIGTERM, SIGHUP and SIGUSR1 end this process as `sys.exit` does, with 128 and their number.

    Else what has been begun is left: files, processes, and what multiprocessing then warns of. Signals that somebody
    handles or ignores, as under nohup, are left alone; and so are all outside the main thread, where none can be
    handled.
    """

    def stop(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    numbers = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
