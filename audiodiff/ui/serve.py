"""The page on an address of this machine, from its temporary folder to its orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from starlette.types import ASGIApp

from audiodiff.server.limits import Limits
from audiodiff.server.run import serve
from audiodiff.ui.background import join_computations
from audiodiff.ui.guard import Guard
from audiodiff.ui.models import Models
from audiodiff.ui.studio import Studio

MAX_UPLOAD = 60_000_000
"""Bytes of an upload: a minute of 24-bit stereo at 192 kHz is more, one at 96 kHz is less."""
_GRACE_SECONDS = 2
_SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "True", "GRADIO_SSR_MODE": "False"}


@contextmanager
def page_app(models: Models, max_seconds: float = 60.0) -> Iterator[ASGIApp]:
    """Make the page as an application, with a temporary folder that is removed at the end.

    Args:
        models: What it offers.
        max_seconds: Of a recording.
    """
    before, closed = dict(os.environ), threading.Event()
    with TemporaryDirectory(prefix="audiodiff-ui-", ignore_cleanup_errors=True) as name:
        os.environ.update(_SETTINGS, GRADIO_TEMP_DIR=name)  # Gradio reads some as it is imported
        try:
            import fastapi
            import gradio as gr

            from audiodiff.ui.page import asset, make_page, theme

            studio = Studio(models, Path(name), max_seconds)
            app = gr.mount_gradio_app(
                fastapi.FastAPI(openapi_url=None),
                make_page(studio, closed),
                "/",
                server_name="127.0.0.1",
                footer_links=[],
                run_history=False,
                max_file_size=MAX_UPLOAD,
                ssr_mode=False,
                mcp_server=False,
                enable_monitoring=False,
                pwa=False,
                theme=theme(),
                css=asset("page.css"),
            )
            yield Guard(app, Path(name), MAX_UPLOAD + 10_000)
        finally:
            closed.set()
            join_computations()
            os.environ.clear()
            os.environ.update(before)


def serve_page(
    models: Models, listening: socket.socket, ready: Callable[[], object], *, max_seconds: float = 60.0
) -> None:
    """Serve the page until SIGTERM or SIGINT; see `audiodiff.server.run.serve`."""
    # The streams of open pages have no end of their own, and uvicorn reports as errors that it ended them.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    with page_app(models, max_seconds) as app:
        asyncio.run(serve(app, listening, Limits(), ready, grace_seconds=_GRACE_SECONDS))
