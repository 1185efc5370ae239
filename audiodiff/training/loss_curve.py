"""The record of a run: the settings that its steps were trained with, and its loss curve.

The curve is compared with that of a reference run, and watched for overfitting.
"""

from __future__ import annotations

import datetime
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from audiodiff.audio.io import replacing
from audiodiff.config import DataConfig, ModelConfig, RunConfig, TrainingConfig, flattened, load_run_config
from audiodiff.config.base import Config
from audiodiff.data.corpus import CropStream
from audiodiff.diffusion.schedules import RANGED
from audiodiff.errors import ConfigError, TrainingError
from audiodiff.pipelines.settings import noise_levels

TOLERANCE = 0.1
"""A loss within this fraction of the reference counts as near it."""
OVERFITTING_RISE = 0.01
"""Fraction by which validation must have risen over its best before the gap to training counts as overfitting."""
HIGH_TERMINAL_SNR = -20.0
"""Terminal SNR in dB above which sampling from pure noise meets levels that training has not shown."""

# What decides how large a loss is: where one of these differs, a comparison says nothing.
_LOSS_SETTINGS = (
    *("model.sample_rate", "model.mel", "model.network", "model.whitening.kind", "model.whitening.exponent"),
    *("model.diffusion", "data.crop_seconds", "data.mask_bandwidth", "training.batch_size", "training.learning_rate"),
    "training.gradient_accumulation_steps",
    *("training.few_step_weight", "training.validation_levels", "training.initial_model"),
)
_MEASURED = {"batch_size", "recordings", "hours_of_recordings"}
"""What `measured_settings` returns."""
_LOG = logging.getLogger(__name__)


# --- settings ---------------------------------------------------------------------------------------------------------


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return what changed since a run began: `step`, `time`, and `changes`, which are key to old and new value.

    Raises:
        TrainingError: If the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        entries = [json.loads(line) for line in lines if line]
        return [entry | {"step": int(entry["step"]), "changes": dict(entry["changes"])} for entry in entries]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise TrainingError(f"{path} cannot be read: {error}. Mend or remove it.") from error


