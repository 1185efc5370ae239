"""The WebSocket /stream: frames in, samples out, and clients that are slow, wrong or gone."""

from __future__ import annotations

import json
import socket
import threading
import time

import numpy as np
import pytest

pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

RATE = 8000


def frames(mel):
    return mel.T.astype("<f4").tobytes()


def listen(connection):
    """Return what comes until the end: the first message, the samples, and the last text."""
    first, parts, last = json.loads(connection.recv(timeout=60)), [], None
    try:
        while True:
            message = connection.recv(timeout=60)
            if isinstance(message, str):
                last = json.loads(message)
            else:
                parts.append(np.frombuffer(message, "<i2") / 32768)
    except ConnectionClosed as closed:
        return first, parts, last, closed.rcvd.code if closed.rcvd else None


def assert_close(audio, expected):
    assert audio.shape == expected.shape
    assert np.abs(audio - np.clip(expected, -1, 1)).max() < 2e-4


def test_a_mel_in_pieces_becomes_its_audio(server, vocoder, mel):
    with connect(server.url) as connection:
        connection.send(json.dumps({"seed": 5, "steps": 2, "chunk_seconds": 0.1}))
        for piece in np.array_split(mel, 9, axis=1):
            connection.send(frames(piece))
        connection.send('{"end": true}')
        first, parts, last, code = listen(connection)
    stated = {"sample_rate": RATE, "n_mels": 20, "hop_length": 64, "format": "s16le"}
    assert first == {**stated, "latency_seconds": pytest.approx(vocoder.latency(0.1, steps=2))}
    assert (last, code, len(parts) > 1) == (None, 1000, True)
    assert_close(np.concatenate(parts), vocoder(mel, seed=5, steps=2))


def test_audio_comes_before_the_mel_has_ended(server, mel):
    with connect(server.url) as connection:
        connection.send('{"chunk_seconds": 0.1}')
        connection.send(frames(mel))
        connection.recv(timeout=60)
        assert len(connection.recv(timeout=60)) > 0


def test_no_settings_are_needed_and_tiny_messages_are_fine(server, vocoder, mel):
    with connect(server.url) as connection:
        for column in mel.T:
            connection.send(column.astype("<f4").tobytes())
        connection.send('{"end": true}')
        _, parts, _, code = listen(connection)
    assert code == 1000
    assert_close(np.concatenate(parts), vocoder(mel))


NAN = b"\0\0\xc0\x7f" * 20


@pytest.mark.parametrize(
    ("messages", "message", "code"),
    [
        ([b"abc"], "a message has 3 bytes; expected whole frames of 20 float32 (80 bytes)", 1007),
        ([b""], "a message has 0 bytes", 1007),
        ([NAN, '{"end": true}'], "NaN or infinite", 1007),
        (["hello"], "no JSON", 1007),
        (["[1]"], "no JSON object", 1007),
        (['{"seed": "x"}'], "seed: 'x' is not a whole number", 1007),
        (['{"sampler": "ddpm"}'], "there is no setting 'sampler'", 1007),
        (['{"chunk_seconds": 1e-9}'], "at least a hop", 1007),
        (['{"seed": 1}', '{"seed": 2}'], "settings belong into the first message", 1007),
    ],
)
def test_what_is_wrong_is_said(server, messages, message, code):
    with connect(server.url) as connection:
        for each in messages:
            connection.send(each)
        said = []
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            while True:
                said.append(json.loads(connection.recv(timeout=60)))
    assert (message in said[-1]["error"], closed.value.rcvd.code) == (True, code)


def test_a_message_that_is_too_long_ends_the_stream(server):
    with connect(server.url) as connection:
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            connection.send(b"\0" * 800_000)
            connection.recv(timeout=20)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009


def test_clients_that_leave_are_forgotten(server, mel):
    for _ in range(5):
        with connect(server.url) as connection:
            connection.send(frames(mel))
            connection.socket.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 20
    while server.metrics.values["clients"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.metrics.values["clients"] == 0


def test_one_who_does_not_read_stalls_nobody_and_is_let_go(serving, vocoder, mel):
    with (
        serving(vocoder, timeout=3.0, max_seconds=20.0) as server,
        connect(server.url, max_queue=1, close_timeout=1) as slow,
    ):
        stop = threading.Event()

        def flood():
            try:
                while not stop.is_set():
                    slow.send(frames(np.tile(mel, 20)))
            except (ConnectionClosed, OSError):
                stop.set()

        flooding = threading.Thread(target=flood)
        flooding.start()
        time.sleep(0.5)
        with connect(server.url) as quick:
            quick.send(frames(mel))
            quick.send('{"end": true}')
            assert len(np.concatenate(listen(quick)[1])) == mel.shape[1] * 64
        assert stop.wait(60)
        flooding.join()


def test_one_who_sends_nothing_is_let_go(serving, vocoder):
    with serving(vocoder, timeout=0.3) as server, connect(server.url) as connection:
        assert "nothing came for 0.3 s" in json.loads(connection.recv(timeout=20))["error"]


def test_one_stream_too_many(serving, vocoder):
    with serving(vocoder, max_clients=1) as server, connect(server.url), pytest.raises(Exception, match="503"):
        connect(server.url)
