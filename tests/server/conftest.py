"""A server with the tiny model, on a free port of this machine."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

pytest.importorskip("uvicorn")

from audiodiff import Vocoder
from audiodiff.audio.resample import import_torchaudio
from audiodiff.server.app import VocoderServer
from audiodiff.server.limits import Limits
from audiodiff.server.run import bind, serve

import_torchaudio()  # here, because it imports hypothesis, which pytest rewrites too deeply for a thread


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


class Running:
    """A server that runs in a thread."""

    def __init__(self, server: VocoderServer, port: int) -> None:
        self.server, self.port, self.metrics = server, port, server.metrics
        self.url = f"ws://127.0.0.1:{port}/stream"

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        response = connection.getresponse()
        answer = Answer(response.status, dict(response.getheaders()), response.read())
        connection.close()
        return answer

    def post(self, body: bytes, query: str = "", content_type: str = "application/octet-stream") -> Answer:
        return self.ask("POST", f"/vocode{query}", body, Content_Type=content_type)


@contextmanager
def running(vocoder: Vocoder, **limits: float) -> Iterator[Running]:
    listening, server = bind("127.0.0.1", 0), VocoderServer(vocoder, Limits(**limits))
    ready, loop = threading.Event(), asyncio.new_event_loop()
    task = loop.create_task(serve(server.app, listening, server.limits, ready.set))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait([task])))
    thread.start()
    assert ready.wait(60)
    try:
        yield Running(server, listening.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


@pytest.fixture(scope="session")
def serving():
    """Give the context manager (vocoder, **limits) that runs a server."""
    return running


@pytest.fixture(scope="session")
def vocoder(tiny_vocoder_folder) -> Vocoder:
    return Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")


@pytest.fixture(scope="module")
def server(vocoder) -> Iterator[Running]:
    with running(vocoder, max_seconds=30.0, max_body=400_000, timeout=20.0) as server:
        yield server


@pytest.fixture(scope="session")
def mel(vocoder, voice):
    return vocoder.mel(voice(1.0, vocoder.sample_rate, 1))
