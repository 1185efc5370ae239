"""From the signals of a reverse process to audio: coloured, and brought to the levels of their mels where wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from torch import Tensor

from audiodiff.audio.mel_consistency import MelConsistency
from audiodiff.config import SynthesisConfig
from audiodiff.diffusion.inverse_problems import Consistency
from audiodiff.engine.streaming import Signal
from audiodiff.engine.windows import with_halo
from audiodiff.pipelines.mel_initialisation import whitening_reach

_FromMel = Callable[[Tensor, Tensor], Tensor]


class Finish:
    """What follows the last network call, and what `synthesis.mel_consistency` adds between calls.

    Args:
        consistency: What brings signals to their mels.
        settings: The reverse process.
    """

    def __init__(self, consistency: MelConsistency, settings: SynthesisConfig) -> None:
        self._consistency, self._fits = consistency, settings.mel_consistency
        self._hop_length = consistency.spectrogram.config.hop_length
        whitening = whitening_reach(self._hop_length)
        self._between = self._in_hops(whitening + consistency.look_ahead(whitening)) if self._fits else 0
        self._last = self._in_hops(whitening + (consistency.look_ahead(0) if self._fits else 0))

    def __call__(self, signal: Tensor, mel: Tensor) -> Tensor:
        """Turn whitened signals `(batch, 1, time)` into audio by their mels `(batch, n_mels, n_frames)`."""
        audio = self._consistency.whitening.colour(signal, mel)
        return self._consistency(audio, mel) if self._fits else audio

    def in_pieces(self, signal: Iterable[Tensor], rows: Signal[Tensor]) -> Iterator[list[Tensor]]:
        """Do the same with consecutive pieces of both, the mel transposed, as soon as enough has come."""
        return self._with_mel(self, signal, rows, self._last)

    def fit(self, mel: Tensor) -> Consistency | None:
        """Return what makes whitened signals fit their mels between network calls, if that is wanted."""
        return (lambda denoised, sigma: self._consistency.whitened(denoised, mel)) if self._fits else None

    def fit_in_pieces(self, rows: Signal[Tensor]) -> Callable[[Signal[Tensor]], Iterator[list[Tensor]]] | None:
        """Return the same for consecutive pieces of a signal."""
        if not self._fits:
            return None
        return lambda signal: self._with_mel(self._consistency.whitened, iter(signal), rows, self._between)

    def reaches(self, network: int, n_calls: int) -> list[int]:
        """Return how many frames each stage looks ahead, from the first network call, of `network` frames, on."""
        between = [network, self._between] if self._fits else [network]
        return between * (n_calls - 1) + [network, self._last]

    def _in_hops(self, n_samples: int) -> int:
        return -(-n_samples // self._hop_length)

    def _with_mel(
        self, function: _FromMel, signal: Iterable[Tensor], rows: Signal[Tensor], reach: int
    ) -> Iterator[list[Tensor]]:
        look = reach * self._hop_length
        return with_halo(
            lambda stretch, condition: function(stretch, cast(Tensor, condition).mT),
            signal,
            iter(rows),
            rows.length,
            look_back=look,
            look_ahead=look,
            samples_per_row=self._hop_length,
        )
