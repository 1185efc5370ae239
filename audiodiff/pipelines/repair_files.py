"""Repair of many files: a bad one does not stop the others, one without damage is left as it is.

Clean ones can be degraded first and measured.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch
from torch import Tensor

from audiodiff.audio.degradation import Clipping, Degradation, Gaps, LowPass, Noise
from audiodiff.audio.io import AudioInfo, audio_info, load_audio, make_folder, save_audio
from audiodiff.checkpoint import find_model, load_config
from audiodiff.data.measure import mean_spectrum
from audiodiff.data.parallel import share
from audiodiff.diffusion.noise import position_noise
from audiodiff.engine.choose import Dtype
from audiodiff.errors import AudiodiffError, AudioError, ConfigError
from audiodiff.evaluation.listening_test import PageItem, write_page
from audiodiff.evaluation.spectral import log_spectral_distance, snr_db
from audiodiff.pipelines.files import Job, describe, explain_failure, load_recording, same_depth
from audiodiff.pipelines.generator import Generator
from audiodiff.pipelines.repair import RepairConfig, repair
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder

_FEWEST_CLIPPED = 8
"""Samples at its peak that a recording has at least where it was clipped."""
_CLEAN_SNR = 35.0
"""Signal-to-noise ratio in dB, as estimated, from which a recording counts as clean."""
_SHORTEST_NOISY = 0.5
"""Seconds in which there may be a pause, where noise is heard alone."""
_GOES_ON = 20.0
"""By how many dB the level falls at least where the bandwidth of a recording ends."""
_FULL_SCALE = 1 - 2**-15
"""Largest sample of 16 bits."""
_MOST_ITEMS = 12
"""Recordings on a page."""
_PRECISE = ("PCM_32", "DOUBLE")
"""Encodings of which `load_audio` keeps the upper 24 bits."""
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
        resample: Whether recordings at another rate are resampled where the model has a part in it.
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


class NothingToRepairError(AudioError):
    """A recording does not have the damage that it was said to have."""


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
        conversion: Rates, channels and bits, see `audiodiff.pipelines.files.describe`.
        note: What was found, such as how loud the noise is, or why the recording was left as it is.
        scores: Of every version of a recording that was clean, by name; else empty.
        is_generated: Whether the model had a part in it.
    """

    job: Job
    error: str | None = None
    conversion: str = ""
    note: str = ""
    scores: dict[str, RepairScores] = field(default_factory=dict)
    is_generated: bool = False


def load_pipeline(model: str | None, device: str = "auto", dtype: Dtype = "auto") -> Vocoder | Generator:
    """Load a model of either kind."""
    folder = find_model(model)
    kind = Generator if load_config(folder).mel is None else Vocoder
    return kind.from_pretrained(folder, device, dtype)


def clipping_at_peak(audio: Tensor) -> Clipping:
    """Return the clipping of a recording `(channels, time)` whose peak is where it was cut off.

    Raises:
        NothingToRepairError: If too few samples reach the peak, or it is none that can be clipped.
    """
    level = float(audio.abs().max())
    if not 1e-6 < level <= 1e6:  # where 1 is full scale
        raise NothingToRepairError(f"its peak is {level:g}, which is silence or no audio, and nothing that was clipped")
    n_clipped = int(Clipping(level).cut(audio).sum())
    if n_clipped < _FEWEST_CLIPPED:
        raise NothingToRepairError(
            f"too few samples ({n_clipped}) reach its peak, {level:.3f}, so it does not look clipped there; "
            "--declip LEVEL says where"
        )
    return Clipping(level)


