"""A network under classifier-free guidance, fed piece by piece: with its conditions and without, combined as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from audiodiff.diffusion.guidance import Guidance
from audiodiff.diffusion.process import Target, denoised_from_noise, noise_from, training_target
from audiodiff.engine.choose import Engine
from audiodiff.engine.streams import Stream

Combine = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(prediction with conditions, without, x), each `(batch, 1, time)` -> what the network shall have predicted."""


class GuidedStream:
    """Two predictions as one; see `audiodiff.engine.streams.Stream`.

    Args:
        streams: One that takes two halves of a batch, with conditions and without; or one of each kind.
        combine: What makes one prediction of both.
        whole: Whether `combine` must see a whole clip, so that pieces wait until the signal ends.
    """

    def __init__(self, streams: Sequence[Stream], combine: Combine, *, whole: bool) -> None:
        self._streams, self._combine, self._whole = streams, combine, whole
        self._waiting: deque[Tensor] = deque()
        self._predicted: list[tuple[Tensor, Tensor]] = []

    def push(self, x: Tensor, condition: Tensor | None, *, last: bool) -> list[Tensor]:
        """Take the next piece; see `audiodiff.engine.streams.Stream.push`."""
        self._waiting.append(x)
        self._predicted += self._predict(x, condition, last=last)
        if self._whole and not last:
            return []
        pieces = [(*pair, self._waiting.popleft()) for pair in self._predicted]
        self._predicted.clear()
        if not self._whole:
            return [self._combine(*piece) for piece in pieces]
        joined = self._combine(*(torch.cat(parts, dim=2) for parts in zip(*pieces, strict=True)))
        return list(joined.split([x.shape[2] for *_, x in pieces], dim=2))

    def _predict(self, x: Tensor, condition: Tensor | None, *, last: bool) -> list[tuple[Tensor, Tensor]]:
        if len(self._streams) == 2:
            with_it, without = (stream.push(x, condition, last=last) for stream in self._streams)
            return list(zip(with_it, without, strict=True))
        both = None if condition is None else torch.cat([condition, condition])
        halves = self._streams[0].push(torch.cat([x, x]), both, last=last)
        return [(half[: len(x)], half[len(x) :]) for half in halves]


def guided_stream(
    engine: Engine, log_snr: Tensor, global_condition: Tensor, null: Tensor, guidance: Guidance, target: Target
) -> GuidedStream:
    """Return a stream of a network at a noise level under guidance.

    Args:
        engine: What runs the network.
        log_snr: The noise level, a scalar.
        global_condition: What the network's `embed` returned of the conditions `(batch, width)`.
        null: What it returned of none `(1, width)`.
        guidance: How to guide.
        target: What the network was trained to predict.
    """
    null = null.expand_as(global_condition)

    def combine(conditional: Tensor, without: Tensor, x: Tensor) -> Tensor:
        levels = log_snr.to(x).expand(len(x))
        with_it, alone = (noise_from(output, x, levels, target) for output in (conditional, without))
        noise = guidance.combine(with_it, alone, x, levels)
        guided = training_target(denoised_from_noise(noise, x, levels), noise, levels, target)
        return torch.cat([guided, conditional[:, x.shape[1] :]], dim=1)  # a learned variance is that with conditions

    if engine.largest_batch is None:
        streams = [engine.stream(log_snr, torch.cat([global_condition, null]))]
    else:
        streams = [engine.stream(log_snr, global_condition), engine.stream(log_snr, null)]
    return GuidedStream(streams, combine, whole=guidance.rescale > 0)
