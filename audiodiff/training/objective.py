"""The training loss: from a batch of crops to one loss per clip; and the few-step loss.

The few-step loss compares the output of the unrolled reverse process with the recording, by M-STFT distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram, align_to_hops
from audiodiff.audio.whitening import Whitening
from audiodiff.config import MelConfig, ModelConfig, SynthesisConfig, TrainingConfig
from audiodiff.data.crops import Example, context_frames
from audiodiff.diffusion.likelihood import noise_error, variance_loss
from audiodiff.diffusion.process import Prediction, Target, diffuse, mean_squared_error, min_snr_weight, training_target
from audiodiff.diffusion.variance import prediction_from, split_output
from audiodiff.evaluation.spectral import multi_resolution_stft_distance
from audiodiff.networks import Network
from audiodiff.networks.conditioning import GlobalConditions
from audiodiff.pipelines import Vocoder

Predict = Callable[[Tensor, Tensor, Tensor | None, GlobalConditions | None], Tensor]
"""(x `(batch, 1, time)`, log_snr `(batch,)`, mel or None, global conditions or None) -> prediction shaped like x."""

MelNoise = Callable[[Tensor, MelConfig], Tensor]
"""(mel `(batch, n_mels, frames)`, its convention) -> a noisy mel of that shape."""


class Batch(NamedTuple):
    """What the network is trained on in one step, on its device.

    Attributes:
        clean: Whitened audio `(batch, 1, time)`.
        mel: One frame per hop `(batch, n_mels, n_frames)`, or None for a model without.
        global_conditions: Class, speaker and vector of each clip as far as the model takes them, or None.
        bandwidth: Hz `(batch,)`, or None where every clip is full band.
    """

    clean: Tensor
    mel: Tensor | None
    global_conditions: GlobalConditions | None
    bandwidth: Tensor | None

    def split(self, size: int) -> Iterator[Batch]:
        """Yield consecutive batches of so many clips."""
        for first in range(0, len(self.clean), size):
            clips = slice(first, first + size)
            conditions = self.global_conditions and GlobalConditions(
                *(_part(of, clips) for of in self.global_conditions)
            )
            yield Batch(self.clean[clips], _part(self.mel, clips), conditions, _part(self.bandwidth, clips))


def _part(values: Tensor | None, clips: slice) -> Tensor | None:
    return None if values is None else values[clips]


def predict_with(network: Network) -> Predict:
    """Return the whole forward pass of a network, conditions included, as one function."""

    def predict(x: Tensor, log_snr: Tensor, mel: Tensor | None, global_conditions: GlobalConditions | None) -> Tensor:
        condition = None if mel is None else network.encode(mel)
        predicted: Tensor = network(x, log_snr, condition, network.embed(global_conditions))
        return predicted

    return predict


class Objective:
    """The loss of a model, with everything it needs on one device.

    Args:
        config: The model, calibrated.
        device: Where to compute.
        bf16: Whether the network runs under bfloat16 autocast; all else stays in float32.
    """

    def __init__(self, config: ModelConfig, device: torch.device, *, bf16: bool = False) -> None:
        self.config = config
        self.device = device
        self.bf16 = bf16
        self._context = context_frames(config)
        self._spectrogram = MelSpectrogram(config.mel).to(device) if config.mel else None
        self._whitening = Whitening(config.whitening, config.mel).to(device)

    @torch.no_grad()
    def prepare(self, examples: Example, noise_on_mel: MelNoise | None = None) -> Batch:
        """Move examples to the device, compute their mels and whiten them.

        Args:
            examples: Audio `(batch, 1, context + time + context)`, label, bandwidth and speaker `(batch,)`, vector,
                and mel, as they come from the data. A mel that is not given is computed.
            noise_on_mel: Noise for the mels, by which the audio is whitened too, as in synthesis.

        Returns:
            The batch as the network meets it, without context.
        """
        limited = bool(examples.bandwidth.isfinite().any())  # asked here, where it costs no wait for a GPU
        examples = Example(*(field.to(self.device, non_blocking=True) for field in examples))
        audio, label, bandwidth, speaker, vector, given = examples
        mel = None
        if self._spectrogram is not None and self.config.mel is not None:
            n_frames = audio.shape[-1] // self.config.mel.hop_length
            mel = align_to_hops(self._spectrogram(audio[:, 0]), self.config.mel)[..., :n_frames]
            if given.numel():
                mel = torch.where(given.isnan(), mel, given)
            if noise_on_mel is not None:
                mel = noise_on_mel(mel, self.config.mel)
        clean = self._whitening.whiten(audio, mel)
        if mel is not None and self._context:
            clean = clean.unflatten(-1, (mel.shape[-1], -1))[..., self._context : -self._context, :].flatten(-2)
            mel = mel[..., self._context : -self._context]
        return Batch(clean, mel, self._global_conditions(label, speaker, vector), bandwidth if limited else None)

    def loss(
        self,
        predict: Predict,
        batch: Batch,
        log_snr: Tensor,
        noise: Tensor,
        weighting: LossWeighting | None = None,
    ) -> Tensor:
        """Return the error of each clip at given noise levels, with a learned variance its loss added.

        Args:
            predict: The network.
            batch: What `prepare` returned.
            log_snr: Noise levels `(batch,)`.
            noise: Standard normal noise of the shape of the audio.
            weighting: Kind of error and what counts more, in training; without it the error is the mean square, and all
                noise levels and frequencies count alike.

        Returns:
            Losses `(batch,)`, float32; where a recording is band-limited, of its band only.
        """
        x = diffuse(batch.clean, noise, log_snr)
        with self.autocast():
            prediction, variance = split_output(
                predict(x, log_snr, batch.mel, batch.global_conditions), self.config.diffusion
            )
        target = training_target(batch.clean, noise, log_snr, self.config.diffusion.target)
        loss = self._error(prediction, target, batch.bandwidth, log_snr, weighting)
        if variance is None:
            return loss
        error = noise_error(prediction, x, noise, log_snr, self.config.diffusion).detach()
        if batch.bandwidth is not None:
            error = band_limited(error, batch.bandwidth, self.config.sample_rate)
        return loss + variance_loss(variance, error, log_snr, self.config.diffusion)

    def _error(
        self,
        prediction: Tensor,
        target: Tensor,
        bandwidth: Tensor | None,
        log_snr: Tensor,
        weighting: LossWeighting | None,
    ) -> Tensor:
        rate = self.config.sample_rate
        by_frequency = None if weighting is None else weighting.by_frequency
        if weighting is not None and weighting.is_l1:
            error = prediction.float() - target.float()
            error = (error if bandwidth is None else band_limited(error, bandwidth, rate)).abs().flatten(1).mean(1)
        elif bandwidth is None and by_frequency is None:
            error = mean_squared_error(prediction, target)
        else:
            bandwidth = torch.full_like(log_snr, math.inf) if bandwidth is None else bandwidth
            error = band_limited_mse(prediction, target, bandwidth, rate, by_frequency)
        weight = None if weighting is None else weighting.by_noise_level(log_snr)
        return error if weight is None else error * weight

    def _global_conditions(self, label: Tensor, speaker: Tensor, vector: Tensor) -> GlobalConditions | None:
        """Return those that the model takes."""
        config = self.config
        conditions = GlobalConditions(
            label if config.labels else None,
            speaker if config.speakers else None,
            vector if config.vector_width else None,
        )
        return conditions if any(value is not None for value in conditions) else None

    def autocast(self) -> torch.autocast:
        """Return what the network runs under."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def log_scale(self, batch: Batch) -> Tensor:
        """Return the mean logarithm of what whitening multiplied a batch by, frame by frame; see `Whitening`."""
        return self._whitening.log_scale(batch.mel)


