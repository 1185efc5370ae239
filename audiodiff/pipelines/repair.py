"""Restoration without retraining: the reverse process of any model, constrained by the degraded recording.

The recording is first restored without a model (the baseline). Where that is not enough it is diffused to a middle
noise level (Meng et al. 2022, "SDEdit") and denoised; on the way every predicted clean signal is made to fit what is
known. That is done in audio, between colouring and whitening, so that a mel model can be used as well as an
unconditional one. Its mel comes from the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import Unpack

from audiodiff.audio.degradation import Degradation, Gaps, LowPass, MelStatistics, ignore
from audiodiff.audio.mel import align_to_hops
from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.audio.whitening import Whitening
from audiodiff.choices import ANY_SEED, DPS_STRENGTH, ROUNDS, RepairMethod
from audiodiff.config import SynthesisConfig, parse_config
from audiodiff.diffusion.inverse_problems import consistent, dps, resampled
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import Prediction, diffuse
from audiodiff.diffusion.samplers import SAMPLERS, Predictor
from audiodiff.errors import AudioError, ConfigError
from audiodiff.networks.base import isolated
from audiodiff.networks.conditioning import check_guidance, make_conditions
from audiodiff.pipelines.generator import Generator
from audiodiff.pipelines.settings import SETTINGS, SynthesisChanges, make_corrector, migrated
from audiodiff.pipelines.vocoder import Vocoder

RepairStart = Literal["baseline", "phase-gradient", "griffin-lim", "noise"]


class RepairDefaults(NamedTuple):
    """Where the reverse process begins, its number of steps and its rounds; see `RepairConfig`."""

    start_log_snr: float
    steps: int
    rounds: int


GAP_DEFAULTS = RepairDefaults(0.0, 10, 2)
"""For gaps, where all has to be invented: from where signal and noise are equally loud."""
OTHER_DEFAULTS = RepairDefaults(4.0, 3, 1)
"""For all else, where the baseline is nearly right."""
_GRIFFIN_LIM_ITERATIONS = 32
"""Of models whose own start is another, and may count one."""


@dataclass(frozen=True)
class RepairConfig:
    """How a recording is repaired.

    Attributes:
        start: What is diffused to the first level. "baseline", the restoration without a model, is best where that is
            nearly right; "griffin-lim" and "phase-gradient" invert the mel where the baseline is silent; "noise" is for
            models that are good from nothing. None is "baseline"; but for bandwidth, if the model has a mel, the
            model's own start, with its own levels and steps.
        replace: Whether every predicted clean signal is made to fit what is known. Without it what is known is changed
            too; that is for measuring what it brings.
        dps_strength: Factor of the gradient of the misfit (Chung et al. 2023, "DPS"): 0 is none and takes half the
            time. For models that leave a seam; the bundled one is better without.
        rounds: How often each step is taken; more make what is new agree better with what is known. None is 2 for gaps,
            1 for all else.
        method: "auto" diffuses only where that was measured to be better than the baseline: gaps that cannot be
            predicted, and missing bandwidth. "baseline" is without a model, "diffusion" always with it.
    """

    start: RepairStart | None = None
    replace: bool = True
    dps_strength: float = 0.0
    rounds: int | None = None
    method: RepairMethod = "auto"

    def __post_init__(self) -> None:
        if self.rounds is not None:
            ROUNDS.check("rounds", self.rounds)
        DPS_STRENGTH.check("dps_strength", self.dps_strength)


@isolated("off")
def repair(
    pipeline: Vocoder | Generator,
    audio: ArrayLike,
    degradation: Degradation,
    config: RepairConfig | None = None,
    *,
    label: str | None = None,
    speaker: str | None = None,
    vector: ArrayLike | None = None,
    seed: int = 0,
    restored: tuple[Tensor, Degradation | None] | None = None,
    on_progress: Callable[[float], object] = lambda fraction: None,
    **changes: Unpack[SynthesisChanges],
) -> Tensor:
    """Repair a recording.

    The whole of it is in memory at once: 350 MB per minute with the bundled model, twice that with `dps_strength`.

    Args:
        pipeline: The model, of the recording's sample rate.
        audio: The degraded recording `(channels, time)`.
        degradation: What happened to it.
        config: How it is repaired.
        label: What the recording is, for a model with labels.
        speaker: Who is to be heard, likewise.
        vector: What the model was trained to follow `(vector_width,)`.
        seed: What the noise is made from; channel i takes seed + i.
        restored: What `degradation.restored(audio)` was, if known already.
        on_progress: Called after every network call with the fraction of the work done since the last.
        **changes: What is to differ from the model's own `SynthesisConfig`, and from `GAP_DEFAULTS` or
            `OTHER_DEFAULTS`, which replace its schedule except for bandwidth from the model's own start.

    Returns:
        The repaired recording, of the shape of `audio`, on the model's device.

    Raises:
        ConfigError: If a setting is impossible, or the model cannot start so.
        AudioError: If the recording is too short, or the degradation cannot be in it.
    """
    config, seed = config or RepairConfig(), ANY_SEED.check("seed", seed)
    start = config.start or _default_start(pipeline, degradation)
    settings, rounds = _settings(pipeline, degradation, replace(config, start=start), changes)
    audio = _recording(audio).to(pipeline.device, torch.float32)
    conditions = make_conditions(pipeline.config, pipeline.device, label=label, speaker=speaker, vector=vector)
    baseline, remaining = restored or degradation.restored(audio)
    remaining = {"auto": remaining, "baseline": None, "diffusion": degradation}[config.method]
    if remaining is None:
        on_progress(1)
        return baseline
    mask = remaining.mask(audio)
    seeds = range(seed, seed + len(audio))
    known = _know(pipeline, torch.where(mask, audio, baseline), baseline, remaining)
    known = replace(known, estimate=_estimate(pipeline, known, settings, start, seeds))
    plain = partial(pipeline.plain_predictor, None if known.mel is None else pipeline.network.encode(known.mel))
    predict = _heeding(pipeline.guided(plain, pipeline.network.embed(conditions), settings), known, config)
    predict = _reporting(predict, 1 / (rounds * pipeline.network_calls(settings)), on_progress)
    made = _generate(pipeline, predict, known, settings, rounds, seeds, start)
    return torch.where(mask, made, baseline) if config.replace else made


def _heeding(predict: Predictor, known: _Known, config: RepairConfig) -> Predictor:
    """Make predictions heed what is known."""
    if config.dps_strength > 0:
        predict = dps(predict, known.residual, config.dps_strength)
    return consistent(predict, known.fit) if config.replace else predict


def _default_start(pipeline: Vocoder | Generator, degradation: Degradation) -> RepairStart:
    """Return what to start from: missing bandwidth is vocoded, as the baseline is silent in a whole band."""
    if isinstance(degradation, LowPass) and isinstance(pipeline, Vocoder):
        return pipeline.config.synthesis.start
    return "baseline"


def _generate(
    pipeline: Vocoder | Generator,
    predict: Predictor,
    known: _Known,
    settings: SynthesisConfig,
    rounds: int,
    seeds: range,
    start: RepairStart,
) -> Tensor:
    """Run the reverse process, and return the audio it ends with `(channels, time)`."""
    log_snrs = pipeline.noise_levels(settings)
    noise = partial(position_noise, seeds, n_samples=known.estimate.shape[-1], device=pipeline.device)
    x = noise(0) if start == "noise" else diffuse(known.estimate, noise(0), log_snrs[0])
    sampler, corrector = SAMPLERS[settings.sampler], make_corrector(settings)
    return known.audio(resampled(sampler, predict, x, log_snrs, noise, rounds=rounds, corrector=corrector))


def _reporting(predict: Predictor, fraction: float, on_progress: Callable[[float], object]) -> Predictor:
    """Return a predictor that reports a fraction of the work after each of its calls."""

    def reporting(x: Tensor, log_snr: Tensor) -> Prediction:
        prediction = predict(x, log_snr)
        on_progress(fraction)
        return prediction

    return reporting


def _recording(audio: ArrayLike) -> Tensor:
    """Return a recording `(channels, time)` as a tensor, or refuse it."""
    audio = as_tensor(audio, "audio", AudioError)
    if audio.ndim != 2 or not audio.is_floating_point() or not bool(audio.isfinite().all()):
        raise AudioError(
            f"audio has shape {tuple(audio.shape)} and type {audio.dtype}; expected (channels, time), floating point "
            "and finite."
        )
    return audio


def _settings(
    pipeline: Vocoder | Generator, degradation: Degradation, config: RepairConfig, changes: SynthesisChanges
) -> tuple[SynthesisConfig, int]:
    """Return the reverse process, and how often each of its steps is taken."""
    defaults = GAP_DEFAULTS if isinstance(degradation, Gaps) else OTHER_DEFAULTS
    values, changes = pipeline.config.synthesis.model_dump(), migrated(changes)
    if not (isinstance(degradation, LowPass) and config.start == pipeline.config.synthesis.start):
        values |= {"schedule": "uniform", "log_snrs": (), "zero_terminal": False, "steps": defaults.steps}
        values["start_log_snr"] = defaults.start_log_snr
        if config.start == "noise":
            values["start_log_snr"] = pipeline.config.diffusion.log_snr_min
    if config.start == "griffin-lim" != values["start"]:
        values["griffin_lim_iterations"] = _GRIFFIN_LIM_ITERATIONS
    values["start"] = "noise" if config.start == "baseline" else config.start
    if changes.get("log_snrs"):
        del values["steps"]
    settings = parse_config(SynthesisConfig, values | changes, SETTINGS)
    check_guidance(pipeline.config, settings)
    return settings, config.rounds or defaults.rounds


@dataclass(frozen=True)
class _Known:
    """What a degraded recording tells of the whitened signal `(channels, 1, time)`.

    Attributes:
        degradation: What happened to it.
        degraded: The recording `(channels, time)`.
        baseline: Its restoration without a model, of that shape.
        padding: Zeros that the signal has after it, to fill a hop.
        estimate: The whitened signal to start from.
        whitening: The model's.
        mel: The completed mel `(channels, n_mels, n_frames)`, or None for a model without.
    """

    degradation: Degradation
    degraded: Tensor
    baseline: Tensor
    padding: int
    estimate: Tensor
    whitening: Whitening
    mel: Tensor | None

    def audio(self, signal: Tensor) -> Tensor:
        """Colour a signal, and leave the padding out: `(channels, time)`."""
        return self.whitening.colour(signal, self.mel)[:, 0, : self.degraded.shape[-1]]

    def signal(self, audio: Tensor) -> Tensor:
        """Pad audio `(channels, time)` and whiten it."""
        return self.whitening.whiten(self._padded(audio), self.mel)

    def _padded(self, audio: Tensor) -> Tensor:
        return functional.pad(audio.unsqueeze(1), (0, self.padding))

    def fit(self, denoised: Tensor, deviation: float) -> Tensor:
        """Make a predicted clean signal fit what is known; see `audiodiff.diffusion.inverse_problems.Consistency`."""

        def shrink(difference: Tensor, noise: float) -> Tensor:
            kept = self.whitening.shrink(
                self._padded(difference), self.mel, signal_deviation=deviation, noise_deviation=noise
            )
            return kept[:, 0, : difference.shape[-1]]

        return self.signal(self.degradation.fit(self.audio(denoised), self.degraded, self.baseline, shrink))

    def residual(self, denoised: Tensor) -> Tensor:
        """Return what the recording says otherwise than a predicted clean signal does, whitened."""
        observe = self.degradation.observe
        return self.signal(observe(self.degraded) - observe(self.audio(denoised)))


def _know(pipeline: Vocoder | Generator, audio: Tensor, baseline: Tensor, degradation: Degradation) -> _Known:
    """Find the mel from what was restored without a model, and start from that."""
    padding = -audio.shape[-1] % pipeline.config.hop_length
    if isinstance(pipeline, Generator):
        whitening, mel = Whitening(pipeline.config.whitening, None).to(audio.device), None
    else:
        whitening, mel = pipeline.whitening, align_to_hops(pipeline.mel(baseline), pipeline.mel_config)
        mel = degradation.mel(mel, pipeline.spectrogram, _mel_statistics(pipeline))
    known = _Known(degradation, audio, baseline, padding, baseline, whitening, mel)
    return replace(known, estimate=known.signal(baseline))


def _estimate(
    pipeline: Vocoder | Generator, known: _Known, settings: SynthesisConfig, start: RepairStart, seeds: Sequence[int]
) -> Tensor:
    """Return the whitened signal to start from: what is known, or a mel inverted and made to fit that."""
    if start in ("baseline", "noise"):
        return known.estimate
    if known.mel is None or isinstance(pipeline, Generator):
        raise ConfigError(f"start {start!r} needs a mel, which this model has not; use 'baseline' or 'noise'.")
    signal = cast(Tensor, pipeline.initialisation.estimate(known.mel, seeds, settings))
    guess = known.degradation.fit(known.audio(signal), known.degraded, known.baseline, ignore)
    return known.signal(guess)


def _mel_statistics(vocoder: Vocoder) -> MelStatistics:
    normalise = vocoder.network.normalise_mel
    if normalise is None:
        raise ConfigError("this network was built without a mel condition.")
    return MelStatistics(normalise.mean, normalise.deviation)
