"""Validation that compares between steps and runs: the same crops, noise levels and noise every time.

The likelihood is bounded in bits per sample. The recording counts as 16-bit audio: its samples are intervals of 2^-15
of full scale. Whitening stretches them, by its determinant frame by frame, so models with different whitenings compare.
The bound is on the likelihood given the mel and the label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from audiodiff.config import ModelConfig, TrainingConfig
from audiodiff.data.crops import CropReader, Example, stack
from audiodiff.data.dataset import Failure, OnFailure
from audiodiff.data.manifest import Recording
from audiodiff.data.mels import recording_mel
from audiodiff.diffusion.likelihood import decoder_cost, noise_error, prior_divergence, step_divergence
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import alpha_sigma, diffuse
from audiodiff.diffusion.variance import log_ratio, split_output, variance_fraction_from
from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.scoring import score
from audiodiff.networks import Network
from audiodiff.pipelines import Generator, Vocoder
from audiodiff.training.callbacks import Clip
from audiodiff.training.objective import Batch, FewStepLoss, Objective, Predict, predict_with

SAMPLE_WIDTH = 2.0**-15
"""Distance of neighbouring values of 16-bit audio, full scale being 1."""

STEPS_EVALUATED = 32
"""Steps of the process at which a clip is looked at; they stand for all."""

LEAST_VARIANCE_FRACTION = 1e-3
"""Smallest learned variance of the clean signal after the last level, relative to that of its posterior there."""

_TO_BITS = 1 / math.log(2)


@dataclass(frozen=True)
class ValidationResult:
    """The loss on the validation crops.

    Attributes:
        loss: What training minimises: the mean over all noise levels, plus the weighted few-step loss where it is used.
        by_log_snr: Log-SNR to the mean denoising loss there.
        few_step: The few-step loss, where training uses it.
        bits: Variational bound in bits per sample, where it is wanted; see `bits_per_sample`.
    """

    loss: float
    by_log_snr: dict[float, float]
    few_step: float | None = None
    bits: float | None = None


class Validator:
    """Measures the loss of a network on fixed crops at noise levels evenly spaced in log-SNR.

    Args:
        crops: The validation crops.
        objective: The loss.
        config: How many levels, how many crops at a time, the weight of the few-step loss, and whether to bound the
            likelihood.
        few_step: The few-step loss, where training uses it.
    """

    def __init__(
        self,
        crops: Sequence[Example],
        objective: Objective,
        config: TrainingConfig,
        few_step: FewStepLoss | None = None,
    ) -> None:
        self._few_step = few_step
        self._few_step_weight = config.few_step_weight
        self._bits_wanted = config.validation_bits
        self._crops = crops
        self._objective = objective
        self._batch_size = config.batch_size
        diffusion = objective.config.diffusion
        self._log_snrs = torch.linspace(diffusion.log_snr_min, diffusion.log_snr_max, config.validation_levels).tolist()

    @torch.no_grad()
    def __call__(self, network: Network) -> ValidationResult:
        """Measure a network.

        Args:
            network: In evaluation mode, on the objective's device.

        Returns:
            The losses.
        """
        predict = predict_with(network)
        totals = torch.zeros(len(self._log_snrs), device=self._objective.device)
        few_step_total = bits_total = 0.0
        for first in range(0, len(self._crops), self._batch_size):
            crops = list(self._crops[first : first + self._batch_size])
            batch = self._objective.prepare(stack(crops))
            totals += torch.stack([self._loss(predict, batch, first, level) for level in range(len(self._log_snrs))])
            seeds = range(first, first + len(crops))
            if self._bits_wanted:
                bits_total += float(bits_per_sample(self._objective, predict, batch, seeds).sum())
            if self._few_step is not None:
                few_step_total += float(self._few_step(predict, batch, seeds).sum())
        losses = (totals / len(self._crops)).tolist()
        by_log_snr = dict(zip(self._log_snrs, losses, strict=True))
        loss = sum(losses) / len(losses)
        bits = bits_total / len(self._crops) if self._bits_wanted else None
        if self._few_step is None:
            return ValidationResult(loss, by_log_snr, bits=bits)
        few_step = few_step_total / len(self._crops)
        return ValidationResult(loss + self._few_step_weight * few_step, by_log_snr, few_step, bits)

    def _loss(self, predict: Predict, batch: Batch, first_crop: int, level: int) -> Tensor:
        """Return the summed loss of a batch at one level; noise belongs to the number of the crop and of the level."""
        n_crops, channels, n_samples = batch.clean.shape
        seeds = range(first_crop, first_crop + n_crops)
        device = batch.clean.device
        noise = position_noise(seeds, level, n_samples=n_samples, channels=channels, device=device)
        log_snr = torch.full((n_crops,), self._log_snrs[level], device=device)
        return self._objective.loss(predict, batch, log_snr, noise).sum()


def bits_per_sample(objective: Objective, predict: Predict, batch: Batch, seeds: Sequence[int]) -> Tensor:
    """Return the variational bound of each clip, over the steps of `diffusion.steps` (Ho et al. 2020, Eq. 5).

    The sum over the steps is taken from some of them, each for its neighbours too: the divergence changes slowly with
    the level. Noise comes from the seeds, so a figure repeats. Band-limited clips count with what is above their band.

    Args:
        objective: Tells model and whitening.
        predict: The network, its output as in `Objective.loss`.
        batch: What `Objective.prepare` returned.
        seeds: One for each clip.

    Returns:
        Bits per sample `(batch,)`.
    """
    config = objective.config.diffusion
    total = prior_divergence(batch.clean, config.log_snr_min).flatten(1).mean(1)
    n_evaluated = min(STEPS_EVALUATED, config.steps)
    stride = config.steps / n_evaluated
    for number in range(n_evaluated):
        level = config.log_snr_min + int((number + 0.5) * stride) * config.step_width
        log_snr = torch.full((len(batch.clean),), level, device=batch.clean.device)
        error, variance = _predict_error(objective, predict, batch, log_snr, seeds, number + 1)
        ratio = torch.zeros(()) if variance is None else log_ratio(variance, log_snr, config.step_width)
        total = total + stride * step_divergence(error, ratio.to(error), config.step_width).flatten(1).mean(1)
    return _TO_BITS * (total + _decoder_cost(objective, predict, batch, seeds))


def _predict_error(
    objective: Objective, predict: Predict, batch: Batch, log_snr: Tensor, seeds: Sequence[int], draw: int
) -> tuple[Tensor, Tensor | None]:
    """Return the error of the predicted noise, and the second output if there is one."""
    _, channels, n_samples = batch.clean.shape
    noise = position_noise(seeds, draw, n_samples=n_samples, channels=channels, device=batch.clean.device)
    x = diffuse(batch.clean, noise, log_snr)
    with objective.autocast():
        output, variance = split_output(
            predict(x, log_snr, batch.mel, batch.global_conditions), objective.config.diffusion
        )
    variance = None if variance is None else variance.float()
    return noise_error(output, x, noise, log_snr, objective.config.diffusion), variance


def _decoder_cost(objective: Objective, predict: Predict, batch: Batch, seeds: Sequence[int]) -> Tensor:
    """Return the cost of the quantised signal, given the last level, in nats per sample.

    Mean is the predicted clean signal; the variance is that of the last step's upper bound, sigma^2 (Ho et al. 2020,
    Eq. 13), or the learned fraction of it.
    """
    config = objective.config.diffusion
    log_snr = torch.full((len(batch.clean),), config.log_snr_max, device=batch.clean.device)
    error, variance = _predict_error(objective, predict, batch, log_snr, seeds, 0)
    alpha, deviation = (scale.view(-1, 1, 1) for scale in alpha_sigma(log_snr.double()))
    distance = deviation / alpha * error  # of the predicted clean signal
    if variance is not None:
        fraction = variance_fraction_from(variance, log_snr, config.step_width)
        deviation = deviation * fraction.clamp_min(LEAST_VARIANCE_FRACTION).sqrt()
    width = SAMPLE_WIDTH * objective.log_scale(batch).exp().unsqueeze(1)
    if width.shape[-1] > 1:
        width = width.repeat_interleave(error.shape[-1] // width.shape[-1], -1)
    return decoder_cost(distance, deviation, width).float().flatten(1).mean(1)


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
        mel: What the manifest names `(n_mels, frames)`, as long as `audio`; None where it is to be computed.
    """

    name: str
    audio: Tensor
    conditions: dict[str, Any]
    mel: Tensor | None = None