def find_damage(degradation: Degradation, audio: Tensor, sample_rate: int) -> tuple[Degradation, str]:
    """Look for a degradation in a recording.

    Args:
        degradation: What is said to have happened.
        audio: `(channels, time)`.
        sample_rate: In Hz.

    Returns:
        The part of it that is there, and what else there is to say.

    Raises:
        NothingToRepairError: If there is nothing of it.
    """
    seconds, note = audio.shape[-1] / sample_rate, ""
    if isinstance(degradation, Gaps):
        inside = [span for span in degradation.spans if span[0] < seconds]
        if len(inside) < len(degradation.spans):
            n_left = len(degradation.spans) - len(inside)
            note = f"{n_left} {'gaps begin' if n_left > 1 else 'gap begins'} after its end at {seconds:.3f} s"
            degradation = Gaps(inside, sample_rate)
        if not inside:
            raise NothingToRepairError(note)
    if isinstance(degradation, Clipping) and not bool(degradation.cut(audio).any()):
        raise NothingToRepairError(
            f"no sample reaches {degradation.level:g}, its peak is {float(audio.abs().max()):.3f}"
        )
    if isinstance(degradation, Noise) and degradation.spectrum is not None:
        note = f"noise estimated at {degradation.snr_db:.1f} dB SNR"
        if not degradation.spectrum.any():
            raise NothingToRepairError("no steady noise was found; --denoise SNR_DB says how loud it is")
        if seconds < _SHORTEST_NOISY:
            raise NothingToRepairError(
                f"{seconds:.2f} s are too short to tell noise from sound; --denoise SNR_DB says how loud it is"
            )
        if degradation.snr_db >= _CLEAN_SNR:
            raise NothingToRepairError(f"{note}, which is clean; --denoise SNR_DB filters all the same")
    if isinstance(degradation, LowPass):
        _refuse_whole(degradation, audio, sample_rate)
    return degradation, note


def _refuse_whole(degradation: LowPass, audio: Tensor, sample_rate: int) -> None:
    """Refuse a recording that does not end at a cutoff."""
    cutoff, highest = degradation.cutoff, sample_rate / 2
    if cutoff >= 0.95 * highest:
        raise NothingToRepairError(f"at {sample_rate:,} Hz there is nothing to fill in above {cutoff:,.0f} Hz")
    level = mean_spectrum(audio.cpu())
    per_bin = highest / (len(level) - 1)
    below, above = (
        float(level[int(first / per_bin) : int(end / per_bin) + 1].median())
        for first, end in ((0.75 * cutoff, 0.95 * cutoff), (1.1 * cutoff, min(1.5 * cutoff, 0.98 * highest)))
    )
    if above > below - _GOES_ON:
        raise NothingToRepairError(
            f"it goes on above {cutoff:,.0f} Hz: the level there is {above - below:+.0f} dB of that below"
        )


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
            result = _repair_one(pipeline, job, options, on_progress)
        except ConfigError:
            raise
        except (AudiodiffError, OSError, RuntimeError) as error:
            yield RepairResult(job, explain_failure(job.source, error))
        else:
            yield result


def _repair_one(
    pipeline: Vocoder | Generator, job: Job, options: RepairOptions, on_progress: Callable[[float], object]
) -> RepairResult:
    if options.try_folder is not None:
        return _try_one(pipeline, job, options, options.try_folder, on_progress)
    source, audio = audio_info(job.source), load_audio(job.source, mono=False).to(pipeline.device)
    rate, restored = source.sample_rate, None
    try:
        degradation, note = find_damage(options.degradation(audio, rate), audio, rate)
        if options.config.method != "diffusion":  # what needs no model is done at the recording's own rate
            restored = degradation.restored(audio)
    except NothingToRepairError as reason:
        on_progress(1)
        return RepairResult(job, None, _save(job, audio, rate, source), f"left as it is: {reason}")
    if restored and (restored[1] is None or options.config.method == "baseline"):
        on_progress(1)
        repaired, is_generated = restored[0], False
    else:
        if rate != pipeline.sample_rate:
            rate, restored = pipeline.sample_rate, None
            audio = load_recording(job.source, rate, resample=options.resample).to(pipeline.device)
            degradation, note = find_damage(options.degradation(audio, rate), audio, rate)
        repaired, is_generated = _repair(pipeline, audio, degradation, options, on_progress, restored=restored), True
    if isinstance(degradation, Clipping) and same_depth(source, job.target) != "FLOAT":
        repaired, note = _turned_down(repaired)
    return RepairResult(job, None, _save(job, repaired, rate, source), note, is_generated=is_generated)


def _turned_down(audio: Tensor) -> tuple[Tensor, str]:
    """Turn audio down where restored peaks would else be clipped again, and say so."""
    peak = float(audio.abs().max())
    if peak <= 1:
        return audio, ""
    down = 20 * math.log10(peak / _FULL_SCALE)
    return audio * (_FULL_SCALE / peak), f"turned down by {down:.1f} dB to make room for its peaks"


