"""Signs of life on a terminal: what is being loaded, and bars. Pipes, logs and `--quiet` get nothing of it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Event, RLock, Thread

_SECONDS_BETWEEN_DRAWINGS = 0.5


class _Line:
    """The line of stderr below all others, drawn anew by a thread, so that it is alive while nothing happens.

    Args:
        text: Returns what it says now.
    """

    def __init__(self, text: Callable[[], str]) -> None:
        self._text, self._width, self._drawn_at = text, 0, 0.0
        self._lock, self._stop, self._process = RLock(), Event(), os.getpid()
        self._thread = Thread(target=self._keep_drawing, daemon=True)

    def __enter__(self) -> None:
        if _lines:
            _lines[-1]._clear()
        _lines.append(self)
        self.draw()
        self._thread.start()

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._clear()
        _lines.remove(self)

    def draw(self) -> None:
        """Draw the line as it is now, where no other line lies over it."""
        with self._lock:
            if _lines[-1:] == [self] and os.getpid() == self._process:
                text = self._text()[: shutil.get_terminal_size().columns - 1]
                self._write(text.ljust(self._width))
                self._width, self._drawn_at = len(text), time.monotonic()

    def draw_now_and_then(self) -> None:
        """Draw the line, but not many times a second."""
        if time.monotonic() - self._drawn_at > 0.2 * _SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    @contextmanager
    def above(self) -> Iterator[None]:
        """Leave the place to what is written meanwhile."""
        if os.getpid() != self._process:  # the lock of a forked process is of no use
            yield
            return
        with self._lock:
            self._clear()
            yield
            self.draw()

    def _clear(self) -> None:
        with self._lock:
            if self._width:
                self._write(" " * self._width)
                self._write("")
            self._width = 0

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text)
        sys.stderr.flush()

    def _keep_drawing(self) -> None:
        while not self._stop.wait(_SECONDS_BETWEEN_DRAWINGS):
            self.draw()


_lines: list[_Line] = []
"""Those of the contexts that are open, the innermost last: only that one is drawn."""


def above_the_line() -> AbstractContextManager[None]:
    """Return a context in which lines can be written, whether or not there is a bar."""
    return _lines[-1].above() if _lines else nullcontext()


def _is_wanted() -> bool:
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return terminal and logging.getLogger("audiodiff").isEnabledFor(logging.INFO)


class Bar:
    """How much of a work is done; its methods may be called whether or not it is shown.

    Args:
        total: When all is done; 0 where that is not known, and the time is all there is to show.
        what: What is being done.
    """

    def __init__(self, total: float, what: str) -> None:
        self.done, self.total, self.what = 0.0, total, what
        self.line: _Line | None = None
        self._began = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Move on."""
        self.done += n
        self._draw()

    def set(self, done: float, total: float) -> None:
        """Move to a place."""
        self.done, self.total = done, total
        self._draw()

    def _draw(self) -> None:
        if self.line is not None:
            self.line.draw_now_and_then()

    def text(self) -> str:
        """Return the bar, as wide as the terminal at most."""
        elapsed = time.monotonic() - self._began
        if not self.total:
            return f"{self.what} ... {_interval(elapsed)}"
        fraction = min(self.done / self.total, 1.0)
        left = f", {_interval(elapsed / fraction - elapsed)} left" if fraction else ""
        head, tail = f"{self.what}{' ' * bool(self.what)}{fraction:4.0%}", f"{_interval(elapsed)} elapsed{left}"
        width = max(min(shutil.get_terminal_size().columns - len(head) - len(tail) - 6, 40), 0)
        n_full = round(fraction * width)
        return f"{head} |{_block() * n_full}{' ' * (width - n_full)}| {tail}"


def _block() -> str:
    """Return what a bar is made of, as far as the terminal has it."""
    try:
        "█".encode(sys.stderr.encoding or "ascii")
    except (UnicodeError, LookupError):
        return "#"
    return "█"


def _interval(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def progress_bar(total: float, what: str) -> Iterator[Bar]:
    """Show a bar on a terminal from the first moment; other lines are written within `above_the_line()`."""
    bar = Bar(total, what)
    if not _is_wanted():
        yield bar
        return
    bar.line = _Line(bar.text)
    with bar.line:
        yield bar


def loading(what: str) -> AbstractContextManager[Bar]:
    """Say on a terminal that something is being loaded, and for how long, until it is."""
    return progress_bar(0, f"loading {what}")