def band_limited_mse(
    prediction: Tensor,
    target: Tensor,
    bandwidth: Tensor,
    sample_rate: int,
    by_frequency: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the mean squared error below a frequency, scaled such that a white error has the same at any bandwidth.

    So it has with any weights of frequencies.

    Args:
        prediction: `(batch, channels, time)`.
        target: Of the same shape.
        bandwidth: Hz up to which the error counts `(batch,)`; infinite for all of it.
        sample_rate: Hz.
        by_frequency: Weights of frequencies in Hz, of their shape; without it all count alike.

    Returns:
        Errors `(batch,)`, float32.
    """
    n_samples = target.shape[-1]
    spectrum = torch.fft.rfft(prediction.float() - target.float())
    frequency = torch.fft.rfftfreq(n_samples, 1 / sample_rate, device=target.device)
    weight = torch.full_like(frequency, 2.0)  # every bin stands for two of the full spectrum, except 0 Hz and Nyquist
    weight[0] = 1.0
    if n_samples % 2 == 0:
        weight[-1] = 1.0
    if by_frequency is not None:
        weight = weight * by_frequency(frequency)
    weight = weight * (frequency <= bandwidth.unsqueeze(1))
    power = (spectrum.real.square() + spectrum.imag.square()).mean(1)
    error: Tensor = (power * weight).sum(1) / (weight.sum(1) * n_samples)  # Parseval's theorem
    return error


def band_limited(error: Tensor, bandwidth: Tensor, sample_rate: int) -> Tensor:
    """Return what an error is below a frequency, scaled such that a white error keeps its power.

    Arguments as in `band_limited_mse`; the result is of the shape of `error`.
    """
    spectrum, n_samples = torch.fft.rfft(error.float()), error.shape[-1]
    frequency = torch.fft.rfftfreq(n_samples, 1 / sample_rate, device=error.device)
    inside = (frequency <= bandwidth.view(-1, 1, 1)).float()
    limited: Tensor = torch.fft.irfft(spectrum * inside / inside.mean(-1, keepdim=True).sqrt(), n=n_samples)
    return limited


class LossWeighting:
    """How training measures the error: squared or absolute, weighted by SNR, and as finely as the ear resolves.

    Validation is never weighted, so its loss compares between runs whatever they were trained with.

    Args:
        config: `loss`, `loss_weighting`, `min_snr_gamma` and `spectral_weighting`.
        target: What the network predicts.

    Attributes:
        is_l1: Whether the error is the mean absolute value.
        by_frequency: From frequencies in Hz to weights, of which only the proportions matter; None where all are alike.
    """

    def __init__(self, config: TrainingConfig, target: Target) -> None:
        self._gamma = config.min_snr_gamma if config.loss_weighting == "min-snr" else None
        self._target = target
        self.is_l1 = config.loss == "l1"
        exponent = config.spectral_weighting
        self.by_frequency = (lambda frequency: auditory_bandwidth(frequency) ** -exponent) if exponent else None

    def by_noise_level(self, log_snr: Tensor) -> Tensor | None:
        """Return the weights of noise levels `(batch,)`, or None where all are alike."""
        return None if self._gamma is None else min_snr_weight(log_snr, self._target, self._gamma)


def auditory_bandwidth(frequency: Tensor) -> Tensor:
    """Return the equivalent rectangular bandwidth of the ear's filters, in Hz (Glasberg and Moore 1990).

    Example:
        >>> import torch
        >>> auditory_bandwidth(torch.tensor([100.0, 1000.0, 10000.0])).round().tolist()
        [35.0, 133.0, 1104.0]
    """
    return 24.7 * (4.37e-3 * frequency + 1)


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
