"""A small classifier of labelled clips, by which generated ones are judged: a mel CNN, trained in minutes on a CPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.io import audio_info, load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.replacing import replacing
from audiodiff.config import MelConfig
from audiodiff.data.manifest import read_manifest
from audiodiff.errors import DataError, ModelError
from audiodiff.evaluation.pairing import list_recordings

EMBEDDING = 128
_N_MELS = 40
_BATCH = 32
_HELD_OUT = 10
"""Every so manieth clip of a class is kept for measuring the accuracy."""
_SHIFT_FRAMES = 8
"""Largest random shift in training, in frames of 10 ms."""


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier listens to.

    Attributes:
        sample_rate: In Hz.
        n_samples: Length; longer clips are cut around their middle, shorter ones padded.
        labels: Class names in the order of its outputs.
        accuracy: On clips it was not trained on.
    """

    sample_rate: int
    n_samples: int
    labels: tuple[str, ...]
    accuracy: float = 0.0


class Judgement(NamedTuple):
    """What a classifier says of clips.

    Attributes:
        probabilities: Of each class `(clips, labels)`.
        embeddings: Features before the last layer `(clips, 128)`.
    """

    probabilities: NDArray[np.float64]
    embeddings: NDArray[np.float64]


class Classifier(nn.Module):
    """Four strided convolutions on a log-mel spectrogram, averaged over time, and two linear layers.

    Args:
        config: What it listens to.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        rate = config.sample_rate
        n_fft = 2 ** round(np.log2(0.032 * rate))
        self.spectrogram = MelSpectrogram(
            MelConfig(
                name="classifier",
                sample_rate=rate,
                n_fft=n_fft,
                hop_length=rate // 100,
                win_length=n_fft,
                n_mels=_N_MELS,
                f_min=0,
                f_max=rate / 2,
            )
        )
        widths = (1, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.embed = nn.Linear(widths[-1] * -(-_N_MELS // 16), EMBEDDING)
        self.output = nn.Linear(EMBEDDING, len(config.labels))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels `(batch, 40, frames)` to logits `(batch, labels)` and embeddings `(batch, 128)`."""
        centred = (mel - mel.mean((1, 2), keepdim=True)) / 4  # so that level does not matter
        features = self.layers(centred.unsqueeze(1)).mean(3).flatten(1)
        embedding = functional.relu(self.embed(features))
        return self.output(functional.dropout(embedding, 0.3, self.training)), embedding

    def mel(self, audio: Tensor) -> Tensor:
        """Compute what `forward` takes from one clip `(time,)` at the config's rate: `(40, frames)`."""
        excess = audio.shape[-1] - self.config.n_samples
        before = excess // 2
        fitted = functional.pad(audio, (-before, -(excess - before)))
        mel: Tensor = self.spectrogram(fitted.unsqueeze(0))[0]
        return mel

    @torch.inference_mode()
    def judge(self, mels: Tensor) -> Judgement:
        """Judge clips by their mels `(clips, 40, frames)`, in evaluation mode."""
        self.eval()
        results = [self(part) for part in mels.split(_BATCH)]
        logits, embeddings = (torch.cat(parts).double() for parts in zip(*results, strict=True))
        return Judgement(logits.softmax(1).numpy(), embeddings.numpy())

    def read(self, paths: Sequence[Path], on_progress: Callable[[int], object] = lambda n: None) -> Tensor:
        """Read recordings as mels `(clips, 40, frames)`, resampled where their rate is another."""
        mels = []
        for path in paths:
            mels.append(self.mel(load_audio(path, self.config.sample_rate)[0]))
            on_progress(1)
        return torch.stack(mels)


def list_labelled(path: Path, known: Sequence[str] = ()) -> list[tuple[Path, str | None]]:
    """List recordings with their labels.

    The label is what a manifest says; else, if it is among the known ones, the name of the folder or the part of the
    file's name before its last or first underscore (`yes_12.wav`, as `audiodiff generate` writes; `7_jackson_3.wav`).
    With no known labels the folder decides where there are subfolders, else the part before the first underscore.

    Args:
        path: A folder or a manifest (.jsonl).
        known: The labels that count.

    Returns:
        Paths and labels; None where there is no label, or none that is known.

    Raises:
        DataError: If there is no recording.
    """
    if path.suffix == ".jsonl":
        found = [(recording.audio, recording.label) for recording in read_manifest(path)]
        if not found:
            raise DataError(f"{path} lists no recordings.")
        return [(audio, label if not known or label in known else None) for audio, label in found]
    labelled: list[tuple[Path, str | None]] = []
    for file in list_recordings(path):
        candidates = [file.stem.rpartition("_")[0], file.stem.partition("_")[0]]
        if file.parent != path:
            candidates.insert(0, file.parent.name)
        if not known:
            labelled.append((file, candidates[0] if file.parent != path else candidates[-1]))
        else:
            labelled.append((file, next((label for label in candidates if label in known), None)))
    return labelled


