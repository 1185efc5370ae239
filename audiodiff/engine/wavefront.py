"""A reverse process over a signal that arrives in pieces: every piece follows its own walk, a step behind the next one.

Step n of a piece needs step n - 1 of its neighbours as far as the network sees, and no more. So the steps run through
the signal one behind the other, like a wavefront: the result is that of the whole signal at once, memory holds only the
pieces between the first step and the last, and audio comes out while the signal is still coming in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from torch import Tensor

from audiodiff.diffusion.samplers import Question, StepCallback, Walk
from audiodiff.engine.relay import Relay
from audiodiff.engine.streams import Stream

MakeStream = Callable[[Tensor], Stream]
"""log_snr (a scalar) -> a fresh stream of the network at that noise level."""

ToNoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(the network's output, x, log_snr `(batch,)`) -> what a walk is sent (`audiodiff.diffusion.variance.answer_from`)."""


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

    With a relay, each thread takes a share of the questions and hands pieces on to the next, so that no operation has
    to be split among threads: where they are short, waiting for the slowest thread costs most of the gain.

    Args:
        make_stream: Called once for every question of the walk.
        to_noise: Turns the network's output into what a walk is sent.
        n_steps: Steps of the schedule, for `on_step`.
        n_questions: How many questions a walk asks, to share them among threads; None is one per step.
        on_step: Called with (step, x of the piece) after every step of every piece, by one thread at a time.
        relay: Threads that share the steps; None walks in the calling thread, and what a piece makes possible is done
            when `push` returns.
    """

    def __init__(
        self,
        make_stream: MakeStream,
        to_noise: ToNoise,
        *,
        n_steps: int,
        n_questions: int | None = None,
        on_step: StepCallback | None = None,
        relay: Relay | None = None,
    ) -> None:
        self._make_stream, self._to_noise = make_stream, to_noise
        self._n_steps, self._on_step, self._relay = n_steps, on_step, relay
        self._n_questions = n_questions or n_steps
        self._stages: list[_Stage] = []
        self._finished: deque[Tensor] = deque()
        self._telling = Lock()

    def push(self, walk: Walk, condition: Tensor | None, *, last: bool) -> list[Tensor]:
        """Take the next piece.

        Args:
            walk: The reverse process of the piece, not yet begun; see `audiodiff.diffusion.samplers`.
            condition: What the engine encoded for it, or None.
            last: Whether the signal ends with it.

        Returns:
            Clean pieces that have become complete, in order.
        """
        self._hand_on(0, _Piece(walk, condition, last), next(walk))
        if self._relay:
            self._relay.check()
            if last:
                self._relay.finish()
        return [self._finished.popleft() for _ in range(len(self._finished))]

    def _hand_on(self, index: int, piece: _Piece, question: Question) -> None:
        if self._relay:
            member = min(index * self._relay.size // self._n_questions, self._relay.size - 1)
            self._relay.run(member, lambda: self._ask(index, piece, question))
        else:
            self._ask(index, piece, question)

    def _ask(self, index: int, piece: _Piece, question: Question) -> None:
        if index == len(self._stages):
            self._stages.append(_Stage(self._make_stream(question.log_snr)))
        stage = self._stages[index]
        stage.waiting.append((piece, question))
        for output in stage.stream.push(question.x, piece.condition, last=piece.last):
            self._answer(index, *stage.waiting.popleft(), output)

    def _answer(self, index: int, piece: _Piece, asked: Question, output: Tensor) -> None:
        noise = self._to_noise(output, asked.x, asked.log_snr.to(asked.x).expand(len(asked.x)))
        try:
            question = piece.walk.send(noise)
        except StopIteration as end:
            self._tell(self._n_steps, end.value)
            self._finished.append(end.value)
            return
        if question.step > asked.step:
            self._tell(question.step, question.x)
        self._hand_on(index + 1, piece, question)

    def _tell(self, step: int, x: Tensor) -> None:
        if self._on_step:
            with self._telling:
                self._on_step(step, x)
