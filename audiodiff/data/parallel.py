"""Work side by side: threads and processes over a list, and files that only one process at a time may have."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import blake2b
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TypeVar

import torch

from audiodiff.errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows has no such locks; two processes in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]

_CLAIMS = ".audiodiff-claims"
"""Hidden file in a folder in which files are being made."""
_POLL_SECONDS = 0.2
_LOG = logging.getLogger(__name__)

Given = TypeVar("Given")
Result = TypeVar("Result")


# --- threads and processes --------------------------------------------------------------------------------------------


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


def process_map(
    function: Callable[[Given], Result], items: Sequence[Given], processes: int
) -> Iterator[tuple[Given, Result | None]]:
    """Apply a function to every item in other processes, each on one processor.

    The processes end with this one, however it ends, and at once if the caller wants no more results.

    Args:
        function: A function of a module.
        items: What to do it to; items and results can be pickled.
        processes: How many.

    Yields:
        Each item with its result, in any order; None in its place where a process died.

    Raises:
        Exception: What the function raised for an item.
    """
    before = set(multiprocessing.active_children())
    # Spawned, because a fork of a process whose torch has started threads may hang.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin_worker)
    futures = {}
    try:
        with deaf_to_interruptions():
            futures = {pool.submit(function, item): item for item in items}
        for future in as_completed(futures):
            try:
                yield futures[future], future.result()
            except BrokenProcessPool:
                yield futures[future], None
    finally:
        if not all(future.done() for future in futures):
            for process in set(multiprocessing.active_children()) - before:
                process.kill()
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    torch.set_num_threads(1)
    end_with_parent()


def end_with_parent() -> None:
    """Make this process, which another one started by `multiprocessing`, end with it, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def deaf_to_interruptions() -> Iterator[None]:
    """Start processes that never see Ctrl-C, not even while they import what they need; this one sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- files that only one process has ----------------------------------------------------------------------------------


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file, made with its folder if it is not there.

    The lock is a POSIX record lock: it belongs to this process alone, not to those that it starts, and ends with it,
    however it ends. So a killed run can be resumed at once, even while processes that read its data have not noticed.

    Args:
        path: The file; its text says who holds it.

    Yields:
        Nothing.

    Raises:
        TrainingError: If another process holds it, or it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written: {error.strerror}. Choose a run folder that can be written."
        ) from error
    with file:
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise TrainingError(
                f"{path.parent} is in use by {holder}; two runs in one folder would spoil each other. Wait for it, "
                "stop it, or choose another run folder."
            ) from error
        except OSError as error:
            _LOG.warning(
                "%s cannot be locked (%s): see to it that no other run uses this folder", path.parent, error.strerror
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def share(
    targets: Sequence[Path],
    n: int = 1,
    *,
    overwrite: bool = True,
    on_skip: Callable[[int], object] = lambda n_files: None,
    in_hand: Callable[[], Collection[Path]] = tuple,
) -> Iterator[list[Path]]:
    """Divide files to be made among all processes that want to make them, on any machine that sees their folder.

    What a process has in hand is locked (POSIX record locks, which network file systems know), and free again when it
    ends, however it ends. Files that others have in hand come last: they are waited for, and made here if they are not
    there then. Where nothing can be locked, every process makes all.

    Args:
        targets: The files, none twice.
        n: How many are taken at a time.
        overwrite: Whether files that exist are made again; those that others made in the meantime are not.
        on_skip: Called with 1 for every file that is there already.
        in_hand: Returns the files that are still being made, in threads, when the next are asked for.

    Yields:
        Up to `n` files, to be made before the next are asked for, but for those in hand.
    """
    since = math.inf if overwrite else -math.inf
    waiting = list(targets)
    while waiting:
        busy: list[Path] = []
        queue = deque(waiting)
        with _Claims() as claims:
            while queue:
                claims.release_all_but(in_hand())
                taken: list[Path] = []
                while queue and len(taken) < n:
                    target = queue.popleft()
                    if not claims.take(target):
                        busy.append(target)
                        continue
                    since = min(since, claims.time)
                    if target.is_file() and target.stat().st_mtime > since:
                        _LOG.info("%s: made by another process", target)
                        on_skip(1)
                    else:
                        taken.append(target)
                if taken:
                    yield taken
            while in_hand():
                time.sleep(_POLL_SECONDS / 10)
        if len(busy) == len(waiting):
            time.sleep(_POLL_SECONDS)
        waiting = busy


class _Claims:
    """Files that this process has in hand: locks on bytes of a hidden file in their folder, which names decide.

    Byte 0 is locked, shared, by all who have the hidden file open, so that only the last one removes it.

    Attributes:
        time: When the first was taken, by the clock of the machine that has the folder.
    """

    def __init__(self) -> None:
        self.time = math.inf
        self._files: dict[Path, int] = {}
        self._taken: dict[Path, int] = {}
        self._made: list[Path] = []

    def __enter__(self) -> _Claims:
        return self

    def __exit__(self, *_error: object) -> None:
        for folder, file in self._files.items():
            with suppress(OSError):  # of the second lock, if another process is still there
                fcntl.lockf(file, fcntl.LOCK_UN, 1, 0)
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
                (folder / _CLAIMS).unlink()
            os.close(file)
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()  # where nothing was made after all

    def take(self, target: Path) -> bool:
        """Take a file, unless another process has it in hand."""
        if fcntl is None:
            return True
        try:
            file = self._files.get(target.parent) or self._open(target.parent)
        except OSError:
            return True  # writing the file will say what is wrong
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(target))
            self._taken[target] = file
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            _LOG.debug("%s cannot be locked: %s", target.parent, error)
        return True

    def release_all_but(self, targets: Collection[Path]) -> None:
        """Leave files that were taken to other processes."""
        for target in self._taken.keys() - set(targets):
            with suppress(OSError):
                fcntl.lockf(self._taken.pop(target), fcntl.LOCK_UN, 1, _offset(target))

    def _open(self, folder: Path) -> int:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / _CLAIMS, os.O_RDWR | os.O_CREAT, 0o666)
            with suppress(OSError):
                fcntl.lockf(file, fcntl.LOCK_SH, 1, 0)
                os.utime(file)
            if (folder / _CLAIMS).exists() and os.path.samestat(os.fstat(file), os.stat(folder / _CLAIMS)):
                break
            os.close(file)  # the last process has just removed it
        self._files[folder] = file
        self._made += missing
        self.time = min(self.time, os.fstat(file).st_mtime)
        return file


def _offset(target: Path) -> int:
    return 1 + int.from_bytes(blake2b(os.fsencode(target.name), digest_size=7).digest(), "big")
