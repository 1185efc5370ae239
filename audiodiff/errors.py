"""The errors audiodiff raises on purpose; each message says what came, what was expected and how to fix it."""

from __future__ import annotations

import errno
from pathlib import Path


class AudiodiffError(Exception):
    """Base of every error that audiodiff raises on purpose; the command line prints it and exits with 1."""


class AudioError(AudiodiffError):
    """A recording cannot be used: unreadable, empty, too short, or at a rate nobody asked to change."""


class NotFiniteError(AudioError):
    """A recording has samples that are NaN or infinite."""


class MelError(AudiodiffError):
    """A mel spectrogram does not fit the model: wrong shape, wrong number of bins, or not finite."""


class ConfigError(AudiodiffError):
    """A configuration is malformed, or its values contradict each other."""


class ModelError(AudiodiffError):
    """A model folder is missing something, is damaged, or belongs to something else."""


class DataError(AudiodiffError):
    """A manifest or a folder of recordings cannot serve as training data."""


class TrainingError(AudiodiffError):
    """Training cannot start or go on, for example because the loss stays non-finite."""


class OutputError(AudiodiffError, OSError):
    """A file or folder cannot be written: there is no room, no permission, or something else of that name."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> OutputError:
        """Return the error that says which path cannot be written, why, and what to do."""
        advice = _ADVICE.get(error.errno or 0, "Choose another name or folder.")
        made = cls(f"{path} cannot be written: {error.strerror or error}. {advice}")
        made.errno, made.strerror = error.errno, error.strerror
        return made

    def __str__(self) -> str:
        return str(self.args[0])


_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Make room on the disk, or choose another folder."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to."),
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EEXIST: "It is a file; expected a folder. Choose another name.",
}
