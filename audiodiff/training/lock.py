"""One process per run folder: a lock that its process takes with it, however it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from audiodiff.errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows has no such locks; two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file, made with its folder if it is not there.

    The lock is a POSIX record lock: it belongs to this process alone, not to those that it starts, so a killed run can
    be resumed at once, even while processes that read its data have not noticed yet.

    Args:
        path: The file; its text says who holds it.

    Yields:
        Nothing.

    Raises:
        TrainingError: If another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
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
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
        file.truncate(0)
