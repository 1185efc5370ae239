"""Long and streamed audio: signals in pieces, and the network calls that read them.

A `Signal` is one long tensor as an iterator of pieces, with pointwise arithmetic. Given one, a sampler builds the
reverse process as a graph of signals, and reading its result computes it piece by piece. A network call holds as much
of its input as it can see to either side: the result is that of the whole at once, comes out while the signal is still
coming in, and memory holds only what lies between the first network call and the last. After every piece it gives all
that has become complete, so its output is cut elsewhere than its input.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from queue import Empty, Full, Queue
from threading import Barrier, Event, RLock
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor

from audiodiff.engine.threads import begin_thread
from audiodiff.engine.windows import Length, with_stretches

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")


class _Source(Generic[T]):
    """An iterator of batches of pieces, read once; pieces are kept for readers that have not got there."""

    def __init__(self, batches: Iterable[Sequence[T]]) -> None:
        self.batches = iter(batches)
        self.n_pieces, self.ended = 0, False
        self.lock = RLock()
        self._broken = False
        self._readers: list[weakref.ref[_Reader[T]]] = []  # weak: what nobody will read is not kept
        self.observers: list[Callable[[T], object]] = []

    def reader(self) -> _Reader[T]:
        if self.n_pieces:
            raise RuntimeError("all readers must be created before reading starts")
        reader = _Reader(self)
        self._readers.append(weakref.ref(reader))
        return reader

    def advance(self) -> bool:
        """Take the next batch, which may be empty; return False at the end of the signal."""
        with self.lock:
            if self.ended:
                return False
            if self._broken:
                raise RuntimeError("a signal broke off with an error")
            self._broken = True  # unless the next batch comes
            batch = next(self.batches, None)
            self._broken = False
            if batch is None:
                self.ended = True
                return False
            readers = [reader for reader in (ref() for ref in self._readers) if reader is not None]
            self._readers = [ref for ref in self._readers if ref() is not None]
            for piece in batch:
                for observer in self.observers:
                    observer(piece)
                for reader in readers:
                    reader.waiting.append(piece)
            self.n_pieces += len(batch)
            return True


class _Reader(Generic[T]):
    """One reader's place in a signal, for one thread."""

    def __init__(self, source: _Source[T]) -> None:
        self.waiting: deque[T] = deque()
        self._source = source

    def __iter__(self) -> _Reader[T]:
        return self

    def __next__(self) -> T:
        if not self.waiting:
            with self._source.lock:
                while not self.waiting:
                    if not self._source.advance():
                        raise StopIteration
        return self.waiting.popleft()


