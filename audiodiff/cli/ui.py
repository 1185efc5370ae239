"""`audiodiff ui`: a page in the browser to vocode, generate and repair."""

from __future__ import annotations

from typing import Any

import click

from audiodiff.choices import SECONDS
from audiodiff.cli import options as opt
from audiodiff.cli.verbs import Verb

EXAMPLES = ("audiodiff ui --open", "audiodiff ui --model my_voice/run/last --port 8080")
PACKAGES = ("gradio", "uvicorn", "websockets", "matplotlib")


@click.command("ui", cls=Verb, examples=EXAMPLES, packages=PACKAGES)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FOLDER",
    help="A model of your own, beside the bundled ones; may be repeated.",
)
@opt.address(port=7860)
@click.option("--open/--no-open", "open_page", default=False, show_default=True, help="Open the page in a browser.")
@opt.expert("--max-seconds", type=SECONDS, default=60.0, metavar="SECONDS", show_default=True, help="Of a recording.")
@opt.device
@opt.dtype
def command(
    *,
    models: tuple[str, ...],
    host: str,
    port: int,
    open_page: bool,
    max_seconds: float,
    device: str,
    dtype: Any,
) -> None:
    """Serve a page to vocode, generate and repair in a browser.

    Drop or record audio, hear and see what a model makes of it, and play generated sounds on a pad. Everything is
    computed here; no other machine is asked for anything. One computation runs at a time, others wait. What is uploaded
    is kept in a temporary folder for an hour at most. Nothing is encrypted and nobody is asked for a password: leave
    --host as it is, or put a proxy before it; browsers record only at this machine's own address, or through HTTPS.
    """
    from audiodiff.server.run import bind, url

    listening = bind(host, port)
    click.echo("loading …", err=True)
    from audiodiff.ui.models import Models
    from audiodiff.ui.serve import serve_page

    offered = Models(models, device, dtype)
    address = url(host, listening.getsockname()[1])

    def ready() -> None:
        click.echo(f"the page is at {address}", err=True)
        if open_page:
            click.launch(address)

    serve_page(offered, listening, ready, max_seconds=max_seconds)
    click.echo("stopped", err=True)