def choose_samples(
    recordings: Sequence[Recording], reader: CropReader, hop_length: int, on_failure: OnFailure | None = None
) -> list[Sample]:
    """Read the beginnings of a few validation recordings.

    Args:
        recordings: The validation recordings.
        reader: How to read them; the length is decided here.
        hop_length: Of the model, in samples.
        on_failure: Called with recordings that cannot be read, which are left out; without it they are errors.

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
            mel = None if reader.mel is None else recording_mel(recording, reader.mel)
        except (AudioError, DataError) as error:
            if on_failure is None:
                raise
            on_failure(Failure(recording.audio, error))
            continue
        if mel is not None and reader.mel is not None:
            mel = mel[:, : longer.n_samples // hop_length + reader.mel.frames_beyond_hops]
        samples.append(Sample(recording.audio.stem, example.audio, _conditions(recording, example, reader), mel))
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
        A clip per sample: vocoded from its mel, given or computed; or for a model without mel made from a label, the
        sample's speaker and vector, or nothing. A sample without what the model cannot do without is left out.
    """
    clips = []
    scores: dict[str, float] = {}
    for i, (name, reference, conditions, mel) in enumerate(samples):
        if config.mel is None and config.labels:
            conditions = conditions | {"label": config.labels[i % len(config.labels)]}
        if None in conditions.values() and not config.condition_dropout:
            continue
        if config.mel is not None:
            vocoder = Vocoder(network, config).with_conditions(**conditions)
            generated = vocoder(vocoder.mel(reference) if mel is None else mel.unsqueeze(0))
            n_samples = min(reference.shape[-1], generated.shape[-1])  # a mel may have a frame too many, or too few
            reference, generated = reference[:, :n_samples], generated[..., :n_samples]
        else:
            name = conditions.get("label") or f"sample {i}"
            seconds = reference.shape[-1] / config.sample_rate
            generated = Generator(network, config).generate(**conditions, seconds=seconds, seed=i)[0]
        generated = generated.cpu().float()
        if config.mel is not None:
            scores = score(generated, reference, config.sample_rate, SCORES)
        clips.append(Clip(name, reference, generated, scores, config.mel))
    return clips
