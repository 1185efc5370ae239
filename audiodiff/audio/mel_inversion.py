"""A waveform from a mel without a network: magnitudes by deconvolution, phases by Griffin-Lim or their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.transforms import FramedSTFT

EDGE_BINS = 8
"""Bins at the upper edge of the mel that tell how the spectrum goes on above it."""
_FIRST_DIGITS = 97.0
_TINY = 1e-30
MAX_GAIN = 100.0
"""By how much Griffin-Lim raises a magnitude at most: what is far below its target is rounding, and has no phase."""
TOLERANCE = 1e-4
"""Magnitude below which a phase is random, relative to the loudest of this frame and the previous one (-80 dB)."""
HANN_GAMMA = 0.25645
"""Of the Gaussian closest to a Hann window, over its squared length (Prusa, Balazs and Sondergaard 2017, Table I)."""

LONGEST_BLOCK = 32
"""Samples that `limit_energy` gives one gain, at most: 1.5 ms at 22 kHz. Longer ones bound what is steady too low."""
_SMALLEST_MAGNITUDE = 1e-12
_NO_SOURCE = 1e3
"""How far below any log-magnitude a bin's priority lies that can be reached from nowhere: it starts at phase 0."""


def griffin_lim(
    magnitude: Tensor, noise: Tensor, stft: FramedSTFT, *, iterations: int = 32, momentum: float = 0.99
) -> Tensor:
    """Project alternately on signals of this magnitude and on consistent spectra, with momentum.

    The fast variant of Perraudin, Balazs and Sondergaard 2013, "A fast Griffin-Lim algorithm".

    Args:
        magnitude: Target magnitudes in the scale of `stft` `(batch, n_frames, n_bins)`.
        noise: A signal whose phases the search starts from `(batch, n_frames * hop_length)`.
        stft: The transform.
        iterations: Number of round trips.
        momentum: Between 0 (the method of Griffin and Lim 1984) and 1.

    Returns:
        Waveforms of the shape of `noise`.
    """
    projections = _Projections(magnitude, stft)
    spectrum, projected, previous = (torch.zeros_like(magnitude, dtype=magnitude.dtype.to_complex()) for _ in range(3))
    projections.analyse(noise, spectrum)
    for _ in range(iterations):
        projections.analyse(projections.synthesise(spectrum), projected)
        # projected + momentum * (projected - previous), but for a factor: its phases alone count
        torch.sub(projected, previous, alpha=momentum / (1 + momentum), out=spectrum)
        projected, previous = previous, projected
    return projections.synthesise(spectrum).clone()


