"""The routes of the server, and what holds for all of them: limits, errors as JSON, counting."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from audiodiff.audio.pcm import s16le, wav_header
from audiodiff.errors import ConfigError
from audiodiff.pipelines import Vocoder
from audiodiff.pipelines.push_stream import PushStream
from audiodiff.server.batching import Worker
from audiodiff.server.limits import Limits
from audiodiff.server.metrics import Metrics
from audiodiff.server.requests import Settings, explain, parse_settings, read_body, read_mel
from audiodiff.server.sockets import SocketStream

WHOLE_SECONDS = 12.0
"""Longer audio is made in chunks of this length, between which other clients get their turn."""
RETRY_SECONDS = 1
SETTINGS = ("seed", "steps", "format", "resample", "mel_convention", "force")
_LOG = logging.getLogger(__name__)


class VocoderServer:
    """A vocoder and its clients.

    Args:
        vocoder: The model.
        limits: What a client may cost.

    Attributes:
        app: The ASGI application.
    """

    def __init__(self, vocoder: Vocoder, limits: Limits | None = None) -> None:
        self.vocoder, self.limits, self.metrics = vocoder, limits or Limits(), Metrics()
        routes = [
            Route("/vocode", self.vocode, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", lambda _: PlainTextResponse(self.metrics.text(), media_type="text/plain; version=0.0.4")),
            WebSocketRoute("/stream", self.stream),
        ]
        handlers: Any = {HTTPException: _answer_http_exception, Exception: _answer}
        inner = Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers)
        self.app: ASGIApp = _Guard(inner, self.limits, self.metrics)

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self.worker = Worker(self.vocoder, self.metrics)
        working = asyncio.create_task(self.worker.work())
        yield
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working

    async def health(self, _request: Request) -> Response:
        """Say what the model takes."""
        config = self.vocoder.given.config
        shape = {"n_mels": config.n_mels, "hop_length": config.hop_length, "mel_convention": config.name}
        return JSONResponse({"status": "ok", "sample_rate": self.vocoder.sample_rate, **shape})

    async def stream(self, websocket: WebSocket) -> None:
        """Answer a WebSocket."""
        await websocket.accept()
        await SocketStream(websocket, self.worker, self.limits, self.metrics).run()

    async def vocode(self, request: Request) -> Response:
        """Answer a mel, or audio, with audio."""
        try:
            settings = parse_settings(dict(request.query_params), SETTINGS, self.limits)
            body = await asyncio.wait_for(read_body(request, self.limits), self.limits.timeout)
            content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            mel, vocoder = await self.worker.run(
                lambda: read_mel(body, content_type, settings, self.vocoder, self.limits)
            )
            return await self._audio(mel, vocoder, settings)
        except ClientDisconnect:
            return Response(status_code=499)
        except asyncio.TimeoutError:
            return _json(408, f"the body did not come within {self.limits.timeout:g} s.")
        except Exception as error:
            return await _answer(request, error)

    async def _audio(self, mel: NDArray[Any], vocoder: Vocoder, settings: Settings) -> Response:
        mel, n_samples = mel.astype(np.float32), vocoder.given.n_samples(mel.shape[-1])
        self.metrics.add("audio_seconds_total", n_samples / vocoder.sample_rate)
        header = wav_header(vocoder.sample_rate, n_samples) if settings.format == "wav" else b""
        kind = "audio/wav" if settings.format == "wav" else f"audio/L16; rate={vocoder.sample_rate}; channels=1"
        pieces = self._pieces(mel, vocoder, settings) if n_samples > WHOLE_SECONDS * vocoder.sample_rate else None
        if pieces is None:
            try:
                waited = self.worker.vocode(mel, vocoder, settings.seed, settings.changes)
                audio = await asyncio.wait_for(waited, self.limits.timeout)
            except asyncio.TimeoutError:
                return _busy(f"the audio was not ready within {self.limits.timeout:g} s. Try again later.")
            return Response(header + s16le(audio), media_type=kind)
        length = {"content-length": str(len(header) + 2 * n_samples)}
        return StreamingResponse(_chain(header, pieces), media_type=kind, headers=length)

    def _pieces(self, mel: NDArray[Any], vocoder: Vocoder, settings: Settings) -> AsyncIterator[bytes] | None:
        """Return the audio of a long mel in pieces; None where the model needs the whole mel at once."""
        try:
            stream = PushStream[NDArray[Any]](
                vocoder, seed=settings.seed, chunk_seconds=WHOLE_SECONDS, **settings.changes
            )
        except ConfigError:
            return None
        stream.push(mel)
        stream.end()

        async def pieces() -> AsyncIterator[bytes]:
            while (audio := await self.worker.run(stream.pull)) is not None:
                yield s16le(audio)

        return pieces()


async def _chain(header: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield header
    async for piece in pieces:
        yield piece


def _json(status: int, message: str, **headers: str) -> Response:
    return JSONResponse({"error": message}, status, headers=headers)


def _busy(message: str) -> Response:
    return JSONResponse({"error": message}, 503, headers={"Retry-After": str(RETRY_SECONDS)})


async def _answer(_request: Request, error: Exception) -> Response:
    status, message = explain(error)
    if status == 500:
        _LOG.error("unexpected %s: %s", type(error).__name__, error, exc_info=_LOG.isEnabledFor(logging.DEBUG))
    return _json(status, message)


async def _answer_http_exception(request: Request, error: HTTPException) -> Response:
    about = {
        404: "POST /vocode, GET /health, GET /metrics and the WebSocket /stream are here",
        405: "/vocode takes POST",
    }
    headers = dict(error.headers or {})
    return JSONResponse({"error": f"{about.get(error.status_code, error.detail)}."}, error.status_code, headers=headers)


class _Guard:
    """Refuse clients beyond the limit, count them and their statuses, and let go of those that do not read."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] in ("/health", "/metrics"):
            await self._app(scope, receive, send)
            return
        connection = getattr(send, "__self__", None)  # uvicorn's; ASGI itself cannot cut one whose buffer is full
        send = self._counted(self._timed(send) if scope["type"] == "http" else send)
        if self._metrics.values["clients"] >= self._limits.max_clients:
            busy = _busy(f"{self._limits.max_clients} clients are being served. Try again later.")
            await busy(scope, receive, send)
            return
        self._metrics.add("clients")
        try:
            await self._app(scope, receive, send)
        except asyncio.TimeoutError:
            _LOG.info("a client did not read for %g s; its connection is cut", self._limits.timeout)
            if (transport := getattr(connection, "transport", None)) is not None:
                transport.abort()
        finally:
            self._metrics.add("clients", -1)

    def _timed(self, send: Send) -> Send:
        async def timed(message: Message) -> None:
            await asyncio.wait_for(send(message), self._limits.timeout)

        return timed

    def _counted(self, send: Send) -> Send:
        async def counted(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                self._metrics.requests[message["status"]] += 1
            elif message["type"] == "websocket.accept":
                self._metrics.requests[101] += 1
            await send(message)

        return counted
