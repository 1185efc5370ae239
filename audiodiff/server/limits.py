"""What one client may cost the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server; memory is bounded by `max_clients` times what one may send.

    Attributes:
        max_body: Bytes of a request.
        max_seconds: Of the audio of a request; a stream has no end, but no more than this waits to be computed.
        max_clients: Requests and streams at once; more are asked to come again.
        max_steps: Denoising steps.
        timeout: Seconds that a client may take to send or to read, and a request may wait and be computed.
    """

    max_body: int = 8_000_000
    max_seconds: float = 120.0
    max_clients: int = 64
    max_steps: int = 50
    timeout: float = 60.0


class RequestError(Exception):
    """What is answered instead of audio.

    Args:
        status: Of HTTP.
        message: A sentence for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
