"""A training run that is too short to be kept: fresh weights, some hundred steps, one validation, no files."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from audiodiff.config import RunConfig
from audiodiff.data.corpus import open_corpus
from audiodiff.data.dataset import validation_crops
from audiodiff.errors import TrainingError
from audiodiff.networks.build import Network
from audiodiff.networks.embeddings import RadialBasis
from audiodiff.training.distributed import init_distributed
from audiodiff.training.initialisation import initialise
from audiodiff.training.validation import Validator

_WARMUP_SHARE = 0.1
"""Longest warm-up, as a share of the steps: that of a whole run would be all of a short one."""


class Basis(NamedTuple):
    """What training has made of the radial basis functions of the embedding.

    Attributes:
        centres: Where they are.
        spreads: How wide they are.
        growth: Geometric mean of how many times as wide they have become.
    """

    centres: list[float]
    spreads: list[float]
    growth: float


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
    warmup = min(config.training.warmup_steps, int(_WARMUP_SHARE * steps))
    training = config.training.model_copy(update={"steps": steps, "warmup_steps": warmup})
    config = config.model_copy(update={"training": training})
    corpus = open_corpus(config)
    stream = corpus.training
    with init_distributed(training.device) as distributed:
        state = initialise(config, stream, distributed)
        before = _basis(state.ema).spread.detach().clone()
        batches = stream.batches(0, training.batch_size, config.data.workers, replica=distributed.replica)
        for _ in range(steps):
            state.step(next(batches))
            on_step()
        batches.close()
        state.flush()
        crops = validation_crops(corpus.validation, stream.reader, training.validation_crops)
        loss = Validator(crops, state.objective, training, state.few_step)(state.ema).loss
        basis = _basis(state.ema)
        growth = float((basis.spread.detach() / before).log().mean().exp())
    if not math.isfinite(loss):
        raise TrainingError(f"the validation loss is {loss} after {steps} steps")
    return loss, Basis(basis.centres.tolist(), basis.spread.tolist(), growth)


def _basis(network: Network) -> RadialBasis:
    features = network.level.features
    if not isinstance(features, RadialBasis):
        raise TypeError("this network has no radial basis functions")
    return features
