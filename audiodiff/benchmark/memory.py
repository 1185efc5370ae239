"""Memory of this process, and what is left of the machine's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from audiodiff.benchmark.report import Memory


class MemoryWatch:
    """What this process holds now, and the most that it has held by the time it is asked.

    A process that measures one thing and then ends has that thing's peak; see `audiodiff.benchmark.processes`.

    Args:
        device: Whose memory; on a GPU, that of torch's allocator.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else _status_bytes("VmRSS")

    def memory(self) -> Memory:
        """Return the memory when watching began, and the peak until now."""
        if self._device.type == "cuda":
            return Memory(before=self._before, peak=torch.cuda.max_memory_allocated(self._device))
        return Memory(before=self._before, peak=_status_bytes("VmHWM") or _highest_of_all_time())


def available_bytes(device: torch.device) -> int | None:
    """Return how much memory could still be taken, or None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def _status_bytes(name: str) -> int | None:
    # Not from `resource`: what that reports includes the peak of the process that started this one.
    return _kilobytes(Path("/proc/self/status"), name)


def _kilobytes(path: Path, name: str) -> int | None:
    if not path.is_file():
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB", path.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _highest_of_all_time() -> int | None:
    """Return the largest resident set of this process on systems without /proc."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
