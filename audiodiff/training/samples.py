"""What the model sounds like by now: a few clips made in the way a user would, each beside a recording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio.plots import comparison_figure, looking_glass
from audiodiff.config import ModelConfig
from audiodiff.data.crops import CropReader
from audiodiff.data.dataset import Failure, OnFailure
from audiodiff.data.manifest import Recording
from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.metrics import score
from audiodiff.networks.build import Network
from audiodiff.pipelines import Generator, Vocoder
from audiodiff.training.events import Clip

SAMPLE_SECONDS = 3.0
SAMPLES = 3
SCORES = ("m_stft", "log_mel", "rms_ratio_db", "peak", "pesq_wb", "estoi")
"""Scores of vocoded samples, so that a number in TensorBoard is a number of `audiodiff evaluate`."""


def choose_samples(
    recordings: Sequence[Recording], reader: CropReader, block_length: int, on_failure: OnFailure | None = None
) -> list[tuple[str, Tensor]]:
    """Read the beginnings of a few validation recordings.

    Args:
        recordings: The validation recordings.
        reader: How to read them; the length is decided here.
        block_length: Of the model, in samples.
        on_failure: Told of recordings that cannot be read, which are left out; without it they are errors.

    Returns:
        Names and audio `(1, time)`: whole blocks, at most `SAMPLE_SECONDS`, at least a training crop.
    """
    chosen = [recordings[i * len(recordings) // SAMPLES] for i in range(min(SAMPLES, len(recordings)))]
    samples = []
    for recording in chosen:
        n_samples = int(min(SAMPLE_SECONDS, recording.seconds) * reader.sample_rate) // block_length * block_length
        longer = replace(reader, n_samples=max(n_samples, reader.n_samples), context=0)
        try:
            samples.append((recording.audio.stem, longer.read(recording, 0.0).audio))
        except (AudioError, DataError) as error:
            if on_failure is None:
                raise
            on_failure(Failure(recording.audio, error))
    return samples


def make_clips(network: Network, config: ModelConfig, samples: Sequence[tuple[str, Tensor]]) -> list[Clip]:
    """Synthesise clips with the model's own sampler settings.

    Args:
        network: With averaged weights.
        config: The model.
        samples: Names and recordings from `choose_samples`.

    Returns:
        A clip per sample: vocoded from its mel, or for a model without mel made from a label or nothing.
    """
    clips = []
    scores: dict[str, float] = {}
    for i, (name, reference) in enumerate(samples):
        if config.mel is not None:
            vocoder = Vocoder(network, config)
            generated = vocoder(vocoder.mel(reference))
        else:
            label = config.labels[i % len(config.labels)] if config.labels else None
            name = label or f"sample {i}"
            seconds = reference.shape[-1] / config.sample_rate
            generated = Generator(network, config).generate(label, seconds=seconds, seed=i)[0]
        generated = generated.cpu().float()
        if config.mel is not None:
            scores = score(generated, reference, config.sample_rate, SCORES)
        figure = comparison_figure(
            reference, generated, config.sample_rate, config.mel or looking_glass(config.sample_rate)
        )
        clips.append(Clip(name, reference, generated, _pixels(figure), scores))
    return clips


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]
    return pixels
