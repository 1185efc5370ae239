"""Threads in a row, each with a share of torch's own threads, that hand work on to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore, get_ident

import torch

WAITING = 2
"""Tasks that may wait for a member; whoever brings more waits, so that nobody runs ahead and fills the memory."""


def relay_size(threads: int, steps: int) -> int:
    """Return into how many members to split threads that take steps, each member an equal share of either.

    Example:
        >>> [relay_size(threads, 6) for threads in (1, 2, 4, 16)]
        [1, 2, 2, 3]
        >>> relay_size(8, 1)
        1
    """

    def speed(size: int) -> float:  # splitting one operation among n threads makes it about n ** 0.8 times faster
        return float((threads // size) ** 0.8) / -(-steps // size)

    return max(range(1, min(threads, steps) + 1), key=speed)


def _take_threads(threads: int) -> None:
    torch.get_num_threads()  # the first look in a thread takes the number for all; only then it can have its own
    torch.set_num_threads(threads)


class Relay:
    """Members that run tasks, each its own in the order they were given.

    Args:
        size: Number of members.
        threads: Torch threads of each.
    """

    def __init__(self, size: int, threads: int) -> None:
        self.size = size
        before = torch.get_num_threads()
        self._members = [ThreadPoolExecutor(1, thread_name_prefix=f"audiodiff-{i}") for i in range(size)]
        for member in self._members:
            member.submit(_take_threads, threads).result()
        self._idents = [member.submit(get_ident).result() for member in self._members]
        torch.set_num_threads(before)  # the one above is of its thread, and of threads still to come
        self._room = [Semaphore(WAITING) for _ in range(size)]
        self._inference = torch.is_inference_mode_enabled()  # which a thread does not inherit
        self._pending: deque[Future[None]] = deque()

    def run(self, member: int, task: Callable[[], None]) -> None:
        """Give a member a task, or run it at once where the caller is that member."""
        if get_ident() == self._idents[member]:
            task()
            return
        self._room[member].acquire()
        self._pending.append(self._members[member].submit(self._run, member, task))

    def _run(self, member: int, task: Callable[[], None]) -> None:
        try:
            with torch.inference_mode(self._inference):
                task()
        finally:
            self._room[member].release()

    def check(self) -> None:
        """Raise what a task has raised, if one has; to be called by the owner of the relay."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def finish(self) -> None:
        """Wait until all is done, and let the threads go.

        Raises:
            Exception: What a task has raised.
        """
        for member in self._members:  # in order: the later ones get their last tasks from the earlier ones
            member.shutdown(wait=True)
        while self._pending:
            self._pending.popleft().result()
