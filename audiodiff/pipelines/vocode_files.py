"""Vocoding of many files, on this machine or on a Ray cluster: a bad file does not stop the others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import Any

import torch
from torch import Tensor

from audiodiff.audio.io import AudioInfo, audio_info, make_folder, save_audio
from audiodiff.audio.mel_matching import refuse_unlikely
from audiodiff.config import MelConfig
from audiodiff.data.manifest import Recording
from audiodiff.data.mels import read_likely_mel, recording_mel
from audiodiff.data.parallel import share
from audiodiff.engine.choose import Dtype
from audiodiff.engine.threads import map_unordered
from audiodiff.errors import AudiodiffError, ConfigError, needed
from audiodiff.pipelines.channels import common_phases, vocode_channels
from audiodiff.pipelines.files import Job, describe, explain_failure, load_recording, remove_dc_offset, same_depth
from audiodiff.pipelines.mel_initialisation import CommonPhases
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder

MAX_FILES = 16
"""Files vocoded side by side at most, each of which takes memory."""
_BATCHES_READ_AHEAD = 4
"""Batches whose files are read at a time, to find clips of equal length among them."""


@dataclass(frozen=True)
class VocodeOptions:
    """How files are vocoded.

    Attributes:
        seed: Seed of every clip.
        changes: What differs from the model's own synthesis settings.
        batch_size: How many clips of equal length are synthesised together; changes the speed only.
        chunk_seconds: Length of the chunks that long audio is made in; None leaves it to the model.
        resample: Whether recordings, and mels, at another rate are resampled.
        plot: Whether a plot of recording and output is saved as .png next to each output.
        score: Whether each output is scored against its recording.
        force: Whether mels that look like another convention are vocoded, clipped to the range of the model's.
        mel_convention: What given mels follow that no manifest names; None is the model's convention.
        overwrite: Whether files that exist are made again, but for those that another process makes meanwhile.
    """

    seed: int = 0
    changes: SynthesisChanges = field(default_factory=SynthesisChanges)
    batch_size: int = 1
    chunk_seconds: float | None = None
    resample: bool = False
    plot: bool = False
    score: bool = False
    force: bool = False
    overwrite: bool = True
    mel_convention: MelConfig | None = None


@dataclass(frozen=True)
class VocodeResult:
    """What became of a file.

    Attributes:
        job: The file.
        error: Why there is no output; None if there is.
        seconds: Length of the output.
        synthesis_seconds: How long its synthesis took.
        conversion: Rates, channels and bits, see `audiodiff.pipelines.files.describe`.
        scores: Of the output against its recording, by name; empty where it was not scored.
    """

    job: Job
    error: str | None = None
    seconds: float = 0.0
    synthesis_seconds: float = 0.0
    conversion: str = ""
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Clip:
    """An input: its mel `(channels, n_mels, frames)`, its recording `(channels, time)` and what it was, if any.

    A given mel follows `VocodeOptions.mel_convention`. Several channels have their phases in common.
    """

    job: Job
    mel: Tensor
    reference: Tensor | None
    is_given: bool = False
    source: AudioInfo | None = None
    phases: CommonPhases | None = None


class _StoppedError(Exception):
    """Ends what a thread does."""


def vocode_files(
    vocoder: Vocoder,
    jobs: Sequence[Job],
    options: VocodeOptions | None = None,
    on_progress: Callable[[float], object] = lambda n_files: None,
) -> Iterator[VocodeResult]:
    """Vocode files side by side, on a CPU each in a thread of its own, or in batches of clips with equally many frames.

    Args:
        vocoder: The model.
        jobs: Recordings and mels, and where the audio goes; see `audiodiff.pipelines.files.collect_jobs`.
        options: How; None is the default.
        on_progress: Called with the number of files, or the fraction of one, done since the last call, by one thread at
            a time.

    Yields:
        One result per job, as it is written and in no order; none of a file that another process makes, see
        `audiodiff.data.parallel.share`.

    Raises:
        ConfigError: If a synthesis setting is impossible, whatever the file.
    """
    options = options or VocodeOptions()
    n_read = 1 if options.batch_size == 1 else _BATCHES_READ_AHEAD * options.batch_size
    by_target, in_hand = {job.target: job for job in jobs}, set[Path]()
    lock, stop = Lock(), Event()

    def progress(n_files: float) -> None:
        if stop.is_set():
            raise _StoppedError
        with lock:
            on_progress(n_files)

    def batches() -> Iterator[list[Job]]:
        others = partial(tuple, in_hand)
        for targets in share(list(by_target), n_read, overwrite=options.overwrite, on_skip=progress, in_hand=others):
            in_hand.update(targets)
            yield [by_target[target] for target in targets]

    def vocode(batch: list[Job]) -> list[VocodeResult]:
        try:
            return list(_vocode_batch(vocoder, batch, options, progress))
        finally:
            in_hand.difference_update(job.target for job in batch)

    n_threads = torch.get_num_threads()
    workers = min(n_threads, -(-len(jobs) // n_read), MAX_FILES)
    if workers < 2 or vocoder.device.type != "cpu" or options.plot:  # matplotlib is for one thread
        for batch in batches():
            in_hand.clear()
            yield from _vocode_batch(vocoder, batch, options, progress)
    else:
        for results in map_unordered(vocode, batches(), workers, stop, n_threads // workers):
            yield from results


def _vocode_batch(
    vocoder: Vocoder, jobs: Sequence[Job], options: VocodeOptions, on_progress: Callable[[float], object]
) -> Iterator[VocodeResult]:
    """Read files, and vocode those with equally many frames together."""
    groups: dict[tuple[int, bool, bool], list[_Clip]] = {}
    for job in jobs:
        try:
            clip = _read(job, vocoder, options)
        except (AudiodiffError, OSError, RuntimeError) as error:
            on_progress(1)
            yield VocodeResult(job, explain_failure(job.source, error))
        else:
            alike = clip.mel.shape[-1], clip.is_given, clip.phases is None
            groups.setdefault(alike, []).append(clip)
    for clips in groups.values():
        yield from _vocode_group(vocoder, clips, options, on_progress)


def _read(job: Job, vocoder: Vocoder, options: VocodeOptions) -> _Clip:
    if job.is_mel:
        mel = read_likely_mel(job.source, options.mel_convention or vocoder.mel_config, force=options.force)
        return _Clip(job, mel.unsqueeze(0), None, is_given=True)
    given = None
    if job.recording is not None:
        given = recording_mel(job.recording, vocoder.mel_config, resample=options.resample)
    if given is not None:
        if not options.force:
            refuse_unlikely(given, vocoder.mel_config)
        wanted = options.score or options.plot
        audio = load_recording(job.source, vocoder.sample_rate, resample=options.resample) if wanted else None
        return _Clip(job, given.unsqueeze(0), None if audio is None else audio.mean(0, keepdim=True))
    audio = load_recording(job.source, vocoder.sample_rate, resample=options.resample)
    centred = remove_dc_offset(audio, job.source)
    phases = common_phases(vocoder, centred.to(vocoder.device)) if len(audio) > 1 else None
    return _Clip(job, vocoder.mel(centred), audio, source=audio_info(job.source), phases=phases)


def _vocode_group(
    vocoder: Vocoder, clips: Sequence[_Clip], options: VocodeOptions, on_progress: Callable[[float], object]
) -> Iterator[VocodeResult]:
    """Vocode clips with equally many frames."""
    try:
        generated, seconds = _synthesise(vocoder, clips, options, on_progress)
    except ConfigError:
        raise
    except (AudiodiffError, RuntimeError) as error:  # the latter when memory does not suffice
        yield from (VocodeResult(clip.job, explain_failure(clip.job.source, error)) for clip in clips)
        return
    for clip, audio in zip(clips, generated, strict=True):
        try:
            scores = _write(vocoder, clip, audio, options)
        except (AudiodiffError, OSError, RuntimeError) as error:
            yield VocodeResult(clip.job, explain_failure(clip.job.source, error))
        else:
            own_seconds = seconds * len(audio) / sum(map(len, generated))
            depth = same_depth(clip.source, clip.job.target)
            conversion = describe(clip.source, vocoder.sample_rate, depth)
            yield VocodeResult(clip.job, None, audio.shape[-1] / vocoder.sample_rate, own_seconds, conversion, scores)


def _synthesise(
    vocoder: Vocoder, clips: Sequence[_Clip], options: VocodeOptions, on_progress: Callable[[float], object]
) -> tuple[list[Tensor], float]:
    """Return the audio of each clip `(channels, time)`, as long as its recording, and the seconds that took in all."""
    if clips[0].is_given and options.mel_convention is not None:
        vocoder = vocoder.with_mel_convention(options.mel_convention, resample=options.resample)
    given = [clip.mel.to(vocoder.device, torch.float32) for clip in clips]
    log_snrs = options.changes.get("log_snrs")
    steps = len(log_snrs) if log_snrs else options.changes.get("steps", vocoder.config.synthesis.steps)
    n_samples = sum(map(len, given)) * clips[0].mel.shape[-1] * vocoder.mel_config.hop_length

    def on_step(_step: int, x: Tensor) -> None:
        on_progress(len(clips) * x.numel() / (steps * n_samples))

    def vocode(mels: Tensor, phases: CommonPhases | None = None) -> Tensor:
        bound = vocoder if phases is None else partial(vocode_channels, vocoder, phases=phases)
        chunk, seed = options.chunk_seconds, options.seed
        return bound(mels, seed=seed, chunk_seconds=chunk, on_step=on_step, **options.changes).cpu()

    started = time.perf_counter()
    if clips[0].phases is None:
        audio = torch.cat([vocode(mels) for mels in torch.cat(given).split(options.batch_size)])
    else:
        audio = torch.cat([vocode(mels, clip.phases) for mels, clip in zip(given, clips, strict=True)])
    seconds = time.perf_counter() - started
    per_clip = audio.split([len(clip.mel) for clip in clips])
    # A mel that was given decides how long its clip is.
    lengths = [None if clip.reference is None or clip.job.recording else clip.reference.shape[-1] for clip in clips]
    return [each[:, :length] for each, length in zip(per_clip, lengths, strict=True)], seconds


def _write(vocoder: Vocoder, clip: _Clip, audio: Tensor, options: VocodeOptions) -> dict[str, float]:
    """Write what was asked for, the audio last because it marks a file as done, and return the scores."""
    scores: dict[str, float] = {}
    make_folder(clip.job.target.parent)
    if clip.reference is not None and options.score:
        from audiodiff.evaluation.scoring import score

        length = min(audio.shape[-1], clip.reference.shape[-1])
        scores = score(audio[:, :length], clip.reference[:, :length], vocoder.sample_rate)
    if clip.reference is not None and options.plot:
        from audiodiff.audio.plots import comparison_figure, save_figure

        figure = comparison_figure(clip.reference[:1], audio[:1], vocoder.sample_rate, vocoder.mel_config)
        save_figure(figure, clip.job.target.with_suffix(".png"))
    save_audio(clip.job.target, audio, vocoder.sample_rate, same_depth(clip.source, clip.job.target))
    return scores


def vocode_files_on_ray(
    model: str | None,
    jobs: Sequence[Job],
    options: VocodeOptions,
    *,
    address: str | None = None,
    processes: int = 1,
    gpus: float = 0.0,
    device: str = "auto",
    dtype: Dtype = "auto",
) -> Iterator[VocodeResult]:
    """Vocode files on all machines of a Ray cluster, which must all see the files and the model.

    Args:
        model: As `Vocoder.from_pretrained` takes it.
        jobs: As for `vocode_files`, with absolute paths.
        options: How; `batch_size` files are handed to a process at a time.
        address: Of a running cluster; None starts Ray on this machine.
        processes: How many synthesise, each with the model in memory.
        gpus: GPUs per process, such as 0.5.
        device: Where each computes.
        dtype: Precision of matrix products.

    Yields:
        One result per job, as it is written.

    Raises:
        MissingPackageError: If Ray is not installed.
    """
    with needed("cluster", "a Ray cluster"):
        import ray
        import ray.data
    # A Ray of our own gets one core more than it has processes, or its reading would wait for them on a small machine.
    local: dict[str, Any] = {} if address else {"num_cpus": processes + 1, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        rows = [
            {
                "source": str(job.source),
                "target": str(job.target),
                "recording": job.recording.model_dump_json() if job.recording else "",
            }
            for job in jobs
        ]
        n_blocks = -(-len(rows) // options.batch_size)
        done = ray.data.from_items(rows, override_num_blocks=n_blocks).map_batches(
            RayWorker,
            fn_constructor_args=(model, device, dtype, options),
            batch_size=options.batch_size,
            compute=ray.data.ActorPoolStrategy(size=processes),
            num_gpus=gpus or None,
        )
        for row in done.iter_rows():
            yield VocodeResult(Job(Path(row.pop("source")), Path(row.pop("target"))), **row)
    finally:
        ray.shutdown()


class RayWorker:
    """What each process of a cluster runs: the model, loaded once, and one batch of files after the other.

    Args:
        model: As `Vocoder.from_pretrained` takes it.
        device: Where to compute.
        dtype: Precision of matrix products.
        options: How to vocode.
    """

    def __init__(self, model: str | None, device: str, dtype: Dtype, options: VocodeOptions) -> None:
        self._vocoder = Vocoder.from_pretrained(model, device, dtype)
        self._options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Vocode a batch; columns `source`, `target` and `recording` become those of `VocodeResult`."""
        jobs = [
            Job(Path(source), Path(target), Recording.model_validate_json(line) if line else None)
            for source, target, line in zip(batch["source"], batch["target"], batch["recording"], strict=True)
        ]
        rows = [asdict(result) for result in vocode_files(self._vocoder, jobs, self._options)]
        columns = {
            field.name: [row[field.name] for row in rows] for field in fields(VocodeResult) if field.name != "job"
        }
        ends = ("source", "target")
        return columns | {end: [str(row["job"][end]) for row in rows] for end in ends}
