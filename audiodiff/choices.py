"""What users choose by, in one place that imports nothing heavy, so that help is instant: names, and finite numbers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from operator import index
from typing import Any, Literal, NamedTuple, SupportsFloat

import click

from audiodiff.errors import ConfigError

Sampler = Literal["ddim", "heun", "ddpm", "dpmpp_2m", "dpmpp_2m_sde"]
"""Keys of `audiodiff.diffusion.samplers.SAMPLERS`."""

Schedule = Literal[
    "uniform",
    "cosine",
    "sigmoid",
    "linear_beta",
    "fibonacci",
    "wavegrad",
    "diffwave",
    "diffwave_large",
    "diffwave_50",
    "diffwave_200",
]
"""Keys of `audiodiff.diffusion.schedules.SCHEDULES`."""

Start = Literal["noise", "phase-gradient", "griffin-lim"]
"""What a vocoder diffuses to the first noise level: nothing, or an estimate from the mel with phases of this method."""

InputFormat = Literal["auto", "npy", "mel", "wav", "s16le"]
"""What a stream holds: .npy arrays one after the other, raw float32 frames of a mel, WAV, or raw 16-bit samples."""

OutputFormat = Literal["wav", "s16le"]
"""How audio goes into a stream."""

ProjectKind = Literal["voice", "instrument", "one-shots"]
"""What the recordings of a project of `audiodiff new` are."""

RepairMethod = Literal["auto", "baseline", "diffusion"]
"""Whether a model repairs what can be restored without one: where that is not enough, never, or always."""

Dtype = Literal["auto", "fp32", "bf16"]
"""Precision of a network's matrix products."""


