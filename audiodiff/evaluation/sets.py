"""Evaluation of generated clips that have no original each: sets against the set of real clips."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiodiff import __version__
from audiodiff.audio.io import load_audio
from audiodiff.errors import AudiodiffError, ModelError
from audiodiff.evaluation.classifier import Classifier
from audiodiff.evaluation.listing import list_labelled, list_recordings
from audiodiff.evaluation.results import Evaluation, Excluded, SystemResult
from audiodiff.evaluation.set_metrics import (
    Array,
    accuracy,
    compare_music,
    diversity,
    frechet_distance,
    inception_score,
    measure_music,
    ndb,
    nearest_neighbours,
)
from audiodiff.evaluation.signal import SPEECH_RATE


@dataclass(frozen=True)
class SetOptions:
    """What to measure on sets of clips.

    Attributes:
        classifier: Judges the clips; None leaves out what needs one.
        embedder: A TorchScript model for the Fréchet distance, from audio `(1, time)` at 16 kHz to features
            `(..., features)`, averaged over what is before; None takes the classifier's embeddings.
        frechet: Whether the Fréchet distance is measured.
        force: Whether that is done on fewer than 1,000 clips too.
        music: Whether onsets and pitches are compared.
        seed: Of the bins.
    """

    classifier: Classifier | None = None
    embedder: Path | None = None
    frechet: bool = False
    force: bool = False
    music: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Set:
    """Clips that can be read, their labels (-1 for none), and those that cannot."""

    paths: list[Path]
    classes: list[int]
    unreadable: list[Excluded]


def evaluate_sets(
    systems: Mapping[str, Path],
    real: Path,
    options: SetOptions,
    on_progress: Callable[[int], object] = lambda n: None,
) -> Evaluation:
    """Compare sets of generated clips with real ones.

    Args:
        systems: Name of each system, and its clips: a folder or a manifest (.jsonl). A set of real clips that were not
            trained on, given as one more system, tells what can be reached.
        real: The real clips that the models were trained on.
        options: What to measure.
        on_progress: Called now and then with the number of clips read.

    Returns:
        A document whose systems have `set_scores`. Clips that cannot be read are excluded by name.

    Raises:
        DataError: If a set is empty, or a Fréchet distance is refused.
        ModelError: If the embedder cannot be used.
    """
    labels = options.classifier.config.labels if options.classifier else ()
    real_set = _read_list(real, labels)
    real_features = _features(real_set, options, on_progress)
    results = []
    for name, path in systems.items():
        clips = _read_list(path, labels)
        scores = _compare(clips, _features(clips, options, on_progress), real_features, options)
        finite = {metric: value for metric, value in scores.items() if math.isfinite(value)}
        results.append(SystemResult(name=name, path=str(path), excluded=clips.unreadable, set_scores=finite))
    settings: dict[str, Any] = {"versions": {"audiodiff": __version__}, "seed": options.seed}
    if options.classifier:
        settings["classifier_accuracy"] = options.classifier.config.accuracy
    return Evaluation(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        reference=str(real),
        metrics=[],
        settings=settings,
        systems=results,
    )


def _read_list(path: Path, labels: tuple[str, ...]) -> _Set:
    labelled = list_labelled(path, labels) if labels else [(file, None) for file in list_recordings(path)]
    paths, classes, unreadable = [], [], []
    for file, label in labelled:
        try:
            load_audio(file, n_samples=1)
        except AudiodiffError as error:
            unreadable.append(Excluded(name=file.stem, reason=str(error)))
            continue
        paths.append(file)
        classes.append(labels.index(label) if label else -1)
    return _Set(paths, classes, unreadable)


def _features(clips: _Set, options: SetOptions, on_progress: Callable[[int], object]) -> dict[str, Any]:
    """Return what each part needs of a set: classifier outputs, embeddings, music statistics."""
    found: dict[str, Any] = {}
    if options.classifier:
        found["classified"] = options.classifier.classify(options.classifier.read(clips.paths, on_progress))
    if options.frechet:
        found["embeddings"] = _embed(clips, options.embedder) if options.embedder else found["classified"].embeddings
    if options.music:
        found["music"] = measure_music(clips.paths, on_progress)
    return found


def _embed(clips: _Set, embedder: Path) -> Array:
    try:
        model = torch.jit.load(str(embedder), map_location="cpu").eval()
        with torch.inference_mode():
            vectors = [model(load_audio(path, SPEECH_RATE)) for path in clips.paths]
        return torch.stack([vector.reshape(-1, vector.shape[-1]).double().mean(0) for vector in vectors]).numpy()
    except (RuntimeError, ValueError, IndexError) as error:
        why = " ".join(str(error).split())[-200:]
        raise ModelError(
            f"{embedder} does not serve as a TorchScript model from (1, time) at 16 kHz to features: {why}"
        ) from error


def _compare(clips: _Set, ours: dict[str, Any], real: dict[str, Any], options: SetOptions) -> dict[str, float]:
    """Return the scores of one set by name; those it cannot have are NaN or absent."""
    found: dict[str, float] = {"clips": float(len(clips.paths))}
    if options.classifier:
        probabilities, embeddings = ours["classified"]
        labelled = [i for i, number in enumerate(clips.classes) if number >= 0]
        if labelled:
            found["accuracy"] = accuracy(probabilities[labelled], [clips.classes[i] for i in labelled])
        classes = clips.classes if len(labelled) == len(clips.classes) else probabilities.argmax(1).tolist()
        spread = diversity(embeddings, classes)
        nearest = nearest_neighbours(embeddings, real["classified"].embeddings)
        found |= {
            "inception_score": inception_score(probabilities),
            "within_class_diversity": spread.within,
            "between_class_diversity": spread.between,
            "ndb": ndb(real["classified"].embeddings, embeddings, seed=options.seed),
            "nearest_training_clip": float(np.median(nearest.distance)),
            "nearest_training_clip_minimum": float(nearest.distance.min()),
        }
    if options.frechet:
        found["frechet_distance"] = frechet_distance(real["embeddings"], ours["embeddings"], force=options.force)
    if options.music:
        found |= compare_music(real["music"], ours["music"])
    return found
