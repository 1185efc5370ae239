"""Where model, schedule, sampler and audio meet: `Vocoder` (from a mel) and `Generator` (from a label or nothing)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import TypedDict, Unpack

from audiodiff.audio.griffin_lim import waveform_from_mel
from audiodiff.audio.mel import MelSpectrogram, align_to_blocks, check_mel
from audiodiff.audio.whitening import Whitening
from audiodiff.checkpoint import choose_device, find_model, load_model
from audiodiff.config import ModelConfig, SynthesisConfig, parse_config
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import diffuse, noise_from
from audiodiff.diffusion.samplers import SAMPLERS, NoisePredictor, StepCallback
from audiodiff.diffusion.schedules import make_schedule
from audiodiff.errors import ConfigError, ModelError
from audiodiff.networks.build import Network

PURE_NOISE_LOG_SNR = -4.0
"""Above this a schedule does not start from what is nearly pure noise (about 13 % of its amplitude is signal)."""

PHASE_DRAW = -1
"""The draw of position-indexed noise that Griffin-Lim takes its first phases from; steps count up from 0."""


class SynthesisChanges(TypedDict, total=False):
    """What a caller may change of the reverse process; the fields are those of `audiodiff.config.SynthesisConfig`."""

    steps: int
    sampler: str
    schedule: str
    start: str
    start_log_snr: float
    end_log_snr: float
    griffin_lim_iterations: int


def _levels(settings: SynthesisConfig) -> Tensor:
    ends = {"log_snr_min": settings.start_log_snr, "log_snr_max": settings.end_log_snr}
    return make_schedule(settings.schedule, settings.steps, **ends)


class _Pipeline:
    """What both pipelines share: a network, its configuration, and the reverse process."""

    def __init__(self, network: Network, config: ModelConfig) -> None:
        self.network = network
        self.config = config
        self.device = next(network.parameters()).device

    @property
    def sample_rate(self) -> int:
        """Hz of the audio that comes out."""
        return self.config.sample_rate

    def _settings(self, changes: SynthesisChanges) -> SynthesisConfig:
        own = self.config.synthesis.model_dump()
        if changes.get("start", own["start"]) != own["start"]:  # the model's own first level is for its own start
            own["start_log_snr"] = self.config.diffusion.log_snr_min
        settings = parse_config(SynthesisConfig, own | changes, "the synthesis settings")
        first, chosen = (float(_levels(levels)[0]) for levels in (settings, self.config.synthesis))
        allowed = max(PURE_NOISE_LOG_SNR, chosen if self.config.synthesis.start == "noise" else PURE_NOISE_LOG_SNR)
        if settings.start == "noise" and first > allowed:
            warnings.warn(
                f"schedule {settings.schedule!r} with {settings.steps} steps begins at log-SNR {first:.1f}, "
                f"but sampling starts from pure noise; choose one that begins below {allowed:.1f}.",
                stacklevel=4,  # the caller, beyond torch's wrapper for inference mode
            )
        return settings

    def _predictor(self, condition: Tensor | None, label: Tensor | None) -> NoisePredictor:
        def predict(x: Tensor, log_snr: Tensor) -> Tensor:
            return noise_from(self.network(x, log_snr, condition, label), x, log_snr, self.config.diffusion.target)

        return predict

    def _reverse(
        self,
        estimate: Tensor | None,
        seeds: Sequence[int],
        *,
        n_samples: int,
        settings: SynthesisConfig,
        predictor: NoisePredictor,
        on_step: StepCallback | None,
    ) -> Tensor:
        """Diffuse the estimate (or nothing) to the first noise level, and walk back to a clean whitened signal."""
        levels = _levels(settings)
        draw = partial(position_noise, seeds, n_samples=n_samples, device=self.device)
        x = draw(0)
        if estimate is not None:
            x = diffuse(estimate, x, levels[:1].expand(len(seeds)))
        return SAMPLERS[settings.sampler](predictor, x, levels, draw, on_step=on_step)


class Vocoder(_Pipeline):
    """Turn mel spectrograms into waveforms.

    Args:
        network: A network with a mel condition.
        config: Its configuration.

    Raises:
        ModelError: If the model has no mel condition.

    Example:
        >>> from audiodiff import Vocoder, load_audio, save_audio  # doctest: +SKIP
        >>> vocoder = Vocoder.from_pretrained()  # doctest: +SKIP
        >>> audio = load_audio("in.wav", sample_rate=vocoder.sample_rate)  # doctest: +SKIP
        >>> save_audio("out.wav", vocoder(vocoder.mel(audio), seed=0), vocoder.sample_rate)  # doctest: +SKIP
    """

    def __init__(self, network: Network, config: ModelConfig) -> None:
        super().__init__(network, config)
        if config.mel is None:
            raise ModelError("this model takes no mel spectrogram, so it cannot vocode. Use Generator.")
        self.mel_config = config.mel
        self._spectrogram = MelSpectrogram(config.mel).to(self.device)
        self._whitening = Whitening(config.whitening, config.mel).to(self.device)

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, device: str = "auto") -> Vocoder:
        """Load a vocoder.

        Args:
            name: A model folder, a bundled model, a hub id, or None for the bundled default.
            device: "auto", "cpu", "cuda", "cuda:1" ...

        Returns:
            The vocoder.

        Raises:
            ModelError: If the model cannot be found, is damaged, or is no vocoder.
        """
        return cls(*load_model(find_model(name), choose_device(device)))

    def mel(self, audio: Tensor) -> Tensor:
        """Compute the mel spectrogram that this model wants; the audio is padded with zeros to whole hops.

        Args:
            audio: Waveforms `(..., time)` at `sample_rate`.

        Returns:
            Mels `(..., n_mels, frames)`.

        Raises:
            AudioError: If the audio is shorter than a frame.
        """
        self._spectrogram.n_frames(audio.shape[-1])
        padding = -audio.shape[-1] % self.mel_config.hop_length
        mel: Tensor = self._spectrogram(functional.pad(audio.to(self.device), (0, padding)))
        return mel

    @torch.inference_mode()
    def __call__(
        self,
        mel: Tensor,
        *,
        seed: int | Sequence[int] = 0,
        on_step: StepCallback | None = None,
        **changes: Unpack[SynthesisChanges],
    ) -> Tensor:
        """Synthesise waveforms.

        Args:
            mel: Mel spectrograms `(..., n_mels, frames)` of this model's convention.
            seed: One seed for every waveform, or one for each. A waveform depends on its mel and seed alone.
            on_step: Called with (step, whitened signal) after every step.
            **changes: What is to differ from the model's own `SynthesisConfig`, for example `steps=12`. Another start
                begins at the lowest trained noise level, unless `start_log_snr` says otherwise.

        Returns:
            Waveforms `(..., time)`, float32 on the model's device, one hop per block of the mel.

        Raises:
            MelError: If the mel does not fit the model.
            ConfigError: If there are not as many seeds as waveforms, or a setting is impossible.
        """
        check_mel(mel, self.mel_config)
        settings = self._settings(changes)
        blocks = align_to_blocks(mel.reshape(-1, *mel.shape[-2:]).to(self.device, torch.float32), self.mel_config)
        seeds = [seed] * len(blocks) if isinstance(seed, int) else list(seed)
        if len(seeds) != len(blocks):
            raise ConfigError(f"{len(seeds)} seeds for {len(blocks)} waveforms; give one seed, or one for each.")
        audio = self.synthesise(blocks, seeds, settings=settings, on_step=on_step)
        return audio.reshape(*mel.shape[:-2], -1)

    def synthesise(
        self,
        blocks: Tensor,
        seeds: Sequence[int],
        *,
        settings: SynthesisConfig | None = None,
        predictor: NoisePredictor | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Do what a call does once its input is checked; differentiable in the network, so that training can use it.

        Args:
            blocks: Mels with one frame per block `(batch, n_mels, n_blocks)`.
            seeds: One for each waveform.
            settings: The reverse process; None is the model's own.
            predictor: The network with its conditions bound; None binds this model's to `blocks`.
            on_step: Called with (step, whitened signal) after every step.

        Returns:
            Waveforms `(batch, 1, n_blocks * hop_length)`.
        """
        settings = settings or self.config.synthesis
        n_samples = blocks.shape[-1] * self.mel_config.hop_length
        estimate = None
        if settings.start == "griffin-lim":
            with torch.no_grad():
                phases = position_noise(seeds, PHASE_DRAW, n_samples=n_samples, device=self.device)
                iterations = settings.griffin_lim_iterations
                guess = waveform_from_mel(blocks, phases, self._spectrogram, iterations=iterations)
                estimate = self._whitening.whiten(guess, blocks)
        signal = self._reverse(
            estimate,
            seeds,
            n_samples=n_samples,
            settings=settings,
            predictor=predictor or self._predictor(self.network.encode(blocks), None),
            on_step=on_step,
        )
        return self._whitening.colour(signal, blocks)

    def colour(self, signal: Tensor, blocks: Tensor) -> Tensor:
        """Undo the whitening of signals `(batch, 1, time)` by their mels `(batch, n_mels, n_blocks)`."""
        return self._whitening.colour(signal, blocks)


