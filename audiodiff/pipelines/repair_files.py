"""Repair of many files: a bad one does not stop the others; clean ones can be degraded first and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from audiodiff.audio.degradation import Clipping, Degradation
from audiodiff.audio.io import make_folder, save_audio
from audiodiff.checkpoint import find_model, load_config
from audiodiff.data.parallel import share
from audiodiff.diffusion.noise import position_noise
from audiodiff.engine.choose import Dtype
from audiodiff.errors import AudiodiffError, AudioError, ConfigError
from audiodiff.evaluation.spectral import log_spectral_distance, snr_db
from audiodiff.pipelines.base import SynthesisChanges
from audiodiff.pipelines.files import Job, explain_failure, load_recording
from audiodiff.pipelines.generator import Generator
from audiodiff.pipelines.repair import RepairConfig, repair
from audiodiff.pipelines.vocoder import Vocoder

_FEWEST_CLIPPED = 8
"""Samples at its peak that a recording has at least where it was clipped."""
_DEGRADATION_DRAW = 2**20 - 2
"""The draw of position-indexed noise that a recording is degraded with; steps count up from 0."""


@dataclass(frozen=True)
class RepairOptions:
    """How files are repaired.

    Attributes:
        degradation: From a recording `(channels, time)` and its rate in Hz to what happened to it.
        config: How it is repaired.
        changes: What differs from the model's own synthesis settings.
        label: What the recordings are, for a model with labels.
        speaker: Who speaks, for a model with speakers.
        seed: Of the noise.
        resample: Whether recordings at another rate are resampled.
        try_folder: None for degraded recordings. For clean ones, a folder: they are degraded first; the degraded ones,
            a baseline's repair and the model's go into subfolders, and each is measured.
        overwrite: Whether files that exist are made again, but for those that another process makes meanwhile.
    """

    degradation: Callable[[Tensor, int], Degradation]
    config: RepairConfig = field(default_factory=RepairConfig)
    changes: SynthesisChanges = field(default_factory=SynthesisChanges)
    label: str | None = None
    speaker: str | None = None
    seed: int = 0
    resample: bool = False
    try_folder: Path | None = None
    overwrite: bool = True


class RepairScores(NamedTuple):
    """Scores in dB where the recording was degraded: signal-to-noise ratio and log-spectral distance."""

    snr: float
    lsd: float


@dataclass(frozen=True)
class RepairResult:
    """What became of a file.

    Attributes:
        job: The file.
        error: Why there is no output; None if there is.
        scores: Of every version of a recording that was clean, by name; else empty.
    """

    job: Job
    error: str | None = None
    scores: dict[str, RepairScores] = field(default_factory=dict)


def load_pipeline(model: str | None, device: str = "auto", dtype: Dtype = "auto") -> Vocoder | Generator:
    """Load a model of either kind."""
    folder = find_model(model)
    kind = Generator if load_config(folder).mel is None else Vocoder
    return kind.from_pretrained(folder, device, dtype)


def clipping_at_peak(audio: Tensor) -> Clipping:
    """Return the clipping of a recording `(channels, time)` whose peak is where it was cut off.

    Raises:
        AudioError: If too few samples reach the peak, or it is none that can be clipped.
    """
    level = float(audio.abs().max())
    if not 1e-6 < level <= 1e6:  # where 1 is full scale
        raise AudioError(f"its peak is {level:g}, which is silence or no audio, and nothing that was clipped.")
    n_clipped = int(Clipping(level).cut(audio).sum())
    if n_clipped < _FEWEST_CLIPPED:
        raise AudioError(
            f"only {n_clipped} samples reach its peak, {level:.3f}, so it does not look clipped there. "
            "Give --declip LEVEL."
        )
    return Clipping(level)


def repair_files(
    pipeline: Vocoder | Generator,
    jobs: Sequence[Job],
    options: RepairOptions,
    on_progress: Callable[[float], object] = lambda n_files: None,
) -> Iterator[RepairResult]:
    """Repair recordings one after the other.

    Args:
        pipeline: The model.
        jobs: Recordings, and where the repaired ones go; see `audiodiff.pipelines.files.collect_jobs`.
        options: How.
        on_progress: Called with the number of files, or the fraction of one, done since the last call.

    Yields:
        One result per job, as it is written; none of a file that another process makes, see
        `audiodiff.data.parallel.share`.

    Raises:
        ConfigError: If a setting is impossible, whatever the recording.
    """
    by_target = {job.target: job for job in jobs}
    for [target] in share(list(by_target), overwrite=options.overwrite, on_skip=on_progress):
        job = by_target[target]
        try:
            scores = _repair_one(pipeline, job, options, on_progress)
        except ConfigError:
            raise
        except (AudiodiffError, OSError, RuntimeError) as error:
            yield RepairResult(job, explain_failure(job.source, error))
        else:
            yield RepairResult(job, None, scores)


def _repair_one(
    pipeline: Vocoder | Generator, job: Job, options: RepairOptions, on_progress: Callable[[float], object]
) -> dict[str, RepairScores]:
    audio = load_recording(job.source, pipeline.sample_rate, resample=options.resample).to(pipeline.device)
    degradation, degraded = options.degradation(audio, pipeline.sample_rate), audio
    if options.try_folder is not None:
        noise = position_noise([options.seed], _DEGRADATION_DRAW, n_samples=audio.shape[-1], channels=len(audio))[0]
        degraded = degradation.degrade(audio, noise.to(audio))
    repaired = repair(
        pipeline,
        degraded,
        degradation,
        options.config,
        label=options.label,
        speaker=options.speaker,
        seed=options.seed,
        on_progress=on_progress,
        **options.changes,
    )
    _save(job.target, repaired, pipeline.sample_rate)
    if options.try_folder is None:
        return {}
    versions = {"degraded": degraded, "baseline": degradation.baseline(degraded), "repaired": repaired}
    name = job.target.relative_to(options.try_folder / "repaired")
    for version in ("degraded", "baseline"):
        _save(options.try_folder / version / name, versions[version], pipeline.sample_rate)
    mask = degradation.mask(degraded)
    return {
        version: RepairScores(snr_db(made, audio, mask), log_spectral_distance(made, audio, mask))
        for version, made in versions.items()
    }


def _save(path: Path, audio: Tensor, sample_rate: int) -> None:
    make_folder(path.parent)
    save_audio(path, audio.cpu(), sample_rate)