def write_history(path: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Write what `read_history` returns; nothing leaves no file."""
    if entries:
        with replacing(path) as part:
            part.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    else:
        path.unlink(missing_ok=True)


def measured_settings(data: CropStream, batch_size: int) -> dict[str, Any]:
    """Return what decides a run too and is in no configuration: what its paths lead to, and crops of all processes."""
    hours = round(data.seconds / 3600, 3)
    return {"batch_size": batch_size, "recordings": data.n_recordings, "hours_of_recordings": hours}


def compare_settings(
    now: Mapping[str, Any], checkpoint: Path, step: int, measured: Mapping[str, Any], run_dir: Path, *, allow: bool
) -> list[dict[str, Any]]:
    """Compare the settings of a run with those that its steps were trained with.

    Args:
        now: Dotted names of all settings and their values as it is to go on, and what
            `measured_settings` returned.
        checkpoint: The folder that it goes on from.
        step: Steps done there.
        measured: What the checkpoint says of its data.
        run_dir: The folder of the run.
        allow: Whether settings that decide the result may have changed.

    Returns:
        The history of the run from here on.

    Raises:
        TrainingError: If such a setting has changed, and that is not allowed; the message names it.
    """
    source = checkpoint.parent.parent
    history = read_history(source / "history.jsonl")
    begun = _settings_of(source / "config.yaml")
    if begun is None and source != run_dir:
        _LOG.warning("%s has no config.yaml, so nothing tells what %s was trained with", source, checkpoint.name)
    before = {**(begun or {}), **{key: measured[key] for key in measured.keys() & _MEASURED}}
    earlier = [entry for entry in history if entry["step"] < step]
    changes = _differences(before, earlier, now)
    new = _differences(before, [entry for entry in history if entry["step"] <= step], now)
    deciding = [key for key in new if not _may_change(key)]
    if now["training.few_step_weight"]:  # its loss unrolls the synthesis
        deciding += [key for key in new if key.startswith("model.synthesis.")]
    said = "; ".join(f"{key} was {json.dumps(old)}, is {json.dumps(value)}" for key, (old, value) in new.items())
    if begun is None:
        said = f"which is not known without {source / 'config.yaml'}"
    if not allow and (source == run_dir if begun is None else deciding):
        raise TrainingError(
            f"{checkpoint} was trained with other settings: {said}. Take those again, choose another run folder, or "
            "give --allow-changes to go on with these; history.jsonl in the run folder then says so."
        )
    if said:
        _LOG.info("settings changed after step %d: %s", step, said)
    entry = {"step": step, "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    if source != run_dir:
        return [{**entry, "resumed_from": str(checkpoint), "changes": changes}]
    return [*earlier, {**entry, "changes": changes}] if changes and step < now["training.steps"] else earlier


def _settings_of(path: Path) -> dict[str, Any] | None:
    """Return what a run began with, as dotted names; None if that cannot be read."""
    try:
        return flattened(load_run_config(path).model_dump(mode="json")) if path.is_file() else None
    except ConfigError as error:
        _LOG.warning("%s", error)
        return None


def _differences(
    begun: Mapping[str, Any], history: Sequence[Mapping[str, Any]], now: Mapping[str, Any]
) -> dict[str, list[Any]]:
    """Return old and new value of what is not as it was after the last change."""
    before = dict(begun)
    for entry in history:
        before |= {key: new for key, (_, new) in entry["changes"].items()}
    keys = sorted({*before, *now} - (_MEASURED - before.keys()))
    return {key: [before.get(key), now.get(key)] for key in keys if before.get(key) != now.get(key)}


def _may_change(key: str) -> bool:
    parts: dict[str, type[Config]] = {"model": ModelConfig, "data": DataConfig, "training": TrainingConfig}
    free = (f"{part}.{name}." for part, kind in parts.items() for name in kind.MAY_CHANGE)
    return f"{key}.".startswith(tuple(free))


# --- losses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LossPoint:
    """Losses after some steps.

    Attributes:
        step: Steps done.
        valid: Loss on the validation crops.
        train: Loss on as many training crops, not augmented, at the same noise levels; None where it was not measured.
    """

    step: int
    valid: float
    train: float | None = None


@dataclass(frozen=True)
class LossCurve:
    """Validation losses and the settings they belong to.

    Attributes:
        settings: Dotted name to value.
        points: The losses, by step.
    """

    settings: Mapping[str, Any]
    points: tuple[LossPoint, ...] = ()

    def at(self, step: int) -> float | None:
        """Return the validation loss at a step, on the line between its neighbours; None outside the curve."""
        for left, right in pairwise(self.points):
            if left.step <= step <= right.step:
                return left.valid + (right.valid - left.valid) * (step - left.step) / (right.step - left.step)
        return next((point.valid for point in self.points if point.step == step), None)

    def save(self, path: Path) -> None:
        """Write the curve as JSON."""
        points = [[point.step, point.valid, point.train] for point in self.points]
        with replacing(path) as part:
            part.write_text(json.dumps({"settings": self.settings, "points": points}) + "\n", encoding="utf-8")


def load_curve(path: Path) -> LossCurve:
    """Read what `LossCurve.save` wrote.

    Raises:
        ConfigError: If it is not such a file.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        points = tuple(LossPoint(int(step), float(valid), train) for step, valid, train in document["points"])
        return LossCurve(dict(document["settings"]), points)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no loss curve ({error}). Copy the curve.json of a run's folder, or remove it."
        ) from error


def loss_settings(config: RunConfig, *, not_default: bool = False) -> dict[str, Any]:
    """Return the settings that decide how large a loss is, as dotted names and plain values.

    Args:
        config: The run.
        not_default: Leave out those that have the value they have by default.
    """
    document = flattened(config.model_dump(mode="json", exclude_defaults=not_default))
    prefixes = tuple(f"{name}." for name in _LOSS_SETTINGS)
    return {name: value for name, value in document.items() if f"{name}.".startswith(prefixes)}


