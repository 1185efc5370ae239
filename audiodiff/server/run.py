"""Listening, and stopping when asked to."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.types import ASGIApp

from audiodiff.errors import ConfigError
from audiodiff.server.limits import Limits

GRACE_SECONDS = 10
"""How long clients may go on after the server has been asked to stop."""
_HEADERS = 32_768
"""Bytes of the headers of a request."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: A name or an address, also of IPv6.
        port: 0 takes a free one.

    Raises:
        ConfigError: If the address is unknown or taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except socket.gaierror as error:
        raise ConfigError(
            f"there is no host {host!r} ({error.strerror}). Use 127.0.0.1 for this machine alone."
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error  # `strerror` of `create_server` adds the address
        raise ConfigError(f"cannot listen on {url(host, port)}: {reason}. Choose another --port or --host.") from error


def url(host: str, port: int) -> str:
    """Return the address of a server for people."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`: uvicorn would raise them again at the end, as if nothing had been shut down."""
        yield


async def serve(
    app: ASGIApp,
    listening: socket.socket,
    limits: Limits,
    ready: Callable[[], object],
    *,
    grace_seconds: int = GRACE_SECONDS,
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        app: See `audiodiff.server.app`.
        listening: See `bind`.
        limits: Of the server.
        ready: Called once it answers.
        grace_seconds: What clients have asked for by then is finished within this time.
    """
    config = uvicorn.Config(
        app,
        http="h11",
        ws="websockets-sansio",
        ws_max_size=limits.max_body,
        ws_ping_interval=None,  # it takes a client that has to wait for one that is dead
        ws_per_message_deflate=False,
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=_HEADERS,
        timeout_graceful_shutdown=grace_seconds,
    )
    server = _Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit  # asked a second time, it does not wait
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # not on Windows, or not in the main thread
            loop.add_signal_handler(number, stop)
    serving = asyncio.create_task(server.serve([listening]))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    ready()
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        stop()
        await serving
    finally:
        listening.close()
