"""The training clip that a generated one is most like: copies are found, whatever their level or start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MelConfig
from audiodiff.errors import DataError

_N_MELS = 40
_FRAMES_PER_SECOND = 100
_DYNAMIC_RANGE = 8.0
"""Nepers below a clip's loudest bin (70 dB) where its spectrogram is cut, so that silence is like silence."""
_BATCH = 256
"""Clips that one is compared with at once."""


class NearestClip(NamedTuple):
    """The clip that another is most similar to.

    Attributes:
        path: The clip.
        similarity: Correlation of the log-mels where they are aligned best: 1 is a copy, whatever its level or start.
    """

    path: Path
    similarity: float


class NearestClipSearch:
    """Find the most similar clip of a set.

    Similarity is the largest correlation coefficient of two log-mel spectrograms (40 bands, 10 ms) over shifts of up to
    half a clip, each less its mean and padded with zeros.

    Args:
        paths: The clips to search.
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

    def __call__(self, path: Path, *, exclude: int | None = None) -> NearestClip:
        """Find the clip that a recording is most similar to.

        Args:
            path: The clip.
            exclude: Index of a clip of the set to leave out: itself, where it is one of them.

        Returns:
            The most similar clip, and how similar it is.
        """
        spectrum = self._spectrum(path)
        similarities = torch.cat([self._correlate(spectrum, part) for part in self._spectra.split(_BATCH)])
        if exclude is not None:
            similarities[exclude] = -torch.inf
        best = int(similarities.argmax())
        return NearestClip(self._paths[best], float(similarities[best]))

    def leave_one_out(self) -> list[float]:
        """Return the similarity of each clip of the set to the nearest other one, to compare generated clips with."""
        if len(self._paths) < 2:
            return []
        return [self(path, exclude=index).similarity for index, path in enumerate(self._paths)]

    def _spectrum(self, path: Path) -> Tensor:
        """Return the Fourier transform over time of a clip's log-mel, of unit energy `(bands, frequencies)`."""
        audio = load_audio(path, self._sample_rate)[0]
        before = (audio.shape[-1] - self._n_samples) // 2
        fitted = functional.pad(audio, (-before, before + self._n_samples - audio.shape[-1]))
        mel = self._spectrogram(fitted)
        mel = mel.clamp_min(mel.max() - _DYNAMIC_RANGE)
        mel = mel - mel.mean()
        mel = mel / mel.norm().clamp_min(1e-6)
        self._max_shift = mel.shape[-1] // 2
        spectrum: Tensor = torch.fft.rfft(mel, 2 * mel.shape[-1])
        return spectrum

    def _correlate(self, spectrum: Tensor, others: Tensor) -> Tensor:
        """Return the highest correlation with each of the others `(clips, bands, frequencies)` over all shifts."""
        products = torch.einsum("bf,cbf->cf", spectrum.conj(), others)
        correlation = torch.fft.irfft(products)
        return torch.cat([correlation[:, : self._max_shift + 1], correlation[:, -self._max_shift :]], 1).amax(1)
