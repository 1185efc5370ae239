"""Streams that are pushed into, asynchronous streams, and NumPy arrays in and out."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from audiodiff import Vocoder
from audiodiff.errors import ConfigError, MelError
from audiodiff.pipelines.push_stream import PushStream


@pytest.fixture(scope="module")
def vocoder(tiny_vocoder_folder) -> Vocoder:
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def mel(vocoder, voice) -> Tensor:
    return vocoder.mel(torch.from_numpy(voice(1.5, vocoder.sample_rate, 1)))


@pytest.mark.parametrize("sizes", [1, 3, 50, 1000])
@pytest.mark.parametrize("chunk_seconds", [0.03, 0.2, 5.0])
def test_a_ready_stream_never_asks_for_more_and_makes_the_same_audio(vocoder, mel, sizes, chunk_seconds):
    expected = torch.cat(list(vocoder.stream([mel], chunk_seconds=chunk_seconds, seed=3)))
    stream, pieces = PushStream(vocoder, seed=3, chunk_seconds=chunk_seconds), []
    for frames in mel.split(sizes, dim=-1):
        stream.push(frames)
        while stream.ready:
            pieces.append(stream.pull())  # an IndexError, had the latency been too small
    before_the_end = len(pieces)
    stream.end()
    while (piece := stream.pull()) is not None:
        pieces.append(piece)
    assert (before_the_end > 0) == (chunk_seconds < 1)
    assert stream.waiting_samples == 0
    torch.testing.assert_close(torch.cat(pieces), expected, rtol=0, atol=1e-4)


def test_a_pushed_stream_refuses_what_does_not_fit(vocoder, mel):
    with pytest.raises(ConfigError, match="at least a hop"):
        PushStream(vocoder, chunk_seconds=1e-6)
    stream = PushStream(vocoder)
    stream.push(mel[:7])
    stream.end()
    with pytest.raises(MelError, match="shape"):
        stream.pull()


async def arriving(mel, size=5):
    for frames in mel.split(size, dim=-1) if isinstance(mel, Tensor) else np.split(mel, mel.shape[-1], axis=-1):
        await asyncio.sleep(0)
        yield frames


def test_an_asynchronous_stream_is_the_same_and_computes_in_a_thread(vocoder, mel, monkeypatch):
    threads = set()
    pull = PushStream.pull
    monkeypatch.setattr(PushStream, "pull", lambda self: threads.add(threading.get_ident()) or pull(self))

    async def collect():
        return [audio async for audio in vocoder.astream(arriving(mel), seed=2, chunk_seconds=0.1)]

    pieces = asyncio.run(collect())
    assert len(pieces) > 5
    assert threading.get_ident() not in threads
    torch.testing.assert_close(torch.cat(pieces), vocoder(mel, seed=2), rtol=0, atol=1e-4)


def test_the_event_loop_is_not_blocked(vocoder, mel, monkeypatch):
    pull = PushStream.pull
    monkeypatch.setattr(PushStream, "pull", lambda self: time.sleep(0.2) or pull(self))
    beats = []

    async def beat():
        while True:
            beats.append(time.perf_counter())
            await asyncio.sleep(0.01)

    async def run():
        beating = asyncio.create_task(beat())
        async for _ in vocoder.astream(arriving(mel, 1000), chunk_seconds=0.5):
            break
        beating.cancel()

    asyncio.run(run())
    assert len(beats) > 5  # blocked, there would be one


def test_two_asynchronous_streams_at_once(vocoder, mel):
    async def collect(seed):
        return torch.cat([audio async for audio in vocoder.astream(arriving(mel), seed=seed, chunk_seconds=0.1)])

    async def both():
        return await asyncio.gather(collect(1), collect(2))

    for seed, audio in zip((1, 2), asyncio.run(both()), strict=True):
        torch.testing.assert_close(audio, vocoder(mel, seed=seed), rtol=0, atol=1e-4)


def test_arrays_in_arrays_out(vocoder, mel, voice):
    samples = voice(1.5, vocoder.sample_rate, 1)
    as_array = vocoder.mel(samples)
    assert isinstance(as_array, np.ndarray)
    assert np.array_equal(as_array, mel.numpy())
    audio = vocoder(as_array, seed=1)
    assert isinstance(audio, np.ndarray)
    assert audio.dtype == np.float32
    assert np.array_equal(audio, vocoder(mel, seed=1).numpy())
    pieces = list(vocoder.stream(np.split(as_array, 4, axis=-1) if not as_array.shape[-1] % 4 else [as_array]))
    assert all(isinstance(piece, np.ndarray) for piece in pieces)
    assert isinstance(vocoder(mel), Tensor)

    async def collect():
        return [audio async for audio in vocoder.astream(arriving(as_array))]

    assert all(isinstance(piece, np.ndarray) for piece in asyncio.run(collect()))
