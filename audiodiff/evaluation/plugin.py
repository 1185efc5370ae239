"""Functions of your own, of an installed module or one in the current folder, as metrics, recognisers and embedders.

A function takes samples (time,) in float32 and their rate in Hz. A metric (`pairs --metrics`) returns a number, a
recogniser (`pairs --recogniser`) the text that it hears, an embedder (`sets --embedder`) features, (features,) or
(windows, features). A metric of three parameters is called with (generated, reference, sample_rate). The README of
egs/speech/vocoder has UTMOS, UTMOSv2, Whisper and VGGish, whose packages download their weights.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.errors import AudioError, ConfigError
from audiodiff.evaluation.pair import Pair

_NAME = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


def names_function(name: str) -> bool:
    """Tell whether a name has the form MODULE:FUNCTION."""
    return _NAME.fullmatch(name) is not None


@cache
def load_function(name: str) -> Callable[..., Any]:
    """Import a function by its name, of an installed module or one in the current folder.

    Raises:
        ConfigError: If there is no such function.
    """
    if not names_function(name):
        raise ConfigError(f"{name!r} names no function; expected MODULE:FUNCTION, such as my_metrics:utmos.")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing installed is hidden
    module, _, attribute = name.partition(":")
    try:
        with redirect_stdout(sys.stderr):
            function = getattr(import_module(module), attribute)
    except Exception as error:  # of whatever kind: the module is not ours
        raise ConfigError(
            f"{name} cannot be imported ({_one_line(error)}). The module must be installed or in the current folder."
        ) from error
    if not callable(function):
        raise ConfigError(f"{name} is of type {type(function).__name__}; expected a function.")
    return function  # type: ignore[no-any-return]


def measure(name: str, pair: Pair) -> float:
    """Return a metric of your own of every channel, averaged.

    Raises:
        AudioError: If the function fails or returns no number.
    """
    takes_reference = _n_parameters(load_function(name)) == 3
    values = []
    for generated, reference in zip(pair.generated, pair.reference, strict=True):
        audio = (generated, reference) if takes_reference else (generated,)
        value = _numbers(name, _call(name, *audio, sample_rate=pair.sample_rate), "a number")
        if value.size != 1:
            raise AudioError(f"{name} returned {value.size} numbers; expected one.")
        values.append(value.item())
    return float(np.mean(values))


def transcribe(name: str, audio: Tensor, sample_rate: int) -> str:
    """Return the text that a recogniser hears in one channel `(time,)`.

    Raises:
        AudioError: If the function fails or returns no text.
    """
    text = _call(name, audio, sample_rate=sample_rate)
    if not isinstance(text, str):
        raise AudioError(f"{name} returned {type(text).__name__}; expected the text as str.")
    return text


def embed(name: str, audio: Tensor, sample_rate: int) -> NDArray[np.float64]:
    """Return the embeddings of one channel `(time,)`: `(windows, features)`.

    Raises:
        AudioError: If the function fails or returns no features.
    """
    return rows(name, _call(name, audio, sample_rate=sample_rate))


def rows(name: str, value: object) -> NDArray[np.float64]:
    """Check what an embedder returned, and return it as `(windows, features)`.

    Raises:
        AudioError: If it is nothing, or not finite.
    """
    features = _numbers(name, value, "features")
    if not features.ndim or not features.size:
        raise AudioError(f"{name} returned an array of shape {features.shape}; expected (windows, features).")
    if not np.isfinite(features).all():
        raise AudioError(f"{name} returned features that are NaN or infinite.")
    return features.reshape(-1, features.shape[-1])


def _call(name: str, *audio: Tensor, sample_rate: int) -> Any:
    function = load_function(name)
    try:
        with redirect_stdout(sys.stderr):  # stdout is for results
            return function(*(channel.numpy().copy() for channel in audio), sample_rate)
    except Exception as error:  # of whatever kind: the function is not ours, and other recordings may do
        raise AudioError(f"{name} failed: {_one_line(error)}") from error


def _numbers(name: str, value: object, expected: str) -> NDArray[np.float64]:
    if isinstance(value, Tensor):
        value = value.detach().cpu().float().numpy()
    try:
        if value is None or isinstance(value, str | bytes):
            raise TypeError
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise AudioError(f"{name} returned {type(value).__name__}; expected {expected}.") from None


def _n_parameters(function: Callable[..., Any]) -> int:
    """Count the parameters that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of some built-in functions none is known
        return 2
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(item.kind in positional and item.default is item.empty for item in parameters)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
