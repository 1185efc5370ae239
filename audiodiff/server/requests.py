"""What a request asks for: its mel or audio, and its settings, checked before anything is computed."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray
from starlette.requests import Request

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import check_mel
from audiodiff.audio.mel_candidates import clipped
from audiodiff.audio.mel_matching import refuse_unlikely
from audiodiff.choices import ANY_SEED, SECONDS, STEPS
from audiodiff.config import MelConfig, mel_convention
from audiodiff.errors import AudiodiffError, MelError
from audiodiff.pipelines import SynthesisChanges, Vocoder
from audiodiff.pipelines.vocode_stream import ByteReader, frames_of, npy_arrays
from audiodiff.server.limits import Limits, RequestError

FORMATS = ("wav", "s16le")
_AUDIO = (b"RIFF", b"fLaC", b"OggS", b"ID3")
_SWITCH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Settings:
    """How a client wants its audio.

    Attributes:
        seed: Of the noise.
        changes: Of the reverse process.
        chunk_seconds: Of a stream.
        format: "wav" or "s16le".
        resample: Whether audio, or a mel, at another rate is resampled.
        mel_convention: What the mel follows; None is what the server takes.
        force: Whether a mel is taken that looks like another convention, or has values that no mel has.
    """

    seed: int = 0
    changes: SynthesisChanges = field(default_factory=SynthesisChanges)
    chunk_seconds: float = 0.5
    format: str = "wav"
    resample: bool = False
    mel_convention: MelConfig | None = None
    force: bool = False


def parse_settings(values: Mapping[str, Any], allowed: tuple[str, ...], limits: Limits) -> Settings:
    """Return the settings in a query or in the first message of a stream.

    Raises:
        RequestError: If there is no such setting, or no such value.
    """
    if unknown := [name for name in values if name not in allowed]:
        raise RequestError(400, f"there is no setting {unknown[0][:40]!r}; choose from {', '.join(allowed)}.")
    found: dict[str, Any] = {}
    for name, kind in (("seed", ANY_SEED), ("steps", STEPS), ("chunk_seconds", SECONDS)):
        if name in values:
            try:
                found[name] = kind.parse(values[name])
            except ValueError as error:
                raise RequestError(400, f"{name}: {error}.") from error
    switch = (*_SWITCH, True, False)
    for name, choices in (("format", FORMATS), ("resample", switch), ("force", switch)):
        if name in values and values[name] not in choices:
            raise RequestError(
                400, f"{name} is {str(values[name])[:40]!r}; choose from {', '.join(map(str, choices))}."
            )
    if "mel_convention" in values:
        try:
            found["mel_convention"] = mel_convention(str(values["mel_convention"])[:40])
        except ValueError as error:
            raise RequestError(400, f"{error}.") from error
    if found.get("steps", 0) > limits.max_steps:
        raise RequestError(400, f"steps is {found['steps']}; this server takes at most {limits.max_steps}.")
    changes: SynthesisChanges = {"steps": found.pop("steps")} if "steps" in found else {}
    found |= {name: _SWITCH.get(values[name], values[name]) for name in ("resample", "force") if name in values}
    return Settings(changes=changes, format=values.get("format", "wav"), **found)


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the body of a request.

    Raises:
        RequestError: If it is empty or too large.
    """
    body = bytearray()
    length = request.headers.get("content-length", "0")
    announced = int(length) if length.isdecimal() else 0
    if announced <= limits.max_body:
        async for part in request.stream():
            body += part
            if len(body) > limits.max_body:
                break
    if max(announced, len(body)) > limits.max_body:
        raise RequestError(413, f"the body is longer than {limits.max_body:,} bytes. Send less at a time, or a stream.")
    if not body:
        raise RequestError(400, "the body is empty; expected a mel (.npy or float32 frames) or audio.")
    return bytes(body)


