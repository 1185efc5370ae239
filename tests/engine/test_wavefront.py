"""A reverse process in pieces is that of the whole, by one thread or several, and fails as loudly."""

from __future__ import annotations

from collections import deque
from functools import partial
from threading import get_ident

import pytest
import torch
from torch import Tensor

from audiodiff.diffusion.correctors import Langevin
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.samplers import SAMPLERS, count_network_calls
from audiodiff.diffusion.schedules import uniform
from audiodiff.engine.relay import WAITING, Relay
from audiodiff.engine.streams import HaloStream
from audiodiff.engine.wavefront import Wavefront

LENGTH, STEPS = 400, 5
LEVELS = uniform(STEPS, log_snr_min=-4, log_snr_max=4)


def blur(x: Tensor) -> Tensor:
    """Return something that depends on four samples to either side: a stand-in for a network."""
    return torch.nn.functional.avg_pool1d(x.sin(), 9, stride=1, padding=4)


def stream(log_snr: Tensor) -> HaloStream:
    scale = float(torch.sigmoid(-log_snr))
    return HaloStream(lambda x, _: scale * blur(x), reach=4, block_length=1, rows_per_block=1)


def walk_in_pieces(
    sampler: str, lengths: list[int], relay: Relay | None, on_step=None, make_stream=stream, corrector=None
) -> Tensor:
    n_questions = count_network_calls(sampler, LEVELS, corrector)
    front = Wavefront(
        make_stream,
        lambda output, x, log_snr: output,
        n_steps=STEPS,
        n_questions=n_questions,
        on_step=on_step,
        relay=relay,
    )
    made, start = [], 0
    for length in lengths:
        draw = partial(position_noise, [3], start=start, n_samples=length)
        start += length
        made += front.push(
            SAMPLERS[sampler].walk(draw(0), LEVELS, draw, corrector=corrector), None, last=start == LENGTH
        )
    return torch.cat(made, dim=-1)


def whole(sampler: str, corrector=None) -> Tensor:
    draw = partial(position_noise, [3], n_samples=LENGTH)

    def predict(x: Tensor, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr).view(-1, 1, 1) * blur(x)

    return SAMPLERS[sampler](predict, draw(0), LEVELS, draw, corrector=corrector)


@pytest.mark.parametrize("members", [1, 2, 3, 5])
@pytest.mark.parametrize("lengths", [[LENGTH], [3] * 133 + [1], [100, 3, 297]], ids=["one", "many", "mixed"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pieces_walk_like_the_whole(sampler, lengths, members):
    relay = Relay(members, 1) if members > 1 else None
    torch.testing.assert_close(walk_in_pieces(sampler, lengths, relay), whole(sampler), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("lengths", [[7] * 57 + [1], [100, 3, 297]], ids=["many", "mixed"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pieces_are_corrected_like_the_whole(sampler, lengths, members):
    relay, corrector = Relay(members, 1) if members > 1 else None, Langevin(2, 0.3)
    made = walk_in_pieces(sampler, lengths, relay, corrector=corrector)
    torch.testing.assert_close(made, whole(sampler, corrector), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(made, whole(sampler), atol=1e-2)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(("sampler", "corrected"), [("ddim", False), ("heun", False), ("ddim", True)])
def test_every_step_of_every_piece_is_told(members, sampler, corrected):
    seen: deque[tuple[int, int]] = deque()
    relay = Relay(members, 1) if members > 1 else None
    note, corrector = lambda step, x: seen.append((step, x.shape[-1])), Langevin() if corrected else None
    walk_in_pieces(sampler, [100] * 4, relay, on_step=note, corrector=corrector)
    assert sorted(seen) == [(step, 100) for step in range(1, STEPS + 1) for _ in range(4)]


@pytest.mark.parametrize(("sampler", "corrector"), [("ddim", None), ("heun", None), ("ddim", Langevin(3))])
def test_the_questions_are_shared_among_the_members(sampler, corrector):
    idents = deque()

    def noting(log_snr: Tensor) -> HaloStream:
        idents.append(get_ident())
        return stream(log_snr)

    walk_in_pieces(sampler, [100] * 4, Relay(2, 1), make_stream=noting, corrector=corrector)
    n_questions = count_network_calls(sampler, LEVELS, corrector)
    assert len(idents) == n_questions
    assert sorted(idents.count(ident) for ident in set(idents)) == [n_questions // 2, n_questions - n_questions // 2]
    assert get_ident() not in idents


def test_a_mistake_in_a_thread_reaches_the_caller():
    def failing(log_snr: Tensor) -> HaloStream:
        if log_snr > 0:
            raise ValueError("no such level")
        return stream(log_snr)

    with pytest.raises(ValueError, match="no such level"):
        walk_in_pieces("ddim", [10] * 40, Relay(3, 1), make_stream=failing)


def test_a_team_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    relay = Relay(2, 1)
    seen = deque()
    for member in (0, 1):
        relay.run(member, lambda: seen.append(torch.get_num_threads()))
    relay.finish()
    assert list(seen) == [1, 1]
    assert torch.get_num_threads() == before


def test_nobody_runs_ahead():
    """A member that is fed faster than it works lets its feeder wait."""
    from threading import Event, Thread

    relay, gate, fed = Relay(1, 1), Event(), deque()

    def feed() -> None:
        for i in range(5):
            relay.run(0, gate.wait)
            fed.append(i)

    feeder = Thread(target=feed)
    feeder.start()
    feeder.join(0.3)
    assert len(fed) <= WAITING
    gate.set()
    feeder.join()
    relay.finish()
    assert len(fed) == 5