class Signal(Generic[T]):
    """One long signal as an iterator of pieces, read lazily; each `iter` is a reader, made before reading starts.

    Args:
        batches: Yields lists of consecutive pieces, empty ones where nothing has become complete. For arithmetic the
            pieces are tensors `(batch, channels, time)`.
        length: Its length; what is computed from it is as long.
        n_calls: How many network calls it has come through, each of which cuts it anew.

    Example:
        >>> x = Signal([[torch.ones(1, 1, 3)], [torch.ones(1, 1, 2)]])
        >>> torch.cat(list(2 * x + x), dim=-1)
        tensor([[[3., 3., 3., 3., 3.]]])
    """

    def __init__(self, batches: Iterable[Sequence[T]], length: Length | None = None, n_calls: int = 0) -> None:
        self.source, self.length, self.n_calls = _Source(batches), length or Length(), n_calls

    def __iter__(self) -> Iterator[T]:
        return self.source.reader()

    def map(self, function: Callable[[T], R]) -> Signal[R]:
        """Apply a function to every piece."""
        return Signal(([function(piece)] for piece in iter(self)), self.length, self.n_calls)

    def combine(self, function: Callable[[T, S], R], other: Signal[S]) -> Signal[R]:
        """Apply a function to every piece and the same stretch of another signal.

        The one that has come through more network calls decides how the result is cut; the other consists of tensors.
        """
        pairs: Iterator[tuple[Any, Any]]
        if self.n_calls == other.n_calls:
            pairs = zip(iter(self), iter(other), strict=True)
        elif self.n_calls > other.n_calls:
            pairs = with_stretches(cast(Iterator[Tensor], iter(self)), cast(Iterator[Tensor], iter(other)))
        else:
            flipped = with_stretches(cast(Iterator[Tensor], iter(other)), cast(Iterator[Tensor], iter(self)))
            pairs = ((stretch, piece) for piece, stretch in flipped)
        return Signal(([function(*pair)] for pair in pairs), self.length, max(self.n_calls, other.n_calls))

    def observe(self, observer: Callable[[T], object]) -> None:
        """Call a function with every piece as soon as it is made."""
        self.source.observers.append(observer)

    def reroute(self, through: Callable[[Signal[T]], Iterable[Sequence[T]]]) -> None:
        """Let pieces pass through a function of this signal before any reader gets them."""
        self.source.batches = iter(through(Signal(self.source.batches)))

    def _pointwise(self, function: Callable[[Any, Any], Any], other: Any) -> Signal[Any]:
        if isinstance(other, Signal):
            return self.combine(function, other)
        return self.map(lambda piece: function(piece, other))

    def __add__(self, other: Any) -> Signal[Any]:
        return self._pointwise(lambda a, b: a + b, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Signal[Any]:
        return self._pointwise(lambda a, b: a - b, other)

    def __mul__(self, other: Any) -> Signal[Any]:
        return self._pointwise(lambda a, b: a * b, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Signal[Any]:
        return self._pointwise(lambda a, b: a / b, other)

    def __neg__(self) -> Signal[Any]:
        return self.map(lambda piece: -piece)  # type: ignore[operator]

    def sqrt(self) -> Signal[Any]:
        """Return the square root of every sample."""
        return self.map(lambda piece: piece.sqrt())  # type: ignore[attr-defined]

    def clamp(self, low: float, high: float) -> Signal[Any]:
        """Bound every sample."""
        return self.map(lambda piece: piece.clamp(low, high))  # type: ignore[attr-defined]


class Stage:
    """The network calls, one or several, that read one signal.

    Args:
        x: What they read.
    """

    def __init__(self, x: Signal[Any]) -> None:
        self.x = x
        self.outputs: list[_Source[Any]] = []
        self.n_read = 0

    @property
    def n_done(self) -> int:
        """Pieces that have come out of all calls."""
        return min(output.n_pieces for output in self.outputs)

    @property
    def ended(self) -> bool:
        """Whether nothing will come any more."""
        return all(output.ended for output in self.outputs)

    def advance(self) -> None:
        """Let every call read one more piece, and compute what that makes possible."""
        for output in self.outputs:
            output.advance()
        self.n_read += 1


class Stages(list[Stage]):
    """The network calls of a reverse process in the order in which its sampler makes them."""

    def add(self, x: Signal[Any], batches: Iterable[Sequence[R]]) -> Signal[R]:
        """Add a call that reads x and yields batches of pieces; return the signal that comes out."""
        if not self or self[-1].x is not x:
            self.append(Stage(x))
        signal = Signal(batches, x.length, x.n_calls + 1)
        self[-1].outputs.append(signal.source)
        return signal

    def read(self, result: Signal[R]) -> Iterator[R]:
        """Yield the pieces of a signal that depends on the last stage, each as soon as it can be.

        The stages advance in order, each by what the one before it has made, so that reading does not recurse through
        all of them and no more of the input is taken than the next piece of the result needs.
        """
        reader, n_read = iter(result), 0
        while not self[-1].ended:
            self[0].advance()
            for before, stage in pairwise(self):
                while stage.n_read < before.n_done or (before.ended and not stage.ended):
                    stage.advance()
            while n_read < self[-1].n_done:
                n_read += 1
                yield next(reader)


WAITING = 2
"""Maximum number of pieces queued between two threads (back-pressure)."""

_END = object()
_PATIENCE = 0.1
"""Seconds after which a waiting thread looks whether it is to stop."""


def n_pipeline_threads(n_threads: int, n_calls: int) -> int:
    """Return among how many threads to share out network calls, each thread with an equal part of torch's own.

    Example:
        >>> [n_pipeline_threads(n_threads, 6) for n_threads in (1, 2, 4, 16)]
        [1, 2, 2, 3]
        >>> n_pipeline_threads(8, 1)
        1
    """

    def speed(size: int) -> float:  # splitting one operation among n threads makes it about n ** 0.8 times faster
        return float((n_threads // size) ** 0.8) / -(-n_calls // size)

    return max(range(1, min(n_threads, n_calls) + 1), key=speed)


class ThreadPipeline:
    """Threads that each run some stages of a reverse process and hand pieces on to the next.

    So no operation has to be split among many threads: where operations are short, waiting for the slowest thread costs
    most of the gain. Leaving the context stops the threads.

    Args:
        size: Number of threads.
        n_threads: Torch threads of each.
    """

    def __init__(self, size: int, n_threads: int) -> None:
        self.size, self._n_threads = size, n_threads
        self._stop = Event()
        self._inference = torch.is_inference_mode_enabled()  # which a thread does not inherit

    def __enter__(self) -> ThreadPipeline:
        before = torch.get_num_threads()
        self._threads = ThreadPoolExecutor(self.size, "audiodiff", begin_thread, (self._n_threads,))
        all_there = Barrier(self.size)
        for started in [self._threads.submit(all_there.wait) for _ in range(self.size)]:
            started.result()
        torch.set_num_threads(before)  # the above is for its thread, and for threads still to come
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._threads.shutdown(wait=True)

    def read(self, stages: Stages, result: Signal[R]) -> Iterator[R]:
        """Yield the pieces of a signal as `Stages.read` does, its stages computed by the threads."""
        edges = [round(i * len(stages) / self.size) for i in range(self.size + 1)]
        groups = [Stages(stages[first:end]) for first, end in pairwise(edges)]
        for group, following in pairwise(groups):
            following[0].x.reroute(lambda x, group=group: self._in_thread(group, x))  # type: ignore[misc]
        for batch in self._in_thread(groups[-1], result):
            yield from batch

    def _in_thread(self, stages: Stages, signal: Signal[R]) -> Iterator[list[R]]:
        queue: Queue[Any] = Queue(WAITING)
        pieces = stages.read(signal)
        done: Future[None] = self._threads.submit(self._run, pieces, queue)
        while (piece := self._get(queue)) is not _END:
            yield [piece]
        done.result()  # raises what the thread has raised

    def _run(self, pieces: Iterator[Any], queue: Queue[Any]) -> None:
        try:
            with torch.inference_mode(self._inference):
                for piece in pieces:
                    self._put(queue, piece)
                    if self._stop.is_set():
                        return
        finally:
            self._put(queue, _END)

    def _put(self, queue: Queue[Any], piece: object) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Full):
                return queue.put(piece, timeout=_PATIENCE)

    def _get(self, queue: Queue[Any]) -> Any:
        while not self._stop.is_set():
            with contextlib.suppress(Empty):
                return queue.get(timeout=_PATIENCE)
        return _END
