"""Mels of one convention turned into those of another: exactly where possible, else as near as filters allow."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram, compress, expand
from audiodiff.config import MelConfig
from audiodiff.errors import MelError

_FRAMES = ("sample_rate", "hop_length")
_FILTERS = ("sample_rate", "n_fft", "win_length", "n_mels", "f_min", "f_max", "scale", "power")
_TINY = 1e-12
_TRIAL_SECONDS = 2.0


class MelConverter:
    """Convert mels of one convention to another.

    Logarithm, affine map, statistics, floor, level and norm of the filters are converted exactly; a value that the
    source's floor or clip took away stays lost. Frames centred elsewhere are interpolated. Where the filters, the
    window or the power differ, the spectrum is estimated by deconvolution and filtered again, with a correction per
    bin, found on a voice-like signal, for what such an estimate gets wrong on average.

    Args:
        source: What the given mels follow.
        target: What they become.
        resample: Whether another sample rate or hop is converted too, by interpolation in time.

    Attributes:
        source: The former.
        target: The latter.
        exact: Whether nothing but the source's floor or clip is lost.
        look_ahead: Frames that must have come before a frame can be converted.

    Raises:
        MelError: If rate or hop differ and `resample` is false.

    Example:
        >>> from audiodiff.config import mel_convention
        >>> converter = MelConverter(mel_convention("matcha"), mel_convention("hifigan-22k"))
        >>> converter.exact, converter.look_ahead
        (True, 0)
    """

    def __init__(self, source: MelConfig, target: MelConfig, *, resample: bool = False) -> None:
        self.keeps_hops = _alike(source, target, _FRAMES)
        if not (self.keeps_hops or resample):
            raise MelError(
                f"mels of convention {source.name!r} have a frame per {source.hop_length} samples at "
                f"{source.sample_rate} Hz; convention {target.name!r} has one per {target.hop_length} at "
                f"{target.sample_rate} Hz. Use --resample (resample=True) to interpolate them, or a model of that rate."
            )
        self.source, self.target = source, target
        self._from, self._to = _spectrogram(source), _spectrogram(target)
        self._same_filters = _alike(source, target, _FILTERS)
        self._ratio = (target.hop_length / target.sample_rate) / (source.hop_length / source.sample_rate)
        self._shift = _centre(target) * self._ratio - _centre(source)
        self.exact = self.keeps_hops and self._same_filters and self._shift == 0
        self.look_ahead = max(0, -int(-self._shift // 1))
        self._correction = torch.zeros(target.n_mels, 1, dtype=torch.float64)
        if not self._same_filters:
            trial = _trial_mels(self)
            heard = trial[1] > trial[1].amax((-2, -1), keepdim=True) - 7  # 60 dB
            self._correction = ((trial[1] - trial[0]) * heard).sum(-1, keepdim=True) / heard.sum(
                -1, keepdim=True
            ).clamp(1)

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
            stop = max(done, int((n_given - 1 - self._shift) // self._ratio) + 1)
            if stop > done:
                yield self._finish(self._interpolated(kept, first, done, stop), mel)
                done = stop
            unused = max(0, min(int(done * self._ratio + self._shift) - first, kept.shape[-1] - 1))
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
        return _between(magnitude, at, dim=-2) * (target.win_length / source.win_length)

    def _interpolated(self, kept: Tensor, first: int, start: int, stop: int) -> Tensor:
        if self._ratio == 1 and self._shift == 0:
            return kept[..., start - first : stop - first]
        at = torch.arange(start, stop, dtype=torch.float64, device=kept.device) * self._ratio + self._shift
        return _between(kept, (at - first).clamp(0, kept.shape[-1] - 1), dim=-1)

    def _finish(self, log_energy: Tensor, like: Tensor) -> Tensor:
        return compress(log_energy.exp(), self.target).to(like.dtype)

    @property
    def error_db(self) -> float:
        """Mean absolute error in dB on a voice-like signal, within 60 dB of its loudest value."""
        converted, direct = _trial_mels(self)
        heard = direct > direct.max() - 6.9 * self.target.power
        db = 20 / self.target.power * 0.4343
        return float((converted - direct)[heard].abs().mean()) * db

    @property
    def description(self) -> str:
        """What a user should know of the conversion, in a sentence."""
        names = f"mels of convention {self.source.name!r} are converted to {self.target.name!r}"
        if self.exact:
            return f"{names}, exactly"
        said = f"{names}, with an error of about {self.error_db:.1f} dB"
        top = min(self.target.f_max, self.target.sample_rate / 2)
        return f"{said}; nothing is known above {self.source.f_max:g} Hz" if self.source.f_max < 0.97 * top else said


@lru_cache(maxsize=32)
def mel_converter(source: MelConfig, target: MelConfig, *, resample: bool = False) -> MelConverter:
    """Return `MelConverter` of these arguments, made once."""
    return MelConverter(source, target, resample=resample)


def _alike(one: MelConfig, other: MelConfig, names: Iterable[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in names)


def _centre(config: MelConfig) -> float:
    """Return where frame 0 is centred, in hops."""
    return {"frame": 0.0, "hop": 0.5}.get(config.centre, config.n_fft / 2 / config.hop_length)


def _spectrogram(config: MelConfig) -> MelSpectrogram:
    with warnings.catch_warnings():  # of bins that are always silent, which is how the toolkit has it
        warnings.simplefilter("ignore")
        return MelSpectrogram(config)


def _between(values: Tensor, at: Tensor, dim: int) -> Tensor:
    """Interpolate linearly at fractional positions of one axis."""
    low = at.long().clamp(max=values.shape[dim] - 1)
    high = (low + 1).clamp(max=values.shape[dim] - 1)
    weight = (at - low).reshape(-1, *[1] * (-dim - 1))
    return torch.lerp(values.index_select(dim, low), values.index_select(dim, high), weight.to(values.dtype))


def _voice_like(sample_rate: int) -> Tensor:
    """Return harmonics that glide below a falling spectrum, breath and changing level, `(1, time)`."""
    time = torch.arange(int(_TRIAL_SECONDS * sample_rate), dtype=torch.float64) / sample_rate
    phase = 2 * torch.pi * torch.cumsum(170 + 60 * torch.sin(2.5 * time), 0) / sample_rate
    voice = sum((torch.sin(k * phase) / k**1.2 for k in range(1, int(min(sample_rate, 16000) / 2 / 240))), 0 * time)
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    level = torch.sin(2 * torch.pi * 2 * time).abs()
    return (0.1 * level * voice + 0.01 * (1.1 - level) * noise).float()[None]


def _trial_mels(converter: MelConverter) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the filtered spectra of a voice-like signal, converted and computed directly."""
    source, target = converter.source, converter.target
    given = converter._from(_voice_like(source.sample_rate))
    direct = expand(converter._to(_voice_like(target.sample_rate)).double(), target).clamp_min(1e-30).log()[0]
    converted = expand(converter(given).double(), target).clamp_min(1e-30).log()[0]
    n_frames = min(direct.shape[-1], converted.shape[-1])
    return converted[:, :n_frames], direct[:, :n_frames]
