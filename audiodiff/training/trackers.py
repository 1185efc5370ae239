"""Experiment trackers (Weights & Biases, MLflow, ...): those of accelerate, and nothing of our own."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from audiodiff.errors import ConfigError, MissingPackageError, needed
from audiodiff.training.callbacks import Callback, FullSpeed, ThroughputMeter, TrainEvent, curve_points

PROJECT = "audiodiff"
"""What a run belongs to, where the tracker's own environment variables do not say."""
_RUN_NAME = {"wandb": "name", "mlflow": "run_name", "trackio": "name", "swanlab": "experiment_name"}
"""What a tracker calls the name of a run."""
_OWN_ERRORS = {"wandb": ("wandb.errors", "Error"), "mlflow": ("mlflow.exceptions", "MlflowException")}
"""Modules and names of what trackers raise beside errors of Python's own: without a key, without a network."""

_LOG = logging.getLogger(__name__)


@contextmanager
def trackers(
    names: Sequence[str],
    folder: Path,
    settings: Mapping[str, Any],
    samples_per_step: int,
    full_speed: FullSpeed = lambda: None,
) -> Iterator[Callback]:
    """Yield a callback that logs the curves of a run to experiment trackers, and its settings as hyper-parameters.

    Args:
        names: As accelerate calls them.
        folder: Of the run, which is called like it.
        settings: Dotted key to value.
        samples_per_step: Audio samples in a batch.
        full_speed: For the curve of the MFU.

    Yields:
        The callback. A tracker that fails later is left out with a warning: that is no reason to lose the run.

    Raises:
        ConfigError: If accelerate has no tracker of that name, or it cannot be started.
        MissingPackageError: If its package is not installed.
    """
    started: dict[str, Any] = {}
    with ExitStack() as stack:
        for name in names:
            started[name] = tracker = _start(name, folder)
            stack.callback(_unless_broken, name, tracker.finish)
            _unless_broken(name, tracker.store_init_configuration, _plain(settings))
        meter = ThroughputMeter(samples_per_step, full_speed=full_speed)

        def report(event: TrainEvent) -> None:
            values = curve_points(event, meter)
            for name in [*started] if values else []:
                if not _unless_broken(name, started[name].log, values, step=event.step):
                    del started[name]

        yield report


def _start(name: str, folder: Path) -> Any:
    with needed("train", f"the tracker {name}"):
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS
    kinds: dict[str, Any] = {str(kind): of for kind, of in LOGGER_TYPE_TO_CLASS.items() if kind != "tensorboard"}
    if name not in kinds:
        raise ConfigError(f"training.trackers: {name!r} is none of {', '.join(kinds)}.")
    where = {"logging_dir": str(folder)} if kinds[name].requires_logging_directory else {}
    named = {_RUN_NAME[name]: folder.resolve().name} if name in _RUN_NAME else {}
    PartialState()  # which some of them ask for the rank
    try:
        tracker = kinds[name](PROJECT, **where, **named)
        tracker.start()
    except ImportError as error:
        package = error.name or name
        raise MissingPackageError(
            f"the tracker {name} needs {package} ({error}). Run: pip install {package}, or leave it out of "
            "training.trackers."
        ) from error
    except _errors(name) as error:
        raise ConfigError(
            f"the tracker {name} cannot be started: {str(error).rstrip('.')}. Log in to it, or leave it out of "
            "training.trackers."
        ) from error
    return tracker


def _errors(name: str) -> tuple[type[BaseException], ...]:
    """Return what a tracker may raise."""
    module, own = _OWN_ERRORS.get(name, ("builtins", "OSError"))
    return (OSError, RuntimeError, ValueError, LookupError, TypeError, getattr(import_module(module), own))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as trackers take them: numbers, texts and truth values; lists as text, and what is unset not."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
        if value is not None
    }


def _unless_broken(name: str, function: Any, *args: Any, **keywords: Any) -> bool:
    """Call a function of a tracker; warn and return False if it fails."""
    try:
        function(*args, **keywords)
    except _errors(name) as error:
        _LOG.warning("nothing more is logged to the tracker %s: %s", name, error)
        return False
    return True
