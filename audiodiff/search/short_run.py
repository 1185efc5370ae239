"""A short training run: a trial of a search, whose result is the validation loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from audiodiff.config import RunConfig
from audiodiff.data.corpus import open_corpus
from audiodiff.data.dataset import validation_crops
from audiodiff.errors import TrainingError
from audiodiff.networks import Network
from audiodiff.networks.embeddings import RadialBasis
from audiodiff.training.distributed import init_distributed
from audiodiff.training.initialisation import initialise
from audiodiff.training.validation import Validator

_WARMUP_FRACTION = 0.1
"""Longest warm-up, as a fraction of the steps: that of a whole run would be all of a short one."""


class Basis(NamedTuple):
    """What training has made of the radial basis functions of the embedding.

    Attributes:
        centres: Where they are.
        spreads: How wide they are.
    """

    centres: list[float]
    spreads: list[float]


def short_run(config: RunConfig, steps: int, on_step: Callable[[], object] = lambda: None) -> tuple[float, Basis]:
    """Train for a short while; seed and configuration decide the result.

    Args:
        config: The run; its learning rate goes through its whole course in these steps.
        steps: How many.
        on_step: Called after every step.

    Returns:
        The validation loss of the averaged weights, and the radial basis functions.

    Raises:
        TrainingError: If the loss is not finite.
        AudiodiffError: If data or model cannot be used.
    """
    warmup = min(config.training.warmup_steps, int(_WARMUP_FRACTION * steps))
    training = config.training.model_copy(update={"steps": steps, "warmup_steps": warmup})
    config = config.model_copy(update={"training": training})
    corpus = open_corpus(config)
    stream = corpus.training
    with init_distributed(training.device) as distributed:
        state = initialise(config, stream, distributed)
        batches = stream.batches(0, training.crops_per_step, config.data.workers, replica=distributed.replica)
        for _ in range(steps):
            state.step(next(batches))
            on_step()
        batches.close()
        state.flush()
        crops = validation_crops(corpus.validation, stream.reader, training.validation_crops)
        loss = Validator(crops, state.objective, training, state.few_step)(state.ema).loss
        basis = _basis(state.ema)
    if not math.isfinite(loss):
        raise TrainingError(f"the validation loss is {loss} after {steps} steps")
    return loss, Basis(basis.centres.tolist(), basis.spread.tolist())


def _basis(network: Network) -> RadialBasis:
    features = network.level.features
    if not isinstance(features, RadialBasis):
        raise TypeError("this network has no radial basis functions")
    return features