class Generator(_Pipeline):
    """Make waveforms from a class label, or from nothing.

    Args:
        network: A network without a mel condition.
        config: Its configuration.

    Raises:
        ModelError: If the model needs a mel.
    """

    def __init__(self, network: Network, config: ModelConfig) -> None:
        super().__init__(network, config)
        if config.mel is not None:
            raise ModelError("this model needs a mel spectrogram, so it cannot generate from nothing. Use Vocoder.")
        self._whitening = Whitening(config.whitening, None).to(self.device)

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "auto") -> Generator:
        """Load a generator; arguments and errors as in `Vocoder.from_pretrained`."""
        return cls(*load_model(find_model(name), choose_device(device)))

    @torch.inference_mode()
    def generate(
        self,
        label: str | None = None,
        count: int = 1,
        seconds: float | None = None,
        *,
        seed: int = 0,
        on_step: StepCallback | None = None,
        **changes: Unpack[SynthesisChanges],
    ) -> Tensor:
        """Generate clips.

        Args:
            label: One of the model's labels; None for a model without labels.
            count: How many clips.
            seconds: Length of each; None means the model's own.
            seed: Clip i is made from seed + i, so it is the same whatever the count.
            on_step: Called with (step, signal) after every step.
            **changes: What is to differ from the model's own `SynthesisConfig`, for example `steps=50`.

        Returns:
            Waveforms `(count, 1, time)`, float32 on the model's device.

        Raises:
            ConfigError: If the label is unknown, or the length, the count or a setting impossible.
        """
        settings = self._settings(changes)
        n_samples = self._n_samples(seconds)
        if settings.start != "noise":
            raise ConfigError(f"start {settings.start!r} needs a mel, which this model has not; use 'noise'.")
        if count < 1:
            raise ConfigError(f"count is {count}; it must be at least 1.")
        block = self.config.block_length
        seeds = range(seed, seed + count)
        predictor = self._predictor(None, self._label_index(label, count))
        whole = -(-n_samples // block) * block
        signal = self._reverse(None, seeds, n_samples=whole, settings=settings, predictor=predictor, on_step=on_step)
        return self._whitening.colour(signal, None)[..., :n_samples]

    def _n_samples(self, seconds: float | None) -> int:
        seconds = self.config.clip_seconds if seconds is None else seconds
        if seconds is None:
            raise ConfigError("this model states no length of its own; give seconds.")
        n_samples = round(seconds * self.sample_rate)
        if n_samples < 1:
            raise ConfigError(f"seconds is {seconds}; at {self.sample_rate} Hz that is no sample.")
        return n_samples

    def _label_index(self, label: str | None, count: int) -> Tensor | None:
        labels = self.config.labels
        if label is None:
            if labels:
                raise ConfigError(f"this model needs a label; choose from {', '.join(labels)}.")
            return None
        if label not in labels:
            raise ConfigError(f"unknown label {label!r}; this model knows {', '.join(labels) or 'none'}.")
        return torch.full((count,), labels.index(label), device=self.device)
