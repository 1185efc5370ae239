"""Audio samples during training: a few clips made the way a user would make them, each beside a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio.plots import comparison_figure, display_mel
from audiodiff.config import ModelConfig
from audiodiff.data.crops import CropReader, Example
from audiodiff.data.dataset import Failure, OnFailure
from audiodiff.data.manifest import Recording
from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.scoring import score
from audiodiff.networks.build import Network
from audiodiff.pipelines import Generator, Vocoder
from audiodiff.training.callbacks import Clip

SAMPLE_SECONDS = 3.0
SAMPLES = 3
SCORES = ("m_stft", "log_mel", "rms_ratio_db", "peak", "pesq_wb", "estoi")
"""Scores of vocoded samples, so that a number in TensorBoard is a number of `audiodiff evaluate`."""


class Sample(NamedTuple):
    """A recording that a clip is made to stand beside.

    Attributes:
        name: Of the recording.
        audio: Its beginning `(1, time)`.
        conditions: Its label, speaker and vector, as far as the model takes them; None where it has none.
    """

    name: str
    audio: Tensor
    conditions: dict[str, Any]


def choose_samples(
    recordings: Sequence[Recording], reader: CropReader, hop_length: int, on_failure: OnFailure | None = None
) -> list[Sample]:
    """Read the beginnings of a few validation recordings.

    Args:
        recordings: The validation recordings.
        reader: How to read them; the length is decided here.
        hop_length: Of the model, in samples.
        on_failure: Told of recordings that cannot be read, which are left out; without it they are errors.

    Returns:
        Their beginnings: whole hops, at most `SAMPLE_SECONDS`, at least a training crop.
    """
    chosen = [recordings[i * len(recordings) // SAMPLES] for i in range(min(SAMPLES, len(recordings)))]
    samples = []
    for recording in chosen:
        n_samples = int(min(SAMPLE_SECONDS, recording.seconds) * reader.sample_rate) // hop_length * hop_length
        longer = replace(reader, n_samples=max(n_samples, reader.n_samples), context=0)
        try:
            example = longer.read(recording, 0.0)
        except (AudioError, DataError) as error:
            if on_failure is None:
                raise
            on_failure(Failure(recording.audio, error))
            continue
        samples.append(Sample(recording.audio.stem, example.audio, _conditions(recording, example, reader)))
    return samples


def _conditions(recording: Recording, example: Example, reader: CropReader) -> dict[str, Any]:
    """Return label, speaker and vector as far as the model takes them; None where the recording has none."""
    vector = example.vector if example.vector.isfinite().all() else None
    known = {
        "label": (reader.labels, recording.label),
        "speaker": (reader.speakers, recording.speaker),
        "vector": (reader.vector_width, vector),
    }
    return {name: value for name, (taken, value) in known.items() if taken}


def make_clips(network: Network, config: ModelConfig, samples: Sequence[Sample]) -> list[Clip]:
    """Synthesise clips with the model's own sampler settings.

    Args:
        network: With averaged weights.
        config: The model.
        samples: What `choose_samples` returned.

    Returns:
        A clip per sample: vocoded from its mel, or for a model without mel made from a label, the sample's speaker and
        vector, or nothing. A sample without what the model cannot do without is left out.
    """
    clips = []
    scores: dict[str, float] = {}
    for i, (name, reference, conditions) in enumerate(samples):
        if config.mel is None and config.labels:
            conditions = conditions | {"label": config.labels[i % len(config.labels)]}
        if None in conditions.values() and not config.condition_dropout:
            continue
        if config.mel is not None:
            vocoder = Vocoder(network, config).with_conditions(**conditions)
            generated = vocoder(vocoder.mel(reference))
        else:
            name = conditions.get("label") or f"sample {i}"
            seconds = reference.shape[-1] / config.sample_rate
            generated = Generator(network, config).generate(**conditions, seconds=seconds, seed=i)[0]
        generated = generated.cpu().float()
        if config.mel is not None:
            scores = score(generated, reference, config.sample_rate, SCORES)
        figure = comparison_figure(
            reference, generated, config.sample_rate, config.mel or display_mel(config.sample_rate)
        )
        clips.append(Clip(name, reference, generated, _pixels(figure), scores))
    return clips


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return pixels
