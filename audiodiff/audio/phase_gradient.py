"""Phases of a spectrogram from its magnitudes, by integrating their gradients along the loudest path."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-4
"""Magnitude below which a phase is random, relative to the loudest of this frame and the previous one (-80 dB)."""
HANN_GAMMA = 0.25645
"""Of the Gaussian closest to a Hann window, over its squared length (Prusa, Balazs and Sondergaard 2017, Table I)."""
_SMALLEST_MAGNITUDE = 1e-12
_NO_SOURCE = 1e3
"""How far below any log-magnitude a bin's priority lies that can be reached from nowhere: it starts at phase 0."""


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
        integrate: What hands the phases on from frame to frame; None is `hand_on_phases`, on a GPU `double_phases`,
            which is a hundred times fewer kernels.
    """

    def __init__(self, hop_length: int, integrate: Integration | None = None) -> None:
        self._hop_length, self._integrate = hop_length, integrate
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
            integrate = self._integrate or (double_phases if magnitude.is_cuda else hand_on_phases)
            phases = integrate(steps, self._phase)
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
    phases = steps.difference.clone()
    weights = steps.in_time.to(phases)
    for root, weight, now in zip(steps.root.unbind(1), weights.unbind(1), phases.unbind(1), strict=True):
        if phase is not None:
            now.addcmul_(weight, phase.gather(1, root))
        phase = now.remainder_(2 * math.pi)
    return phases


def double_phases(steps: PhaseSteps, phase: Tensor | None, *, doublings: int | None = None) -> Tensor:
    """Do what `hand_on_phases` does for all frames at once, in steps that double.

    Every bin adds what its source has, and takes over its source's source; a path ends at one more bin that adds zero.

    Args:
        steps: How every bin gets its phase.
        phase: Of the frame before, or None.
        doublings: How many times, for up to two to that power frames; None is as often as needed.
    """
    if phase is not None:
        first = torch.zeros_like(phase.unsqueeze(1), dtype=torch.bool)
        values = (first.long(), first, phase.unsqueeze(1))
        joined = (torch.cat(pair, dim=1) for pair in zip(values, steps, strict=True))
        return double_phases(PhaseSteps(*joined), None, doublings=doublings)[:, 1:]
    n_frames, n_bins = steps.root.shape[1:]
    end = n_frames * n_bins
    earlier = torch.arange(-1, n_frames - 1, device=steps.root.device).view(-1, 1) * n_bins + steps.root
    source = torch.where(steps.in_time, earlier, end).flatten(1)
    source = torch.cat([source, torch.zeros_like(source[:, :1]) + end], dim=1)
    value = functional.pad(steps.difference.flatten(1), (0, 1))
    for _ in range((n_frames - 1).bit_length() if doublings is None else doublings):
        value = value + value.gather(1, source)
        source = source.gather(1, source)
    phases: Tensor = value[:, :-1].remainder(2 * math.pi).unflatten(1, (-1, n_bins))
    return phases