class LossMonitor:
    """Keeps the loss curve of a run, compares it with a reference and warns of overfitting.

    Args:
        path: File of the run's own curve; what is there, up to `first_step`, is kept.
        config: The run.
        first_step: Steps done.
        reference: A curve to compare with, if there is one.
    """

    def __init__(self, path: Path, config: RunConfig, first_step: int, reference: LossCurve | None = None) -> None:
        self._path = path
        stored = load_curve(path) if path.is_file() else LossCurve({})
        earlier = tuple(point for point in stored.points if point.step <= first_step)
        self.curve = LossCurve(stored.settings if earlier else loss_settings(config), earlier)
        self._reference = None
        if reference and (names := differing_settings(reference.settings, config)):
            _LOG.info("no comparison with the reference curve, which belongs to another %s", ", ".join(names))
        else:
            self._reference = reference

    def add(self, point: LossPoint) -> None:
        """Take a validation into account."""
        self.curve = LossCurve(self.curve.settings, (*self.curve.points, point))
        try:
            self.curve.save(self._path)
        except OSError as error:
            _LOG.warning("%s cannot be written: %s", self._path, error)
        if self._reference is not None and (said := compare_with_reference(point, self._reference)):
            _LOG.info("step %d: %s", point.step, said)
        if said := describe_overfitting(self.curve):
            _LOG.warning("step %d: %s", point.step, said)


def differing_settings(theirs: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Name the settings of the loss that are others than those of a curve.

    Args:
        theirs: Settings of the curve. A setting that was not there when it was made counts as its default.
        config: The run.
    """
    stored, set_here = flattened(theirs), loss_settings(config, not_default=True)
    ours = loss_settings(config)
    return sorted(name for name in ours if (stored[name] != ours[name] if name in stored else name in set_here))


def compare_with_reference(point: LossPoint, reference: LossCurve) -> str | None:
    """Compare a validation loss with a reference, in words; None where the reference does not reach."""
    expected = reference.at(point.step)
    if expected is None:
        return None
    difference = point.valid / expected - 1
    if abs(difference) <= TOLERANCE:
        verdict = "as expected"
    else:
        verdict = "lower than there" if difference < 0 else "higher: other data, or a mistake"
    return f"validation loss is {difference:+.1%} of the reference curve's {expected:.4f}, {verdict}"


def describe_overfitting(curve: LossCurve) -> str | None:
    """Return a warning if validation has become worse since its best while the loss on training crops kept falling."""
    best = min(curve.points, key=lambda point: point.valid)
    now = curve.points[-1]
    if best.train is None or now.train is None or now.train >= best.train:
        return None
    if now.valid < best.valid * (1 + OVERFITTING_RISE):
        return None
    return (
        f"validation loss has risen from {best.valid:.4f} at step {best.step} to {now.valid:.4f}, while on training "
        f"crops it fell from {best.train:.4f} to {now.train:.4f}: the model is overfitting. best/ "
        f"holds step {best.step}; more recordings or augmentation help, and training.patience ends such runs."
    )


def _lower(model: ModelConfig) -> str:
    if model.diffusion.betas:
        return "DiffWave is trained so; more or larger model.diffusion.betas would lower it."
    return "Lower model.diffusion.log_snr_min."


def check_terminal_snr(model: ModelConfig) -> Iterator[tuple[int, str]]:
    """Say how much signal is left at the noisiest level in training, with the level of the log it deserves."""
    decibels = 10 * model.diffusion.log_snr_min / math.log(10)
    amplitude = math.sqrt(1 / (1 + math.exp(-model.diffusion.log_snr_min)))
    said = f"terminal SNR {decibels:.1f} dB: at the noisiest level {amplitude:.1%} of the amplitude is signal"
    from_noise = model.synthesis.start == "noise"
    if from_noise and decibels > HIGH_TERMINAL_SNR:
        yield logging.WARNING, f"{said}, but synthesis starts from noise alone. {_lower(model)}"
    else:
        yield logging.INFO, said
    level = float(noise_levels(model.synthesis, model.diffusion)[0]) if from_noise else -math.inf
    if level > model.diffusion.log_snr_min + 1:
        missing = math.sqrt(1 / (1 + math.exp(-level)))
        own = model.synthesis
        remedy = "Choose another model.synthesis.schedule, such as uniform,"  # most bring their own first level
        if own.log_snrs:
            remedy = "Lower the first of model.synthesis.log_snrs,"
        elif own.schedule in RANGED:
            remedy = "Lower model.synthesis.start_log_snr,"
        yield (
            logging.WARNING,
            f"synthesis starts from noise at log-SNR {level:+.1f}, where {missing:.1%} of the amplitude should be "
            f"signal. {remedy} or set model.synthesis.zero_terminal=true.",
        )
