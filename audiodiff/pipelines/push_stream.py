"""A stream into which mels are pushed and out of which audio is pulled, so that nobody waits inside the computation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Unpack

from audiodiff.audio.transforms import Array
from audiodiff.pipelines.mel_chunks import judged

if TYPE_CHECKING:
    from audiodiff.pipelines.settings import SynthesisChanges
    from audiodiff.pipelines.vocoder import Vocoder


class PushStream(Generic[Array]):
    """`Vocoder.stream` turned around: an event loop or a server pushes mels as they come, and pulls audio when it can.

    Mels that wait are taken together: a stream that has fallen behind catches up in longer chunks.
    `Vocoder.latency` bounds how much of the mel a piece of audio depends on; so `ready` knows when a pull will not ask
    for frames that have not been pushed yet, and no thread has to wait for them. One thread
    may push while another one pulls.

    Args:
        vocoder: The model.
        seed: As in `Vocoder.stream`.
        chunk_seconds: As in `Vocoder.stream`.
        judge: Whether mels are refused that look like another convention, by the first second.
        **changes: As in `Vocoder.stream`.

    Attributes:
        latency: Of the stream, in seconds.
        ended: Whether all mels have been pushed.

    Raises:
        ConfigError: If a setting is impossible, or the model sees the whole mel at once.
    """

    def __init__(
        self,
        vocoder: Vocoder,
        *,
        seed: int = 0,
        chunk_seconds: float = 0.5,
        judge: bool = False,
        **changes: Unpack[SynthesisChanges],
    ) -> None:
        self.latency: float = vocoder.latency(chunk_seconds, **changes)
        self._latency_samples: int = round(self.latency * vocoder.sample_rate)
        self._hop_length: int = vocoder.mel_config.hop_length
        self._mels: deque[Array] = deque()
        self._n_samples, self._pulled, self.ended = 0, max(0, vocoder.given.delay), False
        mels: Iterator[Array] = judged(self._pushed(), vocoder.given.config) if judge else self._pushed()
        self._audio: Iterator[Array] = vocoder.stream(mels, seed=seed, chunk_seconds=chunk_seconds, **changes)

    def _pushed(self) -> Iterator[Array]:
        while self._mels or not self.ended:
            pieces = [self._mels.popleft()]
            while self._mels and _go_together(pieces[0], self._mels[0]):
                pieces.append(self._mels.popleft())
            yield _joined(pieces)

    @property
    def waiting_samples(self) -> int:
        """Samples that the mels pushed so far will make and that have not been pulled."""
        return self._n_samples - self._pulled

    @property
    def ready(self) -> bool:
        """Whether a piece of audio can be pulled."""
        return self.ended or self.waiting_samples >= self._latency_samples

    def push(self, mel: Array) -> None:
        """Add a mel `(n_mels, frames)`; it is checked when it is pulled."""
        self._mels.append(mel)
        self._n_samples += (mel.shape[-1] if mel.ndim else 0) * self._hop_length

    def end(self) -> None:
        """Say that no more mels will come, so that the rest can be pulled."""
        self.ended = True

    def pull(self) -> Array | None:
        """Compute the next piece `(time,)` when the stream is ready; None is the end.

        Raises:
            MelError: If a mel does not fit the model.
        """
        audio = next(self._audio, None)
        self._pulled += 0 if audio is None else len(audio)
        return audio


def _go_together(one: Array, other: Array) -> bool:
    """Tell whether two mels can be joined; those that are no mels are left for the stream to refuse."""
    kinds = [(type(mel), mel.ndim, mel.shape[:1], mel.dtype, getattr(mel, "device", None)) for mel in (one, other)]
    return one.ndim == 2 and kinds[0] == kinds[1]


def _joined(mels: list[Array]) -> Array:
    if len(mels) == 1:
        return mels[0]
    if isinstance(mels[0], Tensor):
        return torch.cat(mels, dim=1)
    return np.concatenate(mels, axis=1)