def _try_one(
    pipeline: Vocoder | Generator,
    job: Job,
    options: RepairOptions,
    folder: Path,
    on_progress: Callable[[float], object],
) -> RepairResult:
    """Degrade a clean recording, repair it, and measure how near the original every version is."""
    source, rate = audio_info(job.source), pipeline.sample_rate
    audio = load_recording(job.source, rate, resample=options.resample).to(pipeline.device)
    degradation = options.degradation(audio, rate)
    noise = position_noise([options.seed], _DEGRADATION_DRAW, n_samples=audio.shape[-1], channels=len(audio))[0]
    degraded = degradation.degrade(audio, noise.to(audio))
    restored = degradation.restored(degraded)
    repaired = _repair(pipeline, degraded, degradation, options, on_progress, restored=restored)
    conversion = _save(job, repaired, rate, source)
    versions = {"degraded": degraded, "baseline": restored[0], "repaired": repaired}
    for version in ("degraded", "baseline"):
        target = folder / version / job.target.relative_to(folder / "repaired")
        _save(Job(job.source, target), versions[version], rate, source)
    mask = degradation.mask(degraded)
    scores = {
        version: RepairScores(snr_db(made, audio, mask), log_spectral_distance(made, audio, mask))
        for version, made in versions.items()
    }
    return RepairResult(job, None, conversion, scores=scores, is_generated=True)


def _repair(
    pipeline: Vocoder | Generator,
    audio: Tensor,
    degradation: Degradation,
    options: RepairOptions,
    on_progress: Callable[[float], object],
    *,
    restored: tuple[Tensor, Degradation | None] | None,
) -> Tensor:
    return repair(
        pipeline,
        audio,
        degradation,
        options.config,
        label=options.label,
        speaker=options.speaker,
        seed=options.seed,
        restored=restored,
        on_progress=on_progress,
        **options.changes,
    )


def _save(job: Job, audio: Tensor, sample_rate: int, source: AudioInfo) -> str:
    """Write audio with the bit depth of its source, and say what became of that."""
    make_folder(job.target.parent)
    depth, audio = same_depth(source, job.target), audio.cpu()
    if source.subtype in _PRECISE and sample_rate == source.sample_rate:
        audio = _with_untouched_samples(audio, job.source)
        depth = "DOUBLE" if source.subtype == "DOUBLE" and depth == "FLOAT" else depth
    save_audio(job.target, audio, sample_rate, depth)
    return describe(source, sample_rate, depth)


def _with_untouched_samples(audio: Tensor, path: Path) -> Tensor:
    """Return audio in double precision, with the file's own samples where they were left alone."""
    with suppress(soundfile.SoundFileError):  # of a damaged header, which `load_audio` knows to read
        own = torch.from_numpy(soundfile.read(os.fsencode(path), dtype="float64", always_2d=True)[0].T)
        if own.shape == audio.shape:
            return torch.where(own.float() == audio, own, audio.double())
    return audio


def write_repairs(path: Path, results: Sequence[RepairResult], try_folder: Path | None) -> None:
    """Write a page to hear and see recordings before and after, the first twelve.

    Args:
        path: The HTML file.
        results: Of files that could be repaired.
        try_folder: As in `RepairOptions`.
    """

    def items() -> Iterator[PageItem]:
        for result in islice(results, _MOST_ITEMS):
            target, rate = result.job.target, audio_info(result.job.target).sample_rate
            paths = [result.job.source, target]
            if try_folder is not None:
                inside = target.relative_to(try_folder / "repaired")
                paths[1:1] = [try_folder / version / inside for version in versions[1:-1]]
            words = [_words(result.scores.get(version)) for version in versions]
            words[-1] = words[-1] or result.note
            yield PageItem(result.job.source.name, rate, [load_audio(each, rate)[0] for each in paths], words)

    versions = ["before", "after"] if try_folder is None else ["recording", "degraded", "baseline", "repaired"]
    facts = f"{min(len(results), _MOST_ITEMS)} of {len(results)} recordings"
    note = "Channels are mixed to one. No level was changed."
    write_page(path, "Repair: before and after", versions, items(), facts=facts, note=note)


def _words(scores: RepairScores | None) -> str:
    return "" if scores is None else f"where it was degraded: SNR {scores.snr:.2f} dB, LSD {scores.lsd:.2f} dB"
