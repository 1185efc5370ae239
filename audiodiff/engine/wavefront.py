"""A reverse process over a signal that arrives in pieces: every piece follows its own walk, a step behind the next one.

Step n of a piece needs step n - 1 of its neighbours as far as the network sees, and no more. So the steps run through
the signal one behind the other, like a wavefront: the result is that of the whole signal at once, memory holds only the
pieces between the first step and the last, and audio comes out while the signal is still coming in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from audiodiff.diffusion.samplers import Question, StepCallback, Walk
from audiodiff.engine.streams import Stream

MakeStream = Callable[[Tensor], Stream]
"""log_snr (a scalar) -> a fresh stream of the network at that noise level."""

ToNoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(the network's output, x, log_snr `(batch,)`) -> predicted noise."""


@dataclass
class _Piece:
    walk: Walk
    condition: Tensor | None
    last: bool


@dataclass
class _Stage:
    """One question of the walk: the stream that answers it, and the pieces that wait for an answer."""

    stream: Stream
    waiting: deque[tuple[_Piece, Question]] = field(default_factory=deque)


class Wavefront:
    """Walk pieces through the noise levels, each as soon as its neighbours allow.

    Args:
        make_stream: Called once for every question of the walk.
        to_noise: Turns the network's output into predicted noise.
        n_steps: Steps of the schedule, for `on_step`.
        on_step: Called with (step, x of the piece) after every step of every piece.
    """

    def __init__(
        self, make_stream: MakeStream, to_noise: ToNoise, *, n_steps: int, on_step: StepCallback | None = None
    ) -> None:
        self._make_stream, self._to_noise = make_stream, to_noise
        self._n_steps, self._on_step = n_steps, on_step
        self._stages: list[_Stage] = []

    def push(self, walk: Walk, condition: Tensor | None, *, last: bool) -> list[Tensor]:
        """Take the next piece.

        Args:
            walk: The reverse process of the piece, not yet begun; see `audiodiff.diffusion.samplers`.
            condition: What the engine encoded for it, or None.
            last: Whether the signal ends with it.

        Returns:
            Clean pieces that have become complete, in order.
        """
        finished: list[Tensor] = []
        self._ask(0, _Piece(walk, condition, last), next(walk), finished)
        return finished

    def _ask(self, index: int, piece: _Piece, question: Question, finished: list[Tensor]) -> None:
        if index == len(self._stages):
            self._stages.append(_Stage(self._make_stream(question.log_snr)))
        stage = self._stages[index]
        stage.waiting.append((piece, question))
        for output in stage.stream.push(question.x, piece.condition, last=piece.last):
            self._answer(index, *stage.waiting.popleft(), output, finished)

    def _answer(self, index: int, piece: _Piece, asked: Question, output: Tensor, finished: list[Tensor]) -> None:
        noise = self._to_noise(output, asked.x, asked.log_snr.to(asked.x).expand(len(asked.x)))
        try:
            question = piece.walk.send(noise)
        except StopIteration as end:
            if self._on_step:
                self._on_step(self._n_steps, end.value)
            finished.append(end.value)
            return
        if self._on_step and question.step > asked.step:
            self._on_step(question.step, question.x)
        self._ask(index + 1, piece, question, finished)
