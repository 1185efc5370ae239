"""Generated clips as files: of one kind, numbered by seed; or a labelled dataset, every label equally often."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from torch import Tensor

from audiodiff.audio.finishing import parse_level
from audiodiff.audio.io import make_folder, replacing, save_audio
from audiodiff.checkpoint import CONFIG, WEIGHTS
from audiodiff.choices import Level
from audiodiff.config import ModelConfig
from audiodiff.data.conditions import load_vector
from audiodiff.data.manifest import Recording, Synthesis, probe, read_manifest, write_manifest
from audiodiff.data.parallel import share
from audiodiff.errors import DataError, ModelError
from audiodiff.evaluation.memorisation import NearestClipSearch
from audiodiff.networks.conditioning import find_name
from audiodiff.pipelines.generator import Generator, check_generates
from audiodiff.pipelines.settings import SynthesisChanges

BATCH_SIZE = 8
"""Clips made at a time: on a CPU a third faster than one by one, and the same to the last bit."""
SEEDS_PER_LABEL = 1_000_000
"""Label i of a dataset has the seeds from SEED + i times this on, so that no two clips share one."""
MANIFEST, SETTINGS = "train.jsonl", "synthesis.json"


@dataclass(frozen=True)
class GenerateOptions:
    """How clips are generated.

    Attributes:
        speaker: One of the model's speakers.
        vector: A .npy file with as many numbers as the model's vector_width.
        seconds: Length of each clip; None is the model's own.
        level: What each clip is brought to, its ends faded, see `audiodiff.audio.finishing`; None leaves it as it is,
            in a 32-bit floating-point file, so that nothing is clipped.
        changes: What differs from the model's own synthesis settings.
    """

    speaker: str | None = None
    vector: Path | None = None
    seconds: float | None = None
    level: Level | None = None
    changes: SynthesisChanges = field(default_factory=SynthesisChanges)


class GeneratedClip(NamedTuple):
    """A clip that was written.

    Attributes:
        path: Where.
        seconds: Its length.
        synthesis_seconds: How long its synthesis took: an equal part of that of its batch.
        remark: What is unlike what was asked for, as a part of a sentence; empty for nothing.
    """

    path: Path
    seconds: float
    synthesis_seconds: float
    remark: str


def safe_name(name: str) -> str:
    """Return a name without what a file name may not hold."""
    return re.sub(r"[^\w.-]+", "-", name)


def named(config: ModelConfig, label: str | None, options: GenerateOptions) -> tuple[str | None, GenerateOptions]:
    """Return a label and options with the names as the model spells them, so that files have one name.

    Raises:
        ModelError: If the model needs a mel.
        ConfigError: If a name is unknown.
    """
    check_generates(config)
    label = None if label is None else find_name("label", label, config.labels)
    speaker = None if options.speaker is None else find_name("speaker", options.speaker, config.speakers)
    return label, replace(options, speaker=speaker)


def generate_files(
    generator: Generator,
    targets: Mapping[int, Path],
    label: str | None = None,
    options: GenerateOptions | None = None,
    on_progress: Callable[[float], object] = lambda n_clips: None,
    *,
    overwrite: bool = True,
) -> Iterator[GeneratedClip]:
    """Generate clips of one label into files.

    Args:
        generator: The model.
        targets: Seed of each clip, and its file.
        label: One of the model's labels, or None.
        options: What else they are made with; None is the default.
        on_progress: Called with the number of clips, or the fraction of one, done since the last call.
        overwrite: Whether files that exist are made again, but for those that another process makes meanwhile.

    Yields:
        The clips, as they are written; none that another process makes, see `audiodiff.data.parallel.share`.

    Raises:
        ConfigError: If a name is unknown, a condition is missing, or a setting impossible.
        DataError: If the vector cannot be read.
    """
    seed_of = {path: seed for seed, path in targets.items()}
    for paths in share(list(seed_of), BATCH_SIZE, overwrite=overwrite, on_skip=on_progress):
        group = {seed_of[path]: path for path in paths}
        yield from _generate(generator, group, label, options or GenerateOptions(), on_progress)


def _generate(
    generator: Generator,
    targets: Mapping[int, Path],
    label: str | None,
    options: GenerateOptions,
    on_progress: Callable[[float], object] = lambda n_clips: None,
) -> Iterator[GeneratedClip]:
    """Generate clips that are this process's; see `generate_files`."""
    conditions: dict[str, Any] = {"speaker": options.speaker, "vector": _vector(generator, options)}
    log_snrs = options.changes.get("log_snrs")
    steps = len(log_snrs) if log_snrs else options.changes.get("steps", generator.config.synthesis.steps)
    n_samples, level = generator.n_samples(options.seconds), parse_level(options.level)

    def on_step(_step: int, x: Tensor) -> None:
        on_progress(x.numel() / (steps * n_samples))

    _ = generator.engine  # made before the first clip is timed
    for seeds in _batches(targets):
        started = time.perf_counter()
        own: dict[str, Any] = {"seed": seeds[0], "on_step": on_step, **conditions, **options.changes}
        clips = generator.generate(label, len(seeds), options.seconds, **own).cpu()
        elapsed = (time.perf_counter() - started) / len(seeds)
        for path, audio in zip((targets[seed] for seed in seeds), clips, strict=True):
            make_folder(path.parent)
            remark = _save(path, audio, generator, level)
            yield GeneratedClip(path, audio.shape[-1] / generator.sample_rate, elapsed, remark)


