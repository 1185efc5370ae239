"""Many clients at once, and many messages of one."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

N_CLIENTS, N_MESSAGES = 50, 10_000


def frames(mel):
    return mel.T.astype("<f4").tobytes()


def listen(connection):
    parts = []
    try:
        while True:
            parts.append(np.frombuffer(connection.recv(timeout=120), "<i2") / 32768)
    except ConnectionClosedOK:
        return np.concatenate(parts)


def post(server, mel, seed):
    answer = server.post(frames(mel), f"?seed={seed}")
    assert answer.status == 200, answer.body
    return soundfile.read(io.BytesIO(answer.body))[0]


def stream(server, mel, seed):
    with connect(server.url, open_timeout=60) as connection:
        connection.send(json.dumps({"seed": seed, "chunk_seconds": 0.2}))
        for piece in np.array_split(mel, 4, axis=1):
            connection.send(frames(piece))
        connection.send('{"end": true}')
        connection.recv(timeout=120)
        return listen(connection)


def assert_close(audio, expected):
    assert audio.shape == expected.shape
    assert np.abs(audio - np.clip(expected, -1, 1)).max() < 2e-4


@pytest.mark.slow
def test_fifty_clients_of_both_kinds_get_what_each_would_get_alone(serving, vocoder, mel):
    mels = [mel[:, : 60 + 20 * (i % 4)] for i in range(N_CLIENTS)]
    with serving(vocoder) as server, ThreadPoolExecutor(N_CLIENTS) as pool:
        audio = list(pool.map(lambda i: (post, stream)[i % 2](server, mels[i], i), range(N_CLIENTS)))
        assert server.metrics.requests == {200: N_CLIENTS // 2, 101: N_CLIENTS // 2}
        assert (server.metrics.values["clients"], server.metrics.values["waiting"]) == (0, 0)
    for i, one in enumerate(audio):
        assert_close(one, vocoder(mels[i], seed=i))


@pytest.mark.slow
def test_ten_thousand_messages_of_a_frame_each(server, vocoder, mel):
    long = np.tile(mel, N_MESSAGES // mel.shape[1] + 1)[:, :N_MESSAGES]
    with connect(server.url) as connection, ThreadPoolExecutor(1) as pool:
        connection.send('{"seed": 2}')

        def send():
            for column in long.T:
                connection.send(column.astype("<f4").tobytes())
            connection.send('{"end": true}')

        sending = pool.submit(send)
        connection.recv(timeout=60)
        audio = listen(connection)
        sending.result()
    assert_close(audio, vocoder(long, seed=2))
