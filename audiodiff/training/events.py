"""What a training run tells those who listen: progress bars, TensorBoard, tests, and whoever calls `train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """Audio made by the model in training, beside a recording.

    Attributes:
        name: Of the recording, or the label.
        reference: The recording `(1, time)`.
        generated: What the model made `(1, time)`.
        picture: Both as waveforms and spectrograms, RGB `(height, width, 3)`, 8 bit.
        scores: By name, of `audiodiff.evaluation.scoring.score`; empty where the model does not follow a recording.
    """

    name: str
    reference: Tensor
    generated: Tensor
    picture: NDArray[np.uint8]
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainEvent:
    """Something that happened after `step` steps were done.

    Attributes:
        kind: What happened.
        step: Number of steps done.
        values: For "step": loss, gradient_norm, learning_rate; for "skipped": skipped, the number of all so far; for
            "validated": loss, and loss_at_<log-SNR> for each level.
        clips: For "sampled".
    """

    kind: Literal["step", "skipped", "validated", "sampled", "saved"]
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    clips: Sequence[Clip] = ()


Callback = Callable[[TrainEvent], None]
