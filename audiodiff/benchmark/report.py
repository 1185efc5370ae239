"""What a benchmark reports: the schema of its JSON. Derived figures are computed from it, never stored beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field

from audiodiff.config import Config, parse_config
from audiodiff.errors import ConfigError

FORMAT = 1


class Figure(Config):
    """A measured quantity: the median over its repeats, with the lowest and the highest."""

    median: float
    low: float
    high: float
    repeats: int = Field(gt=0)

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """Sum up measured values.

        Example:
            >>> Figure.of([3.0, 1.0, 2.0])
            Figure(median=2.0, low=1.0, high=3.0, repeats=3)
        """
        return cls(median=median(values), low=min(values), high=max(values), repeats=len(values))

    def times(self, factor: float) -> Figure:
        """Return the figure in another unit: every value multiplied by a positive factor."""
        scaled = {"median": self.median * factor, "low": self.low * factor, "high": self.high * factor}
        return Figure(**scaled, repeats=self.repeats)

    def under(self, numerator: float) -> Figure:
        """Return a quantity divided by this figure, for example samples per second from seconds."""
        values = {"median": numerator / self.median, "low": numerator / self.high, "high": numerator / self.low}
        return Figure(**values, repeats=self.repeats)


class Memory(Config):
    """Bytes that a process of its own held: before the row, model loaded, and at its peak.

    On a CPU that is the resident set of the whole process, Python and torch among it; on a GPU what torch allocated
    there. None where the system does not tell.
    """

    before: int | None = None
    peak: int | None = None


class Machine(Config):
    """What it ran on."""

    device: str
    name: str = Field(description="of the CPU or GPU that computed")
    cpu: str
    cores: int
    threads: int = Field(description="that torch computes with on the CPU")
    bf16: bool = Field(description="whether the device multiplies bfloat16 matrices in hardware")
    features: tuple[str, ...] = Field((), description="of the CPU or GPU that matter here")
    system: str
    versions: dict[str, str]
    load: float | None = Field(
        None, description="runnable processes over the minute before; of 0 when nothing else ran"
    )


class MatrixRate(Config):
    """Matrix product of an `m x k` with a `k x n` matrix."""

    name: str
    m: int
    k: int
    n: int
    dtype: str
    rate: Figure = Field(description="operations per second, multiplications and additions counted separately")
    roofline: bool = Field(description="whether shares are of this one")


class Synthesis(Config):
    """One way of making audio; times are of a whole call, from mel to audio."""

    model: str
    dtype: str
    batch: int
    clip_seconds: float = Field(description="seconds of audio of one clip")
    steps: int
    seconds: Figure
    operations: float = Field(description="that the matrix products of the algorithm need, over all steps")
    memory: Memory

    @property
    def real_time_factor(self) -> Figure:
        """Seconds of computing per second of audio."""
        return self.seconds.times(1 / (self.batch * self.clip_seconds))


class Precision(Config):
    """How far the result in bfloat16 is from the one in float32, of the same noise."""

    model: str
    steps: int
    clip_seconds: float
    snr_db: float


class Training(Config):
    """One way of training; times are of a whole step."""

    model: str
    dtype: str
    batch: int
    n_samples: int = Field(description="of a crop")
    seconds: Figure
    memory: Memory


class Contestant(Config):
    """One of those that took turns at the same task."""

    name: str
    dtype: str
    seconds: Figure = Field(description="of the whole task")
    advantage: Figure | None = Field(None, description="peer's seconds over these, round by round; None for the peer")
    memory: Memory = Memory()


class Contest(Config):
    """Ours and a peer's network on the same weights in one process, taking turns."""

    task: str = Field(description="'synthesis' or 'training'")
    peer: str
    batch: int
    n_samples: int = Field(description="of a clip")
    sample_rate: int
    steps: int = Field(description="of the reverse loop; 1 in training")
    peer_steps_timed: int = Field(description="of which the peer took so many, and its time is multiplied up")
    operations: float = Field(description="that the reverse loop needs, as in synthesis; 0 in training")
    relative_difference: float = Field(description="of the two networks' predictions, in float32")
    contestants: tuple[Contestant, ...]


class Report(Config):
    """Everything that one run of `audiodiff bench` found out."""

    audiodiff_benchmark: int = FORMAT
    command: str
    date: str = Field(description="UTC, ISO 8601")
    commit: str | None = Field(None, description="of the checkout it ran from; None for an installed package")
    machine: Machine
    matrix_products: tuple[MatrixRate, ...] = ()
    synthesis: tuple[Synthesis, ...] = ()
    precision: tuple[Precision, ...] = ()
    training: tuple[Training, ...] = ()
    contests: tuple[Contest, ...] = ()
    notes: tuple[str, ...] = Field((), description="what was left out, made smaller, or failed, and why")

    def roofline(self, dtype: str) -> float | None:
        """Return the operations per second that shares are of, or None where they were not measured."""
        return next((row.rate.median for row in self.matrix_products if row.roofline and row.dtype == dtype), None)


def read_report(path: str | Path) -> Report:
    """Read a report that `audiodiff bench --json` wrote.

    Args:
        path: The file.

    Returns:
        The report.

    Raises:
        ConfigError: If it cannot be read, or is no such report.
    """
    try:
        values: Any = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    found = values.get("audiodiff_benchmark") if isinstance(values, dict) else None
    if found != FORMAT:
        raise ConfigError(
            f"{path} is no report of `audiodiff bench --json` in format {FORMAT} (it says {found!r}). Make it anew."
        )
    return parse_config(Report, values, str(path))
