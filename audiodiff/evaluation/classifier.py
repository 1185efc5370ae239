"""A small classifier of labelled clips, to score generated ones with; it trains in minutes on a CPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.io import audio_info, load_audio, replacing
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MelConfig
from audiodiff.errors import DataError, ModelError
from audiodiff.evaluation.listing import MIN_CLIPS_PER_LABEL, LabelledClip, hold_out, list_held_out, list_labelled

EMBEDDING = 128
_N_MELS = 40
_BATCH = 32
_WIDTHS = (16, 16, 24, 32, 48)
_STRIDES = ((1, 1), (2, 2), (2, 2), (2, 1))
_SHIFTS = (-6, -3, 0, 3, 6)
"""Frames of 10 ms that a clip is shifted by; the outputs are averaged over them."""
_DROPOUT = 0.3
_LEARNING_RATE = 4e-3
MAX_TIME_STRETCH = 0.2
"""Natural logarithm: 0.82 to 1.22 times as fast."""
MAX_FREQUENCY_WARP = 0.1
"""Natural logarithm: vocal tract length perturbation (Jaitly and Hinton 2013)."""
MAX_TIME_SHIFT = 0.1
"""Fraction of the clip."""
NOISE_PROBABILITY = 0.5
NOISE_LEVELS = (2.0, 9.0)
"""Nepers below the loudest bin of a clip (17 to 78 dB)."""
MASKS = ((1, 0.2), (2, 0.2), (1, 0.15), (2, 0.12))
"""Axis and largest fraction of each mask (Park et al. 2019, "SpecAugment")."""
MIXUP_ALPHA = 0.4
"""Both parameters of the beta distribution (Zhang et al. 2018, "mixup")."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Input and labels of a classifier.

    Attributes:
        sample_rate: In Hz.
        n_samples: Length; longer clips are cut around their middle, shorter ones padded.
        labels: Class names in the order of its outputs.
        accuracy: On clips it was not trained on.
        measured_on: Which clips these were, in words.
    """

    sample_rate: int
    n_samples: int
    labels: tuple[str, ...]
    accuracy: float = 0.0
    measured_on: str = ""


class ClassifierOutput(NamedTuple):
    """Probabilities and embeddings of clips.

    Attributes:
        probabilities: Of each class `(clips, labels)`.
        embeddings: Features before the last layer `(clips, 128)`.
    """

    probabilities: NDArray[np.float64]
    embeddings: NDArray[np.float64]


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, on spectrograms `(batch, channels, bands, frames)`."""

    def __init__(self, n_inputs: int, n_outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(n_inputs, n_outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_outputs),
            nn.ReLU(),
            nn.Conv2d(n_outputs, n_outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_outputs),
        )
        pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.shortcut = nn.Sequential(pool, nn.Conv2d(n_inputs, n_outputs, 1, bias=False), nn.BatchNorm2d(n_outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.layers(x) + self.shortcut(x))


class Classifier(nn.Module):
    """Residual convolutions on a log-mel spectrogram, a mean over time by attention, and two linear layers.

    Args:
        config: Input and labels.
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
        self.stem = nn.Sequential(nn.Conv2d(1, _WIDTHS[0], 5, 2, 2, bias=False), nn.BatchNorm2d(_WIDTHS[0]), nn.ReLU())
        pairs = zip(pairwise(_WIDTHS), _STRIDES, strict=True)
        self.layers = nn.Sequential(*(_Residual(*widths, stride) for widths, stride in pairs))
        n_features = _WIDTHS[-1] * -(-_N_MELS // 16)
        self.attention = nn.Linear(n_features, 1)
        self.embed = nn.Linear(n_features, EMBEDDING)
        self.output = nn.Linear(EMBEDDING, len(config.labels))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels `(batch, 40, frames)` to logits `(batch, labels)` and embeddings `(batch, 128)`."""
        centred = (mel - mel.mean((1, 2), keepdim=True)) / 4  # so that level does not matter
        features = self.layers(self.stem(centred.unsqueeze(1))).flatten(1, 2).transpose(1, 2)
        pooled = (features * self.attention(features).softmax(1)).sum(1)
        embedding = functional.relu(self.embed(functional.dropout(pooled, _DROPOUT, self.training)))
        return self.output(functional.dropout(embedding, _DROPOUT, self.training)), embedding

    def mel(self, audio: Tensor) -> Tensor:
        """Compute what `forward` takes from one clip `(time,)` at the config's rate: `(40, frames)`."""
        excess = audio.shape[-1] - self.config.n_samples
        before = excess // 2
        fitted = functional.pad(audio, (-before, -(excess - before)))
        mel: Tensor = self.spectrogram(fitted.unsqueeze(0))[0]
        return mel

    @torch.inference_mode()
    def classify(self, mels: Tensor) -> ClassifierOutput:
        """Classify clips by their mels `(clips, 40, frames)`, averaged over small shifts in time."""
        self.eval()
        probabilities, embeddings = [], []
        for part in mels.split(_BATCH):
            logits, features = self(torch.cat([part.roll(shift, 2) for shift in _SHIFTS]))
            probabilities.append(logits.double().softmax(1).unflatten(0, (len(_SHIFTS), -1)).mean(0))
            embeddings.append(features.double().unflatten(0, (len(_SHIFTS), -1)).mean(0))
        return ClassifierOutput(torch.cat(probabilities).numpy(), torch.cat(embeddings).numpy())

    def read(self, paths: Sequence[Path], on_progress: Callable[[int], object] = lambda n: None) -> Tensor:
        """Read recordings as mels `(clips, 40, frames)`, resampled where their rate is another."""
        mels = []
        for path in paths:
            mels.append(self.mel(load_audio(path, self.config.sample_rate)[0]))
            on_progress(1)
        return torch.stack(mels)


def train_classifier(
    path: Path | Sequence[Path],
    *,
    held_out: Path | None = None,
    augment: bool = True,
    epochs: int = 40,
    min_updates: int = 600,
    seed: int = 0,
    on_progress: Callable[[float], object] = lambda fraction: None,
) -> Classifier:
    """Train a classifier on labelled clips, and measure its accuracy on others.

    Args:
        path: A folder with a subfolder per label, a folder of files named `LABEL_...`, or a manifest with labels; or
            several of these, which are joined.
        held_out: Clips to measure the accuracy on, given likewise. None holds some of `path` out: a tenth of the
            speakers where a manifest names ten or more, else every tenth clip of a class.
        augment: Whether clips are augmented and mixed (mixup) in training.
        epochs: Passes over the clips.
        min_updates: Least number of updates; more passes are made if need be.
        seed: Of initial weights, order and augmentation.
        on_progress: Called with the fraction of the work done since the last call.

    Returns:
        The classifier, in evaluation mode, with its measured accuracy in its configuration.

    Raises:
        DataError: If there are fewer than two labels, a class is too small to hold a clip out, or what was held out has
            other labels.
    """
    sources = {source: list_labelled(source) for source in ([path] if isinstance(path, Path) else path)}
    clips = [clip for found in sources.values() for clip in found]
    config = _configure(clips, ", ".join(map(str, sources)))
    test_clips, description = hold_out(sources) if held_out is None else list_held_out(held_out, config.labels)
    train_clips = [clip for clip in clips if clip not in set(test_clips)]
    if len(train_clips) < len(clips) and held_out is not None:
        raise DataError(
            f"{len(clips) - len(train_clips)} clips of {held_out} are among those to train on. Leave them out."
        )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        classifier = Classifier(config)
        n_batches = -(-len(train_clips) // _BATCH)
        epochs = max(epochs, -(-min_updates // n_batches))
        mels = classifier.read([file for file, _ in train_clips], lambda n: on_progress(0.2 * n / len(train_clips)))
        targets = _targets(train_clips, config)
        _fit(classifier, mels, targets, epochs, augment, lambda fraction: on_progress(0.8 * fraction))
    predicted = classifier.classify(classifier.read([file for file, _ in test_clips])).probabilities.argmax(1)
    accuracy = float((predicted == _targets(test_clips, config).numpy()).mean())
    classifier.config = replace(config, accuracy=accuracy, measured_on=f"{len(test_clips)} clips, {description}")
    return classifier


def _configure(clips: Sequence[LabelledClip], source: str) -> ClassifierConfig:
    counts = Counter(label for _, label in clips if label)
    n_small = sum(n < MIN_CLIPS_PER_LABEL for n in counts.values())
    if len(counts) < 2 or n_small or any(label is None for _, label in clips):
        raise DataError(
            f"{source} has {len(counts)} labels, {n_small} of them with fewer than {MIN_CLIPS_PER_LABEL} clips; "
            "expected two or more, each with enough. Give a folder with a subfolder per label, or a labelled manifest."
        )
    infos = [audio_info(file) for file, _ in clips]
    rate = Counter(info.sample_rate for info in infos).most_common(1)[0][0]
    n_samples = round(float(np.median([info.seconds for info in infos])) * rate)
    return ClassifierConfig(rate, n_samples, tuple(sorted(counts)))


def _targets(clips: Sequence[LabelledClip], config: ClassifierConfig) -> Tensor:
    return torch.tensor([config.labels.index(label) for _, label in clips if label])


def _fit(
    classifier: Classifier,
    mels: Tensor,
    targets: Tensor,
    epochs: int,
    augment: bool,
    on_progress: Callable[[float], object],
) -> None:
    optimiser = torch.optim.AdamW(classifier.parameters(), _LEARNING_RATE, weight_decay=2e-2)
    n_batches = -(-len(mels) // _BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, _LEARNING_RATE, epochs * n_batches)
    classifier.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(mels)).split(_BATCH):
            if len(batch) == 1:  # batch normalisation has nothing to measure
                continue
            clips, labels = mels[batch], targets[batch]
            clips, partners, weights = mixup(augment_mels(clips)) if augment else (clips, torch.arange(len(batch)), 1.0)
            logits, _ = classifier(clips)
            loss = weights * _cross_entropy(logits, labels) + (1 - weights) * _cross_entropy(logits, labels[partners])
            optimiser.zero_grad()
            loss.mean().backward()
            optimiser.step()
            scheduler.step()
        on_progress(1 / epochs)
    classifier.eval()


class MixedMels(NamedTuple):
    """A batch of mixed clips.

    Attributes:
        mels: `(clips, bands, frames)`.
        partners: The clip that each was mixed with `(clips,)`.
        weights: Of each clip itself, 0.5 to 1; its partner has the rest `(clips,)`.
    """

    mels: Tensor
    partners: Tensor
    weights: Tensor


def augment_mels(mels: Tensor) -> Tensor:
    """Stretch, shift and warp every log-mel `(clips, bands, frames)`, add noise to some, mask bands and frames."""
    return mask(add_noise(stretch(mels)))


def stretch(mels: Tensor) -> Tensor:
    """Stretch and shift in time, warp in frequency; edges are repeated."""
    count = len(mels)
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = _uniform(-MAX_TIME_STRETCH, MAX_TIME_STRETCH, count).exp()
    transform[:, 0, 2] = 2 * _uniform(-MAX_TIME_SHIFT, MAX_TIME_SHIFT, count)  # the x reaches from -1 to 1
    warp = _uniform(-MAX_FREQUENCY_WARP, MAX_FREQUENCY_WARP, count).exp()
    transform[:, 1, 1], transform[:, 1, 2] = warp, warp - 1  # the lowest band stays where it is
    grid = functional.affine_grid(transform, [count, 1, *mels.shape[1:]], align_corners=False)
    return functional.grid_sample(mels.unsqueeze(1), grid, padding_mode="border", align_corners=False)[:, 0]


def add_noise(mels: Tensor) -> Tensor:
    """Add noise of some level and spectral tilt to `NOISE_PROBABILITY` of the clips."""
    count = len(mels)
    level = mels.amax((1, 2), keepdim=True) - _uniform(*NOISE_LEVELS, count).view(-1, 1, 1)
    tilt = 1.5 * torch.randn(count, 1, 1) * torch.linspace(-1, 1, mels.shape[1]).view(1, -1, 1)
    power = torch.empty_like(mels).exponential_().clamp_min(1e-4).log()  # that of a bin of white noise
    noisy = torch.logaddexp(2 * mels, 2 * (level + tilt) + power) / 2
    return torch.where(torch.rand(count, 1, 1) < NOISE_PROBABILITY, noisy, mels)


def mask(mels: Tensor) -> Tensor:
    """Replace runs of bands and of frames by the mean of the clip."""
    mean = mels.mean((1, 2), keepdim=True)
    for axis, largest in MASKS:
        length = mels.shape[axis]
        width = _uniform(0, largest * length, len(mels)).view(-1, 1)
        first = torch.rand(len(mels), 1) * (length - width)
        position = torch.arange(length)
        masked = (position >= first) & (position < first + width)
        mels = torch.where(masked.unsqueeze(3 - axis), mean, mels)
    return mels


def mixup(mels: Tensor) -> MixedMels:
    """Mix every clip with another of the batch."""
    weight = torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA).sample((len(mels),))
    weight = torch.maximum(weight, 1 - weight)
    partner = torch.randperm(len(mels))
    own = weight.view(-1, 1, 1)
    return MixedMels(own * mels + (1 - own) * mels[partner], partner, weight)


def _uniform(low: float, high: float, count: int) -> Tensor:
    return low + (high - low) * torch.rand(count)


_cross_entropy = partial(functional.cross_entropy, reduction="none", label_smoothing=0.05)


def save_classifier(path: Path, classifier: Classifier) -> None:
    """Write a classifier as one safetensors file, its configuration in the file's metadata."""
    with replacing(path) as part:
        metadata = {"audiodiff_classifier": json.dumps(asdict(classifier.config))}
        part.write_bytes(save(classifier.state_dict(), metadata))


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
            "`audiodiff evaluate classifier`."
        ) from error
    return classifier.eval()
