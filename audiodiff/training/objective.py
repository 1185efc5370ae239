"""What training minimises: from a batch of audio to one loss per clip, and the randomness of a step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram, align_to_blocks
from audiodiff.audio.whitening import Whitening
from audiodiff.config import DiffusionConfig, MelConfig, ModelConfig
from audiodiff.data.crops import Example, context_blocks
from audiodiff.data.dataset import SINGLE_PROCESS, Replica
from audiodiff.diffusion.likelihood import noise_error, variance_loss
from audiodiff.diffusion.process import diffuse, sample_log_snr, training_target, weighted_mse
from audiodiff.diffusion.variance import split_answer
from audiodiff.networks.build import Network
from audiodiff.networks.given import Conditions
from audiodiff.training.weighting import Weighting

Predict = Callable[[Tensor, Tensor, Tensor | None, Conditions | None], Tensor]
"""(x `(batch, 1, time)`, log_snr `(batch,)`, mel or None, what is given or None) -> prediction of the shape of x."""

MelNoise = Callable[[Tensor, MelConfig], Tensor]
"""(mel `(batch, n_mels, frames)`, its convention) -> a noisy mel of that shape."""


class Batch(NamedTuple):
    """A batch as the network meets it, on its device.

    Attributes:
        clean: Whitened audio `(batch, 1, time)`.
        mel: One frame per block `(batch, n_mels, n_blocks)`, or None for a model without.
        given: Class, speaker and vector of each clip as far as the model takes them, or None for a model without.
        bandwidth: Hz `(batch,)`, or None where every clip is full band.
    """

    clean: Tensor
    mel: Tensor | None
    given: Conditions | None
    bandwidth: Tensor | None


def predict_with(network: Network) -> Predict:
    """Return the whole forward pass of a network, condition included, as one function."""

    def predict(x: Tensor, log_snr: Tensor, mel: Tensor | None, given: Conditions | None) -> Tensor:
        condition = None if mel is None else network.encode(mel)
        predicted: Tensor = network(x, log_snr, condition, network.embed(given))
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
        self._context = context_blocks(config)
        self._spectrogram = MelSpectrogram(config.mel).to(device) if config.mel else None
        self._whitening = Whitening(config.whitening, config.mel).to(device)

    @torch.no_grad()
    def prepare(self, batch: Example, noise_on_mel: MelNoise | None = None) -> Batch:
        """Move a batch to the device, compute its mels and whiten it.

        Args:
            batch: Audio `(batch, 1, context + time + context)`, label, bandwidth and speaker `(batch,)`, and vector, as
                they come from the data.
            noise_on_mel: Noise for the mels, by which the audio is whitened too, as in synthesis.

        Returns:
            The batch as the network meets it, without context.
        """
        limited = bool(batch.bandwidth.isfinite().any())  # asked here, where it costs no wait for a GPU
        audio, label, bandwidth, speaker, vector = (field.to(self.device, non_blocking=True) for field in batch)
        mel = None
        if self._spectrogram is not None and self.config.mel is not None:
            n_blocks = audio.shape[-1] // self.config.mel.hop_length
            mel = align_to_blocks(self._spectrogram(audio[:, 0]), self.config.mel)[..., :n_blocks]
            if noise_on_mel is not None:
                mel = noise_on_mel(mel, self.config.mel)
        clean = self._whitening.whiten(audio, mel)
        if mel is not None and self._context:
            clean = clean.unflatten(-1, (mel.shape[-1], -1))[..., self._context : -self._context, :].flatten(-2)
            mel = mel[..., self._context : -self._context]
        return Batch(clean, mel, self._given(label, speaker, vector), bandwidth if limited else None)

    def _given(self, label: Tensor, speaker: Tensor, vector: Tensor) -> Conditions | None:
        """Return what the model takes of this."""
        config = self.config
        given = Conditions(
            label if config.labels else None,
            speaker if config.speakers else None,
            vector if config.vector_width else None,
        )
        return given if any(part is not None for part in given) else None

    def autocast(self) -> torch.autocast:
        """Return what the network runs under."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def log_scale(self, batch: Batch) -> Tensor:
        """Return the mean logarithm of what whitening multiplied a batch by, block by block; see `Whitening`."""
        return self._whitening.log_scale(batch.mel)

    def loss(
        self,
        predict: Predict,
        batch: Batch,
        log_snr: Tensor,
        noise: Tensor,
        weighting: Weighting | None = None,
    ) -> Tensor:
        """Return the mean squared error of each clip at given noise levels, with a learned variance its loss added.

        Args:
            predict: The network.
            batch: What `prepare` returned.
            log_snr: Noise levels `(batch,)`.
            noise: Standard normal noise of the shape of the audio.
            weighting: What counts more, in training; without it all noise levels and frequencies count alike.

        Returns:
            Losses `(batch,)`, float32; where a recording is band-limited, of its band only.
        """
        x = diffuse(batch.clean, noise, log_snr)
        with self.autocast():
            prediction, variance = split_answer(predict(x, log_snr, batch.mel, batch.given), x)
        target = training_target(batch.clean, noise, log_snr, self.config.diffusion.target)
        loss = self._mse(prediction, target, batch.bandwidth, log_snr, weighting)
        if variance is None:
            return loss
        error = noise_error(prediction, x, noise, log_snr, self.config.diffusion).detach()
        if batch.bandwidth is not None:
            error = in_band(error, batch.bandwidth, self.config.sample_rate)
        return loss + variance_loss(variance, error, log_snr, self.config.diffusion)

    def _mse(
        self,
        prediction: Tensor,
        target: Tensor,
        bandwidth: Tensor | None,
        log_snr: Tensor,
        weighting: Weighting | None,
    ) -> Tensor:
        weight = None if weighting is None else weighting.of_levels(log_snr)
        by_frequency = weighting.of_frequencies if weighting is not None and weighting.by_frequency else None
        if bandwidth is None and by_frequency is None:
            return weighted_mse(prediction, target, weight)
        bandwidth = torch.full_like(log_snr, math.inf) if bandwidth is None else bandwidth
        error = band_limited_mse(prediction, target, bandwidth, self.config.sample_rate, by_frequency)
        return error if weight is None else error * weight


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


