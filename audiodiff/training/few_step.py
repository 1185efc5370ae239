"""The few-step loss: the reverse process, unrolled, against the recording, by what the ear hears of a spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from audiodiff.config import ModelConfig
from audiodiff.diffusion.variance import answer_from
from audiodiff.evaluation.spectral import multi_resolution_stft_distance
from audiodiff.networks.build import Network
from audiodiff.pipelines import Vocoder
from audiodiff.training.objective import Batch, Predict

SILENCE = 1e-3
"""Root mean square below which a crop does not count (-60 dB): a distance relative to nothing has no scale."""


class FewStepLoss:
    """M-STFT between what a vocoder makes of a mel and the recording the mel was made of.

    Gradients flow through every step of the sampler, so the network learns to spend its few steps well, errors of
    earlier steps included (Yamamoto et al. 2020 for the distance).

    Args:
        network: Tells the device; which weights are used is up to the caller of the loss.
        config: The model; its synthesis settings decide steps, sampler, schedule and start.
        bf16: Whether the network runs under bfloat16 autocast; all else stays in float32.
    """

    def __init__(self, network: Network, config: ModelConfig, *, bf16: bool) -> None:
        self._vocoder = Vocoder(network, config)
        self._config = config
        self._bf16 = bf16

    def __call__(self, predict: Predict, batch: Batch, seeds: Sequence[int]) -> Tensor:
        """Return the distance of each clip.

        Args:
            predict: The network.
            batch: What `Objective.prepare` returned, with a mel.
            seeds: One for each clip.

        Returns:
            Distances `(batch,)`, float32; zero for a silent clip, and of its band only for a band-limited one.
        """
        if batch.mel is None:
            raise TypeError("the few-step loss needs mels")

        def predict_noise(x: Tensor, log_snr: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self._bf16):
                output = predict(x, log_snr, batch.mel, batch.given)
            return answer_from(output.float(), x, log_snr, self._config.diffusion)

        generated = self._vocoder.synthesise(batch.mel, seeds, predictor=predict_noise)[:, 0]
        reference = self._vocoder.colour(batch.clean, batch.mel)[:, 0]
        distance = multi_resolution_stft_distance(
            generated, reference, sample_rate=self._config.sample_rate, bandwidth=batch.bandwidth
        )
        audible = reference.square().mean(1).sqrt() > SILENCE
        return torch.where(audible, distance, 0.0)
