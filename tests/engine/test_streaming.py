"""A reverse process over a signal in pieces is that of the whole, by one thread or several, and fails as loudly."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from threading import Event, get_ident

import pytest
import torch
from torch import Tensor

from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import Prediction
from audiodiff.diffusion.samplers import SAMPLERS, Langevin, count_network_calls, ddim
from audiodiff.diffusion.schedules import uniform
from audiodiff.engine.streaming import WAITING, Signal, Stages, ThreadPipeline
from audiodiff.engine.windows import Length, with_halo

LENGTH, STEPS, REACH = 400, 5, 4
LOG_SNRS = uniform(STEPS, log_snr_min=-4, log_snr_max=4)


def blur(x: Tensor) -> Tensor:
    """Return something that depends on four samples to either side: a stand-in for a network."""
    return torch.nn.functional.avg_pool1d(x.sin(), 2 * REACH + 1, stride=1, padding=REACH)


def network_call(x: Signal, log_snr: Tensor) -> Iterator[list[Tensor]]:
    scale, nothing = float(torch.sigmoid(-log_snr)), x.map(lambda piece: None)
    return with_halo(
        lambda x, _: scale * blur(x),
        iter(x),
        iter(nothing),
        x.length,
        look_back=REACH,
        look_ahead=REACH,
        samples_per_row=1,
    )


class Process:
    """The reverse process of `LENGTH` samples in pieces, `call` being the network."""

    def __init__(self, sampler: str, lengths: Sequence[int], on_step=None, corrector=None, call=network_call) -> None:
        self.pulled = 0
        self.stages = Stages()
        pieces = Signal(([piece] for piece in self._spans(lengths)), Length(LENGTH))

        def noise(step: int) -> Signal:
            return pieces.map(lambda piece: position_noise([3], step, start=piece[0], n_samples=piece[1]))

        def predict(x: Signal, log_snr: Tensor) -> Prediction:
            return Prediction(self.stages.add(x, call(x, log_snr)))

        self.result = SAMPLERS[sampler](predict, noise(0), LOG_SNRS, noise, corrector=corrector, on_step=on_step)

    def _spans(self, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        for length in lengths:
            self.pulled += length
            yield self.pulled - length, length

    def read(self, n_threads: int = 1) -> Iterator[Tensor]:
        with ThreadPipeline(n_threads, 1) if n_threads > 1 else nullcontext(self.stages) as reader:
            if n_threads > 1:
                yield from reader.read(self.stages, self.result)
            else:
                yield from self.stages.read(self.result)


def in_pieces(sampler: str, lengths: Sequence[int], n_threads: int = 1, **options) -> Tensor:
    return torch.cat(list(Process(sampler, lengths, **options).read(n_threads)), dim=-1)


def whole(sampler: str, corrector=None) -> Tensor:
    noise = partial(position_noise, [3], n_samples=LENGTH)

    def predict(x: Tensor, log_snr: Tensor) -> Prediction:
        return Prediction(torch.sigmoid(-log_snr) * blur(x))

    return SAMPLERS[sampler](predict, noise(0), LOG_SNRS, noise, corrector=corrector)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [[LENGTH], [3] * 133 + [1], [100, 3, 297]], ids=["one", "many", "mixed"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pieces_are_sampled_like_the_whole(sampler, lengths, n_threads):
    torch.testing.assert_close(in_pieces(sampler, lengths, n_threads), whole(sampler), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("lengths", [[7] * 57 + [1], [100, 3, 297]], ids=["many", "mixed"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pieces_are_corrected_like_the_whole(sampler, lengths, n_threads):
    corrector = Langevin(2, 0.3)
    made = in_pieces(sampler, lengths, n_threads, corrector=corrector)
    torch.testing.assert_close(made, whole(sampler, corrector), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(made, whole(sampler), atol=1e-2)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(("sampler", "corrected"), [("ddim", False), ("heun", False), ("ddim", True)])
def test_every_step_of_every_piece_can_be_observed(n_threads, sampler, corrected):
    seen: deque[tuple[int, int]] = deque()

    def on_step(step: int, x: Signal) -> None:
        x.observe(lambda piece: seen.append((step, piece.shape[-1])))

    in_pieces(sampler, [100] * 4, n_threads, on_step=on_step, corrector=Langevin() if corrected else None)
    assert len(seen) == 4 * STEPS
    for step in range(1, STEPS + 1):
        assert sum(length for seen_step, length in seen if seen_step == step) == LENGTH


@pytest.mark.parametrize(("sampler", "corrector"), [("ddim", None), ("heun", None), ("ddim", Langevin(3))])
def test_the_network_calls_are_shared_among_the_threads(sampler, corrector):
    idents = deque()

    def noting(x: Signal, log_snr: Tensor) -> Iterator[list[Tensor]]:
        def call(batches: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
            idents.append(get_ident())
            yield from batches

        return call(network_call(x, log_snr))

    in_pieces(sampler, [100] * 4, 2, corrector=corrector, call=noting)
    n_calls = count_network_calls(sampler, LOG_SNRS, corrector)
    assert len(idents) == n_calls
    assert sorted(idents.count(ident) for ident in set(idents)) == [n_calls // 2, n_calls - n_calls // 2]
    assert get_ident() not in idents


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_mistake_in_a_network_call_reaches_the_caller(n_threads):
    def failing(x: Signal, log_snr: Tensor) -> Iterator[list[Tensor]]:
        for batch in network_call(x, log_snr):
            if log_snr > 0:
                raise ValueError("no such level")
            yield batch

    with pytest.raises(ValueError, match="no such level"):
        in_pieces("ddim", [10] * 40, n_threads, call=failing)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_mistake_of_the_source_reaches_the_caller(n_threads):
    process = Process("ddpm", [10, 10, "ten"])
    with pytest.raises(TypeError, match="str"):
        list(process.read(n_threads))


def test_threads_leave_the_number_of_torch_threads_as_it_was():
    before, seen = torch.get_num_threads(), deque()

    def noting(x: Signal, log_snr: Tensor) -> Iterator[list[Tensor]]:
        for batch in network_call(x, log_snr):
            seen.append(torch.get_num_threads())
            yield batch

    in_pieces("ddim", [100] * 4, 2, call=noting)
    assert set(seen) == {1}
    assert torch.get_num_threads() == before


def test_no_thread_runs_ahead():
    """A thread that makes pieces faster than they are taken waits."""
    made, gate = deque(), Event()

    def slow(x: Signal, log_snr: Tensor) -> Iterator[list[Tensor]]:
        for batch in network_call(x, log_snr):
            if log_snr > 3:  # the last call, in the last thread
                gate.wait(5)
            made.append(float(log_snr))
            yield batch

    process = Process("ddim", [10] * 40, call=slow)
    pieces = process.read(2)
    gate.set()
    next(pieces)
    gate.clear()
    Event().wait(0.3)
    stuck = process.pulled
    Event().wait(0.3)
    assert process.pulled == stuck < LENGTH
    gate.set()
    assert sum(piece.shape[-1] for piece in pieces) == LENGTH - 10
    assert WAITING < 4


def test_an_abandoned_process_stops_its_threads():
    process = Process("ddim", [1] * LENGTH)
    pieces = process.read(3)
    next(pieces)
    pieces.close()
    stopped = process.pulled
    Event().wait(0.2)
    assert process.pulled == stopped < LENGTH


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_more_of_the_source_is_taken_than_the_next_piece_needs(sampler):
    process, done = Process(sampler, [4] * (LENGTH // 4)), 0
    n_calls = count_network_calls(sampler, LOG_SNRS)
    for piece in process.read():
        done += piece.shape[-1]
        assert process.pulled <= min(done + REACH * n_calls, LENGTH)


def test_a_long_schedule_does_not_nest_too_deeply():
    log_snrs, x = uniform(400), Signal(([torch.ones(1, 1, 4)] for _ in range(20)), Length(80))
    stages = Stages()
    result = ddim(lambda x, log_snr: Prediction(stages.add(x, network_call(x, log_snr))), x, log_snrs, None)
    assert sum(piece.shape[-1] for piece in stages.read(result)) == 80


def test_memory_does_not_grow_with_the_signal():
    """Pieces that are done are let go, those of results that nobody reads too, without waiting for the collector."""
    alive: deque[weakref.ref[Tensor]] = deque()

    def noting(x: Signal, log_snr: Tensor) -> Iterator[list[Tensor]]:
        for batch in network_call(x, log_snr):
            for output in batch:
                alive.append(weakref.ref(output))
            yield batch

    def predict(x: Signal, log_snr: Tensor) -> Prediction:
        outputs = stages.add(x, noting(x, log_snr))
        return Prediction(outputs.map(lambda output: 1 * output), outputs.map(lambda output: 2 * output))

    gc.disable()
    try:
        stages = Stages()
        x = Signal(([torch.ones(1, 1, 4)] for _ in range(500)), Length(2000))
        result = ddim(predict, x, LOG_SNRS, None)
        most = 0
        for _ in stages.read(result):
            most = max(most, sum(ref() is not None for ref in alive))
        assert len(alive) == sum(500 - step for step in range(1, STEPS + 1))  # each call has one piece less
        assert most < 40
        held = weakref.ref(result.source)
        del result
        assert held() is None
    finally:
        gc.enable()


def test_a_reader_that_comes_late_is_refused():
    signal = Signal([[1], [2]])
    assert list(signal) == [1, 2]
    with pytest.raises(RuntimeError, match="before reading starts"):
        iter(signal)


def test_signals_that_are_cut_otherwise_do_not_go_together():
    with pytest.raises(ValueError, match="shorter"):
        list(Signal([[1], [2]]) + Signal([[1]]))