def in_band(error: Tensor, bandwidth: Tensor, sample_rate: int) -> Tensor:
    """Return what an error is below a frequency, scaled such that a white error keeps its power.

    Arguments as in `band_limited_mse`; the result is of the shape of `error`.
    """
    spectrum, n_samples = torch.fft.rfft(error.float()), error.shape[-1]
    frequency = torch.fft.rfftfreq(n_samples, 1 / sample_rate, device=error.device)
    inside = (frequency <= bandwidth.view(-1, 1, 1)).float()
    limited: Tensor = torch.fft.irfft(spectrum * inside / inside.mean(-1, keepdim=True).sqrt(), n=n_samples)
    return limited


def draw(
    batch: Batch, config: DiffusionConfig, seed: int, step: int, replica: Replica = SINGLE_PROCESS
) -> tuple[Tensor, Tensor]:
    """Draw the noise levels and the noise of a training step; (seed, step) alone decides them.

    Args:
        batch: Tells shape and device.
        config: Range and distribution of the levels.
        seed: The run's seed.
        step: The step.
        replica: Rank and world size. Everything is drawn for all processes, so that together they draw what one would
            with a batch so many times as large.

    Returns:
        Noise levels `(batch,)` and standard normal noise of the shape of the audio.
    """
    n_clips = len(batch.clean)
    log_snr_seed, noise_seed = _seeds(seed, step, 1, 2)
    log_snr = sample_log_snr(replica.world_size * n_clips, config, torch.Generator().manual_seed(log_snr_seed))
    mine = slice(replica.rank * n_clips, (replica.rank + 1) * n_clips)
    noise = _normal(batch.clean, noise_seed, replica)
    return log_snr[mine].to(batch.clean.device, non_blocking=True), noise


def draw_seeds(n_clips: int, seed: int, step: int, replica: Replica = SINGLE_PROCESS) -> list[int]:
    """Draw a seed for the reverse process of each clip of a training step; (seed, step) alone decides them."""
    seeds: list[int] = (
        np.random.SeedSequence([seed % 2**64, step, 2]).generate_state(replica.world_size * n_clips).tolist()
    )
    return seeds[replica.rank * n_clips : (replica.rank + 1) * n_clips]


def mel_noise(deviation_db: float, seed: int, step: int, replica: Replica = SINGLE_PROCESS) -> MelNoise:
    """Return what adds normal noise to the mels of a training step; (seed, step) alone decides it.

    Args:
        deviation_db: Standard deviation of the noise, in dB.
        seed: The run's seed.
        step: The step.
        replica: As in `draw`.

    Returns:
        A function of mels `(batch, n_mels, frames)` and their convention; no value falls below the convention's floor.
    """
    (noise_seed,) = _seeds(seed, step, 3, 1)

    def add(mel: Tensor, config: MelConfig) -> Tensor:
        natural = config.log == "natural"
        per_db = config.multiplier * config.power * (math.log(10) if natural else 1.0) / 20
        lowest = config.multiplier * (math.log if natural else math.log10)(config.floor) + config.offset
        noisy = mel + deviation_db * per_db * _normal(mel, noise_seed, replica)
        low, high = config.clip or (-math.inf, math.inf)
        return noisy.clamp(max(low, lowest), high)

    return add


def _seeds(seed: int, step: int, purpose: int, count: int) -> list[int]:
    seeds: list[int] = np.random.SeedSequence([seed % 2**64, step, purpose]).generate_state(count, np.uint64).tolist()
    return seeds


def _normal(like: Tensor, seed: int, replica: Replica) -> Tensor:
    """Draw standard normal noise for the batches of all processes, and return this one's."""
    shape = (replica.world_size * len(like), *like.shape[1:])
    noise = torch.randn(shape, generator=torch.Generator(like.device).manual_seed(seed), device=like.device)
    return noise[replica.rank * len(like) : (replica.rank + 1) * len(like)]