def read_mel(
    body: bytes, content_type: str, settings: Settings, vocoder: Vocoder, limits: Limits
) -> tuple[NDArray[Any], Vocoder]:
    """Return the mel `(n_mels, frames)` in a body, or that of the audio in it, and the vocoder that takes such mels.

    Raises:
        RequestError: If it is neither, or too long.
        AudiodiffError: If it is damaged, or does not fit the model.
    """
    if not body.startswith(b"\x93NUMPY") and (body.startswith(_AUDIO) or content_type.startswith("audio/")):
        return _mel_of_audio(body, settings, vocoder, limits), vocoder.with_mel_convention(None)
    vocoder = of_convention(settings, vocoder)
    config = vocoder.given.config
    if body.startswith(b"\x93NUMPY"):
        arrays = list(npy_arrays(ByteReader(io.BytesIO(body), "the body")))
        if len(arrays) != 1:
            raise RequestError(400, f"the body holds {len(arrays)} arrays; expected one mel.")
        mel = arrays[0][0] if arrays[0].ndim == 3 and len(arrays[0]) == 1 else arrays[0]
    elif content_type == "application/octet-stream":
        mel = _raw_mel(body, config.n_mels)
    else:
        raise RequestError(
            415,
            f"the body is of type {content_type[:60] or 'nothing'!r} and is neither .npy nor audio; expected one of "
            "these, or float32 frames of a mel as application/octet-stream.",
        )
    _check_length(mel.shape[-1] if mel.ndim else 0, config, limits)
    if settings.force:
        mel = clipped(mel, config)
    else:
        refuse_unlikely(mel, config)
    if check_mel(mel, config).ndim != 2:
        raise RequestError(400, f"the mel has shape {tuple(mel.shape)}; expected one, (n_mels, frames).")
    return mel, vocoder


def of_convention(settings: Settings, vocoder: Vocoder) -> Vocoder:
    """Return the vocoder for the mels that a client sends."""
    if settings.mel_convention is None:
        return vocoder
    return vocoder.with_mel_convention(settings.mel_convention, resample=settings.resample)


def _raw_mel(body: bytes, n_mels: int) -> NDArray[Any]:
    if len(body) % (4 * n_mels):
        raise RequestError(
            400,
            f"the body has {len(body):,} bytes, no whole number of frames of {n_mels} float32 ({4 * n_mels} bytes). "
            "Was the mel sent as float64, or bin by bin?",
        )
    return frames_of(body, n_mels)


def _mel_of_audio(body: bytes, settings: Settings, vocoder: Vocoder, limits: Limits) -> NDArray[Any]:
    from audiodiff.audio.io import audio_info

    file = io.BytesIO(body)
    file.name = "the body"
    info = audio_info(file)
    if info.n_samples / info.sample_rate > limits.max_seconds:
        raise RequestError(413, f"the audio is longer than {limits.max_seconds:g} s. Send it in parts.")
    if info.sample_rate != vocoder.sample_rate and not settings.resample:
        rates = f"the audio is {info.sample_rate} Hz; this model needs {vocoder.sample_rate} Hz"
        raise RequestError(400, f"{rates}. Add ?resample=true.")
    mel: NDArray[Any] = vocoder.mel(load_audio(file, sample_rate=vocoder.sample_rate)[0]).cpu().numpy()
    return mel


def _check_length(n_frames: int, config: MelConfig, limits: Limits) -> None:
    seconds = n_frames * config.hop_length / config.sample_rate
    if seconds > limits.max_seconds:
        raise RequestError(
            413,
            f"the mel lasts {math.ceil(seconds):,} s; this server takes at most {limits.max_seconds:g} s at a time.",
        )


def explain(error: Exception) -> tuple[int, str]:
    """Return the status and the sentence for an error: what a client did wrong, or a fault of the server."""
    if isinstance(error, RequestError):
        return error.status, str(error)
    if isinstance(error, TimeoutError):
        return 408, str(error) or "nothing came for too long."
    if isinstance(error, MelError):
        return 400, error.advising(lambda name, value: f"{name}={'true' if value is True else value}")
    if isinstance(error, AudiodiffError):
        return 400, str(error)
    return 500, f"unexpected {type(error).__name__}; the log of the server says more."
