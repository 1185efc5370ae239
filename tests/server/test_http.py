"""POST /vocode: a mel or audio in, audio out; and every way to ask for it wrongly."""

from __future__ import annotations

import io
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile

from audiodiff.audio.pcm import wav_header

RATE, N_MELS = 8000, 20


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def frames(mel):
    return mel.T.astype("<f4").tobytes()


def heard(answer, rate=RATE):
    assert answer.status == 200, answer.body
    audio, found = soundfile.read(io.BytesIO(answer.body), dtype="float32")
    assert found == rate
    assert int(answer.headers["content-length"]) == len(answer.body)
    return audio


def assert_close(audio, expected, atol=2e-4):
    assert audio.shape == expected.shape
    assert np.abs(audio - np.clip(expected, -1, 1)).max() < atol


def test_a_mel_as_npy_or_as_frames(server, vocoder, mel):
    expected = vocoder(mel, seed=3)
    for body, kind in (
        (npy(mel), "x/y"),
        (npy(mel[None].astype(np.float64)), ""),
        (frames(mel), "application/octet-stream"),
    ):
        assert_close(heard(server.post(body, "?seed=3", kind)), expected)


def test_settings_change_the_audio(server, vocoder, mel):
    assert_close(heard(server.post(npy(mel), "?steps=2")), vocoder(mel, steps=2))
    raw = server.post(npy(mel), "?format=s16le")
    assert_close(np.frombuffer(raw.body, "<i2") / 32768, vocoder(mel))
    assert raw.headers["content-type"] == f"audio/L16; rate={RATE}; channels=1"


def test_audio_is_turned_into_its_mel(server, vocoder, voice):
    file = io.BytesIO()
    soundfile.write(file, voice(0.5, RATE, 1), RATE, format="FLAC", subtype="PCM_24")
    expected = vocoder(vocoder.mel(soundfile.read(io.BytesIO(file.getvalue()), dtype="float32")[0]))
    assert_close(heard(server.post(file.getvalue(), "", "audio/flac")), expected)


def test_audio_at_another_rate(server, voice):
    file = io.BytesIO()
    soundfile.write(file, voice(0.5, 2 * RATE, 1), 2 * RATE, format="WAV")
    assert "16000 Hz; this model needs 8000 Hz. Add ?resample=true" in server.post(file.getvalue()).error
    assert len(heard(server.post(file.getvalue(), "?resample=true"))) == pytest.approx(RATE / 2, abs=64)


def test_a_long_mel_comes_in_chunks_and_sounds_the_same(server, vocoder, mel):
    long = np.tile(mel, 14)
    assert_close(heard(server.post(frames(long), "?seed=1")), vocoder(long, seed=1))


def test_a_mel_of_one_frame(server, mel):
    assert len(heard(server.post(npy(mel[:, :1])))) == 64


NAN = np.full((N_MELS, 5), np.nan, np.float32)


@pytest.mark.parametrize(
    ("body", "query", "status", "message"),
    [
        (b"", "", 400, "the body is empty"),
        (b"hello", "", 400, "5 bytes, no whole number of frames of 20 float32"),
        (npy(NAN), "", 400, "NaN or infinite"),
        (frames(NAN), "", 400, "NaN or infinite"),
        (npy(np.zeros((N_MELS, 5), np.int16)), "", 400, "expected floating point"),
        (npy(np.zeros((N_MELS, 5), np.complex64)), "", 400, "expected a torch.Tensor or a numpy.ndarray of floating"),
        (npy(np.zeros((5, N_MELS), np.float32)), "", 400, "transposed"),
        (npy(np.zeros((2, N_MELS, 5), np.float32) - 5), "", 400, "expected one, (n_mels, frames)"),
        (npy(np.zeros(7, np.float32)), "", 400, "shape (7,)"),
        (npy(np.float32(1)), "", 400, "shape ()"),
        (npy(np.zeros((N_MELS, 0), np.float32)), "", 400, "empty"),
        (npy(np.zeros((N_MELS, 5), np.float32))[:-1], "", 400, "ends after 399 of the 400 bytes"),
        (npy(np.array([{}], dtype=object)), "", 400, "expected a mel"),
        (npy(np.zeros((N_MELS, 5), np.float32)) * 2, "", 400, "holds 2 arrays"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "", 400, "damaged .npy header"),
        (b"RIFF" + b"\0" * 99, "", 400, "the body"),
        (b"fLaC" + b"\0" * 99, "", 400, "the body"),
        (wav_header(RATE), "", 400, "the body"),
        (frames(np.zeros((N_MELS, 4000))), "", 413, "the mel lasts 32 s; this server takes at most 30 s"),
        (b"\0" * 400_001, "", 413, "longer than 400,000 bytes"),
        (b"x", "?steps=0", 400, "steps: '0' is not a whole number from 1"),
        (b"x", "?steps=51", 400, "this server takes at most 50"),
        (b"x", "?seed=1.5", 400, "seed: '1.5' is not"),
        (b"x", "?sede=1", 400, "there is no setting 'sede'; choose from seed, steps"),
        (b"x", "?format=mp3", 400, "choose from wav, s16le"),
        (b"x", "?resample=maybe", 400, "choose from true"),
    ],
)
def test_what_is_wrong_is_said(server, body, query, status, message):
    answer = server.post(body, query)
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert message in answer.error


