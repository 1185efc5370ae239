"""Mels of one convention turned into those of another: exactly where possible, else as near as filters allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import DECIBELS, MelSpectrogram, compress, expand
from audiodiff.config import MelConfig
from audiodiff.errors import MelError

_FRAMES = ("sample_rate", "hop_length")
_FILTERS = ("sample_rate", "n_fft", "win_length", "n_mels", "f_min", "f_max", "scale", "power", "pre_emphasis")
_TINY = 1e-12
_SPEECH = tuple(
    Path(__file__).parents[1] / "assets" / "clips" / name
    for name in ("sense-and-sensibility.flac", "sense-and-sensibility-0870.flac")
)
"""What errors are measured on."""
_HEARD = 60 / DECIBELS
"""How far below its loudest value speech is looked at: 60 dB, in nepers."""


class MelConverter:
    """Convert mels of one convention to another.

    Logarithm, affine map, statistics, floor, level and norm of the filters are converted exactly; a value that the
    source's floor or clip took away stays lost. Where the filters, the window or the power differ, the spectrum is
    estimated by deconvolution and filtered again, with a correction per bin, found on real speech, for what such an
    estimate gets wrong on average. (The best linear map between filter banks is worse: 2 dB of error in place of 0.6.)
    Frames that are centred elsewhere are interpolated, by cubic splines of the logarithm; or they stay where they are,
    and the audio made of them is shifted in their place, which loses nothing.

    Args:
        source: What the given mels follow.
        target: What they become.
        resample: Whether another sample rate or hop is converted too, by interpolation in time.
        keep_centres: Whether frames stay centred where they are, if hops do; see `delay`.

    Attributes:
        source: The former.
        target: The latter.
        exact: Whether nothing but the source's floor or clip is lost.
        error_db: Mean absolute error in dB on real speech, within 60 dB of its loudest value.
        delay: Samples by which audio made of the converted mel is late, if below 0 early.
        look_ahead: Frames that must have come before a frame can be converted.

    Raises:
        MelError: If rate or hop differ and `resample` is false.

    Example:
        >>> from audiodiff.config import mel_convention
        >>> converter = MelConverter(mel_convention("matcha"), mel_convention("hifigan-22k"))
        >>> converter.exact, converter.look_ahead
        (True, 0)
    """

    def __init__(
        self, source: MelConfig, target: MelConfig, *, resample: bool = False, keep_centres: bool = False
    ) -> None:
        self.keeps_hops = _alike(source, target, _FRAMES)
        if not (self.keeps_hops or resample):
            raise MelError(
                f"mels of convention {source.name!r} have a frame per {source.hop_length} samples at "
                f"{source.sample_rate} Hz; convention {target.name!r} has one per {target.hop_length} at "
                f"{target.sample_rate} Hz. ",
                "Use {resample} to interpolate them, or a model of that rate.",
                resample=True,
            )
        self.source, self.target = source, target
        self._from, self._to = MelSpectrogram(source), MelSpectrogram(target)
        self._same_filters = _alike(source, target, _FILTERS)
        self._ratio = (target.hop_length / target.sample_rate) / (source.hop_length / source.sample_rate)
        self._shift = _centre(target) * self._ratio - _centre(source)
        self.delay = 0
        if keep_centres and self.keeps_hops:
            self.delay, self._shift = round(self._shift * target.hop_length), 0.0
        self._knows_level = source.reference in ("absolute", target.reference)
        self.exact = self.keeps_hops and self._same_filters and self._knows_level and self._shift == 0
        self.look_ahead = 0 if self._shift == 0 else max(0, math.floor(self._shift) + 2)
        self._correction, self.error_db = torch.zeros(target.n_mels, 1, dtype=torch.float64), 0.0
        if not self.exact:
            self._measure()

    def _measure(self) -> None:
        """Convert speech; note what is wrong in each bin on average, to be corrected, and how wrong the rest is."""
        source, target, to = self.source, self.target, self._to
        if self.delay:
            target = target.model_copy(update={"centre": source.centre, "pairing": "midpoint"})
            to = MelSpectrogram(target)
        direct = _log_energy(to(_speech(target.sample_rate)), target)
        converted = _log_energy(self(self._from(_speech(source.sample_rate))), self.target)
        n_frames = min(direct.shape[-1], converted.shape[-1])
        error = direct[:, :n_frames] - converted[:, :n_frames]
        heard = direct[:, :n_frames] > direct.max() - _HEARD * target.power
        if not (self._same_filters and self._knows_level):
            self._correction = (error * heard).sum(1, keepdim=True) / heard.sum(1, keepdim=True).clamp(1)
        rest = (error - self._correction)[heard].abs().mean()
        self.error_db = float(rest) * DECIBELS / target.power

    def __call__(self, mel: Tensor) -> Tensor:
        """Convert a whole mel `(..., n_mels, frames)`; float32 stays float32."""
        return torch.cat(list(self.stream([mel])), dim=-1)

    def stream(self, mels: Iterable[Tensor]) -> Iterator[Tensor]:
        """Convert consecutive pieces `(..., n_mels, frames)`: together what the whole converts to.

        Raises:
            MelError: If the frames are too few for one of the target.
        """
        if self.keeps_hops and self._shift == 0:
            for mel in mels:
                yield self._finish(self._refiltered(mel), mel)
            return
        kept, first, done, n_given = None, 0, 0, 0  # `kept` begins with frame `first` of the source
        for mel in mels:
            if mel.shape[-1] == 0:
                continue
            piece = self._refiltered(mel)
            kept = piece if kept is None else torch.cat([kept, piece], dim=-1)
            n_given += piece.shape[-1]
            stop = max(done, math.ceil((n_given - 2 - self._shift) / self._ratio))  # two frames follow those before it
            if stop > done:
                yield self._finish(self._interpolated(kept, first, done, stop), mel)
                done = stop
            unused = max(0, min(int(done * self._ratio + self._shift) - 1 - first, kept.shape[-1] - 1))
            kept, first = kept[..., unused:], first + unused
        if kept is None:
            return
        n_frames = self.n_frames(n_given)
        if n_frames < 1:
            raise MelError(f"mel has {n_given} frames; convention {self.source.name!r} needs more for one frame.")
        if n_frames > done:
            yield self._finish(self._interpolated(kept, first, done, n_frames), mel)

    def n_frames(self, n_source: int) -> int:
        """Return how many frames a mel of so many frames is converted to, the whole mel."""
        if self.keeps_hops and self._shift == 0:
            return n_source
        last = {"frame": n_source - 1.0, "hop": float(n_source)}.get(
            self.source.centre, n_source - 1 + self.source.n_fft / self.source.hop_length
        )
        hops = round(last / self._ratio, 6)
        spare = {"frame": 1.0, "hop": 0.0}.get(self.target.centre, 1 - self.target.n_fft / self.target.hop_length)
        return int(hops + spare)

    def _refiltered(self, mel: Tensor) -> Tensor:
        """Return the logarithm of the target's filtered spectra at the frames of the source, in float64."""
        self._from.to(mel.device), self._to.to(mel.device)
        if self._same_filters:
            weights = self._to.filterbank.double().sum(1) / self._from.filterbank.double().sum(1).clamp_min(_TINY)
            gain = (self._to.gain / self._from.gain) ** self.source.power
            energy = expand(mel.double(), self.source) * (gain * weights)[:, None]
        else:
            magnitude = self._at_bins(self._from.inverse(mel.double()))
            energy = self._to.filterbank.double() @ (magnitude * self._to.gain) ** self.target.power
        return energy.clamp_min(1e-30).log() + self._correction.to(mel.device)

    def _at_bins(self, magnitude: Tensor) -> Tensor:
        """Return magnitudes `(..., bins, frames)` at the bins of the target; beyond the filters the last is held."""
        source, target = self.source, self.target
        n_bins = self._to.filterbank.shape[1]
        heard = self._from.filterbank.sum(0).nonzero()
        bins = torch.arange(n_bins, dtype=torch.float64, device=magnitude.device)
        at = (bins * (target.sample_rate / target.n_fft) / (source.sample_rate / source.n_fft)).clamp(
            float(heard.min()), float(heard.max())
        )
        low = at.long()
        high, weight = (low + 1).clamp(max=magnitude.shape[-2] - 1), (at - low).unsqueeze(1)
        here = torch.lerp(magnitude.index_select(-2, low), magnitude.index_select(-2, high), weight)
        here = here * (target.win_length / source.win_length)
        if source.pre_emphasis == target.pre_emphasis:
            return here
        radians = 2 * math.pi * bins / target.n_fft
        emphasis = [
            (1 - config.pre_emphasis * torch.polar(torch.ones_like(radians), -radians)).abs()
            for config in (target, source)
        ]
        return here * (emphasis[0] / emphasis[1].clamp_min(_TINY)).unsqueeze(1)

    def _interpolated(self, kept: Tensor, first: int, start: int, stop: int) -> Tensor:
        at = torch.arange(start, stop, dtype=torch.float64, device=kept.device) * self._ratio + self._shift
        return _cubic(kept, (at - first).clamp(0, kept.shape[-1] - 1))

    def _finish(self, log_energy: Tensor, like: Tensor) -> Tensor:
        return compress(log_energy.exp(), self.target).to(like.dtype)

    @property
    def description(self) -> str:
        """What a user should know of the conversion, in a sentence."""
        names = f"mels of convention {self.source.name!r} are converted to {self.target.name!r}"
        if self.exact:
            return f"{names}, exactly"
        said = f"{names}, with an error of about {self.error_db:.1f} dB"
        if not self._knows_level:
            said += "; their level is unknown, and becomes that of usual speech"
        top = min(self.target.f_max, self.target.sample_rate / 2)
        return f"{said}; nothing is known above {self.source.f_max:g} Hz" if self.source.f_max < 0.97 * top else said


