"""Evaluation of generated clips that have no original each: sets against the set of real clips."""

from __future__ import annotations

import datetime
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiodiff import __version__
from audiodiff.audio.io import audio_info, load_audio
from audiodiff.errors import AudiodiffError, AudioError, DataError, ModelError
from audiodiff.evaluation import plugin
from audiodiff.evaluation.classifier import Classifier
from audiodiff.evaluation.listing import list_labelled, list_recordings
from audiodiff.evaluation.results import Evaluation, Excluded, SystemResult
from audiodiff.evaluation.set_metrics import (
    PUBLISHED_BINS,
    Array,
    accuracy,
    am_score,
    compare_music,
    diversity,
    frechet_distance,
    inception_score,
    measure_music,
    modified_inception_score,
    ndb,
    nearest_neighbours,
)
from audiodiff.evaluation.signal import SPEECH_RATE

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetOptions:
    """What to measure on sets of clips.

    Attributes:
        classifier: Judges the clips; None leaves out what needs one.
        embedder: What computes features for the Fréchet distance: the file of a TorchScript model, from audio
            `(1, time)` at 16 kHz to `(windows, features)`, or MODULE:FUNCTION of your own (see
            `audiodiff.evaluation.plugin`). Every window counts, as Kilgour et al. 2019 have it; None takes the
            classifier's embeddings of clips.
        frechet: Whether the Fréchet distance is measured.
        force: Whether that is done on fewer than 1,000 clips too.
        music: Whether onsets and pitches are compared.
        seed: Of the bins.
    """

    classifier: Classifier | None = None
    embedder: Path | str | None = None
    frechet: bool = False
    force: bool = False
    music: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Set:
    """Clips that can be read, their labels (-1 for none), and those that cannot be read or embedded."""

    paths: list[Path]
    classes: list[int]
    excluded: list[Excluded]


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
        A document whose systems have `set_scores`. Clips that cannot be read or embedded are excluded by name.

    Raises:
        DataError: If a set is empty, or a Fréchet distance is refused.
        ModelError: If the embedder cannot be used.
    """
    labels = options.classifier.config.labels if options.classifier else ()
    real_set = _read_list(real, labels)
    real_features = _features(real_set, options, on_progress)
    if real_set.excluded:
        first = real_set.excluded[0]
        _LOG.warning(
            "%d clips of %s are left out, such as %s: %s", len(real_set.excluded), real, first.name, first.reason
        )
    results = []
    for name, path in systems.items():
        clips = _read_list(path, labels)
        scores = _compare(clips, _features(clips, options, on_progress), real_features, options)
        finite = {metric: value for metric, value in scores.items() if math.isfinite(value)}
        results.append(SystemResult(name=name, path=str(path), excluded=clips.excluded, set_scores=finite))
    settings: dict[str, Any] = {"versions": {"audiodiff": __version__}, "seed": options.seed}
    if options.classifier:
        settings["classifier_accuracy"] = options.classifier.config.accuracy
    if options.frechet:
        settings["frechet_embedder"] = str(options.embedder or "classifier")
    return Evaluation(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        reference=str(real),
        metrics=[],
        settings=settings,
        systems=results,
    )


def _read_list(path: Path, labels: tuple[str, ...]) -> _Set:
    labelled = list_labelled(path, labels) if labels else [(file, None) for file in list_recordings(path)]
    paths, classes, excluded = [], [], []
    for file, label in labelled:
        try:
            load_audio(file, n_samples=1)
        except AudiodiffError as error:
            excluded.append(Excluded(name=file.stem, reason=str(error)))
            continue
        paths.append(file)
        classes.append(labels.index(label) if label else -1)
    return _Set(paths, classes, excluded)


def _features(clips: _Set, options: SetOptions, on_progress: Callable[[int], object]) -> dict[str, Any]:
    """Return what each part needs of a set: classifier outputs, embeddings, music statistics."""
    found: dict[str, Any] = {}
    if options.classifier:
        found["classified"] = options.classifier.classify(options.classifier.read(clips.paths, on_progress))
    if options.frechet:
        embedder = options.embedder
        found["embeddings"] = _embed(clips, embedder, on_progress) if embedder else found["classified"].embeddings
    if options.music:
        found["music"] = measure_music(clips.paths, on_progress)
    return found


def _embed(clips: _Set, embedder: Path | str, on_progress: Callable[[int], object]) -> Array:
    """Return the embeddings of all clips; those that have none are excluded."""
    embed = partial(plugin.embed, embedder) if isinstance(embedder, str) else _torch_script(embedder)
    rate = None if isinstance(embedder, str) else SPEECH_RATE
    found = []
    for path in clips.paths:
        try:
            found.append(embed(load_audio(path, rate)[0], rate or audio_info(path).sample_rate))
        except AudioError as error:
            clips.excluded.append(Excluded(name=path.stem, reason=str(error)))
        on_progress(1)
    if not found:
        reason = f": {clips.excluded[-1].reason}" if clips.excluded else "."
        raise DataError(f"{embedder} gave no features of {len(clips.paths)} clips{reason}")
    if len({features.shape[1] for features in found}) > 1:
        raise ModelError(f"{embedder} gave features of different widths; expected (windows, features), always as many.")
    return np.concatenate(found)


def _torch_script(path: Path) -> Callable[[Tensor, int], Array]:
    """Read a TorchScript embedder."""
    try:
        model = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} does not serve as a TorchScript model: {_tail(error)}") from error

    def embed(audio: Tensor, _sample_rate: int) -> Array:
        try:
            with torch.inference_mode():
                return plugin.rows(str(path), model(audio.unsqueeze(0)))
        except (RuntimeError, ValueError, IndexError) as error:
            raise AudioError(
                f"{path} failed as a model from (1, time) at 16 kHz to features: {_tail(error)}"
            ) from error

    return embed


def _tail(error: Exception) -> str:
    return " ".join(str(error).split())[-200:]


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
            "modified_inception_score": modified_inception_score(probabilities),
            "am_score": am_score(real["classified"].probabilities, probabilities),
            "within_class_diversity": spread.within,
            "between_class_diversity": spread.between,
            "ndb": ndb(real["classified"].embeddings, embeddings, seed=options.seed),
            f"ndb_{PUBLISHED_BINS}": _published_ndb(real["classified"].embeddings, embeddings, options.seed),
            "nearest_training_clip": float(np.median(nearest.distance)),
            "nearest_training_clip_minimum": float(nearest.distance.min()),
        }
    if options.frechet:
        of = "windows" if options.embedder else "clips"
        found["frechet_distance"] = frechet_distance(real["embeddings"], ours["embeddings"], force=options.force, of=of)
    if options.music:
        found |= compare_music(real["music"], ours["music"])
    return found


def _published_ndb(real: Array, generated: Array, seed: int) -> float:
    """Return NDB with the bins of papers on SC09, of features as they are; NaN where there are too few real clips."""
    if len(real) < 5 * PUBLISHED_BINS:
        return math.nan
    return ndb(real, generated, n_bins=PUBLISHED_BINS, scaled=False, seed=seed)