def test_wrong_type_place_and_method(server):
    answer = server.post(b"hello", "", "text/plain")
    assert (answer.status, "of type 'text/plain'" in answer.error) == (415, True)
    assert server.ask("GET", "/").status == 404
    assert "POST /vocode" in server.ask("GET", "/").error
    assert server.ask("GET", "/vocode").status == 405
    assert server.ask("GET", "/stream").status == 404


def test_health_and_metrics(server, mel):
    assert b'"status":"ok"' in server.ask("GET", "/health").body
    before = server.metrics.values["audio_seconds_total"]
    heard(server.post(npy(mel)))
    text = server.ask("GET", "/metrics").body.decode()
    assert server.metrics.values["audio_seconds_total"] == pytest.approx(before + 1.0)
    assert "# TYPE audiodiff_requests_total counter\n" in text
    assert 'audiodiff_requests_total{status="200"}' in text
    assert "\naudiodiff_clients 0\n" in text


def raw(server, data: bytes, *, end: bool = False, seconds: float = 10.0) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            pass
        return answer


def test_other_dialects_of_http(server, mel):
    body = frames(mel[:, :50])
    head = b"Content-Type: application/octet-stream\r\n"
    old = raw(server, b"POST /vocode HTTP/1.0\r\n%sContent-Length: %d\r\n\r\n" % (head, len(body)) + body)
    assert b" 200 " in old.split(b"\r\n")[0]
    assert len(old.partition(b"\r\n\r\n")[2]) == 44 + 50 * 128
    chunks = b"%x\r\n" % 1000 + body[:1000] + b"\r\n%x\r\n" % (len(body) - 1000) + body[1000:] + b"\r\n0\r\n\r\n"
    start = b"POST /vocode HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    chunked = raw(server, start + b"Transfer-Encoding: chunked\r\n" + head + b"\r\n" + chunks)
    assert chunked.partition(b"\r\n\r\n")[2] == old.partition(b"\r\n\r\n")[2]
    assert b" 400 " in raw(server, b"POST /vocode HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000 + b"\r\n\r\n")[:20]
    assert b" 400 " in raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n")[:20]
    assert b" 400 " in raw(server, start + b"Content-Length: -5\r\n\r\n")[:20]
    assert b" 413 " in raw(server, start + b"Content-Length: 99999999999\r\n\r\n")[:20]


def test_half_a_body_costs_nothing(server, mel):
    for _ in range(5):
        raw(server, b"POST /vocode HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\nhalf", end=True)
    assert server.post(npy(mel)).status == 200
    deadline = time.monotonic() + 10
    while server.metrics.values["clients"] and time.monotonic() < deadline:  # the last is let go after its answer
        time.sleep(0.01)
    assert server.metrics.values["clients"] == 0


def test_a_body_that_does_not_come_is_given_up(serving, vocoder):
    with serving(vocoder, timeout=0.5) as server:
        assert b" 408 " in raw(
            server, b"POST /vocode HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nConnection: close\r\n\r\nhalf"
        )


def test_one_client_too_many_is_asked_to_come_again(serving, vocoder, mel):
    with serving(vocoder, max_clients=1) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as slow:
            slow.sendall(b"POST /vocode HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\nhalf")
            while not server.metrics.values["clients"]:
                time.sleep(0.01)
            answer = server.post(npy(mel))
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "1 clients are being served" in answer.error
            assert server.ask("GET", "/health").status == 200
        while server.metrics.values["clients"]:
            time.sleep(0.01)
        assert server.post(npy(mel)).status == 200


def test_clients_at_once_get_what_each_would_get_alone(server, vocoder, mel):
    mels = [mel[:, : 40 + 20 * (i % 3)] for i in range(18)]
    batches = server.metrics.values["computations_total"]
    with ThreadPoolExecutor(18) as clients:
        answers = list(clients.map(lambda i: server.post(npy(mels[i]), f"?seed={i}"), range(18)))
    for i, answer in enumerate(answers):
        assert_close(heard(answer), vocoder(mels[i], seed=i))
    assert server.metrics.values["computations_total"] - batches < 36  # 18 bodies are read, clips are batched
