"""What both pipelines share: a network, its configuration, the engine that runs it, and the reverse process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple, cast

import torch
from torch import Tensor

from audiodiff.checkpoint import push_model, save_model
from audiodiff.config import ModelConfig, SynthesisConfig
from audiodiff.diffusion.guidance import guided
from audiodiff.diffusion.inverse_problems import Consistency, consistent
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import Prediction, diffuse
from audiodiff.diffusion.samplers import SAMPLERS, NoiseSource, Predictor, StepCallback, count_network_calls
from audiodiff.diffusion.variance import prediction_from
from audiodiff.engine.choose import Dtype, Engine, choose_dtype, make_engine
from audiodiff.engine.graphs import Inputs, Process
from audiodiff.engine.streaming import Signal, Stages, ThreadPipeline, n_pipeline_threads
from audiodiff.engine.threads import torch_threads, with_torch_threads, worthwhile_threads
from audiodiff.networks import Network
from audiodiff.networks.conditioning import check_guidance, make_conditions
from audiodiff.pipelines.settings import SynthesisChanges, make_corrector, make_guidance, merged, noise_levels

PURE_NOISE_LOG_SNR = -4.0
"""Above this a schedule does not start from what is nearly pure noise (about 13 % of its amplitude is signal)."""


class Piece(NamedTuple):
    """A stretch of a long signal before the reverse process.

    Attributes:
        start: Its first sample in the whole signal.
        n_samples: Its length.
        estimate: An estimate of the whitened signal to start from `(batch, 1, n_samples)`; None to start from noise.
        mel: The mel of the piece and its surroundings `(batch, n_mels, n_frames)`, or None.
        frame_range: First and end of the frames of the mel that are the piece's own.
    """

    start: int
    n_samples: int
    estimate: Tensor | None = None
    mel: Tensor | None = None
    frame_range: tuple[int, int] = (0, 0)


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

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write the model to a folder, for `from_pretrained`; see `audiodiff.checkpoint.save_model`."""
        save_model(folder, self.network.state_dict(), self.config, half=half)

    def push_to_hub(self, model_id: str, *, half: bool = False, private: bool | None = None) -> str:
        """Send the model to the Hugging Face hub with a model card; see `audiodiff.checkpoint.push_model`."""
        return push_model(model_id, self.network.state_dict(), self.config, half=half, private=private)

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
        settings = merged(own, changes, self.config.diffusion.log_snr_min)
        check_guidance(self.config, settings)
        first, allowed = float(self.noise_levels(settings)[0]), PURE_NOISE_LOG_SNR
        if own.start == "noise" and settings.start == "noise":
            allowed = max(allowed, float(self.noise_levels(own)[0]))
        if settings.start == "noise" and first > allowed:
            named = "a schedule of given log-SNRs" if settings.log_snrs else f"schedule {settings.schedule!r}"
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

    def guided(
        self, bind: Callable[[Tensor | None], Predictor], global_condition: Tensor | None, settings: SynthesisConfig
    ) -> Predictor:
        """Return a predictor under the guidance of a reverse process.

        Args:
            bind: From what the network's `embed` returned `(batch, width)`, or None, to a predictor.
            global_condition: What it returned of the conditions, or None.
            settings: The reverse process.
        """
        null = None if settings.guidance == 1 else self.network.embed()
        if global_condition is None or null is None:
            return bind(global_condition)
        return guided(bind(global_condition), bind(null.expand_as(global_condition)), make_guidance(settings))

    def plain_predictor(self, condition: Tensor | None, global_condition: Tensor | None) -> Predictor:
        """Bind the network itself, which unlike an engine has gradients, to its conditions."""

        def predict(x: Tensor, log_snr: Tensor) -> Prediction:
            output = self.network(x, log_snr.to(x).expand(x.shape[0]), condition, global_condition)
            return prediction_from(output, x, log_snr, self.config.diffusion)

        return predict

    def _engine_predictor(self, condition: Tensor | None, global_condition: Tensor | None) -> Predictor:
        """Bind the engine to its conditions, for whole signals."""

        def predict(x: Tensor, log_snr: Tensor) -> Prediction:
            output = self.engine.whole(x, condition, log_snr, global_condition)
            return prediction_from(output, x, log_snr, self.config.diffusion)

        return predict

    def _signal_predictor(
        self, stages: Stages, conditions: Signal[Tensor | None], global_condition: Tensor | None
    ) -> Predictor:
        """Bind the engine to its conditions, for signals in pieces; its calls are added to `stages`."""

        def predict(x: Tensor, log_snr: Tensor) -> Prediction:
            signal = cast(Signal[Tensor], x)
            batches = self.engine.stream(iter(signal), iter(conditions), signal.length, log_snr, global_condition)
            predictions = stages.add(signal, batches).combine(
                lambda output, x: prediction_from(output, x, log_snr, self.config.diffusion), signal
            )
            noise = cast(Tensor, predictions.map(lambda prediction: prediction.noise))
            if self.config.diffusion.variance == "fixed":
                return Prediction(noise)
            return Prediction(noise, cast(Tensor, predictions.map(lambda prediction: prediction.variance)))

        return predict

    def _noise(self, seeds: Sequence[int], n_samples: int, start: int = 0) -> NoiseSource:
        """Return where the noise of samples [start, start + n_samples) comes from."""
        return partial(position_noise, seeds, start=start, n_samples=n_samples, device=self.device)

    def _noisy(self, estimate: Tensor | None, noise: Tensor, settings: SynthesisConfig) -> Tensor:
        """Diffuse an estimate to the first noise level; without one the reverse process starts from noise."""
        return noise if estimate is None else diffuse(estimate, noise, self.noise_levels(settings)[0])

    def _sample(
        self,
        predict: Predictor,
        x: Tensor,
        noise: NoiseSource,
        settings: SynthesisConfig,
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Run the reverse process; arguments as in `audiodiff.diffusion.samplers.ddim`."""
        log_snrs, corrector = self.noise_levels(settings), make_corrector(settings)
        x = SAMPLERS[settings.sampler](predict, x, log_snrs, noise, corrector=corrector, on_step=on_step)
        return x.clamp(-1, 1) if settings.clamp else x

    def fitted(self, predict: Predictor, fit: Consistency | None, settings: SynthesisConfig) -> Predictor:
        """Make predictions fit what is known, at all levels but the last, after which the audio itself is fitted."""
        return predict if fit is None else consistent(predict, fit, before=float(self.noise_levels(settings)[-2]))

    def _sample_whole(
        self,
        x: Tensor,
        noise: NoiseSource,
        settings: SynthesisConfig,
        *,
        condition: Tensor | None,
        global_condition: Tensor | None,
        on_step: StepCallback | None,
        fit: Consistency | None = None,
    ) -> Tensor:
        """Run the reverse process on a whole signal by the engine: as CUDA graphs where there are any."""

        def sample(inputs: Inputs, noise: NoiseSource, on_step: StepCallback | None) -> Tensor:
            predict = self.guided(partial(self._engine_predictor, inputs.condition), inputs.global_condition, settings)
            return self._sample(self.fitted(predict, fit, settings), inputs.x, noise, settings, on_step)

        inputs = Inputs(x, condition, global_condition)
        if self.engine.graphs is not None and (fit is None or settings.steps == 1):  # which do not know the mel
            process = Process(sample, settings.model_dump_json(), is_pointwise=not settings.rescales_guidance)
            return self.engine.graphs(process, inputs, noise, on_step)
        with torch_threads(self._n_threads(x.numel())):
            return sample(inputs, noise, on_step)

    def _n_threads(self, n_samples: int) -> int:
        """Return how many CPU threads to use for network calls on so many samples, of all clips together."""
        network = self.config.network
        return worthwhile_threads(n_samples / network.samples_per_position * network.channels)

    def _sample_in_pieces(
        self,
        pieces: Signal[Piece],
        seeds: Sequence[int],
        settings: SynthesisConfig,
        *,
        global_condition: Tensor | None,
        on_step: StepCallback | None,
        chunk: int,
        in_threads: bool,
        fit: Callable[[Signal[Tensor]], Iterator[list[Tensor]]] | None = None,
    ) -> Iterator[Tensor]:
        """Run the reverse process on a signal in pieces.

        Args:
            pieces: The signal before the reverse process; nothing has been read of it.
            seeds: One for each clip.
            settings: The reverse process.
            global_condition: What the network's `embed` returned of the conditions `(batch, width)`, or None.
            on_step: Called with (step, x) after every step of every piece, by one thread at a time.
            chunk: Length of most pieces, in frames.
            in_threads: Whether threads may share the network calls, so that pieces of the result come out later.
            fit: Makes predicted clean signals fit what is known; called before reading starts.

        Yields:
            Consecutive pieces `(batch, 1, time)` of the whitened signal.
        """
        stages = Stages()
        conditions = pieces.map(self._encode)
        predict = self.guided(partial(self._signal_predictor, stages, conditions), global_condition, settings)

        if fit is not None:
            predict = self.fitted(predict, partial(_fitted_pieces, stages, fit), settings)

        def noise(step: int) -> Tensor:
            return cast(Tensor, pieces.map(lambda piece: self._noise(seeds, piece.n_samples, piece.start)(step)))

        def start(piece: Piece) -> Tensor:
            return self._noisy(piece.estimate, self._noise(seeds, piece.n_samples, piece.start)(0), settings)

        x = cast(Tensor, pieces.map(start))
        result = cast(Signal[Tensor], self._sample(predict, x, noise, settings, on_step and _of_pieces(on_step)))
        n_threads = torch.get_num_threads()
        size = n_pipeline_threads(n_threads, len(stages)) if in_threads and self.engine.has_short_operations else 1
        if size == 1:
            n_samples = len(seeds) * chunk * self.config.hop_length
            yield from with_torch_threads(self._n_threads(n_samples), stages.read(result))
            return
        pieces.source.advance()  # the first chunk is estimated by all threads together
        with ThreadPipeline(size, n_threads // size) as threads:
            yield from threads.read(stages, result)

    def _encode(self, piece: Piece) -> Tensor | None:
        """Prepare the condition of a piece."""
        if piece.mel is None:
            return None
        (start, stop), context = piece.frame_range, self.engine.context_frames
        low = max(0, start - context)
        return self.engine.encode(piece.mel[..., low : stop + context], start - low, stop - low)

    def _is_whole(self, n_frames: int, settings: SynthesisConfig, chunk: int | None = None) -> bool:
        """Return whether a signal is processed whole: it is short, or the network or its guidance need all of it.

        Args:
            n_frames: Its length.
            settings: The reverse process.
            chunk: Longest stretch that the caller wants at once, in frames; None is any.
        """
        if settings.rescales_guidance or self.engine.reach_frames is None:
            return True
        longest = self.engine.piece_frames if self.engine.graphs is None or chunk is None else chunk
        return n_frames <= min(longest, n_frames if chunk is None else chunk)


def _of_pieces(on_step: StepCallback) -> StepCallback:
    """Return a callback for signals that calls one for their pieces, by one thread at a time."""
    lock = Lock()

    def on_piece(step: int, x: Tensor) -> None:
        with lock:
            on_step(step, x)

    def observe(step: int, x: Tensor) -> None:
        cast(Signal[Tensor], x).observe(partial(on_piece, step))

    return observe


def _fitted_pieces(
    stages: Stages, fit: Callable[[Signal[Tensor]], Iterator[list[Tensor]]], denoised: Tensor, sigma: float
) -> Tensor:
    """Fit a predicted clean signal in pieces to what is known; a stage between two network calls."""
    signal = cast(Signal[Tensor], denoised)
    return cast(Tensor, stages.add(signal, fit(signal)))