@lru_cache(maxsize=32)
def mel_converter(
    source: MelConfig, target: MelConfig, *, resample: bool = False, keep_centres: bool = False
) -> MelConverter:
    """Return `MelConverter` of these arguments, made once."""
    return MelConverter(source, target, resample=resample, keep_centres=keep_centres)


def _alike(one: MelConfig, other: MelConfig, names: Iterable[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _centre(config: MelConfig) -> float:
    """Return where frame 0 is centred, in hops."""
    return {"frame": 0.0, "hop": 0.5}.get(config.centre, config.n_fft / 2 / config.hop_length)


def _cubic(values: Tensor, at: Tensor) -> Tensor:
    """Interpolate the last axis at fractional positions by cubic splines through four values (Catmull-Rom)."""
    last = values.shape[-1] - 1
    low = at.long()
    t = (at - low).to(values.dtype)
    before, here, after, then = (values.index_select(-1, (low + i).clamp(0, last)) for i in (-1, 0, 1, 2))
    curve = 2 * before - 5 * here + 4 * after - then + t * (3 * (here - after) + then - before)
    return here + t / 2 * (after - before + t * curve)


def _log_energy(mel: Tensor, config: MelConfig) -> Tensor:
    """Return the logarithm of the filtered spectra, `(n_mels, frames)`, of a mel `(1, n_mels, frames)`."""
    return expand(mel.double(), config).clamp_min(1e-30).log()[0]


@lru_cache(maxsize=8)
def _speech(sample_rate: int) -> Tensor:
    """Return real speech, `(1, time)`."""
    return torch.cat([load_audio(path, sample_rate) for path in _SPEECH], dim=1)
