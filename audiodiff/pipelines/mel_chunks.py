"""Mel spectrograms that arrive in pieces of any length: aligned to the hops of the signal, and cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio.mel import align_to_hops
from audiodiff.audio.mel_features import audible_frames
from audiodiff.audio.mel_matching import refuse_unlikely
from audiodiff.audio.transforms import Array, as_tensor
from audiodiff.choices import SECONDS
from audiodiff.config import MelConfig
from audiodiff.engine.windows import Window
from audiodiff.errors import ConfigError, MelError

CHUNK_SECONDS = 12.0
"""Chunk length for long mels: long relative to the context of the estimate, short enough to bound memory."""
LONGEST_CHUNK_SECONDS = 1.0
"""What chunks of a stream grow to where the mel arrives faster than it is vocoded; longer ones cost hardly less."""

_LONGEST_HELD = 8.0
"""Seconds of a stream that are looked at, at most, until a second is audible."""


def aligned(mels: Iterable[Tensor], config: MelConfig) -> Iterator[Tensor]:
    """Align consecutive mels to hops; where a hop lies between two frames, the last frame waits for the next.

    Args:
        mels: Pieces `(batch, n_mels, frames)` of this convention.
        config: The convention.

    Yields:
        Pieces `(batch, n_mels, n_frames)`, together what `align_to_hops` makes of the whole mel.

    Raises:
        MelError: If the whole mel is too short for a signal of one hop.
    """
    if config.centre == "hop" or config.pairing == "frame":
        yield from mels
        return
    waiting: Tensor | None = None
    n_frames = 0
    for mel in mels:
        n_frames += mel.shape[2]
        mel = mel if waiting is None else torch.cat([waiting, mel], dim=2)
        waiting = mel[..., -1:]
        if mel.shape[2] > 1:
            yield align_to_hops(mel, config)
    if n_frames == 1 and waiting is not None:
        align_to_hops(waiting, config)  # refuses it


def judged(mels: Iterable[Array], config: MelConfig) -> Iterator[Array]:
    """Pass pieces of a mel on, and judge once, by its first second of audible frames, whether it is of a convention.

    Args:
        mels: Pieces `(n_mels, frames)`.
        config: The convention.

    Raises:
        MelError: If it is by a clear margin likelier to be of another; what came before that has been passed on.
    """
    second = config.sample_rate / config.hop_length
    held: NDArray[np.float32] | None = np.zeros((config.n_mels, 0), np.float32)
    for mel in mels:
        if held is not None:
            piece = as_tensor(mel, "mel", MelError).detach().float().cpu().numpy()
            if piece.ndim != 2 or len(piece) != len(held):
                refuse_unlikely(piece, config)
            else:
                held = np.concatenate([held, piece], axis=1)[:, -round(_LONGEST_HELD * second) :]
                if audible_frames(held).sum() >= second:
                    refuse_unlikely(held, config)
                    held = None
        yield mel
    if held is not None:
        refuse_unlikely(held, config)


class ChunkLengths(NamedTuple):
    """How long chunks are, in frames.

    Attributes:
        usual: Of a chunk; the last one may be shorter.
        longest: What they grow to where more frames have come; each is at most twice as long as that before it.
    """

    usual: int
    longest: int


def chunks(
    mels: Iterable[Tensor], window: Window, lengths: ChunkLengths, look_ahead: int, look_back: int
) -> Iterator[tuple[int, int]]:
    """Fill a window with mels and say when a chunk can be made.

    Args:
        mels: Pieces `(batch, n_mels, n_frames)`.
        window: Where they go; it keeps what later chunks depend on.
        lengths: Of the chunks.
        look_ahead: How many frames after it a chunk depends on, at least 1.
        look_back: How many before it.

    Yields:
        First frame and end of each chunk as soon as all frames that it depends on are in the window.
    """
    start, (usual, longest) = 0, lengths
    length = usual // 2  # so that the first has the usual length
    for mel in mels:
        window.append(mel)
        while start + usual + look_ahead <= window.end:  # so more frames come after this chunk
            length = max(usual, min(2 * length, longest, window.end - look_ahead - start))
            yield start, start + length
            start += length
            window.discard_before(start - look_back)
    while start < window.end:
        length = max(usual, min(2 * length, longest))
        stop = min(start + length, window.end)
        yield start, stop
        start = stop
        window.discard_before(start - look_back)


def chunk_frames(seconds: float, config: MelConfig) -> int:
    """Return the length of a chunk in frames.

    Raises:
        ConfigError: If it is less than one.
    """
    seconds = SECONDS.check("chunk_seconds", seconds)
    n_frames = round(seconds * config.sample_rate / config.hop_length)
    if n_frames < 1:
        shortest = config.hop_length / config.sample_rate
        raise ConfigError(f"chunk_seconds is {seconds}; it must be at least a hop, {shortest:.4f} seconds.")
    return n_frames


def growing_chunks(seconds: float, config: MelConfig) -> ChunkLengths:
    """Return how long the chunks of a stream are; errors as of `chunk_frames`."""
    usual = chunk_frames(seconds, config)
    return ChunkLengths(usual, max(usual, chunk_frames(LONGEST_CHUNK_SECONDS, config)))
