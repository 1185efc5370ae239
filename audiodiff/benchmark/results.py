"""Results of a benchmark: the schema of its JSON. Derived figures are computed from the results, never stored."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import ClassVar

from pydantic import ConfigDict, Field, model_validator

from audiodiff.config import Config

FORMAT = 1


class Measurement(Config):
    """A measured quantity over its repeats: median, lowest, highest."""

    model_config = ConfigDict(allow_inf_nan=False)

    median: float
    low: float
    high: float
    repeats: int = Field(gt=0)

    @model_validator(mode="after")
    def _check(self) -> Measurement:
        if not self.low <= self.median <= self.high:
            raise ValueError(f"low {self.low:g}, median {self.median:g} and high {self.high:g} must rise")
        return self

    @classmethod
    def from_values(cls, values: Sequence[float]) -> Measurement:
        """Summarise measured values.

        Example:
            >>> Measurement.from_values([3.0, 1.0, 2.0])
            Measurement(median=2.0, low=1.0, high=3.0, repeats=3)
        """
        return cls(median=median(values), low=min(values), high=max(values), repeats=len(values))

    def scaled(self, factor: float) -> Measurement:
        """Return it in another unit: every value multiplied by a positive factor."""
        scaled = {"median": self.median * factor, "low": self.low * factor, "high": self.high * factor}
        return Measurement(**scaled, repeats=self.repeats)

    def rate_of(self, amount: float) -> Measurement:
        """Return an amount per unit of this one, for example samples per second from seconds."""
        values = {"median": amount / self.median, "low": amount / self.high, "high": amount / self.low}
        return Measurement(**values, repeats=self.repeats)


class Memory(Config):
    """Bytes that the process of a job held: before it, model loaded, and at its peak.

    On a CPU that is the resident set of the whole process, Python and torch among it; on a GPU what torch allocated
    there. None where the system does not tell.
    """

    before: int | None = None
    peak: int | None = None


class Machine(Config):
    """The machine and its software."""

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


class MatmulResult(Config):
    """Matrix product of an `m x k` with a `k x n` matrix."""

    name: str
    m: int
    k: int
    n: int
    dtype: str
    rate: Measurement = Field(description="FLOP/s: a multiplication and an addition count as two")
    roofline: bool = Field(
        description="whether utilisation is relative to this one, for rows of versions that measured none beside them"
    )

    def __str__(self) -> str:
        return f"matrix product, {self.name}, {self.dtype}"


class Roofline(Config):
    """What the device reached in between the repeats of a row."""

    matmul_rate: Measurement = Field(description="FLOP/s of a large square matrix product in the row's precision")
    copy_rate: Measurement = Field(description="bytes per second, read and written, of a large copy in memory")


class Row(Config):
    """What all measured rows have."""

    rooflines: dict[str, Roofline] = Field({}, description="by precision; measured between the repeats")


class SynthesisResult(Row):
    """One way of making audio; times are of a whole call, from mel to audio."""

    model: str
    dtype: str
    batch: int
    clip_seconds: float = Field(description="seconds of audio of one clip")
    steps: int
    seconds: Measurement
    flops: float = Field(description="of the network over all steps, its condition once")
    memory: Memory
    relative_cost: Measurement | None = Field(
        None, description="seconds per second of audio over those of a 10 s clip in turns; None up to 10 s"
    )

    RENAMED_KEYS: ClassVar = {"operations": "flops"}

    @property
    def real_time_factor(self) -> Measurement:
        """Seconds of computing per second of audio."""
        return self.seconds.scaled(1 / (self.batch * self.clip_seconds))

    def __str__(self) -> str:
        task = f"{self.steps} steps, batch {self.batch} x {self.clip_seconds:.3g} s"
        return f"synthesis, {self.model}, {self.dtype}, {task}"


class StreamingResult(Row):
    """A stream in chunks of one length, timed in turns with a call on the whole mel."""

    model: str
    dtype: str
    threads: int
    steps: int
    chunk_seconds: float
    latency_seconds: float = Field(description="of audio, the chunk included and computing excluded; an exact bound")
    clip_seconds: float
    seconds: Measurement = Field(description="of computing the whole stream")
    offline_seconds: Measurement = Field(description="of the call")
    cost_ratio: Measurement = Field(description="seconds of the stream over those of the call")

    @property
    def real_time_factor(self) -> Measurement:
        """Seconds of computing per second of audio."""
        return self.seconds.scaled(1 / self.clip_seconds)

    @property
    def offline_real_time_factor(self) -> Measurement:
        """That of the call."""
        return self.offline_seconds.scaled(1 / self.clip_seconds)

    def __str__(self) -> str:
        task = f"{self.steps} steps, chunks of {self.chunk_seconds * 1000:g} ms, threads {self.threads}"
        return f"stream, {self.model}, {self.dtype}, {task}"


class PrecisionResult(Config):
    """How far the result in bfloat16 is from the one in float32, of the same noise."""

    model: str
    steps: int
    clip_seconds: float
    snr_db: float

    def __str__(self) -> str:
        return f"bf16 against fp32, {self.model}, {self.clip_seconds:.3g} s"


class TrainingResult(Row):
    """One way of training; times are of a whole step."""

    model: str
    dtype: str
    batch: int
    n_samples: int = Field(description="of a crop")
    seconds: Measurement
    memory: Memory

    def __str__(self) -> str:
        return f"training, {self.model}, {self.dtype}, batch {self.batch} x {self.n_samples}"


class Entry(Config):
    """One network and precision of a comparison."""

    RENAMED_KEYS: ClassVar = {"advantage": "speedup"}

    name: str
    dtype: str
    seconds: Measurement = Field(description="of the whole task")
    speedup: Measurement | None = Field(None, description="seconds of the baseline over these; None for the baseline")
    flops: float | None = Field(None, description="of a baseline whose network is another; None: those of ours")
    memory: Memory = Memory()


class Comparison(Row):
    """Our network and a baseline, timed in turns in one process."""

    RENAMED_KEYS: ClassVar = {
        "peer": "baseline",
        "peer_steps_timed": "baseline_steps_timed",
        "operations": "flops",
        "contestants": "entries",
    }

    task: str = Field(description="'synthesis' or 'training'")
    baseline: str
    model: str = Field("diffwave-base", description="of ours")
    batch: int
    n_samples: int = Field(description="of a clip")
    sample_rate: int
    steps: int = Field(description="of the reverse loop; 1 in training")
    baseline_steps_timed: int = Field(description="steps of the baseline that were timed; its time is scaled up to all")
    flops: float = Field(description="of the reverse loop, as in synthesis; 0 in training")
    relative_difference: float | None = Field(
        description="of the two networks' predictions, in float32; None where they have other weights"
    )
    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        task = f"{self.steps} steps, batch {self.batch} x {self.n_samples} samples"
        return f"{self.task}, {self.model} against {self.baseline}, {task}"


class Report(Config):
    """All results of one run of `audiodiff bench`."""

    RENAMED_KEYS: ClassVar = {"matrix_products": "matmuls", "contests": "comparisons"}

    audiodiff_benchmark: int = FORMAT
    command: str
    date: str = Field(description="UTC, ISO 8601")
    commit: str | None = Field(None, description="of the checkout it ran from; None for an installed package")
    machine: Machine
    matmuls: tuple[MatmulResult, ...] = ()
    copy_rate: Measurement | None = Field(None, description="bytes per second, read and written, of a large copy")
    synthesis: tuple[SynthesisResult, ...] = ()
    streaming: tuple[StreamingResult, ...] = ()
    precision: tuple[PrecisionResult, ...] = ()
    training: tuple[TrainingResult, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = Field((), description="what was left out, made smaller, or failed, and why")

    def roofline(self, dtype: str) -> float | None:
        """Return the FLOP/s that utilisation is relative to, or None where they were not measured."""
        return next((row.rate.median for row in self.matmuls if row.roofline and row.dtype == dtype), None)