class FilePath(click.Path):
    """A path on the command line: `~` is the home folder, and `-` is refused, as few verbs read or write a stream.

    Where it must exist it is a file or a folder: a pipe would be waited for, a device may have no end.
    """

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Turn a word into a path."""
        if str(value) == "-":
            self.fail("'-' is not a stream here. Give the name of a file or folder.", param, ctx)
        path = os.path.expanduser(value)
        if self.exists and os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            self.fail(f"{shown(path)} is a pipe or a device. Give a file or a folder on a disk.", param, ctx)
        return super().convert(path, param, ctx)


class StreamPath(FilePath):
    """A path, or `-` for stdin or stdout."""

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        """Turn a word into a path."""
        return self.coerce_path_result(value) if str(value) == "-" else super().convert(value, param, ctx)


_SHOWN = 60
"""Characters of a value that a message repeats."""
_MOST = 10_000
"""How many numbers one word may hold."""


class Number(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A finite number within bounds: the type of an option, of a field of a configuration, or of an argument.

    Args:
        kind: int or float.
        low: The least value; without one `above` is the bound.
        high: The largest value; without one `below` is the bound.
        above: What the number must be above.
        below: What the number must be below.
        unit: Of the number, for messages.
        words: Words that stand for a number, and stay as they are.

    Example:
        >>> Number(float, above=0, high=10, unit="seconds").parse("2.5")
        2.5
        >>> print(Number(int, low=1, high=10_000))
        a whole number from 1 to 10,000
    """

    def __init__(
        self,
        kind: type[int] | type[float],
        *,
        low: float | None = None,
        high: float | None = None,
        above: float = -math.inf,
        below: float = math.inf,
        unit: str = "",
        words: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.name = "integer" if kind is int else "float"
        self._low, self._high, self._above, self._below = low, high, above, below
        self.unit = unit
        self._words = words

    @property
    def is_bounded(self) -> bool:
        """Whether there is a bound at either end."""
        ends = (self._above if self._low is None else self._low, self._below if self._high is None else self._high)
        return all(map(math.isfinite, ends))

    def __str__(self) -> str:
        low = f"above {self._above:,}" if self._low is None else f"from {self._low:,}"
        high = f"below {self._below:,}" if self._high is None else f"{self._high:,}"
        between = " to " if self._high is not None and self._low is not None else " and "
        high = f"at most {high}" if self._high is not None and self._low is None else high
        what = "a whole number" if self.kind is int else "a number"
        unit = f" ({self.unit})" if self.unit else ""
        return f"{what} {low}{between}{high}{unit}{''.join(f', or {word}' for word in self._words)}"

    def parse(self, value: object) -> Any:
        """Return a value, or the text of one, as a plain int or float.

        Raises:
            ValueError: If it is no such number; the message repeats it and says the bounds.
        """
        if isinstance(value, str) and value in self._words:
            return value
        number = self._number(value)
        if number is None or not self._holds(number):
            raise ValueError(f"{shown(value)} is not {self}")
        return number

    def _number(self, value: Any) -> int | float | None:
        if "bool" in str(getattr(value, "dtype", type(value))) or (isinstance(value, str) and "_" in value):
            return None
        try:
            if self.kind is float:
                return float(value)
            whole = isinstance(value, SupportsFloat) and not hasattr(value, "__index__") and float(value).is_integer()
            return int(value) if whole or isinstance(value, str) else index(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's of a tensor of several
            return None

    def _holds(self, number: float) -> bool:
        return (
            self._above < number < self._below
            and (self._low is None or self._low <= number)
            and (self._high is None or number <= self._high)
        )

    def check(self, name: str, value: object) -> Any:
        """Return an argument of the library as `parse` does.

        Raises:
            ConfigError: If it is no such number.
        """
        try:
            if isinstance(value, str) and value not in self._words:
                raise ValueError(f"{shown(value)} is text, not {self}")
            return self.parse(value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}.") from None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of an option, as click asks for it."""
        try:
            return self.parse(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Return what pydantic checks of a field `Annotated[int, number]`."""
        from pydantic_core.core_schema import no_info_before_validator_function

        return no_info_before_validator_function(self.parse, handler(source))


def shown(value: object) -> str:
    """Return how a message repeats a value: as Python writes it, but never long."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"a number of about {int(value.bit_length() * math.log10(2)) + 1:,} digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-8:]} ({len(text):,} characters)"


class Numbers(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Several numbers in one word, with a mark between them.

    Args:
        kinds: The type of each; one type is that of any number of them.
        mark: What stands between them.
        example: For messages.
    """

    name = "numbers"

    def __init__(self, *kinds: Number, mark: str = ",", example: str) -> None:
        self.kinds = kinds
        self.example = example
        self._mark = mark

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a tuple of the numbers."""
        words = value.split(self._mark)
        kinds = self.kinds * len(words) if len(self.kinds) == 1 else self.kinds
        if len(words) != len(kinds) or len(words) > _MOST:
            self.fail(f"{shown(value)} is not like {self.example}.", param, ctx)
        try:
            return tuple(kind.parse(word) for kind, word in zip(kinds, words, strict=True))
        except ValueError as error:
            self.fail(f"{shown(value)}: {error}, as in {self.example}.", param, ctx)


class Level(NamedTuple):
    """A level that a clip is brought to: its peak in dBFS, or its loudness in LUFS."""

    value: float
    unit: str = "dBFS"

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


class LevelNumber(Number):
    """A `Level`, of which a plain number is a peak.

    Example:
        >>> print(LevelNumber().parse("-16LUFS"), LevelNumber().parse(-1), sep=", ")
        -16 LUFS, -1 dBFS
    """

    def __init__(self) -> None:
        super().__init__(float, low=-60, high=0)

    def __str__(self) -> str:
        return f"a peak in dBFS such as -1, or a loudness such as -16LUFS, {super().__str__()}"

    def parse(self, value: object) -> Level:
        """Return a level, or the text of one.

        Raises:
            ValueError: If it is none.
        """
        number, unit = value if isinstance(value, Level) else (value, "dBFS")
        if isinstance(value, str):
            text = value.strip().lower()
            number, unit = text.removesuffix("lufs"), "LUFS" if text.endswith("lufs") else "dBFS"
            number = number.removesuffix("fs").removesuffix("db")
        try:
            return Level(super().parse(number), unit)
        except ValueError:
            raise ValueError(f"{shown(value)} is not {self}") from None

    def check(self, name: str, value: object) -> Level:
        """Return an argument of the library as `parse` does.

        Raises:
            ConfigError: If it is no level.
        """
        try:
            return self.parse(value)
        except ValueError as error:
            raise ConfigError(f"{name}: {error}.") from None


LEVEL = LevelNumber()
STEPS = Number(int, low=1, high=10_000, unit="steps")
COUNT = Number(int, low=1, high=1_000_000)
WORKERS = Number(int, low=1, high=256, unit="processes")
THREADS = Number(int, low=1, high=1024, unit="threads")
ANY_SEED = Number(int, low=-(2**64), high=2**64)
"""What the library takes; options and configurations take a `SEED`."""
SEED = Number(int, low=0, high=2**63 - 1)
SECONDS = Number(float, above=0, high=3600, unit="seconds")
LOG_SNR = Number(float, low=-50, high=50, unit="log-SNR")
FRACTION = Number(float, low=0, high=1)
FRACTION_BELOW_1 = Number(float, low=0, below=1)
RATIO = Number(float, above=0, below=1)
EMA_WIDTH = Number(float, low=0.005, high=0.28)
"""Standard deviation of a power-function average, as a fraction of the steps; with powers below 0 it has no more."""
CORRECTOR_STEPS = Number(int, low=0, high=1000)
ITERATIONS = Number(int, low=0, high=10_000)
GUIDANCE = Number(float, low=0, high=100)
WIDTH = Number(int, low=1, high=8192)
WINDOW = Number(int, low=1, high=131_072, unit="samples")
MINUTES = Number(float, above=0, high=1_000_000, unit="minutes")
SAMPLE_RATE = Number(int, low=1, high=768_000, unit="Hz")
DILATION_CYCLE = Number(int, low=1, high=20, unit="layers")
ROUNDS = Number(int, low=1, high=1000, unit="rounds")
DPS_STRENGTH = Number(float, low=0, high=100)
POSITION = Number(float, low=0, high=86_400, unit="seconds")
SNR_DB = Number(float, low=-100, high=200, unit="dB")
HERTZ = Number(float, above=0, high=384_000, unit="Hz")
