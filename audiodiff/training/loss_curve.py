"""The loss curve of a run: compared with a reference run, and watched for overfitting."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from audiodiff.audio.io import replacing
from audiodiff.config import ModelConfig, RunConfig, flattened
from audiodiff.diffusion.schedules import RANGED
from audiodiff.errors import ConfigError
from audiodiff.pipelines.base import noise_levels

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
    *("training.few_step_weight", "training.validation_levels", "training.initial_model"),
)
_LOG = logging.getLogger(__name__)


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
        earlier = load_curve(path).points if path.is_file() else ()
        self.curve = LossCurve(loss_settings(config), tuple(point for point in earlier if point.step <= first_step))
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


def check_terminal_snr(model: ModelConfig) -> Iterator[tuple[int, str]]:
    """Say how much signal is left at the noisiest level in training, with the level of the log it deserves."""
    decibels = 10 * model.diffusion.log_snr_min / math.log(10)
    amplitude = math.sqrt(1 / (1 + math.exp(-model.diffusion.log_snr_min)))
    said = f"terminal SNR {decibels:.1f} dB: at the noisiest level {amplitude:.1%} of the amplitude is signal"
    from_noise = model.synthesis.start == "noise"
    if from_noise and decibels > HIGH_TERMINAL_SNR:
        yield logging.WARNING, f"{said}, but synthesis starts from noise alone. Lower model.diffusion.log_snr_min."
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
