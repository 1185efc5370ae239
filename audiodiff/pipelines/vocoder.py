"""Waveforms from mel spectrograms: whole, or while the mel is still coming in."""

from __future__ import annotations

import asyncio
import copy
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import Unpack

from audiodiff.audio.mel import MelSpectrogram, align_to_hops
from audiodiff.audio.mel_consistency import MelConsistency
from audiodiff.audio.transforms import Array, ArrayLike, as_given, as_tensor
from audiodiff.audio.whitening import Whitening
from audiodiff.checkpoint import choose_device, find_model, load_model
from audiodiff.config import MelConfig, ModelConfig, SynthesisConfig
from audiodiff.diffusion.samplers import NoiseSource, Predictor, StepCallback
from audiodiff.engine.choose import Dtype
from audiodiff.engine.streaming import Signal
from audiodiff.engine.windows import Length, Window
from audiodiff.errors import AudioError, ConfigError, ModelError
from audiodiff.networks import Network
from audiodiff.networks.base import isolated
from audiodiff.networks.conditioning import make_conditions
from audiodiff.pipelines.base import Piece, Pipeline
from audiodiff.pipelines.finish import Finish
from audiodiff.pipelines.given_mels import GivenMels
from audiodiff.pipelines.mel_chunks import CHUNK_SECONDS, ChunkLengths, aligned, chunk_frames, chunks, growing_chunks
from audiodiff.pipelines.mel_initialisation import MelInitialisation
from audiodiff.pipelines.push_stream import PushStream
from audiodiff.pipelines.settings import SynthesisChanges, seeds_of