def _save(path: Path, audio: Tensor, generator: Generator, level: Level | None) -> str:
    """Write a clip at a level, or as it is; return what is to be remarked."""
    if level is not None:
        audio, remark = generator.finish(audio, level)
        save_audio(path, audio, generator.sample_rate)
        return remark
    save_audio(path, audio, generator.sample_rate, "FLOAT")
    peak = float(audio.abs().max())
    return f"beyond full scale: peak {20 * math.log10(peak):.1f} dBFS" if peak > 1 else ""


def _vector(generator: Generator, options: GenerateOptions) -> Tensor | None:
    return load_vector(options.vector, generator.config.vector_width) if options.vector else None


def _batches(seeds: Iterable[int]) -> Iterator[list[int]]:
    """Yield rising seeds in groups without a gap: what is made together, and kept before more is made."""
    group: list[int] = []
    for seed in seeds:
        if group and (seed != group[-1] + 1 or len(group) == BATCH_SIZE):
            yield group
            group = []
        group.append(seed)
    if group:
        yield group


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset to be generated.

    Attributes:
        folder: Where it goes: a folder per label, the manifest, and what it was made with.
        model: The model's folder.
        count: Clips of each label.
        seed: Of the first clip.
        options: How clips are generated.
        training: Manifest of the clips that the model was trained on, to find the nearest of them for each clip; None
            leaves that out.
    """

    folder: Path
    model: Path
    count: int
    seed: int = 0
    options: GenerateOptions = field(default_factory=GenerateOptions)
    training: Path | None = None

    def clips(self, labels: Iterable[str]) -> list[tuple[str, int, Path]]:
        """Return label, seed and file of every clip, labels in turn."""
        return [
            (label, seed, self.folder / safe_name(label) / f"{safe_name(label)}_{seed}.wav")
            for i in range(self.count)
            for number, label in enumerate(labels)
            for seed in [self.seed + number * SEEDS_PER_LABEL + i]
        ]


class DatasetResult(NamedTuple):
    """What a dataset holds.

    Attributes:
        manifest: The file that lists it.
        n_clips: How many clips it has.
        n_new: How many of them were generated now.
        similarities: Of each clip to the nearest training clip; empty where these were not given.
        training_similarities: Of each training clip to the nearest other one.
    """

    manifest: Path
    n_clips: int
    n_new: int
    similarities: list[float]
    training_similarities: list[float]


def generate_dataset(
    generator: Generator,
    dataset: Dataset,
    *,
    overwrite: bool = False,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> DatasetResult:
    """Generate the missing clips of a dataset, then write its manifest.

    Args:
        generator: The model, loaded from `dataset.model`.
        dataset: What to make.
        overwrite: Whether existing clips are generated again.
        on_progress: Called with the number of clips done and to do.

    Raises:
        ModelError: If the model has no labels.
        DataError: If the folder holds clips of other settings, or the vector cannot be read.
        ConfigError: If a setting is impossible.
    """
    labels = generator.config.labels
    _, options = named(generator.config, None, dataset.options)
    dataset = replace(dataset, options=options)
    if not labels:
        raise ModelError(f"{dataset.model} has no labels, so it cannot make a labelled dataset.")
    model_hash = sha256(b"".join((dataset.model / name).read_bytes() for name in (WEIGHTS, CONFIG))).hexdigest()
    _check_settings(dataset, model_hash, overwrite)
    clips = dataset.clips(labels)
    pending = [clip for clip in clips if overwrite or not clip[2].is_file()]
    made = {path: (label, seed) for label, seed, path in pending}
    n_done = n_new = 0

    def count(n: int) -> None:
        nonlocal n_done
        n_done += n
        on_progress(n_done, len(pending))

    for [path] in share(list(made), overwrite=overwrite, on_skip=count):
        label, seed = made[path]
        n_new += len(list(_generate(generator, {seed: path}, label, options)))
        count(1)
    recordings = [
        probe(path).model_copy(
            update={
                "label": label,
                "speaker": options.speaker,
                "synthesis": Synthesis(model=str(dataset.model), sha256=model_hash, seed=seed),
            }
        )
        for label, seed, path in clips
    ]
    similarities: list[float] = []
    usual: list[float] = []
    if dataset.training is not None:
        nearest = _nearest_clips(recordings, dataset.training, generator.sample_rate, on_progress)
        recordings, similarities, usual = nearest
    write_manifest(dataset.folder / MANIFEST, recordings)
    return DatasetResult(dataset.folder / MANIFEST, len(clips), n_new, similarities, usual)


def _check_settings(dataset: Dataset, model_hash: str, overwrite: bool) -> None:
    """Note in the folder what its clips are made with, and refuse to mix them with others."""
    path, options = dataset.folder / SETTINGS, dataset.options
    conditions = {"seconds": options.seconds, "speaker": options.speaker, "vector": options.vector}
    conditions |= {"level": str(options.level)} if options.level else {}
    settings = {"model_sha256": model_hash, "seed": dataset.seed, **options.changes, **conditions}
    settings = json.loads(json.dumps(settings, default=str))
    if path.is_file() and not overwrite:
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if differing:
            raise DataError(
                f"{dataset.folder} holds clips with another {', '.join(differing)}. Give another folder, or overwrite."
            )
    with replacing(path) as part:
        part.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _nearest_clips(
    recordings: list[Recording], training: Path, sample_rate: int, on_progress: Callable[[int, int], object]
) -> tuple[list[Recording], list[float], list[float]]:
    """Note the nearest training clip of each recording; return them, their similarities, and the usual ones."""
    known = [recording.audio for recording in read_manifest(training)]
    total, n_done = 2 * len(known) + len(recordings), 0

    def count(n: int = 1) -> None:
        nonlocal n_done
        n_done += n
        on_progress(n_done, total)

    nearest = NearestClipSearch(known, sample_rate, median(recording.seconds for recording in recordings), count)
    noted, similarities = [], []
    for recording in recordings:
        found = nearest(recording.audio)
        similarities.append(found.similarity)
        update = {"nearest": str(found.path), "similarity": round(found.similarity, 4)}
        synthesis = recording.synthesis and recording.synthesis.model_copy(update=update)
        noted.append(recording.model_copy(update={"synthesis": synthesis}))
        count()
    usual = nearest.leave_one_out()
    count(len(known))
    return noted, similarities, usual
