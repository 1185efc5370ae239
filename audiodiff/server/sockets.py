"""A WebSocket: frames of a mel come in, audio goes out, chunk by chunk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.websockets import WebSocket, WebSocketDisconnect

from audiodiff.audio.pcm import s16le
from audiodiff.pipelines.push_stream import PushStream
from audiodiff.pipelines.vocode_stream import frames_of
from audiodiff.server.batching import Worker
from audiodiff.server.limits import Limits, RequestError
from audiodiff.server.metrics import Metrics
from audiodiff.server.requests import Settings, explain, of_convention, parse_settings

SETTINGS = ("seed", "steps", "chunk_seconds", "mel_convention", "force")
_CLOSE_CODES = {408: 1008, 413: 1009, 500: 1011}
"""WebSocket's own status by that of HTTP; for the rest 1007, what came cannot be used."""


_LAST_WORDS_SECONDS = 1.0
"""How long a client may take to read why it is let go; then the connection is cut (a TimeoutError)."""


class SocketStream:
    """One client's stream: one task receives frames, another sends audio, so that neither waits for the other.

    Args:
        websocket: The connection, accepted.
        worker: Computes.
        limits: How much of a mel may wait.
        metrics: Audio is counted there.
    """

    def __init__(self, websocket: WebSocket, worker: Worker, limits: Limits, metrics: Metrics) -> None:
        self._websocket, self._worker, self._limits, self._metrics = websocket, worker, limits, metrics
        self._moved = asyncio.Event()
        self._stream: PushStream[NDArray[Any]] | None = None
        self._n_mels = worker.vocoder.given.config.n_mels

    async def run(self) -> None:
        """Serve until either side ends; an error is said in a last message, a TimeoutError if nobody reads that."""
        try:
            await self._both()
            await self._websocket.close()
        except WebSocketDisconnect:
            return
        except Exception as error:
            status, message = explain(error)
            try:
                await asyncio.wait_for(self._say(message, _CLOSE_CODES.get(status, 1007)), _LAST_WORDS_SECONDS)
            except asyncio.TimeoutError:
                raise
            except (WebSocketDisconnect, RuntimeError, OSError):
                return
            if status == 500:
                raise

    async def _say(self, message: str, code: int) -> None:
        await self._websocket.send_json({"error": message})
        await self._websocket.close(code)

    async def _both(self) -> None:
        first = await self._next_message()
        settings, is_settings = self._settings(first)
        vocoder = await self._worker.run(lambda: of_convention(settings, self._worker.vocoder))
        chunk, config = settings.chunk_seconds, vocoder.given.config
        self._n_mels = config.n_mels
        stream = PushStream[NDArray[Any]](
            vocoder, seed=settings.seed, chunk_seconds=chunk, judge=not settings.force, **settings.changes
        )
        self._stream = stream
        about = {"sample_rate": vocoder.sample_rate, "n_mels": config.n_mels, "format": "s16le"}
        await self._websocket.send_json({**about, "hop_length": config.hop_length, "latency_seconds": stream.latency})
        if not is_settings:
            self._take(first)
        tasks = [asyncio.create_task(self._receive()), asyncio.create_task(self._send())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _next_message(self) -> Any:
        return await self._in_time(self._websocket.receive(), "nothing came")

    async def _in_time(self, action: Coroutine[Any, Any, Any], otherwise: str) -> Any:
        try:
            return await asyncio.wait_for(action, self._limits.timeout)
        except asyncio.TimeoutError as error:
            raise RequestError(408, f"{otherwise} for {self._limits.timeout:g} s.") from error

    def _settings(self, message: Any) -> tuple[Settings, bool]:
        """Return the settings in the first message, and whether it held any."""
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        values = _parse(message.get("text"))
        if values is None or "end" in values:
            return Settings(), False
        return parse_settings(values, SETTINGS, self._limits), True

    async def _receive(self) -> None:
        stream = self._open
        most = stream.latency + self._limits.max_seconds
        while not stream.ended:
            while stream.waiting_samples > most * self._worker.vocoder.sample_rate:
                self._moved.clear()  # the client has to wait: nothing more is read from it
                await self._moved.wait()
            self._take(await self._next_message())
        while True:  # nothing may follow but the client's leaving
            self._take(await self._websocket.receive())

    def _take(self, message: Any) -> None:
        stream = self._open
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if (values := _parse(message.get("text"))) is not None:
            if values != {"end": True}:
                raise RequestError(400, 'settings belong into the first message; after it comes {"end": true} alone.')
            stream.end()
        elif stream.ended:
            raise RequestError(400, "frames came after the end.")
        else:
            stream.push(self._frames(message["bytes"]))
        self._moved.set()

    def _frames(self, data: bytes) -> NDArray[np.float32]:
        n_mels = self._n_mels
        if not data or len(data) % (4 * n_mels):
            raise RequestError(
                400,
                f"a message has {len(data):,} bytes; expected whole frames of {n_mels} float32 ({4 * n_mels} bytes).",
            )
        return frames_of(data, n_mels)

    async def _send(self) -> None:
        stream = self._open
        while True:
            self._moved.clear()
            while stream.ready:
                audio = await self._worker.run(stream.pull)
                if audio is None:
                    return
                self._moved.set()
                self._metrics.add("audio_seconds_total", len(audio) / self._worker.vocoder.sample_rate)
                await self._in_time(self._websocket.send_bytes(s16le(audio)), "the audio was not read")
            await self._moved.wait()

    @property
    def _open(self) -> PushStream[NDArray[Any]]:
        if self._stream is None:
            raise RuntimeError("the stream has not been opened")
        return self._stream


def _parse(text: str | None) -> dict[str, Any] | None:
    """Return the object in a text message; None is a message of bytes."""
    if text is None:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"a text message is no JSON ({str(error)[:80]}).") from error
    if not isinstance(values, dict):
        raise RequestError(400, 'a text message is no JSON object, such as {"seed": 1}.')
    return values