class Vocoder(Pipeline):
    """Turn mel spectrograms into waveforms: tensors into tensors, NumPy arrays into NumPy arrays.

    Args:
        network: A network with a mel condition.
        config: Its configuration.
        dtype: Precision of the network's matrix products, see `Pipeline`.

    Raises:
        ModelError: If the model has no mel condition.

    Example:
        >>> from audiodiff import Vocoder, load_audio, save_audio  # doctest: +SKIP
        >>> vocoder = Vocoder.from_pretrained()  # doctest: +SKIP
        >>> audio = load_audio("in.wav", sample_rate=vocoder.sample_rate)  # doctest: +SKIP
        >>> save_audio("out.wav", vocoder(vocoder.mel(audio), seed=0), vocoder.sample_rate)  # doctest: +SKIP
    """

    @isolated("off")
    def __init__(self, network: Network, config: ModelConfig, dtype: Dtype = "auto") -> None:
        super().__init__(network, config, dtype)
        if config.mel is None:
            raise ModelError("this model is not a vocoder. Use `audiodiff generate`.")
        self.mel_config = config.mel
        self.given = GivenMels(config.mel)
        self.spectrogram = MelSpectrogram(config.mel).to(self.device)
        self.whitening = Whitening(config.whitening, config.mel).to(self.device)
        self.initialisation = MelInitialisation(self.spectrogram, self.whitening)
        self.mel_consistency = MelConsistency(self.spectrogram, self.whitening)

    @classmethod
    def from_pretrained(cls, name: str | Path | None = None, device: str = "auto", dtype: Dtype = "auto") -> Vocoder:
        """Load a vocoder.

        Args:
            name: A model folder, a bundled model, hub:OWNER/NAME, or None for the bundled default.
            device: "auto", "cpu", "cuda", "cuda:1" ...
            dtype: "auto", "fp32" or "bf16", see `Pipeline`.

        Returns:
            The vocoder.

        Raises:
            ModelError: If the model cannot be found, is damaged, or is no vocoder.
        """
        return cls(*load_model(find_model(name), choose_device(device)), dtype)

    def with_dtype(self, dtype: Dtype) -> Vocoder:
        """Return the same vocoder, its network in another precision."""
        vocoder = Vocoder(self.network, self.config, dtype)
        vocoder._global_condition, vocoder.given = self._global_condition, self.given
        return vocoder

    @isolated("off")
    def with_mel_convention(self, convention: str | MelConfig | None, *, resample: bool = False) -> Vocoder:
        """Return the same vocoder, which takes mels as of `GivenMels`; `mel` computes the model's own all the same."""
        vocoder = copy.copy(self)
        vocoder.given = GivenMels(self.mel_config, convention, resample=resample)
        return vocoder

    @isolated("off")
    def with_conditions(
        self, *, label: str | None = None, speaker: str | None = None, vector: ArrayLike | None = None
    ) -> Vocoder:
        """Return the same vocoder with global conditions; arguments and errors as in `Generator.generate`."""
        vocoder = copy.copy(self)
        conditions = make_conditions(self.config, self.device, label=label, speaker=speaker, vector=vector)
        vocoder._global_condition = None if conditions is None else self.network.embed(conditions)
        return vocoder

    def told(self, *, label: str | None = None, speaker: str | None = None, vector: ArrayLike | None = None) -> Vocoder:
        """Return `with_conditions` of the same arguments (deprecated alias)."""
        warnings.warn("Vocoder.told is now Vocoder.with_conditions.", DeprecationWarning, stacklevel=2)
        return self.with_conditions(label=label, speaker=speaker, vector=vector)

    @isolated("as they are")
    def mel(self, audio: Array) -> Array:
        """Compute the mel spectrogram expected by this model; the audio is padded with zeros to whole hops.

        Args:
            audio: Waveforms `(..., time)` at `sample_rate`.

        Returns:
            Mels `(..., n_mels, frames)`.

        Raises:
            AudioError: If the audio is shorter than a frame.
        """
        samples = as_tensor(audio, "audio", AudioError)
        self.spectrogram.n_frames(samples.shape[-1] if samples.ndim else 0)
        padding = -samples.shape[-1] % self.mel_config.hop_length
        mel: Tensor = self.spectrogram(functional.pad(samples.to(self.device), (0, padding)))
        return as_given(mel, audio)

    @isolated("inference")
    def __call__(
        self,
        mel: Array,
        *,
        seed: int | Sequence[int] = 0,
        chunk_seconds: float | None = None,
        on_step: StepCallback | None = None,
        **changes: Unpack[SynthesisChanges],
    ) -> Array:
        """Synthesise waveforms.

        Args:
            mel: Mel spectrograms `(..., n_mels, frames)` of this model's convention, or of `with_mel_convention`.
            seed: One seed for every waveform, or one for each. A waveform depends on its mel and seed alone.
            chunk_seconds: Length of the chunks of long audio; it changes memory and speed, not the result.
            on_step: Called with (step, x) after every step of every piece of the whitened signals.
            **changes: Overrides of the model's `SynthesisConfig`, for example `steps=12`. Another start
                begins at the lowest trained noise level, unless `start_log_snr` says otherwise.

        Returns:
            Waveforms `(..., time)`, float32, one hop per frame of the mel; tensors are on the model's device.

        Raises:
            MelError: If the mel does not fit the model.
            ConfigError: If there are not as many seeds as waveforms, or a setting is impossible.
        """
        checked = self.given.whole(mel)
        settings = self.settings(changes)
        mels = align_to_hops(checked.reshape(-1, *checked.shape[-2:]), self.mel_config)
        seeds, n_frames = seeds_of(seed, len(mels)), mels.shape[-1]
        chunk = chunk_frames(CHUNK_SECONDS if chunk_seconds is None else chunk_seconds, self.mel_config)
        if chunk_seconds is None and n_frames <= 2 * chunk:
            chunk = n_frames
        batch = self.engine.largest_batch or len(mels)
        audio = torch.empty(len(mels), n_frames * self.mel_config.hop_length, device=self.device)
        for first in range(0, len(mels), batch):
            group, at = slice(first, first + batch), 0
            for piece in self._audio(mels[group], seeds[group], settings, chunk, on_step):
                audio[group, at : at + piece.shape[-1]] = piece[:, 0]
                at += piece.shape[-1]
        return as_given(next(self.given.in_time([audio])).reshape(*mel.shape[:-2], -1), mel)

    def _audio(
        self, mel: Tensor, seeds: Sequence[int], settings: SynthesisConfig, chunk: int, on_step: StepCallback | None
    ) -> Iterator[Tensor]:
        """Yield waveforms `(batch, 1, time)` of an aligned mel: whole where possible, or in consecutive pieces."""
        n_frames = mel.shape[-1]
        if not self._is_whole(n_frames, settings, chunk):
            yield from self._audio_in_pieces(
                [mel], seeds, settings, ChunkLengths(chunk, chunk), on_step, in_threads=True
            )
            return
        mel = mel.to(self.device, torch.float32)
        sample = partial(
            self._sample_whole,
            settings=settings,
            condition=self.engine.encode(mel, 0, n_frames),
            global_condition=self._expanded_condition(len(mel)),
            on_step=on_step,
            fit=self._finish(settings).fit(mel),
        )
        yield self._audio_whole(mel, seeds, settings, sample)

    @isolated("inference")
    def stream(
        self,
        mels: Iterable[Array],
        *,
        seed: int = 0,
        chunk_seconds: float = 0.5,
        on_step: StepCallback | None = None,
        **changes: Unpack[SynthesisChanges],
    ) -> Iterator[Array]:
        """Synthesise while mel frames still arrive; `latency` returns the delay.

        Args:
            mels: Consecutive pieces of a mel spectrogram `(n_mels, frames)`, of any lengths.
            seed: As in a call.
            chunk_seconds: Length of the chunks: shorter ones come out earlier and cost more. Where more frames have
                come, each is up to twice as long as that before it, and a second at most.
            on_step: As in a call.
            **changes: As in a call.

        Yields:
            Consecutive pieces `(time,)` of the waveform that a call would make of the whole mel.

        Raises:
            MelError: If a mel does not fit the model.
            ConfigError: If a setting is impossible, or the model sees the whole mel at once.
        """
        settings, lengths = self.settings(changes), growing_chunks(chunk_seconds, self.mel_config)
        self._reach()
        given: Array

        def received() -> Iterator[Array]:
            nonlocal given
            for given in mels:  # noqa: UP028  # yield from would not keep it
                yield given

        consecutive = aligned(self.given.pieces(received()), self.mel_config)
        seeds = seeds_of(seed, 1)
        pieces = self._audio_in_pieces(consecutive, seeds, settings, lengths, on_step, in_threads=False)
        for piece in self.given.in_time(pieces):
            yield as_given(piece[0, 0], given)

    async def astream(
        self,
        mels: AsyncIterable[Array],
        *,
        seed: int = 0,
        chunk_seconds: float = 0.5,
        **changes: Unpack[SynthesisChanges],
    ) -> AsyncIterator[Array]:
        """Do what `stream` does with an asynchronous iterable; a thread computes, so the event loop is not blocked.

        Args:
            mels: As in `stream`.
            seed: As in `stream`.
            chunk_seconds: As in `stream`.
            **changes: As in a call.

        Yields:
            What `stream` yields.
        """
        stream: PushStream[Array] = PushStream(self, seed=seed, chunk_seconds=chunk_seconds, **changes)
        async for mel in mels:
            stream.push(mel)
            while stream.ready and (audio := await asyncio.to_thread(stream.pull)) is not None:
                yield audio
        stream.end()
        while (audio := await asyncio.to_thread(stream.pull)) is not None:
            yield audio

    def latency(self, chunk_seconds: float = 0.5, **changes: Unpack[SynthesisChanges]) -> float:
        """Return the algorithmic latency of `stream` in seconds of audio, computation excluded.

        It is the chunk length plus the look-ahead of the estimate, of each network call and of what makes it audio.
        """
        settings, chunk = self.settings(changes), chunk_frames(chunk_seconds, self.mel_config)
        reaches = self._finish(settings).reaches(self._reach(), self.network_calls(settings))
        n_frames = chunk + self._look_ahead(settings) + sum(reaches)
        n_frames += self.mel_config.frames_beyond_hops + self.given.look_ahead
        return n_frames * self.mel_config.hop_length / self.sample_rate

    @isolated("as they are")
    def synthesise(
        self,
        mel: Tensor,
        seeds: Sequence[int],
        *,
        settings: SynthesisConfig | None = None,
        predictor: Predictor | None = None,
        on_step: StepCallback | None = None,
    ) -> Tensor:
        """Do what a call does with the plain network on the whole signal; differentiable, so that training can use it.

        Args:
            mel: Mels with one frame per hop `(batch, n_mels, n_frames)`.
            seeds: One for each waveform.
            settings: The reverse process; None is the model's own.
            predictor: The network with its conditions bound; None binds this model's to `mel`.
            on_step: Called with (step, whitened signal) after every step.

        Returns:
            Waveforms `(batch, 1, n_frames * hop_length)`.
        """
        settings = settings or self.config.synthesis
        predictor = predictor or self.plain_predictor(self.network.encode(mel), self._global_condition)
        predictor = self.fitted(predictor, self._finish(settings).fit(mel), settings)
        sample = partial(self._sample, predictor, settings=settings, on_step=on_step)
        return self._audio_whole(mel, seeds, settings, sample)

    def _audio_whole(
        self,
        mel: Tensor,
        seeds: Sequence[int],
        settings: SynthesisConfig,
        sample: Callable[[Tensor, NoiseSource], Tensor],
    ) -> Tensor:
        """Return waveforms `(batch, 1, time)`, each as a whole: estimate, reverse process (`sample`), colouring."""
        noise = self._noise(seeds, mel.shape[-1] * self.mel_config.hop_length)
        estimate = self.initialisation.estimate(mel, seeds, settings)
        return self._finish(settings)(sample(self._noisy(estimate, noise(0), settings), noise), mel)

    def _audio_in_pieces(
        self,
        mels: Iterable[Tensor],
        seeds: Sequence[int],
        settings: SynthesisConfig,
        lengths: ChunkLengths,
        on_step: StepCallback | None,
        *,
        in_threads: bool,
    ) -> Iterator[Tensor]:
        """Yield consecutive pieces `(batch, 1, time)` of the waveforms, from pieces of the aligned mel."""
        pieces = Signal(self._pieces(mels, seeds, settings, lengths, end := Length()), end)
        own_rows = pieces.map(lambda piece: cast(Tensor, piece.mel)[..., slice(*piece.frame_range)].mT)
        finish = self._finish(settings)
        signals = self._sample_in_pieces(
            pieces,
            seeds,
            settings,
            global_condition=self._expanded_condition(len(seeds)),
            on_step=on_step,
            chunk=lengths.usual,
            in_threads=in_threads,
            fit=finish.fit_in_pieces(own_rows),
        )
        yield from chain.from_iterable(finish.in_pieces(signals, own_rows))

    def _pieces(
        self,
        mels: Iterable[Tensor],
        seeds: Sequence[int],
        settings: SynthesisConfig,
        lengths: ChunkLengths,
        end: Length,
    ) -> Iterator[list[Piece]]:
        """Yield the pieces of one chunk after the other, each with what its samples depend on; set their `end`."""
        hop_length, look_ahead, window = self.mel_config.hop_length, self._look_ahead(settings), Window(dim=2)
        look_back = max(look_ahead, self.engine.context_frames)
        estimates = self.initialisation.estimates(seeds, settings)
        mels = (mel.to(self.device, torch.float32) for mel in mels)
        for start, stop in chunks(mels, window, lengths, look_ahead, look_back):
            low, high = max(0, start - look_back), min(window.end, stop + look_ahead)
            mel = window.view(low, high)
            estimate = estimates.next(mel, low, last=stop + look_ahead > window.end)
            if stop == window.end:  # more frames come after all chunks but the last
                end.n_samples = stop * hop_length
            pieces, length = [], self.engine.piece_frames
            for first in range(start, stop, length):
                frame_range = first - low, min(first + length, stop) - low
                samples = slice(frame_range[0] * hop_length, frame_range[1] * hop_length)
                part = None if estimate is None else estimate[..., samples]
                pieces.append(Piece(first * hop_length, samples.stop - samples.start, part, mel, frame_range))
            yield pieces

    def colour(self, signal: Tensor, mel: Tensor) -> Tensor:
        """Undo the whitening of signals `(batch, 1, time)` by their mels `(batch, n_mels, n_frames)`."""
        return self.whitening.colour(signal, mel)

    def _reach(self) -> int:
        """Return how many frames an output of the network looks ahead, or refuse a network that sees the whole mel."""
        if self.engine.reach_frames is None:
            raise ConfigError(
                "this model attends to the whole mel (network.attention), so it cannot begin before the last frame. "
                "Give it the whole mel in one call, or train one with network.attention 0."
            )
        return self.engine.reach_frames

    def _finish(self, settings: SynthesisConfig) -> Finish:
        return Finish(self.mel_consistency, settings)

    def _look_ahead(self, settings: SynthesisConfig) -> int:
        """Return how many frames ahead the start of the reverse process and the condition depend on, at least one."""
        network = self.config.network
        causal = network.kind == "stft" and network.look_ahead is not None  # whose condition is of the past
        return max(0 if causal else self.engine.context_frames, self.initialisation.reach(settings), 1)
