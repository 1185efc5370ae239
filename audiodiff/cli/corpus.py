"""A labelled corpus made by a model: every label equally often, each clip with its seed, its model and its likeness."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import click
from torch import Tensor

from audiodiff.audio.io import save_audio
from audiodiff.audio.replacing import replacing
from audiodiff.checkpoint import CONFIG, WEIGHTS
from audiodiff.cli.options import progress_bar
from audiodiff.data.manifest import Recording, Synthesis, probe, read_manifest, write_manifest
from audiodiff.errors import DataError
from audiodiff.evaluation.set_metrics import NearestClip, NearestClipSearch

MANIFEST, RECIPE = "train.jsonl", "synthesis.json"
SEEDS_PER_LABEL = 1_000_000
"""Label i has the seeds from SEED + i times this on, so that no two clips share one, whatever the count."""

Make = Callable[[str, int], Tensor]
"""(label, seed) -> a clip `(1, time)`."""


@dataclass(frozen=True)
class Corpus:
    """A corpus to be made.

    Attributes:
        folder: Where it goes: a folder per label, the manifest, and what it was made with.
        labels: Its classes.
        count: Clips of each.
        seed: Of the first clip.
        model: The model's folder.
        settings: What differs from the model's own reverse process, for the record.
        training: Manifest of the clips that the model was trained on; None leaves out which is nearest.
    """

    folder: Path
    labels: Sequence[str]
    count: int
    seed: int
    model: Path
    settings: dict[str, Any]
    training: Path | None = None

    def clips(self) -> list[tuple[str, int, Path]]:
        """Return label, seed and file of every clip, labels in turn."""
        names = [re.sub(r"[^\w.-]+", "-", label) for label in self.labels]
        return [
            (label, seed, self.folder / name / f"{name}_{seed}.wav")
            for i in range(self.count)
            for number, (label, name) in enumerate(zip(self.labels, names, strict=True))
            for seed in [self.seed + number * SEEDS_PER_LABEL + i]
        ]


def model_hash(folder: Path) -> str:
    """Return the SHA-256 of a model's weights and configuration, in this order, in hexadecimal."""
    digest = sha256()
    for name in (WEIGHTS, CONFIG):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def write_corpus(corpus: Corpus, make: Make, sample_rate: int, *, overwrite: bool = False) -> None:
    """Make what is missing of a corpus, then write its manifest.

    Args:
        corpus: What to make.
        make: Makes a clip.
        sample_rate: Of the clips, in Hz.
        overwrite: Whether clips that are there already are made anew.

    Raises:
        DataError: If the folder holds clips that were made otherwise.
    """
    identity = model_hash(corpus.model)
    _claim(corpus, {"model_sha256": identity, "seed": corpus.seed, **corpus.settings}, overwrite)
    clips = corpus.clips()
    waiting = [clip for clip in clips if overwrite or not clip[2].is_file()]
    with progress_bar(len(waiting)) as bar:
        for label, seed, path in waiting:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_audio(path, make(label, seed), sample_rate)
            bar.update(1)
    recordings = [
        probe(path).model_copy(
            update={
                "label": label,
                "speaker": corpus.settings.get("speaker"),
                "synthesis": Synthesis(model=str(corpus.model), sha256=identity, seed=seed),
            }
        )
        for label, seed, path in clips
    ]
    if corpus.training is not None:
        recordings = _with_nearest(recordings, corpus.training, sample_rate)
    write_manifest(corpus.folder / MANIFEST, recordings)
    click.echo(
        f"{corpus.folder / MANIFEST}: {len(clips)} clips, {corpus.count} of each of {len(corpus.labels)} labels; "
        f"{len(waiting)} made now"
    )


def _claim(corpus: Corpus, made_with: dict[str, Any], overwrite: bool) -> None:
    """Note in the folder what its clips are made with, and refuse to mix them with others."""
    path = corpus.folder / RECIPE
    made_with = json.loads(json.dumps(made_with, default=str))
    if path.is_file() and not overwrite:
        before = json.loads(path.read_text(encoding="utf-8"))
        if unlike := sorted(key for key in {*before, *made_with} if before.get(key) != made_with.get(key)):
            raise DataError(
                f"{corpus.folder} holds clips of another {', '.join(unlike)}. Give another folder, or --overwrite them."
            )
    corpus.folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(json.dumps(made_with, indent=1) + "\n", encoding="utf-8")


def _with_nearest(recordings: list[Recording], training: Path, sample_rate: int) -> list[Recording]:
    """Add to each clip the training clip it is most like, and say how alike they are."""
    known = [recording.audio for recording in read_manifest(training)]
    seconds = median(recording.seconds for recording in recordings)
    likeness = []
    with progress_bar(2 * len(known) + len(recordings)) as bar:
        nearest = NearestClipSearch(known, sample_rate, seconds, lambda: bar.update(1))
        for recording in recordings:
            likeness.append(nearest(recording.audio))
            bar.update(1)
        usual = nearest.leave_one_out()
        bar.update(len(known))
    similarities = [found.similarity for found in likeness]
    line = f"nearest training clip: similarity {median(similarities):.3f} (median), {max(similarities):.3f} (largest)"
    if usual:
        line += f"; training clips among themselves {median(usual):.3f}, {max(usual):.3f}"
    click.echo(line)
    return [_noted(recording, found) for recording, found in zip(recordings, likeness, strict=True)]


def _noted(recording: Recording, found: NearestClip) -> Recording:
    if recording.synthesis is None:
        return recording
    noted = {"nearest": str(found.path), "similarity": round(found.similarity, 4)}
    return recording.model_copy(update={"synthesis": recording.synthesis.model_copy(update=noted)})
