"""What both pipelines share: a network, its configuration, the engine that runs it, and the reverse process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property, partial

from torch import Tensor
from typing_extensions import TypedDict

from audiodiff.config import ModelConfig, SynthesisConfig, parse_config
from audiodiff.diffusion.correctors import Langevin
from audiodiff.diffusion.guidance import Guidance
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import diffuse
from audiodiff.diffusion.reverse import answer_from
from audiodiff.diffusion.samplers import SAMPLERS, NoiseSource, StepCallback, Walk, count_questions
from audiodiff.diffusion.schedules import make_schedule
from audiodiff.engine.choose import Dtype, Engine, choose_dtype, make_engine
from audiodiff.engine.guided import guided_stream
from audiodiff.engine.streams import Stream
from audiodiff.engine.wavefront import Wavefront
from audiodiff.networks.build import Network
from audiodiff.pipelines.given import check_guidance, conditions

PURE_NOISE_LOG_SNR = -4.0
"""Above this a schedule does not start from what is nearly pure noise (about 13 % of its amplitude is signal)."""


class SynthesisChanges(TypedDict, total=False):
    """What a caller may change of the reverse process; the fields are those of `audiodiff.config.SynthesisConfig`."""

    steps: int
    sampler: str
    corrector_steps: int
    corrector_snr: float
    schedule: str
    start: str
    start_log_snr: float
    end_log_snr: float
    griffin_lim_iterations: int
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None


def noise_levels(settings: SynthesisConfig) -> Tensor:
    """Return the log-SNR `(steps + 1,)` of a reverse process."""
    ends = {"log_snr_min": settings.start_log_snr, "log_snr_max": settings.end_log_snr}
    return make_schedule(settings.schedule, settings.steps, **ends)


def make_corrector(settings: SynthesisConfig) -> Langevin | None:
    """Return what is done at every level of a reverse process before the step from there, if anything."""
    return Langevin(settings.corrector_steps, settings.corrector_snr) if settings.corrector_steps else None


def network_calls(settings: SynthesisConfig) -> int:
    """Return how often a reverse process calls the network."""
    return count_questions(settings.sampler, noise_levels(settings), make_corrector(settings))


class Pipeline:
    """A network that makes audio.

    Args:
        network: The network; the engine takes its weights as they are when audio is first made.
        config: Its configuration.
        dtype: Precision of the network's matrix products: "fp32", "bf16", or "auto" for bf16 where the hardware has it.

    Raises:
        ConfigError: If there is no such dtype.
    """

    def __init__(self, network: Network, config: ModelConfig, dtype: Dtype = "auto") -> None:
        self.network = network
        self.config = config
        self.device = next(network.parameters()).device
        self.dtype = choose_dtype(dtype, self.device)
        self._given: Tensor | None = None  # what the network's `embed` returned of one clip, where it has been told

    @cached_property
    def engine(self) -> Engine:
        """What runs the network here."""
        return make_engine(self.network, self.config, self.dtype, self.device)

    @property
    def sample_rate(self) -> int:
        """Hz of the audio that comes out."""
        return self.config.sample_rate

    def settings(self, changes: SynthesisChanges) -> SynthesisConfig:
        """Return the model's own reverse process with some changes.

        Raises:
            ConfigError: If a setting is impossible.
        """
        own = self.config.synthesis.model_dump()
        if changes.get("start", own["start"]) != own["start"]:  # the model's own first level is for its own start
            own["start_log_snr"] = self.config.diffusion.log_snr_min
        settings = parse_config(SynthesisConfig, own | changes, "the synthesis settings")
        check_guidance(self.config, settings)
        first, chosen = (float(noise_levels(levels)[0]) for levels in (settings, self.config.synthesis))
        allowed = max(PURE_NOISE_LOG_SNR, chosen if self.config.synthesis.start == "noise" else PURE_NOISE_LOG_SNR)
        if settings.start == "noise" and first > allowed:
            warnings.warn(
                f"schedule {settings.schedule!r} with {settings.steps} steps begins at log-SNR {first:.1f}, "
                f"but sampling starts from pure noise; choose one that begins below {allowed:.1f}.",
                stacklevel=4,  # the caller, beyond torch's wrapper for inference mode
            )
        return settings

    def _given_to(self, n_clips: int) -> Tensor | None:
        """Return what so many clips are given of whole clips `(n_clips, width)`, or None for nothing."""
        if self._given is None:
            conditions(self.config, self.device, label=None, speaker=None, vector=None)  # refuses what must be told
            return None
        return self._given.expand(n_clips, -1)

    def _begin(
        self, estimate: Tensor | None, seeds: Sequence[int], levels: Tensor, *, start: int, n_samples: int
    ) -> tuple[Tensor, NoiseSource]:
        """Diffuse an estimate (or nothing) of samples [start, start + n_samples) to the first noise level.

        Returns:
            The noisy signal `(batch, 1, n_samples)`, and where its further noise comes from.
        """
        draw = partial(position_noise, seeds, start=start, n_samples=n_samples, device=self.device)
        x = draw(0)
        if estimate is not None:
            x = diffuse(estimate, x, levels[:1].expand(len(seeds)))
        return x, draw

    def _walk(
        self, estimate: Tensor | None, seeds: Sequence[int], settings: SynthesisConfig, *, start: int, n_samples: int
    ) -> Walk:
        """Return the reverse process of a piece, not yet begun."""
        levels = noise_levels(settings)
        x, draw = self._begin(estimate, seeds, levels, start=start, n_samples=n_samples)
        return SAMPLERS[settings.sampler].walk(x, levels, draw, corrector=make_corrector(settings))

    def _wavefront(
        self,
        settings: SynthesisConfig,
        on_step: StepCallback | None,
        *,
        given: Tensor | None = None,
        alone: bool = False,
    ) -> Wavefront:
        """Return the reverse process of pieces.

        Args:
            settings: The reverse process.
            on_step: Called with (step, x) after every step of every piece.
            given: What the network's `embed` returned of the conditions `(batch, width)`, or None.
            alone: Whether to keep to the calling thread, so that the result lags no further.
        """
        n_questions = network_calls(settings)
        guidance = Guidance(settings.guidance, settings.guidance_rescale, settings.guidance_interval)

        def make_stream(log_snr: Tensor) -> Stream:
            null = self.network.embed() if guidance.acts_at(float(log_snr)) else None
            if given is None or null is None:
                return self.engine.stream(log_snr, given)
            return guided_stream(self.engine, log_snr, given, null, guidance, self.config.diffusion.target)

        return Wavefront(
            make_stream,
            partial(answer_from, config=self.config.diffusion),
            n_steps=settings.steps,
            n_questions=n_questions,
            on_step=on_step,
            relay=None if alone else self.engine.relay(n_questions),
        )
