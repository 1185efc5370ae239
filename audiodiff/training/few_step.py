"""The few-step loss: the reverse process, unrolled, against the recording, by what the ear hears of a spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from audiodiff.config import ModelConfig, SynthesisConfig, TrainingConfig
from audiodiff.diffusion.process import Prediction
from audiodiff.diffusion.variance import prediction_from
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

    def generate(self, predict: Predict, batch: Batch, seeds: Sequence[int], settings: SynthesisConfig) -> Tensor:
        """Run the reverse process `(batch, time)`; gradients flow through it.

        Args:
            predict: The network.
            batch: What `Objective.prepare` returned, with a mel.
            seeds: One for each clip.
            settings: The reverse process.
        """
        mel = self._mel(batch)

        def predict_noise(x: Tensor, log_snr: Tensor) -> Prediction:
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=self._bf16):
                output = predict(x, log_snr.to(x).expand(len(x)), mel, batch.global_conditions)
            return prediction_from(output.float(), x, log_snr, self._config.diffusion)

        return self._vocoder.synthesise(mel, seeds, predictor=predict_noise, settings=settings)[:, 0]

    def reference(self, batch: Batch) -> Tensor:
        """Return the recordings `(batch, time)`."""
        return self._vocoder.colour(batch.clean, self._mel(batch))[:, 0]

    def distance(self, generated: Tensor, reference: Tensor, bandwidth: Tensor | None) -> Tensor:
        """Return the distance of each clip `(batch,)`: zero for a silent one, within its band for a limited one."""
        distance = multi_resolution_stft_distance(
            generated, reference, sample_rate=self._config.sample_rate, bandwidth=bandwidth
        )
        audible = reference.square().mean(1).sqrt() > SILENCE
        return torch.where(audible, distance, 0.0)

    def __call__(self, predict: Predict, batch: Batch, seeds: Sequence[int]) -> Tensor:
        """Return the distance of each clip with the model's own reverse process; arguments as of `generate`."""
        generated = self.generate(predict, batch, seeds, self._config.synthesis)
        return self.distance(generated, self.reference(batch), batch.bandwidth)

    def draw_settings(self, training: TrainingConfig, step: int) -> SynthesisConfig:
        """Draw the reverse process of a training step; (seed, step) alone decides it."""
        own = self._config.synthesis
        generator = np.random.default_rng([training.seed % 2**64, step, 4])
        if generator.random() < training.few_step_from_noise:
            return own.model_copy(
                update={"start": "noise", "steps": 4, "start_log_snr": self._config.diffusion.log_snr_min}
            )
        if not training.few_step_counts:
            return own
        return own.model_copy(update={"steps": int(generator.choice(training.few_step_counts))})

    def _mel(self, batch: Batch) -> Tensor:
        if batch.mel is None:
            raise TypeError("the few-step loss needs mels")
        return batch.mel
