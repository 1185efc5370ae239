"""`audiodiff serve`: a vocoder behind HTTP and WebSocket."""

from __future__ import annotations

from typing import Any

import click

from audiodiff.choices import COUNT, SECONDS, Number
from audiodiff.cli import options as opt
from audiodiff.cli.verbs import Verb

EXAMPLES = (
    "audiodiff serve --port 8000",
    "curl --data-binary @in.wav 'http://127.0.0.1:8000/vocode?resample=true&seed=1' -o out.wav",
)
PACKAGES = ("starlette", "uvicorn", "websockets")


@click.command("serve", cls=Verb, examples=EXAMPLES, packages=PACKAGES)
@opt.model
@opt.mel_convention
@opt.expert("--resample", is_flag=True, help="Take a --mel-convention of another sample rate or hop; no streams then.")
@opt.address(port=8000)
@opt.expert(
    "--max-seconds",
    type=SECONDS,
    default=120.0,
    metavar="SECONDS",
    show_default=True,
    help="Longest audio of a request.",
)
@opt.expert(
    "--max-body",
    type=Number(int, low=1, high=2**31),
    default=8_000_000,
    metavar="BYTES",
    show_default=True,
    help="Largest request.",
)
@opt.expert(
    "--max-clients",
    type=COUNT,
    default=64,
    metavar="N",
    show_default=True,
    help="Requests and streams at a time; others are answered with 503.",
)
@opt.expert(
    "--timeout",
    type=SECONDS,
    default=60.0,
    metavar="SECONDS",
    show_default=True,
    help="Longest time to send, to read, and to wait for audio.",
)
@opt.device
@opt.dtype
def command(
    *,
    model: str | None,
    mel_convention: str | None,
    resample: bool,
    host: str,
    port: int,
    device: str,
    dtype: Any,
    **limits: Any,
) -> None:
    """Serve a vocoder by HTTP and WebSocket.

    POST /vocode takes a mel, as .npy or as float32 frames (application/octet-stream), or audio; ?seed, ?steps, ?format
    (wav, s16le), ?resample, ?mel_convention and ?force. The WebSocket /stream takes JSON settings if any (seed, steps,
    chunk_seconds, mel_convention, force), then float32 frames, then {"end": true}, and sends 16-bit samples as they are
    made. GET /health and /metrics. egs/serve has clients. Nothing is encrypted and nobody is asked for a password:
    leave --host as it is, or put a proxy before it.
    """
    import asyncio

    from audiodiff.pipelines import Vocoder
    from audiodiff.server.app import VocoderServer
    from audiodiff.server.limits import Limits
    from audiodiff.server.run import bind, serve, url

    listening = bind(host, port)
    vocoder = Vocoder.from_pretrained(model, device, dtype)
    if mel_convention is not None:
        vocoder = vocoder.with_mel_convention(mel_convention, resample=resample)
    server = VocoderServer(vocoder, Limits(**limits))
    address = url(host, listening.getsockname()[1])
    asyncio.run(serve(server.app, listening, server.limits, lambda: click.echo(f"listening on {address}", err=True)))
    click.echo("stopped", err=True)
