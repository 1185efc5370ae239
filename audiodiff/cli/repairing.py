"""Repair of many files: a bad one does not stop the others; damaged first, it can be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from audiodiff.audio.degradation import Clipping, Degradation, Gaps, LowPass, Noise
from audiodiff.audio.io import audio_info, load_audio, save_audio
from audiodiff.checkpoint import find_model, load_config
from audiodiff.cli.jobs import Job
from audiodiff.cli.options import REVERSE, changes
from audiodiff.diffusion.noise import position_noise
from audiodiff.engine.choose import Dtype
from audiodiff.errors import AudiodiffError, AudioError, ConfigError
from audiodiff.evaluation.spectral import log_spectral_distance, snr_db
from audiodiff.pipelines import Generator, SynthesisChanges, Vocoder
from audiodiff.pipelines.repair import RepairConfig, repair

_FEWEST_CUT = 8
"""Samples at its peak that a recording has at least where it was clipped."""
_DAMAGE_DRAW = 2**20 - 2
"""The draw of position-indexed noise that a recording is damaged with; steps count up from 0."""


@dataclass(frozen=True)
class Wishes:
    """What the user wants of every recording.

    Attributes:
        degradation: From a recording `(channels, time)` and its rate to what happened to it.
        config: How it is repaired.
        changes: What differs from the model's own synthesis settings.
        label: What the recordings are.
        speaker: Who is to be heard.
        seed: Of the noise.
        resample: Whether recordings at another rate are resampled.
        attempt: The folder for all versions of recordings that are sound and are damaged first; None for damaged ones.
    """

    degradation: Callable[[Tensor, int], Degradation]
    config: RepairConfig
    changes: SynthesisChanges = field(default_factory=SynthesisChanges)
    label: str | None = None
    speaker: str | None = None
    seed: int = 0
    resample: bool = False
    attempt: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """A line that says what became of a recording, and whether it failed."""

    text: str
    failed: bool = False


def make_wishes(options: dict[str, Any]) -> Wishes:
    """Sort the options of the command line."""
    repairing, settings, own = (
        {name: options[name] for name in names if name in options}
        for names in (
            ("start", "dps_strength", "rounds"),
            (*REVERSE, "start_log_snr"),
            ("label", "speaker", "seed", "resample", "attempt"),
        )
    )
    config = RepairConfig(replace=not options["free"], **repairing)
    return Wishes(_degradation(options), config, changes(**settings), **own)


def _degradation(options: dict[str, Any]) -> Callable[[Tensor, int], Degradation]:
    if options["gaps"]:
        return lambda audio, rate: Gaps(tuple(options["gaps"]), rate)
    if "declip" in options:
        return lambda audio, rate: Clipping(_peak(audio) if options["declip"] == "auto" else options["declip"])
    if "denoise" in options:
        return lambda audio, rate: Noise(options["denoise"])
    return lambda audio, rate: LowPass(options["extend"], rate)


def _peak(audio: Tensor) -> float:
    level = float(audio.abs().max())
    n_cut = int(Clipping(level).cut(audio).sum())
    if level == 0 or n_cut < _FEWEST_CUT:
        raise AudioError(
            f"only {n_cut} samples reach its peak, {level:.3f}, so it does not look clipped there. Give --declip LEVEL."
        )
    return level


def load_pipeline(model: str | None, device: str, dtype: Dtype) -> Vocoder | Generator:
    """Load a model of either kind."""
    folder = find_model(model)
    kind = Generator if load_config(folder).mel is None else Vocoder
    return kind.from_pretrained(folder, device, dtype)


def repair_files(pipeline: Vocoder | Generator, jobs: Sequence[Job], wishes: Wishes) -> Iterator[Outcome]:
    """Repair recordings one after the other.

    Yields:
        One outcome per job.

    Raises:
        ConfigError: If a setting is impossible, whatever the recording.
    """
    for job in jobs:
        name = click.format_filename(job.source)
        try:
            figures = _repair_one(pipeline, job, wishes)
        except ConfigError:
            raise
        except (AudiodiffError, OSError, RuntimeError) as error:
            text = " ".join(str(error).split())
            yield Outcome(text if name in text else f"{name}: {text}", failed=True)
        else:
            yield Outcome(f"{name} -> {click.format_filename(job.target)}{figures}")


def _repair_one(pipeline: Vocoder | Generator, job: Job, wishes: Wishes) -> str:
    audio = _read(job.source, pipeline.sample_rate, wishes.resample).to(pipeline.device)
    degradation = wishes.degradation(audio, pipeline.sample_rate)
    noise = position_noise([wishes.seed], _DAMAGE_DRAW, n_samples=audio.shape[-1], channels=len(audio))[0]
    degraded = audio if wishes.attempt is None else degradation.degrade(audio, noise.to(audio))
    repaired = repair(
        pipeline,
        degraded,
        degradation,
        wishes.config,
        label=wishes.label,
        speaker=wishes.speaker,
        seed=wishes.seed,
        **wishes.changes,
    )
    _save(job.target, repaired, pipeline.sample_rate)
    if wishes.attempt is None:
        return ""
    versions = {"degraded": degraded, "baseline": degradation.baseline(degraded), "repaired": repaired}
    for version in ("degraded", "baseline"):
        target = wishes.attempt / version / job.target.relative_to(wishes.attempt / "repaired")
        _save(target, versions[version], pipeline.sample_rate)
    where = degradation.mask(degraded)
    figures = ""
    for version, made in versions.items():
        snr, distance = (measure(made, audio, where) for measure in (snr_db, log_spectral_distance))
        figures += f"  {version} SNR {snr:.2f} dB, LSD {distance:.2f} dB"
    return figures


def _read(path: Path, sample_rate: int, resample: bool) -> Tensor:
    rate = audio_info(path).sample_rate
    if rate != sample_rate and not resample:
        raise AudioError(f"{path} is {rate} Hz; this model needs {sample_rate} Hz. Use --resample.")
    return load_audio(path, sample_rate=sample_rate, mono=False)


def _save(path: Path, audio: Tensor, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_audio(path, audio.cpu(), sample_rate)
