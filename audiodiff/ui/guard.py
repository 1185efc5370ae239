"""What stands before Gradio: requests that the page does not need are refused, and so is every file but the page's own.

Gradio has routes that fetch from other machines (`file=http://…`, a file's path that is a URL), and more that the page
has no use for. They are not trusted one by one: what is not listed here does not exist.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_API = "/gradio_api"
_READ = re.compile(
    r"/(|config|theme\.css|favicon\.ico|manifest\.json|(assets|static|svelte)/[\w./-]+"
    r"|gradio_api/(info|app_id|startup-events|upload_progress|queue/data|heartbeat/\w+))"
)
_ASK = {f"{_API}/{name}" for name in ("queue/join", "cancel", "reset", "call/vocode", "call/generate", "call/repair")}
_UPLOAD, _FILE = f"{_API}/upload", f"{_API}/file="
_LONGEST_QUESTION = 1_000_000
"""Bytes of a request that is not an upload."""
_HEADERS = {
    # The browser asks no other machine for anything, whatever Gradio's pages name.
    "content-security-policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Guard:
    """Lets through what the page needs.

    Args:
        app: Gradio.
        folder: The only one whose files are served, or named by a request.
        max_upload: Bytes of an upload.
    """

    def __init__(self, app: ASGIApp, folder: Path, max_upload: int) -> None:
        self._app = app
        self._folder = Path(os.path.realpath(folder))
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None and scope["path"] in _ASK:
            receive, refusal = await self._asked(receive)
        app = self._app if refusal is None else refusal
        await app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        """Return why a request is refused before its body is read."""
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD"):
            if path.startswith(_FILE) and self._is_own(path.removeprefix(_FILE)):
                return None
            return None if _READ.fullmatch(path) and ".." not in path else _refuse(404, "There is nothing here.")
        if method != "POST" or (path not in _ASK and path != _UPLOAD):
            return _refuse(404, "There is nothing here.")
        most = self._max_upload if path == _UPLOAD else _LONGEST_QUESTION
        length = Headers(scope=scope).get("content-length", "")
        if not re.fullmatch("[0-9]{1,18}", length):
            return _refuse(411, "State the content length.")
        return _refuse(413, f"At most {most:,} bytes can be sent.") if int(length) > most else None

    async def _asked(self, receive: Receive) -> tuple[Receive, PlainTextResponse | None]:
        """Read a question, and refuse it if it names a file that is not the page's own; return it to be read again."""
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
            message = await receive()
        try:
            names = _named_files(json.loads(body))
        except (ValueError, RecursionError):
            return receive, _refuse(400, "This is not JSON.")
        refusal = None if all(map(self._is_own, names)) else _refuse(403, "That file is not the page's own.")
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        return again, refusal

    def _is_own(self, name: object) -> bool:
        """Tell whether a name is that of a file in the folder, links followed."""
        if not isinstance(name, str) or not os.path.isabs(name) or "\0" in name:
            return False
        return self._folder in Path(os.path.realpath(name)).parents


def _refuse(status: int, reason: str) -> PlainTextResponse:
    return PlainTextResponse(reason + "\n", status)


def _named_files(value: Any) -> list[object]:
    """Return every path in a question: what Gradio takes for a file is an object with that key."""
    if isinstance(value, dict):
        own = [value["path"]] if value.get("path") is not None else []
        return own + [name for inner in value.values() for name in _named_files(inner)]
    return [name for inner in value for name in _named_files(inner)] if isinstance(value, list) else []
