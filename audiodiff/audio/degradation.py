"""Degradations of recordings: what each does, what it leaves known, and how it is restored without a model.

Each has the same methods. `degrade` applies it to a clean recording, for experiments; `observe` is its deterministic
part, differentiable; `mask` says which samples it changes. `baseline` restores without a model, and `restored` says
besides what that leaves to do. `fit` puts what is known into a predicted clean signal. `mel` completes the mel
spectrogram of the baseline where that cannot be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_completion import HIGHEST_HERTZ, complete_mel, whole_bands
from audiodiff.audio.resample import low_pass
from audiodiff.audio.restoration import AR_ORDERS, N_FFT, choose_order, cubic_spline, estimate_noise, fill_gap, wiener
from audiodiff.choices import HERTZ, SNR_DB, Number
from audiodiff.errors import AudioError

Shrink = Callable[[Tensor, float], Tensor]
"""(a difference to noisy audio, the noise's standard deviation) -> the part of it that is not noise, by what is
uncertain about the clean signal."""

_LEVEL = Number(float, above=0, high=1e6)
_SECOND = Number(float, low=-86_400, high=86_400, unit="seconds")
_HIGHEST_PEAK = 4.0
"""Full scales that a spline may reach; a long stretch that was cut off would send it anywhere."""
_FADE_SECONDS = 0.003
"""Of a gap at each of its edges, where linear prediction is better than a model."""
_PREDICTABLE_SECONDS = 0.015
"""Length of a gap up to which linear prediction is better than a model, whatever it is in; see egs/speech/repair."""
_PREDICTABLE_SNR = 3.0
"""In dB: what linear prediction reaches in gaps of the same length beside a longer one, if it is better there."""
_EDGE_BANDS = 4
"""Mel bands that tell how a spectrum goes on above what is known or predicted of it."""


class Degradation(Protocol):
    """What every degradation looks like; audio is `(channels, time)`."""

    def degrade(self, audio: Tensor, noise: Tensor) -> Tensor:
        """Degrade a recording, with standard normal noise of its shape where it takes any."""

    def observe(self, audio: Tensor) -> Tensor:
        """Return what the degradation leaves of a clean signal, without noise."""

    def mask(self, audio: Tensor) -> Tensor:
        """Return which samples of degraded audio are not what they were, `(time,)`."""

    def baseline(self, audio: Tensor) -> Tensor:
        """Restore degraded audio without a model."""

    def restored(self, audio: Tensor) -> tuple[Tensor, Degradation | None]:
        """Return the baseline, and the degradation that a model still improves on; None if there is none."""

    def fit(self, denoised: Tensor, audio: Tensor, baseline: Tensor, shrink: Shrink) -> Tensor:
        """Put what degraded audio, or its baseline, tells into a predicted clean signal."""

    def mel(self, frames: Tensor, spectrogram: MelSpectrogram, mel_statistics: MelStatistics) -> Tensor:
        """Complete the mel of the baseline, one frame per hop `(channels, n_mels, n_frames)`."""


class MelStatistics(NamedTuple):
    """Mean and standard deviation of every mel band in the training data, each `(n_mels,)`."""

    mean: Tensor
    deviation: Tensor


def ignore(difference: Tensor, noise_level: float) -> Tensor:
    """Take nothing of a difference to noisy audio; what is free of noise is not asked for its part."""
    return torch.zeros_like(difference)


@dataclass(frozen=True)
class Gaps:
    """Stretches that are missing.

    Attributes:
        spans: First and end second of each.
        sample_rate: In Hz.
    """

    spans: Sequence[tuple[float, float]]
    sample_rate: int

    def __post_init__(self) -> None:
        for span in self.spans:
            for second in span:
                _SECOND.check("gap", second)

    def samples(self, n_samples: int) -> list[tuple[int, int]]:
        """Return first and end sample of each gap.

        Raises:
            AudioError: If a gap is not within the audio, or leaves nothing.
        """
        found = [(round(first * self.sample_rate), round(end * self.sample_rate)) for first, end in self.spans]
        for (first, end), span in zip(found, self.spans, strict=True):
            if not 0 <= first < end <= n_samples or end - first == n_samples:
                seconds = f"{n_samples / self.sample_rate:.3f} s"
                if span[1] <= span[0]:
                    wrong = "the end must be after the start"
                elif end > n_samples or first < 0:
                    wrong = f"exceeds the recording ({seconds})"
                elif first == end:
                    wrong = "is shorter than a sample"
                else:
                    wrong = f"is all of the recording ({seconds})"
                raise AudioError(f"gap {span[0]}-{span[1]} s: {wrong}. Give start and end, such as 1.20-1.25.")
        return found

    def mask(self, audio: Tensor) -> Tensor:
        """Return which samples are missing, `(time,)`."""
        mask = torch.zeros(audio.shape[-1], dtype=torch.bool, device=audio.device)
        for first, end in self.samples(audio.shape[-1]):
            mask[first:end] = True
        if bool(mask.all()):
            raise AudioError(f"the gaps are all of the recording ({audio.shape[-1] / self.sample_rate:.3f} s).")
        return mask

    def degrade(self, audio: Tensor, noise: Tensor) -> Tensor:
        """Put silence in the gaps."""
        return self.observe(audio)

    def observe(self, audio: Tensor) -> Tensor:
        """Put silence in the gaps."""
        return audio.masked_fill(self.mask(audio), 0)

    def baseline(self, audio: Tensor) -> Tensor:
        """Fill every gap by linear prediction from both sides."""
        return self.restored(audio)[0]

    def restored(self, audio: Tensor) -> tuple[Tensor, Gaps | None]:
        """Fill every gap by linear prediction, of the order that is best beside it; long ones that it fails remain."""
        missing, filled, remaining = self.mask(audio).cpu().numpy(), self.observe(audio), []
        scale = min(max(self.sample_rate / 22050, 1), 2)
        orders = [round(order * scale) for order in AR_ORDERS]
        for (first, end), span in zip(self.samples(audio.shape[-1]), self.spans, strict=True):
            snrs = []
            for channel, samples in zip(filled, filled.double().cpu().numpy(), strict=True):
                order, snr = choose_order(samples, first, end, missing, orders)
                channel[first:end] = torch.from_numpy(fill_gap(samples, first, end, order)).to(channel)
                snrs.append(snr)
            if end - first > _PREDICTABLE_SECONDS * self.sample_rate and min(snrs) < _PREDICTABLE_SNR:
                remaining.append(span)
        return filled, Gaps(remaining, self.sample_rate) if remaining else None

    def fit(self, denoised: Tensor, audio: Tensor, baseline: Tensor, shrink: Shrink) -> Tensor:
        """Take the prediction in the gaps, the recording elsewhere.

        Over the first and last few milliseconds of a gap the prediction fades into the baseline, which is right there,
        so that there is no seam.
        """
        fraction = torch.zeros(audio.shape[-1], dtype=audio.dtype, device=audio.device)
        for first, end in self.samples(audio.shape[-1]):
            from_edge = torch.arange(1, end - first + 1, device=audio.device)
            from_edge = torch.minimum(from_edge, from_edge.flip(0))
            fade = (from_edge / (_FADE_SECONDS * self.sample_rate)).clamp_max(1)
            fraction[first:end] = (torch.pi / 2 * fade).sin().square()
        return torch.lerp(baseline, denoised, fraction)

    def mel(self, frames: Tensor, spectrogram: MelSpectrogram, mel_statistics: MelStatistics) -> Tensor:
        """Interpolate linearly in time across the frames whose centre is missing."""
        hop, n_frames = spectrogram.config.hop_length, frames.shape[-1]
        completed = frames.clone()
        for first, end in self.samples(n_frames * hop):
            left, right = math.ceil(first / hop - 0.5) - 1, math.ceil(end / hop - 0.5)  # the frames beside the missing
            if right - left < 2:
                continue
            sides = [side for side in (left, right) if 0 <= side < n_frames] or [left + 1]
            fraction = torch.linspace(0, 1, right - left + 1, device=frames.device)[1:-1]
            completed[..., left + 1 : right] = torch.lerp(
                frames[..., sides[:1]], frames[..., sides[-1:]], fraction[: n_frames - left - 1]
            )
        return completed


@dataclass(frozen=True)
class Clipping:
    """Samples beyond a level were cut off.

    Attributes:
        level: Largest absolute sample; whatever reaches it is unknown beyond.
    """

    level: float

    def __post_init__(self) -> None:
        _LEVEL.check("level", self.level)

    def cut(self, audio: Tensor) -> Tensor:
        """Return which samples were cut off, of the shape of the audio."""
        return audio.abs() >= self.level - 2**-14  # files of 16 bits round

    def mask(self, audio: Tensor) -> Tensor:
        """Return at which times a channel was cut off, `(time,)`."""
        return self.cut(audio).any(0)

    def degrade(self, audio: Tensor, noise: Tensor) -> Tensor:
        """Cut off what is beyond the level."""
        return self.observe(audio)

    def observe(self, audio: Tensor) -> Tensor:
        """Cut off what is beyond the level."""
        return audio.clamp(-self.level, self.level)

    def baseline(self, audio: Tensor) -> Tensor:
        """Lay cubic splines through what was not cut off, and keep to what the cut says."""
        cut = self.cut(audio)
        splines = [
            torch.from_numpy(cubic_spline(channel, ~there))
            for channel, there in zip(audio.double().cpu().numpy(), cut.cpu().numpy(), strict=True)
        ]
        guess = torch.stack(splines).to(audio).clamp(-_HIGHEST_PEAK, _HIGHEST_PEAK)
        return self.fit(guess, audio, audio, ignore)

    def restored(self, audio: Tensor) -> tuple[Tensor, None]:
        """Lay splines, which no model here improves on."""
        return self.baseline(audio), None

    def fit(self, denoised: Tensor, audio: Tensor, baseline: Tensor, shrink: Shrink) -> Tensor:
        """Take the prediction where samples were cut off, as far as it is beyond the level; the recording elsewhere."""
        beyond = audio.sign() * torch.maximum(denoised * audio.sign(), audio.abs())
        return torch.where(self.cut(audio), beyond, audio)

    def mel(self, frames: Tensor, spectrogram: MelSpectrogram, mel_statistics: MelStatistics) -> Tensor:
        """Leave the mel of the splines as it is."""
        return frames


@dataclass(frozen=True)
class Noise:
    """Noise was added.

    Attributes:
        snr_db: Mean power of the recording over that of the noise, in dB.
        spectrum: Of the noise, as `audiodiff.audio.restoration.estimate_noise` returns it; None is white.
    """

    snr_db: float
    spectrum: Tensor | None = field(default=None, compare=False)

    @classmethod
    def estimated(cls, audio: Tensor) -> Noise:
        """Estimate the steady noise in a recording."""
        spectrum = estimate_noise(audio)
        noise = (spectrum[:, 1:-1].square().sum() + spectrum[:, [0, -1]].square().sum() / 2) / (N_FFT // 2)
        ratio = float(audio.square().mean(1).sum() / noise) - 1 if float(noise) > 0 else math.inf
        return cls(10 * math.log10(min(max(ratio, 1e-2), 1e10)), spectrum)

    def __post_init__(self) -> None:
        SNR_DB.check("snr_db", self.snr_db)

    def level(self, audio: Tensor) -> float:
        """Return the standard deviation of the noise in noisy audio."""
        return float((audio.square().mean() / (1 + 10 ** (self.snr_db / 10))).sqrt())

    def mask(self, audio: Tensor) -> Tensor:
        """Return that every sample is changed, `(time,)`."""
        return torch.ones(audio.shape[-1], dtype=torch.bool, device=audio.device)

    def degrade(self, audio: Tensor, noise: Tensor) -> Tensor:
        """Add noise of this signal-to-noise ratio."""
        return audio + noise * audio.square().mean().sqrt() * 10 ** (-self.snr_db / 20)

    def observe(self, audio: Tensor) -> Tensor:
        """Leave the signal as it is."""
        return audio

    def baseline(self, audio: Tensor) -> Tensor:
        """Filter the noise out by its known spectrum."""
        return wiener(audio, self.level(audio) if self.spectrum is None else self.spectrum.to(audio))

    def restored(self, audio: Tensor) -> tuple[Tensor, None]:
        """Filter, which no model here improves on."""
        return self.baseline(audio), None

    def fit(self, denoised: Tensor, audio: Tensor, baseline: Tensor, shrink: Shrink) -> Tensor:
        """Go from the prediction towards the recording as far as it is more uncertain than the recording is noisy."""
        return denoised + shrink(audio - denoised, self.level(audio))

    def mel(self, frames: Tensor, spectrogram: MelSpectrogram, mel_statistics: MelStatistics) -> Tensor:
        """Leave the mel of the filtered recording as it is."""
        return frames


@dataclass(frozen=True)
class LowPass:
    """Everything from a frequency on is missing.

    Attributes:
        cutoff: In Hz.
        sample_rate: In Hz.
    """

    cutoff: float
    sample_rate: int

    def __post_init__(self) -> None:
        HERTZ.check("cutoff", self.cutoff)

    def mask(self, audio: Tensor) -> Tensor:
        """Return that every sample is changed, `(time,)`."""
        return torch.ones(audio.shape[-1], dtype=torch.bool, device=audio.device)

    def degrade(self, audio: Tensor, noise: Tensor) -> Tensor:
        """Take away what is above the cutoff."""
        return self.observe(audio)

    def observe(self, audio: Tensor) -> Tensor:
        """Take away what is above the cutoff."""
        return low_pass(audio, self.cutoff, self.sample_rate)

    def baseline(self, audio: Tensor) -> Tensor:
        """Leave the recording as it is, which is what resampling does."""
        return audio

    def restored(self, audio: Tensor) -> tuple[Tensor, LowPass]:
        """Leave all to a model."""
        return audio, self

    def fit(self, denoised: Tensor, audio: Tensor, baseline: Tensor, shrink: Shrink) -> Tensor:
        """Take the recording below the cutoff, the prediction above."""
        return denoised + self.observe(audio - denoised)

    def mel(self, frames: Tensor, spectrogram: MelSpectrogram, mel_statistics: MelStatistics) -> Tensor:
        """Predict the bands above the cutoff by a network, and those above its highest frequency as typical speech has.

        There a band lies as many standard deviations from its mean as the highest whole bands of its frame do.
        """
        n_bands, n_whole, n_predicted = (
            int(whole_bands(spectrogram, hertz).sum()) for hertz in (math.inf, self.cutoff, HIGHEST_HERTZ)
        )
        if n_whole == n_bands:
            return frames
        if n_whole < _EDGE_BANDS:
            raise AudioError(
                f"below {self.cutoff:.0f} Hz there are {n_whole} whole mel bands, at least {_EDGE_BANDS} are needed to "
                "extrapolate from. Give a higher frequency."
            )
        parts = [frames[:, :n_whole]]
        if n_predicted > n_whole:
            parts.append(complete_mel(frames, self.cutoff, spectrogram.config)[:, n_whole:n_predicted])
        completed = torch.cat(parts, 1)
        n_completed = completed.shape[1]
        mean, deviation = (value.unsqueeze(1) for value in mel_statistics)
        edge = slice(n_completed - _EDGE_BANDS, n_completed)
        standing = ((completed[:, edge] - mean[edge]) / deviation[edge]).mean(1, keepdim=True)
        return torch.cat([completed, (mean + standing * deviation)[:, n_completed:]], 1)
