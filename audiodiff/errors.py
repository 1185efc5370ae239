"""The errors audiodiff raises on purpose; each message says what came, what was expected and how to fix it."""

from __future__ import annotations


class AudiodiffError(Exception):
    """Base of every error that audiodiff raises on purpose; the command line prints it and exits with 1."""


class AudioError(AudiodiffError):
    """A recording cannot be used: unreadable, empty, too short, or at a rate nobody asked to change."""


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
