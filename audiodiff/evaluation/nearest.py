"""The training clip that a generated one is most like: by log-mels at their best alignment, without a classifier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MelConfig
from audiodiff.errors import DataError

_N_MELS = 40
_FRAMES_PER_SECOND = 100
_FLOOR_BELOW = 8.0
"""Nepers below a clip's loudest place (70 dB) where its spectrogram ends, so that silence is like silence."""
_AT_ONCE = 256
"""Clips that one is compared with together."""


class Likeness(NamedTuple):
    """What a clip is most like.

    Attributes:
        path: The other clip.
        similarity: Correlation of the log-mels where they are aligned best: 1 is a copy, whatever its level or start.
    """

    path: Path
    similarity: float


class NearestClip:
    """Finds the most similar clip of a set.

    Similarity is the largest correlation coefficient of two log-mel spectrograms (40 bands, 10 ms) over shifts of up to
    half a clip, each less its mean and padded with zeros.

    Args:
        paths: The clips to look among.
        sample_rate: Hz to compare at.
        seconds: Length to compare; longer clips are cut around their middle, shorter ones padded.
        on_clip: Called after each clip that has been read.

    Raises:
        DataError: If there are no clips.
    """

    def __init__(
        self, paths: Sequence[Path], sample_rate: int, seconds: float, on_clip: Callable[[], object] = lambda: None
    ) -> None:
        if not paths:
            raise DataError("there are no training clips to compare with. Give a manifest that lists some.")
        n_fft = 2 ** round(torch.log2(torch.tensor(0.032 * sample_rate)).item())
        self._spectrogram = MelSpectrogram(
            MelConfig(
                name="nearest",
                sample_rate=sample_rate,
                n_fft=n_fft,
                hop_length=sample_rate // _FRAMES_PER_SECOND,
                win_length=n_fft,
                n_mels=_N_MELS,
                f_min=0,
                f_max=sample_rate / 2,
            )
        )
        self._paths, self._sample_rate = list(paths), sample_rate
        self._n_samples = max(round(seconds * sample_rate), n_fft)
        spectra = []
        for path in self._paths:
            spectra.append(self._spectrum(path))
            on_clip()
        self._spectra = torch.stack(spectra)

    def __call__(self, path: Path, *, but: int | None = None) -> Likeness:
        """Find what a clip is most like.

        Args:
            path: The clip.
            but: Number of a clip of the set that does not count: itself, where it is one of them.

        Returns:
            The most similar clip, and how similar it is.
        """
        spectrum = self._spectrum(path)
        similarities = torch.cat([self._correlate(spectrum, part) for part in self._spectra.split(_AT_ONCE)])
        if but is not None:
            similarities[but] = -torch.inf
        best = int(similarities.argmax())
        return Likeness(self._paths[best], float(similarities[best]))

    def among_themselves(self) -> list[float]:
        """Return how similar each clip of the set is to the nearest other one: what fresh clips are held against."""
        if len(self._paths) < 2:
            return []
        return [self(path, but=number).similarity for number, path in enumerate(self._paths)]

    def _spectrum(self, path: Path) -> Tensor:
        """Return the Fourier transform over time of a clip's log-mel, of unit energy `(bands, frequencies)`."""
        audio = load_audio(path, self._sample_rate)[0]
        before = (audio.shape[-1] - self._n_samples) // 2
        fitted = torch.nn.functional.pad(audio, (-before, before + self._n_samples - audio.shape[-1]))
        mel = self._spectrogram(fitted)
        mel = mel.clamp_min(mel.max() - _FLOOR_BELOW)
        mel = mel - mel.mean()
        mel = mel / mel.norm().clamp_min(1e-6)
        self._reach = mel.shape[-1] // 2
        spectrum: Tensor = torch.fft.rfft(mel, 2 * mel.shape[-1])
        return spectrum

    def _correlate(self, spectrum: Tensor, others: Tensor) -> Tensor:
        """Return the highest correlation with each of the others `(clips, bands, frequencies)` over all shifts."""
        products = torch.einsum("bf,cbf->cf", spectrum.conj(), others)
        correlation = torch.fft.irfft(products)
        reach = self._reach
        return torch.cat([correlation[:, : reach + 1], correlation[:, -reach:]], 1).amax(1)
