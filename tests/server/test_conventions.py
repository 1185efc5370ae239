"""Mels of other conventions: what the server was started with, and what a client names."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

pytest.importorskip("websockets")
from websockets.sync.client import connect

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.config import MEL_CONVENTIONS
from tests.server.test_sockets import assert_close, frames, listen


def npy(mel):
    file = io.BytesIO()
    np.save(file, mel)
    return file.getvalue()


def samples(answer):
    assert answer.status == 200, answer.body
    return np.frombuffer(answer.body, "<i2") / 32768


@pytest.fixture(scope="module")
def given(vocoder):
    """A vocoder that takes decibels of frames centred on hops."""
    changes = {"name": "mine", "centre": "frame", "log": "log10", "multiplier": 20.0}
    return vocoder.with_mel_convention(vocoder.mel_config.model_copy(update=changes))


@pytest.fixture(scope="module")
def converting(serving, given):
    with serving(given) as server:
        yield server


def test_a_server_takes_mels_of_the_convention_it_was_started_with(converting, given, vocoder, voice):
    mel = MelSpectrogram(given.given.config)(voice(1.0, 8000, 1)).numpy()
    expected = given(mel, seed=3)
    assert len(expected) == mel.shape[1] * 64 - 32  # frames are centred half a hop earlier
    assert_close(samples(converting.post(npy(mel), "?seed=3&format=s16le")), expected)
    stated = json.loads(converting.ask("GET", "/health").body)
    assert (stated["mel_convention"], stated["n_mels"]) == ("mine", 20)
    with connect(converting.url) as connection:
        connection.send('{"seed": 3, "chunk_seconds": 0.2}')
        for piece in np.array_split(mel, 5, axis=1):
            connection.send(frames(piece))
        connection.send('{"end": true}')
        _, parts, last, _ = listen(connection)
    assert last is None
    assert_close(np.concatenate(parts), expected)


def test_audio_is_taken_as_ever(converting, vocoder, voice):
    import soundfile

    audio = voice(1.0, 8000, 1)
    file = io.BytesIO()
    soundfile.write(file, audio, 8000, format="WAV", subtype="FLOAT")
    made = samples(converting.post(file.getvalue(), "?seed=3&format=s16le", "audio/wav"))
    assert_close(made, vocoder(vocoder.mel(audio), seed=3))


def test_a_client_names_another_convention(server, vocoder, voice):
    mel = MelSpectrogram(MEL_CONVENTIONS["matcha"])(voice(1.0, 22050, 1)).numpy()
    expected = vocoder.with_mel_convention("matcha", resample=True)(mel, seed=1)
    answer = server.post(npy(mel), "?mel_convention=matcha&resample=true&seed=1&format=s16le")
    assert_close(samples(answer), expected)
    refused = server.post(npy(mel), "?mel_convention=matcha")
    assert refused.status == 400
    assert "at 8000 Hz. Use resample=true to interpolate them, or a model of that rate." in refused.error
    refused = server.post(npy(mel), "?mel_convention=nobody")
    assert refused.status == 400
    assert refused.error.startswith("unknown mel convention 'nobody'; choose from hifigan-22k")


def test_a_stream_of_another_rate_is_refused(server):
    with connect(server.url) as connection:
        connection.send('{"mel_convention": "matcha"}')
        assert "Use resample=true" in json.loads(connection.recv(timeout=60))["error"]


def test_a_mel_of_another_convention_is_refused_unless_it_is_forced(server, vocoder, voice):
    audio = voice(1.0, 8000, 1)
    mel = vocoder.mel(audio) / np.float32(np.log(10))
    refused = server.post(npy(mel), "?format=s16le&seed=1")
    assert refused.status == 400
    assert refused.error.endswith("force=true vocodes it as it is.")
    assert "--" not in refused.error
    forced = server.post(npy(mel), "?format=s16le&seed=1&force=true")
    assert_close(samples(forced), vocoder(mel, seed=1))
    with connect(server.url) as connection:
        connection.send('{"force": true, "seed": 1}')
        connection.send(frames(mel))
        connection.send('{"end": true}')
        _, parts, last, _ = listen(connection)
    assert last is None
    assert_close(np.concatenate(parts), vocoder(mel, seed=1))
