"""Statistics that a model takes from its training data before the first step: of the mel, and of whitened audio."""

from __future__ import annotations

import logging
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio.whitening import Whitening
from audiodiff.config import ModelConfig, WhiteningConfig
from audiodiff.data.corpus import CropStream
from audiodiff.data.dataset import OnFailure
from audiodiff.errors import DataError
from audiodiff.networks.build import Network
from audiodiff.training.objective import Objective

CALIBRATION_CROPS = 256
_BATCH = 16
_SMOOTHED_OVER = 9
"""Neighbouring lapped coefficients that share a gain."""
_LEAST_VARIANCE = 1e-6
"""Fraction of the largest variance (-60 dB) below which a band counts as empty."""
_LEAST_DEVIATION = 1e-3
"""Smallest deviation of a mel bin, so that one that never changes is not divided by zero."""

_LOG = logging.getLogger(__name__)


class Calibration(NamedTuple):
    """What was measured.

    Attributes:
        gain: For `WhiteningConfig.gain`: one per lapped coefficient, or one.
        mel_mean: Mean of each mel bin `(n_mels,)`, or None without mel.
        mel_deviation: Standard deviation of each mel bin `(n_mels,)`, or None without mel.
        vectors: Mean and standard deviation of the vectors that are given `(2, vector_width)`, or None without.
    """

    gain: tuple[float, ...]
    mel_mean: Tensor | None
    mel_deviation: Tensor | None
    vectors: Tensor | None = None

    def applied_to(self, network: Network, config: ModelConfig) -> ModelConfig:
        """Give a network the statistics of mel and vectors, and return its configuration with the gain.

        A gain that the configuration states itself is kept.
        """
        if network.normalise_mel is not None and self.mel_mean is not None and self.mel_deviation is not None:
            network.normalise_mel.mean.copy_(self.mel_mean)
            network.normalise_mel.deviation.copy_(self.mel_deviation)
        if network.vector is not None and self.vectors is not None:
            network.vector.mean.copy_(self.vectors[0])
            network.vector.deviation.copy_(self.vectors[1])
        if config.whitening.gain != WhiteningConfig().gain:
            return config
        return config.model_copy(update={"whitening": config.whitening.model_copy(update={"gain": self.gain})})


def calibrate(stream: CropStream, config: ModelConfig, on_failure: OnFailure | None = None) -> Calibration:
    """Measure the first crops of the training stream.

    Args:
        stream: The training stream.
        config: The model.
        on_failure: Told of recordings that cannot be read; without it they are errors.

    Returns:
        The statistics.

    Raises:
        DataError: If all of it is silent.
    """
    plain = config.model_copy(update={"whitening": config.whitening.model_copy(update={"gain": (1.0,)})})
    objective = Objective(plain, torch.device("cpu"))
    whitening = Whitening(plain.whitening, plain.mel)
    mel_sums: list[Tensor] = []
    vectors: list[Tensor] = []
    power, weight = np.zeros(1), np.zeros(1)
    n_batches = CALIBRATION_CROPS // _BATCH
    for batch in islice(stream.batches(0, _BATCH, on_failure=on_failure), n_batches):
        prepared = objective.prepare(batch)
        if prepared.mel is not None:
            mel = prepared.mel.double()
            mel_sums.append(torch.stack([mel.mean((0, 2)), mel.square().mean((0, 2))]))
        if prepared.given is not None and prepared.given.vector is not None:
            vectors.append(prepared.given.vector)
        squares, counted = _power(prepared.clean, batch.bandwidth, whitening, config)
        power, weight = power + squares, weight + counted
    gain = _gain(power, weight, config)
    calibration = Calibration(gain, None, None, _vector_statistics(torch.cat(vectors)) if vectors else None)
    if not mel_sums:
        return calibration
    mean, square = torch.stack(mel_sums).mean(0)
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(_LEAST_DEVIATION)
    return calibration._replace(mel_mean=mean.float(), mel_deviation=deviation.float())


def _vector_statistics(vectors: Tensor) -> Tensor | None:
    """Return mean and standard deviation `(2, vector_width)` of the rows that are not NaN; None of fewer than two."""
    there = vectors[~vectors.isnan().any(1)].double()
    if len(there) < 2:
        return None
    mean, deviation = there.mean(0), there.std(0)
    return torch.stack(
        [mean, torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)]
    ).float()  # 1 if it never varies


def _power(
    clean: Tensor, bandwidth: Tensor, whitening: Whitening, config: ModelConfig
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean power of each band over the clips that reach it, times their number, and their number."""
    if config.whitening.kind != "spectral":
        return np.full(1, float(clean.double().square().mean())), np.ones(1)
    coefficients = whitening.transform(clean[:, 0])
    if coefficients.shape[1] > 2:
        coefficients = coefficients[:, 1:-1]  # at its cut edges a crop leaks into all bands
    squares = coefficients.double().square().mean(1)
    reached = _frequencies(config) <= bandwidth.numpy()[:, None]
    return (squares.numpy() * reached).sum(0), reached.sum(0).astype(np.float64)


def _frequencies(config: ModelConfig) -> NDArray[np.float64]:
    """Return the centre of each lapped coefficient, in Hz."""
    return (np.arange(config.block_length) + 0.5) * config.sample_rate / 2 / config.block_length


def _gain(power: NDArray[np.float64], weight: NDArray[np.float64], config: ModelConfig) -> tuple[float, ...]:
    """Turn sums of power into gains: smoothed in log over neighbours, continued where no clip reaches."""
    measured = np.flatnonzero(weight)
    variance = power[measured] / weight[measured]
    if not variance.max() > 0:
        raise DataError("the training audio is silent. Look at the recordings: do they play?")
    least = _LEAST_VARIANCE * variance.max()
    if (variance < least).any():
        lowest = _frequencies(config)[measured][variance < least].min()
        _LOG.warning(
            "parts of the spectrum from %.0f Hz on are empty. If recordings were upsampled, state their `bandwidth` in "
            "the manifest, so that the loss leaves out what is not there",
            lowest,
        )
    logarithm = np.interp(np.arange(len(power)), measured, np.log(np.maximum(variance, least)))
    if len(logarithm) > 1:
        padded = np.pad(logarithm, _SMOOTHED_OVER // 2, mode="edge")
        logarithm = np.convolve(padded, np.full(_SMOOTHED_OVER, 1 / _SMOOTHED_OVER), mode="valid")
    gain = np.exp(-logarithm / 2)
    gain /= np.sqrt(np.mean(variance * gain[measured] ** 2))  # a mean of logarithms is too low
    return tuple(float(f"{value:.6g}") for value in gain)
