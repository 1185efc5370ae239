"""What both pipelines share: a network, its configuration, the engine that runs it, and the reverse process."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property, partial

from torch import Tensor
from typing_extensions import TypedDict

from audiodiff.config import DiffusionConfig, ModelConfig, SynthesisConfig, parse_config, searched_levels
from audiodiff.diffusion.correctors import Langevin
from audiodiff.diffusion.guidance import Guidance
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import diffuse
from audiodiff.diffusion.samplers import SAMPLERS, NoiseSource, StepCallback, Walk, count_network_calls
from audiodiff.diffusion.schedules import from_levels, make_schedule, zero_terminal
from audiodiff.diffusion.variance import answer_from
from audiodiff.engine.choose import Dtype, Engine, choose_dtype, make_engine
from audiodiff.engine.guided import guided_stream
from audiodiff.engine.streams import Stream
from audiodiff.engine.wavefront import Wavefront
from audiodiff.networks.build import Network
from audiodiff.pipelines.conditions import check_guidance, make_conditions

PURE_NOISE_LOG_SNR = -4.0
"""Above this a schedule does not start from what is nearly pure noise (about 13 % of its amplitude is signal)."""

_INSTEAD_OF_LEVELS = {"steps", "schedule", "start", "start_log_snr", "end_log_snr"}
"""Changes that ask for other levels than those a model states one by one."""


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
    zero_terminal: bool
    levels: Sequence[float]
    griffin_lim_iterations: int
    guidance: float
    guidance_rescale: float
    guidance_interval: tuple[float, float] | None


def noise_levels(settings: SynthesisConfig, diffusion: DiffusionConfig) -> Tensor:
    """Return the log-SNR `(steps + 1,)` of a reverse process.

    Args:
        settings: The reverse process.
        diffusion: How the network was trained: how low its levels go.

    Raises:
        ConfigError: If there is no such schedule.
    """
    levels = _levels(settings)
    return zero_terminal(levels, floor=diffusion.log_snr_min) if settings.zero_terminal else levels


def _levels(settings: SynthesisConfig) -> Tensor:
    ends = {"log_snr_min": settings.start_log_snr, "log_snr_max": settings.end_log_snr}
    if settings.levels:
        return from_levels(settings.levels)
    if settings.schedule == "searched":
        return from_levels(searched_levels(settings.searched, settings.steps, settings.start, settings.sampler))
    return make_schedule(settings.schedule, settings.steps, **ends)


def _merged(own: SynthesisConfig, changes: SynthesisChanges, lowest: float) -> SynthesisConfig:
    """Return a reverse process with changes; what they make meaningless of the rest does not stay."""
    values = own.model_dump()
    if changes.get("start", own.start) != own.start:  # the model's own first level is for its own start
        values["start_log_snr"] = lowest
    if changes.get("levels"):
        del values["steps"]
    elif _INSTEAD_OF_LEVELS & changes.keys():
        values["levels"] = ()
    return parse_config(SynthesisConfig, values | changes, "the synthesis settings")


def make_corrector(settings: SynthesisConfig) -> Langevin | None:
    """Return what is done at every level of a reverse process before the step from there, if anything."""
    return Langevin(settings.corrector_steps, settings.corrector_snr) if settings.corrector_steps else None


def make_guidance(settings: SynthesisConfig) -> Guidance:
    """Return how strongly the conditions of a reverse process steer it, and where."""
    return Guidance(settings.guidance, settings.guidance_rescale, settings.guidance_interval)


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
        self._global_condition: Tensor | None = None  # what the network's `embed` returned of one clip

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
        own = self.config.synthesis
        settings = _merged(own, changes, self.config.diffusion.log_snr_min)
        check_guidance(self.config, settings)
        first, allowed = float(self.noise_levels(settings)[0]), PURE_NOISE_LOG_SNR
        if own.start == "noise" and settings.start == "noise":
            allowed = max(allowed, float(self.noise_levels(own)[0]))
        if settings.start == "noise" and first > allowed:
            named = "a schedule of given levels" if settings.levels else f"schedule {settings.schedule!r}"
            warnings.warn(
                f"{named} with {settings.steps} steps begins at log-SNR {first:.1f}, "
                f"but sampling starts from pure noise; choose one that begins below {allowed:.1f}.",
                stacklevel=4,  # the caller, beyond torch's wrapper for inference mode
            )
        return settings

    def _expanded_condition(self, n_clips: int) -> Tensor | None:
        """Return the embedded global condition of so many clips `(n_clips, width)`, or None."""
        if self._global_condition is None:
            make_conditions(
                self.config, self.device, label=None, speaker=None, vector=None
            )  # refuses what must be given
            return None
        return self._global_condition.expand(n_clips, -1)

    def noise_levels(self, settings: SynthesisConfig) -> Tensor:
        """Return the log-SNR `(steps + 1,)` of a reverse process with this network."""
        return noise_levels(settings, self.config.diffusion)

    def network_calls(self, settings: SynthesisConfig) -> int:
        """Return how often a reverse process calls the network."""
        return count_network_calls(settings.sampler, self.noise_levels(settings), make_corrector(settings))

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
        levels = self.noise_levels(settings)
        x, draw = self._begin(estimate, seeds, levels, start=start, n_samples=n_samples)
        return SAMPLERS[settings.sampler].walk(x, levels, draw, corrector=make_corrector(settings))

    def _wavefront(
        self,
        settings: SynthesisConfig,
        on_step: StepCallback | None,
        *,
        global_condition: Tensor | None = None,
        alone: bool = False,
    ) -> Wavefront:
        """Return the reverse process of pieces.

        Args:
            settings: The reverse process.
            on_step: Called with (step, x) after every step of every piece.
            global_condition: What the network's `embed` returned of the conditions `(batch, width)`, or None.
            alone: Whether to keep to the calling thread, so that the result lags no further.
        """
        n_questions = self.network_calls(settings)
        guidance = make_guidance(settings)

        def make_stream(log_snr: Tensor) -> Stream:
            null = self.network.embed() if guidance.acts_at(float(log_snr)) else None
            if global_condition is None or null is None:
                return self.engine.stream(log_snr, global_condition)
            return guided_stream(self.engine, log_snr, global_condition, null, guidance, self.config.diffusion.target)

        return Wavefront(
            make_stream,
            partial(answer_from, config=self.config.diffusion),
            n_steps=settings.steps,
            n_questions=n_questions,
            on_step=on_step,
            relay=None if alone else self.engine.relay(n_questions),
        )
