"""Counters of a server, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter

_HELP = {
    "requests_total": ("counter", "Requests and streams by status; 101 is a stream."),
    "audio_seconds_total": ("counter", "Audio made, in seconds."),
    "compute_seconds_total": ("counter", "Time that was computed, in seconds."),
    "computations_total": ("counter", "Batches of clips and pieces of streams."),
    "batched_clips_total": ("counter", "Clips that were computed in these batches."),
    "clients": ("gauge", "Requests and streams at this moment."),
    "waiting": ("gauge", "Computations that wait."),
}


class Metrics:
    """Counters by name; those of requests also by status."""

    def __init__(self) -> None:
        self.values: Counter[str] = Counter({name: 0 for name in _HELP if name != "requests_total"})
        self.requests: Counter[int] = Counter()

    def add(self, name: str, value: float = 1) -> None:
        """Add to a counter."""
        self.values[name] += value  # type: ignore[assignment]  # a Counter holds floats too

    def text(self) -> str:
        """Return all of them as Prometheus reads them."""
        lines = []
        for name, (kind, what) in _HELP.items():
            lines += [f"# HELP audiodiff_{name} {what}", f"# TYPE audiodiff_{name} {kind}"]
            if name == "requests_total":
                lines += [f'audiodiff_{name}{{status="{status}"}} {n}' for status, n in sorted(self.requests.items())]
            else:
                lines.append(f"audiodiff_{name} {self.values[name]:g}")
        return "\n".join(lines) + "\n"
