"""The errors audiodiff raises on purpose; each message says what came, what was expected and how to fix it."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


class AudiodiffError(Exception):
    """Base of every error that audiodiff raises on purpose; the command line prints it and exits with 1."""


class AudioError(AudiodiffError):
    """A recording cannot be used: unreadable, empty, too short, or at a rate nobody asked to change."""


class NotFiniteError(AudioError):
    """A recording has samples that are NaN or infinite."""


class MelError(AudiodiffError):
    """A mel spectrogram does not fit the model: wrong shape, wrong number of bins, or not finite.

    Args:
        message: What is wrong.
        advice: What follows the message, with options in braces, such as "Use {resample}.".
        options: Names of these options, with their values; True is one without a value.

    Example:
        >>> error = MelError("It looks like matcha: ", "use {mel_convention}.", mel_convention="matcha")
        >>> str(error)
        'It looks like matcha: use --mel-convention matcha.'
        >>> error.advising(lambda name, value: f"{name}={value}")
        'It looks like matcha: use mel_convention=matcha.'
    """

    def __init__(self, message: str, advice: str = "", **options: str | bool) -> None:
        self.message, self.advice, self.options = message, advice, options
        super().__init__(self.advising(_of_command_line))

    def advising(self, spelling: Callable[[str, str | bool], str]) -> str:
        """Return the whole message with options spelled in another way than the command line's."""
        return self.message + self.advice.format(
            **{name: spelling(name, value) for name, value in self.options.items()}
        )


def _of_command_line(name: str, value: str | bool) -> str:
    option = f"--{name.replace('_', '-')}"
    return option if value is True else f"{option} {value}"


class ConfigError(AudiodiffError):
    """A configuration is malformed, or its values contradict each other."""


class ModelError(AudiodiffError):
    """A model folder is missing something, is damaged, or belongs to something else."""


class DataError(AudiodiffError):
    """A manifest or a folder of recordings cannot serve as training data."""


class TrainingError(AudiodiffError):
    """Training cannot start or continue, for example because the loss stays non-finite."""


class MissingPackageError(ConfigError):
    """A package is not installed that an extra of audiodiff brings."""


@contextmanager
def needed(extra: str, purpose: str) -> Iterator[None]:
    """Turn an import that fails inside into an error that says what to install.

    Args:
        extra: The extra of audiodiff that brings the package.
        purpose: What needs it, as the subject of a sentence: an option, a verb, a feature.

    Raises:
        MissingPackageError: If the import fails.

    Example:
        >>> with needed("plots", "--plot"):
        ...     import matplotlib
    """
    try:
        yield
    except ImportError as error:
        raise MissingPackageError(
            f"{purpose} needs {error.name or 'a package'} ({error}). Run: pip install 'audiodiff[{extra}]'"
        ) from error


class OutputError(AudiodiffError, OSError):
    """A file or folder cannot be written: there is no room, no permission, or something else of that name."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> OutputError:
        """Return the error that says which path cannot be written, why, and what to do."""
        made = cls(explain_os_error(error, path))
        made.errno, made.strerror = error.errno, error.strerror
        return made

    def __str__(self) -> str:
        return str(self.args[0])


_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room on the disk, or choose another folder."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to."),
    errno.EFBIG: "The system allows no larger file here: raise `ulimit -f`, or choose another disk.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EEXIST: "It is a file; expected a folder. Choose another name.",
    errno.ELOOP: "It is a link that leads back to itself. Remove it.",
    errno.EMFILE: "Raise `ulimit -n`, or take fewer --workers.",
    errno.EIO: "The disk, or the connection to it, is faulty.",
}


def explain_os_error(error: OSError, written: Path | None = None) -> str:
    """Return what the system refused, why, and what to do, in a sentence.

    Args:
        error: What the system said.
        written: What was to be written; None where that is not known.
    """
    if isinstance(error, OutputError):
        return str(error)
    is_output = written is not None or error.filename is None or error.errno in _WRITING
    advice = _ADVICE.get(error.errno or 0, "Choose another name or folder.")
    if not is_output and error.errno in (errno.EACCES, errno.EPERM):
        advice = "Check its permissions and those of its folder."
    name = error.filename or "the output" if written is None else written
    return f"{name} cannot be {'written' if is_output else 'used'}: {error.strerror or error}. {advice}"


def escape_unprintable() -> None:
    """Have stdout and stderr write what their encoding does not have as an escape, where it would be an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (
            stream.errors == "strict" or (stream.errors == "surrogateescape" and not is_unicode(stream))
        ):
            stream.reconfigure(errors="backslashreplace")


def is_unicode(stream: TextIO) -> bool:
    """Tell whether a stream can hold every character."""
    return str(stream.encoding).lower().startswith("utf")