class _Projections:
    """Both directions of an STFT in memory that every round uses again: two thirds of the time of plain calls.

    Args:
        magnitude: What spectra are brought to `(batch, n_frames, n_bins)`.
        stft: The transform.
    """

    def __init__(self, magnitude: Tensor, stft: FramedSTFT) -> None:
        self._magnitude, self._stft = magnitude, stft
        batch, n_frames, _ = magnitude.shape
        self._inside = slice(stft.margin, stft.margin + n_frames * stft.hop_length)
        self._padded = magnitude.new_zeros(batch, n_frames * stft.hop_length + 2 * stft.margin)
        self._windowed = magnitude.new_empty(batch, n_frames, stft.n_fft)
        self._total = magnitude.new_empty(batch, n_frames + stft.n_fft // stft.hop_length - 1, stft.hop_length)
        self._gain, self._lowest = torch.empty_like(magnitude), lowest_square(magnitude)
        self._weight = stft.overlap_weight(n_frames)

    def analyse(self, signal: Tensor, spectrum: Tensor) -> None:
        """Write the spectrum of a signal."""
        self._padded[:, self._inside] = signal
        frames = self._padded.unfold(-1, self._stft.n_fft, self._stft.hop_length)
        torch.mul(frames, self._stft.window, out=self._windowed)
        torch.fft.rfft(self._windowed, out=spectrum)

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """Give a spectrum the magnitudes, in place, and return the signal closest to it, valid until the next call."""
        real, imaginary = spectrum.real, spectrum.imag
        torch.mul(real, real, out=self._gain).addcmul_(imaginary, imaginary)
        torch.maximum(self._gain, self._lowest, out=self._gain)
        spectrum.mul_(self._gain.rsqrt_().mul_(self._magnitude))
        torch.fft.irfft(spectrum, n=self._stft.n_fft, out=self._windowed)
        hops = self._windowed.mul_(self._stft.window).unflatten(-1, (-1, self._stft.hop_length))
        n_frames = hops.shape[1]
        self._total.zero_()
        for i, part in enumerate(hops.unbind(2)):
            self._total[:, i : i + n_frames] += part
        return self._total.flatten(1)[:, self._inside].div_(self._weight)


def lowest_square(magnitude: Tensor) -> Tensor:
    """Return what squared magnitudes are raised to before Griffin-Lim divides by their root."""
    return (magnitude / MAX_GAIN).square().clamp_min(_TINY)


def griffin_lim_reach(stft: FramedSTFT, iterations: int) -> int:
    """Return on how many frames to either side of its hop a sample depends after so many round trips.

    A round trip mixes the frames whose windows overlap; the synthesis after it reaches to the ends of a window.
    """
    overlapping, hop_length = stft.n_fft // stft.hop_length - 1, stft.hop_length
    return iterations * overlapping + -(-stft.margin // hop_length)


def waveform_from_mel(mel: Tensor, noise: Tensor, spectrogram: MelSpectrogram, *, iterations: int = 32) -> Tensor:
    """Estimate the waveform of a mel; phases by Griffin-Lim, starting from random ones.

    Args:
        mel: Mel spectrograms, one frame per hop `(batch, n_mels, frames)`.
        noise: A signal whose phases the search starts from `(batch, 1, frames * hop_length)`.
        spectrogram: What made the mels.
        iterations: Griffin-Lim round trips.

    Returns:
        Waveforms of the shape of `noise`. Above the highest mel band they go on at the level of its upper edge, so that
        what refines them has noise to shape there.

    Raises:
        ConfigError: If the hop length does not divide the window, so that frames do not tile the signal.
    """
    stft = FramedSTFT(spectrogram.config.n_fft, spectrogram.config.hop_length).to(mel.device)
    magnitude = magnitude_from_mel(mel, spectrogram).to(mel)
    audio = griffin_lim(magnitude, noise[:, 0], stft, iterations=iterations)
    return limit_energy(audio, magnitude, stft).unsqueeze(1)


def consistent_waveform(spectrum: Tensor, stft: FramedSTFT, *, iterations: int = 1) -> Tensor:
    """Return the waveforms `(batch, 1, time)` closest to complex spectra `(batch, n_frames, n_bins)`, energy limited.

    Before that, round trips of Griffin-Lim without momentum make the phases consistent. Of integrated phases one is
    worth 0.2 of PESQ, more next to nothing.
    """
    spectrum, magnitude = spectrum.clone(), spectrum.abs()
    projections = _Projections(magnitude, stft)
    for _ in range(iterations):
        projections.analyse(projections.synthesise(spectrum), spectrum)
    return limit_energy(projections.synthesise(spectrum), magnitude, stft).unsqueeze(1)


def limit_energy(audio: Tensor, magnitude: Tensor, stft: FramedSTFT) -> Tensor:
    """Lower an estimate wherever it has more energy than one of the frames that see it has in all.

    An estimate spreads a transient over its frames, so it is heard before it begins. But a frame that ends before the
    onset is quiet, and bounds what it sees: of a frame of mean square p, which is the mean of the signal's squares
    weighted by the squared window, n samples of weight w or more have a mean square of at most p / (n w). A signal of
    these magnitudes stays as it is; what is steady lies 11 dB below the bound where a frame has 1024 samples.

    Args:
        audio: The estimate `(batch, n_frames * hop_length)`.
        magnitude: What the frames should have `(batch, n_frames, n_bins)`.
        stft: Their transform.

    Returns:
        The estimate, multiplied by gains of at most 1 that are interpolated between the middles of blocks.
    """
    lengths = range(1, min(LONGEST_BLOCK, stft.hop_length // 2) + 1)
    block = max(n for n in lengths if stft.hop_length % n == stft.margin % n == 0)
    overlap, (n_frames, margin) = stft.n_fft // stft.hop_length, (magnitude.shape[1], stft.margin // block)
    weight = block * stft.window.square().unflatten(0, (-1, block)).amin(1)
    bounds = (magnitude.square().mean(2, keepdim=True) / weight).where(weight > 0, math.inf)
    parts = bounds.unflatten(2, (overlap, -1)).unbind(2)
    padded = [functional.pad(part, (0, 0, i, overlap - 1 - i), value=math.inf) for i, part in enumerate(parts)]
    bound = torch.stack(padded).amin(0).flatten(1)[:, margin : margin + n_frames * stft.hop_length // block]
    energy = audio.square().unflatten(1, (-1, block)).mean(2)
    gain = (bound / energy.clamp_min(_TINY)).clamp_max(1).sqrt().to(audio)
    gain = torch.maximum(gain, torch.maximum(*_neighbours(gain)))  # lest the rise to 1 lies within the onset
    before, after = (neighbour.unsqueeze(2) for neighbour in _neighbours(gain))
    place = (torch.arange(block, device=audio.device) + 0.5) / block - 0.5  # from the middle of a block
    gain = torch.lerp(gain.unsqueeze(2), torch.where(place < 0, before, after), place.abs())
    return audio * gain.flatten(1)


def _neighbours(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what precedes and what follows each of `(batch, n_values)`; the ends are next to themselves."""
    return torch.cat([values[:, :1], values[:, :-1]], 1), torch.cat([values[:, 1:], values[:, -1:]], 1)


def random_phases(noise: Tensor, n_bins: int, hop_length: int) -> Tensor:
    """Make uniformly distributed phases `(batch, n_frames, n_bins)` of noise `(batch, 1, n_frames * hop_length)`.

    The low-order digits of a normal number are uniformly distributed.
    """
    values = noise[:, 0].unflatten(1, (-1, hop_length))
    digits = [(_FIRST_DIGITS * 5**i * values).remainder(1.0) for i in range(-(-n_bins // hop_length))]
    return 2 * math.pi * torch.cat(digits, 2)[..., :n_bins]


def magnitude_from_mel(mel: Tensor, spectrogram: MelSpectrogram) -> Tensor:
    """Estimate magnitudes `(batch, n_frames, n_bins)` in the scale of `FramedSTFT` from mels with a frame per hop.

    In float64: which path is the loudest is decided by differences as small as float32 rounds, and one other decision
    changes all phases after it.
    """
    magnitude = spectrogram.inverse(mel.double()).transpose(1, 2).contiguous() / spectrogram.config.hann_norm
    covered = magnitude[..., : spectrogram.n_covered_bins]
    n_beyond = spectrogram.config.n_fft // 2 + 1 - covered.shape[2]
    edge = covered[..., -EDGE_BINS:].mean(-1, keepdim=True)
    return torch.cat([covered, edge.expand(-1, -1, n_beyond)], dim=2)


# --- phase gradients -------------------------------------------------------------------------------------------------


class PhaseGradient:
    """Integrate phases of a spectrogram that arrives in pieces.

    Prusa and Sondergaard 2016, "Real-time spectrogram inversion using phase gradient heap integration": the magnitudes
    tell how phases change from frame to frame and from bin to bin, and these differences are integrated along the
    loudest path. A heap finds that path one bin at a time. The same paths follow from the magnitudes alone: a bin takes
    its phase from the previous frame or from a neighbouring bin, whichever lies on the path whose quietest member is
    loudest. Along the bins this is a scan of clamps, min(a, max(b, x)), which compose to clamps, so it is solved for
    all frames of a batch at once; only the phases themselves go from frame to frame.

    A phase depends on all frames before it and on one after it, so the last frame of a piece waits for the next piece.

    Args:
        hop_length: Samples between frames of an STFT with a Hann window as long as its transform.
        integrate: What hands the phases on from frame to frame.
    """

    def __init__(self, hop_length: int, integrate: Integration | None = None) -> None:
        self._hop_length, self._integrate = hop_length, integrate or hand_on_phases
        self._context: Tensor | None = None  # magnitudes of the last finished frame (but at first) and of the rest
        self._random: Tensor | None = None  # of the frames that wait
        self._phase: Tensor | None = None  # of the last finished frame

    def push(self, magnitude: Tensor, random: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Take the next frames.

        Args:
            magnitude: `(batch, n_frames, n_bins)` of an STFT with a window of 2 * (n_bins - 1) samples.
            random: Phases for bins too quiet to integrate, of the same shape, in radians.
            last: Whether the spectrogram ends with these frames.

        Returns:
            Phases `(batch, frames that are complete, n_bins)` in radians, relative to the first sample of each frame,
            as an FFT of the frame has them; and the magnitudes of these frames.
        """
        if self._context is not None and self._random is not None:
            magnitude = torch.cat([self._context, magnitude], dim=1)
            random = torch.cat([self._random, random], dim=1)
        first = 0 if self._phase is None else 1
        stop = magnitude.shape[1] - (0 if last else 1)
        if stop > first:
            log_magnitude = magnitude.clamp_min(_SMALLEST_MAGNITUDE).double().log()
            steps = _phase_steps(log_magnitude, random[:, : stop - first], first, self._hop_length)
            phases = self._integrate(steps, self._phase)
            self._phase = phases[:, -1]
        else:
            phases = random[:, :0]
            stop = first
        self._context, self._random = magnitude[:, max(stop - 1, 0) :], random[:, stop - first :]
        half_turns = (torch.arange(phases.shape[2], device=phases.device) % 2).to(magnitude)
        return phases.to(magnitude) + math.pi * half_turns, magnitude[:, first:stop]


class PhaseSteps(NamedTuple):
    """How every bin of some frames gets its phase, each `(batch, n_frames, n_bins)`.

    Attributes:
        root: The bin that the path enters the frame at.
        in_time: Whether the path comes from the previous frame, at that bin.
        difference: What is added to the phase of the previous frame at `root`, or to nothing.
    """

    root: Tensor
    in_time: Tensor
    difference: Tensor


Integration = Callable[[PhaseSteps, Tensor | None], Tensor]


def _phase_steps(log_magnitude: Tensor, random: Tensor, first: int, hop_length: int) -> PhaseSteps:
    """Find the paths of as many frames as there are random phases, from frame `first` on.

    Args:
        log_magnitude: `(batch, n_frames, n_bins)`, with the frame before and the frame after as far as there are any.
        random: Phases of quiet bins.
        first: 1 if a frame precedes those whose phases are wanted, else 0.
        hop_length: Samples between frames.
    """
    wanted = slice(first, first + random.shape[1])
    time_step, bin_step = _gradients(log_magnitude, hop_length)
    rounded = log_magnitude.float()  # so that bins which should be equal are, whatever the order of sums
    before = functional.pad(rounded, (0, 0, 1, 0), value=-math.inf)[:, :-1][:, wanted]
    now = rounded[:, wanted]
    threshold = torch.maximum(now.amax(2, keepdim=True), before.amax(2, keepdim=True)) + math.log(TOLERANCE)
    active, continued = now >= threshold, before >= threshold
    priority = torch.where(continued, before, now - _NO_SOURCE)
    root = _roots(priority, torch.where(active, now, -math.inf))
    in_time = continued.gather(2, root) & active
    mean_bin_step = ((bin_step[..., 1:] + bin_step[..., :-1]) / 2)[:, wanted]
    across = functional.pad(mean_bin_step.cumsum(2), (1, 0))
    mean_step = ((time_step + functional.pad(time_step, (0, 0, 1, 0))[:, :-1]) / 2)[:, wanted]
    integrated = across - across.gather(2, root) + torch.where(in_time, mean_step.gather(2, root), 0.0)
    return PhaseSteps(root, in_time, torch.where(active, integrated, random))


def _gradients(log_magnitude: Tensor, hop_length: int) -> tuple[Tensor, Tensor]:
    """Return the phase differences per frame and per bin, of the shape of `log_magnitude` (Prusa et al., Eq. 5-6)."""
    n_frames, n_bins = log_magnitude.shape[1:]
    n_fft = 2 * (n_bins - 1)
    ratio = HANN_GAMMA * n_fft / hop_length
    in_frequency = functional.pad((log_magnitude[..., 2:] - log_magnitude[..., :-2]) / 2, (1, 1))
    padded = functional.pad(log_magnitude, (0, 0, 1, 1))
    frame, last = torch.arange(n_frames, device=log_magnitude.device).view(-1, 1), n_frames - 1
    in_time = torch.where((frame > 0) & (frame < last), (padded[:, 2:] - padded[:, :-2]) / 2, 0.0)
    turns = torch.arange(n_bins, device=log_magnitude.device) * hop_length % n_fft / n_fft
    return in_frequency / ratio + 2 * math.pi * turns.to(log_magnitude), -ratio * in_time


def _roots(priority: Tensor, log_magnitude: Tensor) -> Tensor:
    """Return where the loudest path to each bin enters the frame.

    Args:
        priority: Of entering the frame at a bin `(batch, n_frames, n_bins)`.
        log_magnitude: Of the same shape, -inf where a path cannot lead.

    Returns:
        Bins of the same shape, int64; a bin without a path is its own root.
    """
    n_bins = priority.shape[2]
    bins = torch.arange(n_bins, device=priority.device).expand_as(priority)
    quietest = _scan(torch.stack([log_magnitude, log_magnitude.flip(2)]), torch.stack([priority, priority.flip(2)]))
    from_below, from_above = quietest[0], quietest[1].flip(2)
    own = (priority >= torch.maximum(from_below, from_above)) | (log_magnitude == -math.inf)
    upwards = ~own & (from_below > from_above)
    downwards = ~own & ~upwards
    lower = _running_maximum(torch.where(upwards, -1, bins))
    upper = n_bins - 1 - _running_maximum(torch.where(downwards.flip(2), -1, bins)).flip(2)
    return torch.where(upwards, lower, torch.where(downwards, upper, bins))


def _running_maximum(values: Tensor) -> Tensor:
    """Return the running maximum of integers above -2; for an exporter in steps that double: ONNX has no cummax."""
    if not torch.compiler.is_compiling():
        return values.cummax(-1).values
    maximum = values.int()  # half as much to move
    for step in (1 << i for i in range((values.shape[-1] - 1).bit_length())):
        maximum = torch.maximum(maximum, functional.pad(maximum[..., :-step], (step, 0), value=-1))
    return maximum.long()


def _scan(highest: Tensor, lowest: Tensor) -> Tensor:
    """Return y with y[0] = -inf and y[m] = min(highest[m - 1], max(lowest[m - 1], y[m - 1])) along the last dimension.

    In blocks of about the root of its length: within all blocks at once, then from block to block.
    """
    length = highest.shape[-1]
    size = math.isqrt(length - 1) + 1
    padding = (0, size * size - length)
    upper, lower = (
        list(functional.pad(bound, padding, value=-math.inf).unflatten(-1, (size, size)).unbind(-1))
        for bound in (highest, lowest)
    )
    for i in range(1, size):
        upper[i] = torch.minimum(upper[i], torch.maximum(lower[i], upper[i - 1]))
        lower[i] = torch.maximum(lower[i], lower[i - 1])
    entering = [torch.full_like(upper[0][..., 0], -math.inf)]
    for block in range(size - 1):
        entering.append(torch.minimum(upper[-1][..., block], torch.maximum(lower[-1][..., block], entering[-1])))
    entry = torch.stack(entering, -1).unsqueeze(-1)
    y = torch.minimum(torch.stack(upper, -1), torch.maximum(torch.stack(lower, -1), entry)).flatten(-2)
    return functional.pad(y[..., : length - 1], (1, 0), value=-math.inf)


def hand_on_phases(steps: PhaseSteps, phase: Tensor | None) -> Tensor:
    """Hand phases on from frame to frame, from those of the frame before, if there is one."""
    phases = []
    for root, in_time, difference in zip(*(part.unbind(1) for part in steps), strict=True):
        if phase is not None:
            difference = difference + torch.where(in_time, phase.gather(1, root), 0.0)
        phase = difference.remainder(2 * math.pi)
        phases.append(phase)
    return torch.stack(phases, 1)
