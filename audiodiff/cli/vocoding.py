"""Vocoding of many files: a bad one does not stop the others, and a batch changes nothing but the speed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import click
import torch
from torch import Tensor

from audiodiff.audio.io import save_audio
from audiodiff.cli.clips import Clip, read_clip
from audiodiff.cli.jobs import Job
from audiodiff.cli.options import steps_of
from audiodiff.errors import AudiodiffError, ConfigError
from audiodiff.evaluation.registry import TITLES
from audiodiff.evaluation.scoring import score
from audiodiff.pipelines import SynthesisChanges, Vocoder

SHOWN_SCORES = ("pesq_wb", "estoi", "distillmos", "m_stft", "log_mel")

_WINDOW = 4
"""Batches whose files are read at a time, to find clips of equal length among them."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wishes:
    """What the user wants of every file.

    Attributes:
        seed: Seed of every clip.
        changes: What differs from the model's own synthesis settings.
        batch_size: How many clips of equal length are synthesised together.
        chunk_seconds: Length of the chunks that long audio is made in; None leaves it to the model.
        resample: Whether recordings at another rate are resampled.
        picture: Whether a comparison is drawn beside each output.
        score: Whether each output is scored against its recording.
    """

    seed: int = 0
    changes: SynthesisChanges = field(default_factory=SynthesisChanges)
    batch_size: int = 1
    chunk_seconds: float | None = None
    resample: bool = False
    picture: bool = False
    score: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        text: The line of figures that describes the result, or the reason why there is none.
        failed: Which of the two it is.
        scores: Of the result, by name; empty where nothing was scored.
    """

    job: Job
    text: str
    failed: bool = False
    scores: dict[str, float] = field(default_factory=dict)


def vocode_files(
    vocoder: Vocoder, jobs: Sequence[Job], wishes: Wishes, on_progress: Callable[[float], object]
) -> Iterator[Outcome]:
    """Vocode files one after the other, or in batches of clips with equally many frames.

    Args:
        vocoder: The model.
        jobs: What to do.
        wishes: How.
        on_progress: Called now and then with the number of files, or part of one, done since the last call.

    Yields:
        One outcome per job.

    Raises:
        ConfigError: If a synthesis setting is impossible, whatever the file.
    """
    window = 1 if wishes.batch_size == 1 else _WINDOW * wishes.batch_size
    for first in range(0, len(jobs), window):
        groups: dict[int, list[Clip]] = {}
        for job in jobs[first : first + window]:
            try:
                clip = read_clip(job, vocoder, resample=wishes.resample)
            except (AudiodiffError, OSError, RuntimeError) as error:
                on_progress(1)
                yield _failure(job, error)
            else:
                groups.setdefault(clip.n_frames, []).append(clip)
        for clips in groups.values():
            yield from _vocode_group(vocoder, clips, wishes, on_progress)


def _vocode_group(
    vocoder: Vocoder, clips: Sequence[Clip], wishes: Wishes, on_progress: Callable[[float], object]
) -> Iterator[Outcome]:
    try:
        generated, seconds = _synthesise(vocoder, clips, wishes, on_progress)
    except ConfigError:
        raise
    except (AudiodiffError, RuntimeError) as error:  # the latter when memory does not suffice
        yield from (_failure(clip.job, error) for clip in clips)
        return
    for clip, audio in zip(clips, generated, strict=True):
        try:
            yield _finish(vocoder, clip, audio, seconds * len(audio) / sum(map(len, generated)), wishes)
        except (AudiodiffError, OSError, RuntimeError) as error:
            yield _failure(clip.job, error)


def _synthesise(
    vocoder: Vocoder, clips: Sequence[Clip], wishes: Wishes, on_progress: Callable[[float], object]
) -> tuple[list[Tensor], float]:
    """Return the audio of each clip `(channels, time)`, as long as its recording, and the seconds that took in all."""
    batches = torch.cat([clip.mel.to(vocoder.device, torch.float32) for clip in clips]).split(wishes.batch_size)
    steps = steps_of(wishes.changes, vocoder.config.synthesis.steps)
    n_samples = sum(len(mels) for mels in batches) * clips[0].n_frames * vocoder.mel_config.hop_length

    def on_step(_step: int, x: Tensor) -> None:
        on_progress(len(clips) * x.numel() / (steps * n_samples))

    def make(mels: Tensor) -> Tensor:
        chunk, seed = wishes.chunk_seconds, wishes.seed
        return vocoder(mels, seed=seed, chunk_seconds=chunk, on_step=on_step, **wishes.changes).cpu()

    started = time.perf_counter()
    audio = torch.cat([make(mels) for mels in batches])
    seconds = time.perf_counter() - started
    per_clip = audio.split([len(clip.mel) for clip in clips])
    lengths = [None if clip.reference is None else clip.reference.shape[-1] for clip in clips]
    return [piece[:, :n_samples] for piece, n_samples in zip(per_clip, lengths, strict=True)], seconds


def _finish(vocoder: Vocoder, clip: Clip, audio: Tensor, seconds: float, wishes: Wishes) -> Outcome:
    """Write what was asked for, the audio last because it marks a file as done, and return the figures."""
    duration = audio.shape[-1] / vocoder.sample_rate
    scores: dict[str, float] = {}
    figures = [f"{duration:.2f} s, synthesised in {seconds:.2f} s, real-time factor {seconds / duration:.3f}"]
    if wishes.score and clip.reference is None:
        figures.append("no recording to score it by")
    elif wishes.score and clip.reference is not None:
        scores = score(audio, clip.reference, vocoder.sample_rate)
        figures.append(scores_in_words(scores))
    clip.job.target.parent.mkdir(parents=True, exist_ok=True)
    if wishes.picture and clip.reference is not None:
        from audiodiff.audio.plots import comparison_figure, save_figure

        figure = comparison_figure(clip.reference[:1], audio[:1], vocoder.sample_rate, vocoder.mel_config)
        save_figure(figure, clip.job.picture)
    save_audio(clip.job.target, audio, vocoder.sample_rate)
    return Outcome(clip.job, "  ".join(figures), scores=scores)


def scores_in_words(scores: Mapping[str, float]) -> str:
    """Return the scores that are shown, in one line; one that a clip cannot have is n/a."""
    shown = {name: scores[name] for name in SHOWN_SCORES if name in scores}
    return "  ".join(
        f"{TITLES[name]} {'n/a' if math.isnan(value) else f'{value:.3f}'}" for name, value in shown.items()
    )


def _failure(job: Job, error: Exception) -> Outcome:
    """Describe a failure by a message that names the file."""
    _LOG.debug("%s failed", job.source, exc_info=error)
    message = str(error) if isinstance(error, AudiodiffError) else f"unexpected {type(error).__name__}: {error}"
    name = click.format_filename(job.source)
    message = " ".join(message.split())
    return Outcome(job, message if name in message else f"{name}: {message}", failed=True)