def train_classifier(
    path: Path,
    *,
    epochs: int = 20,
    fewest_updates: int = 300,
    seed: int = 0,
    on_progress: Callable[[float], object] = lambda share: None,
) -> Classifier:
    """Train a classifier on labelled clips; every tenth of a class is held out to measure its accuracy.

    Args:
        path: A folder with a subfolder per label, a folder of files named `LABEL_...`, or a manifest with labels.
        epochs: Passes over the clips.
        fewest_updates: Updates that there are at least, by more passes if need be.
        seed: Of first weights, order and shifts.
        on_progress: Called with the share of the work done since the last call.

    Returns:
        The classifier, in evaluation mode, with its measured accuracy in its configuration.

    Raises:
        DataError: If there are fewer than two labels, or a class is too small to hold a clip out.
    """
    clips = list_labelled(path)
    counts = Counter(label for _, label in clips if label)
    few = [label for label, n in counts.items() if n < _HELD_OUT]
    if len(counts) < 2 or few or any(label is None for _, label in clips):
        raise DataError(
            f"{path} has {len(counts)} labels, {len(few)} of them with fewer than {_HELD_OUT} clips; expected two or "
            "more, each with enough. Give a folder with a subfolder per label, or a manifest with labels."
        )
    infos = [audio_info(file) for file, _ in clips]
    rate = Counter(info.sample_rate for info in infos).most_common(1)[0][0]
    n_samples = round(float(np.median([info.seconds for info in infos])) * rate)
    config = ClassifierConfig(rate, n_samples, tuple(sorted(counts)))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        classifier = Classifier(config)
        mels = classifier.read([file for file, _ in clips], lambda n: on_progress(0.3 * n / len(clips)))
        targets = torch.tensor([config.labels.index(label) for _, label in clips if label])
        held_out = _every_tenth(targets)
        n_batches = -(-int((~held_out).sum()) // _BATCH)
        epochs = max(epochs, -(-fewest_updates // n_batches))
        _fit(classifier, mels[~held_out], targets[~held_out], epochs, lambda share: on_progress(0.7 * share))
    guessed = classifier.judge(mels[held_out]).probabilities.argmax(1)
    accuracy = float((guessed == targets[held_out].numpy()).mean())
    classifier.config = ClassifierConfig(rate, n_samples, config.labels, accuracy)
    return classifier


def _every_tenth(targets: Tensor) -> Tensor:
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    for label in targets.unique():
        held_out[(targets == label).nonzero().flatten()[_HELD_OUT - 1 :: _HELD_OUT]] = True
    return held_out


def _fit(
    classifier: Classifier, mels: Tensor, targets: Tensor, epochs: int, on_progress: Callable[[float], object]
) -> None:
    optimiser = torch.optim.AdamW(classifier.parameters(), 2e-3, weight_decay=1e-2)
    n_batches = -(-len(mels) // _BATCH)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, epochs * n_batches)
    classifier.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(mels)).split(_BATCH):
            if len(batch) == 1:  # batch normalisation has nothing to measure
                continue
            shift = int(torch.randint(-_SHIFT_FRAMES, _SHIFT_FRAMES + 1, ()))
            logits, _ = classifier(mels[batch].roll(shift, 2))
            loss = functional.cross_entropy(logits, targets[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            plan.step()
        on_progress(1 / epochs)
    classifier.eval()


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier as one safetensors file, its configuration in the file's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        save_file(classifier.state_dict(), part, {"audiodiff_classifier": json.dumps(asdict(classifier.config))})


def load_classifier(path: Path) -> Classifier:
    """Read a classifier.

    Raises:
        ModelError: If the file is none.
    """
    try:
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})["audiodiff_classifier"])
        values["labels"] = tuple(values["labels"])
        classifier = Classifier(ClassifierConfig(**values))
        classifier.load_state_dict(load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{path} is no classifier ({type(error).__name__}: {error}). Write one with "
            "`audiodiff evaluate --train-classifier`."
        ) from error
    return classifier.eval()
