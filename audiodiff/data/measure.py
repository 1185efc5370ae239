"""What can be measured of one recording before training: level, clipping, DC, silence, bandwidth, and its content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.io import audio_info, load_audio
from audiodiff.data.manifest import Scan
from audiodiff.data.parallel import parallel_map
from audiodiff.errors import AudioError

SILENCE = 10 ** (-60 / 20)
"""Amplitude below which a sample is silent: -60 dB of full scale."""

_FLAT = 3
"""Samples in a row at the same extreme value that a converter or an editor has cut off."""
_NEAR_FULL = 0.2
"""Amplitude from which a flat top counts as clipped; also files that were made quieter after clipping are found."""

_N_FFT = 2048
_BLOCK = 2**20
"""Samples whose spectrum is computed at once."""
_LOWEST = 3200.0
"""Hz; telephones cut at 3400 Hz. Below, a steep edge is a part of the sound."""
_DROP = 15.0
"""dB; what a level must fall by within the width of an edge, for good. Music and voices decline over octaves."""
_EDGE = 0.05
"""Width of an edge, as a fraction of half the sample rate."""
_FULL = 0.95
"""A band that reaches up to this fraction of half the sample rate ends where every anti-aliasing filter ends it."""
_SILENT = 10 * torch.tensor(2.0**-30 / 12).log10().item() - 6
"""dB; under the rounding noise of 16 bits there is no level to speak of: the density of white noise of LSB² / 12."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of a file.

    Attributes:
        seconds: Length.
        sample_rate: Of the file, in Hz.
        n_samples: Per channel, at the file's own rate.
        channels: Number of channels.
        peak: Largest amplitude; 1 is full scale.
        level: RMS of what is not silent, in dB of full scale without any offset; None for a silent file.
        dc: Mean of the samples; 1 is full scale.
        clipped: Samples in flat tops at the peak.
        lead: Seconds of silence before the first sound.
        tail: Seconds of silence after the last.
        bandwidth: Hz up to which it reaches, if something cut it off; see `bandwidth`.
        digest: Equal for files whose samples are equal, whatever their format.
        notes: What is amiss with the header, one sentence each.
    """

    seconds: float
    sample_rate: int
    n_samples: int
    channels: int
    peak: float
    level: float | None
    dc: float
    clipped: int
    lead: float
    tail: float
    bandwidth: float | None
    digest: str
    notes: tuple[str, ...] = ()

    @property
    def silent(self) -> bool:
        """Whether there is nothing but silence."""
        return self.level is None

    @property
    def clipped_fraction(self) -> float:
        """Fraction of the samples that lie in flat tops; 0 for silence, which is flat anyway."""
        return 0.0 if self.silent else self.clipped / (self.n_samples * self.channels)


def measure(path: Path) -> Measurement:
    """Read a file and measure it.

    Args:
        path: The audio file.

    Returns:
        The measurements.

    Raises:
        AudioError: If the file cannot be read, or has samples that are not finite.
    """
    audio = load_audio(path, mono=False)
    info = audio_info(path)
    lead, tail = _silence(audio)
    return Measurement(
        seconds=info.seconds,
        sample_rate=info.sample_rate,
        n_samples=info.n_samples,
        channels=info.channels,
        peak=float(audio.abs().max()),
        level=_level(audio),
        dc=float(audio.mean()),
        clipped=_clipped(audio),
        lead=lead / info.sample_rate,
        tail=tail / info.sample_rate,
        bandwidth=bandwidth(audio, info.sample_rate),
        digest=blake2b(audio.numpy().tobytes(), digest_size=16, salt=b"%d" % info.channels).hexdigest(),
        notes=info.notes,
    )


def _level(audio: Tensor) -> float | None:
    """Return the RMS in dB of the blocks of 1024 samples that are not silent; None if all are.

    The mean of each block is taken away: an offset is no sound.
    """
    padded = functional.pad(audio.mean(0)[None, None], (0, -audio.shape[-1] % 1024), "replicate")
    loud = padded.view(-1, 1024).var(1, correction=0)
    loud = loud[loud > SILENCE**2]
    return float(10 * loud.mean().log10()) if len(loud) else None


def _clipped(audio: Tensor) -> int:
    """Count the samples that lie in flat runs at the highest or the lowest value of the file."""
    count = 0
    for signal in (audio, -audio):
        peak = signal.max()
        at_peak = signal >= peak
        if peak < _NEAR_FULL or int(at_peak.sum()) < _FLAT:
            continue
        flat = at_peak.unfold(-1, _FLAT, 1).all(-1)
        # A run of n samples at the peak holds n - 2 flat windows of three, and each run one more begins.
        runs = flat[:, 0].sum() + (flat[:, 1:] & ~flat[:, :-1]).sum()
        count += int(flat.sum() + (_FLAT - 1) * runs)
    return count


def _silence(audio: Tensor) -> tuple[int, int]:
    """Return how many samples are silent before the first sound and after the last; all of them in a silent file."""
    sounding = (audio.abs() > SILENCE).any(0).nonzero()
    if not len(sounding):
        return audio.shape[-1], audio.shape[-1]
    return int(sounding[0]), audio.shape[-1] - 1 - int(sounding[-1])


def mean_spectrum(audio: Tensor) -> Tensor:
    """Return the mean power spectrum of a signal (Welch's method).

    Args:
        audio: Samples `(time,)` or `(channels, time)`.

    Returns:
        Power density in dB, shape `(1025,)`, from 0 Hz to half the sample rate; white noise of variance 1 has 0 dB.
    """
    audio = functional.pad(audio.reshape(-1, audio.shape[-1]), (0, max(0, _N_FFT - audio.shape[-1])))
    window = torch.hann_window(_N_FFT, dtype=audio.dtype)
    window = window / window.norm()
    total, n_frames = torch.zeros(_N_FFT // 2 + 1, dtype=torch.float64), 0
    for first in range(0, audio.shape[-1] - _N_FFT + 1, _BLOCK):
        block = audio[:, first : first + _BLOCK + _N_FFT // 2]
        if block.shape[-1] < _N_FFT:
            break
        frames = block.unfold(-1, _N_FFT, _N_FFT // 2) * window
        total += torch.fft.rfft(frames).abs().square().sum((0, 1)).double()
        n_frames += frames.shape[0] * frames.shape[1]
    return 10 * (total / n_frames).clamp_min(1e-30).log10()


def bandwidth(audio: Tensor, sample_rate: int) -> float | None:
    """Measure up to where a recording reaches, if something has cut it off.

    Speech at 22050 Hz that was resampled from 16000 Hz, or was once an MP3 of a low bit rate, falls off a cliff. A
    sound that merely has no high partials declines, and is not called cut off.

    Args:
        audio: Samples `(time,)` or `(channels, time)`.
        sample_rate: In Hz.

    Returns:
        Hz above which there is nothing, or None for a recording that nothing has cut off.
    """
    level = mean_spectrum(audio).clamp_min(_SILENT)
    n_bins, width = len(level), round(_EDGE * len(level))
    smooth = functional.avg_pool1d(level.view(1, 1, -1), 9, 1, 4, count_include_pad=False).view(-1)
    above = smooth.flip(0).cummax(0).values.flip(0)  # the loudest from each bin on
    edges = torch.arange(width, round(_FULL * n_bins) + 1)
    # The median just below: the floor between partials, not the partials, whose end is no edge.
    before = level.unfold(0, width, 1).median(1).values[edges - width]
    steep = edges[before - above[(edges + width // 2).clamp(max=n_bins - 1)] >= _DROP]
    if not len(steep):
        return None
    found = _steepest(smooth, int(steep[-1]), width) * sample_rate / 2 / (n_bins - 1)
    return found if _LOWEST <= found <= _FULL * sample_rate / 2 else None


def _steepest(level: Tensor, edge: int, width: int) -> int:
    """Return the bin near an edge where half of its drop is done."""
    part = level[edge - width : edge + width]
    middle = (part[: width // 2].median() + part[-width // 2 :].median()) / 2
    return edge - width + int((part >= middle).nonzero().max())


def measured_bandwidth(path: Path) -> float | None:
    """Return the bandwidth of a file in whole Hz if something cut it off, else None; see `bandwidth`."""
    audio = load_audio(path)
    found = bandwidth(audio, audio_info(path).sample_rate)
    return None if found is None else float(round(found))


def note_bandwidth(scan: Scan, workers: int = 1, on_file: Callable[[int, int], None] | None = None) -> Scan:
    """Measure the bandwidth of every recording of a folder.

    Args:
        scan: What the folder holds.
        workers: Files at a time.
        on_file: Called after each file with how many have been measured, and how many there are.

    Returns:
        The recordings with their bandwidth noted; those whose samples cannot be read are unreadable now.
    """
    noted = Scan([], list(scan.unreadable))
    results = parallel_map(_bandwidth_or_say_why, [recording.audio for recording in scan.recordings], workers)
    for number, (recording, found) in enumerate(zip(scan.recordings, results, strict=True), 1):
        if isinstance(found, str):
            noted.unreadable.append((recording.audio, found))
        else:
            noted.recordings.append(recording.model_copy(update={"bandwidth": found}))
        if on_file:
            on_file(number, len(scan.recordings))
    return noted


def _bandwidth_or_say_why(path: Path) -> float | str | None:
    try:
        return measured_bandwidth(path)
    except AudioError as error:
        return str(error)
