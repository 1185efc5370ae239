"""Audio files as the world writes them: formats and faults, made by hand, with what must become of each."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16000
N_SAMPLES = 40003
"""Of one stream; no multiple of any block, frame or page."""


class Specimen(NamedTuple):
    """A file, and its length or why it is refused.

    Attributes:
        suffix: Of its name.
        content: Its bytes.
        n_samples: Its true length; None where only decoding tells, or where it is refused.
        refused: What the message says, if it is refused.
        note: What the warning says, if there is one.
    """

    suffix: str
    content: bytes
    n_samples: int | None = None
    refused: str = ""
    note: str = ""


def sound(n_samples: int = N_SAMPLES, seed: int = 0) -> NDArray[np.float32]:
    """A tone in noise."""
    noise = np.random.default_rng(seed).standard_normal(n_samples)
    return (0.4 * np.sin(0.17 * np.arange(n_samples)) + 0.05 * noise).astype(np.float32)


def encoded(
    kind: str, subtype: str | None = None, n_samples: int = N_SAMPLES, *, seed: int = 0, rate: int = RATE
) -> bytes:
    """A whole file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, sound(n_samples, seed), rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def put(content: bytes, *places: tuple[int, str, int]) -> bytes:
    """Overwrite numbers: (offset, format as in `struct`, value)."""
    changed = bytearray(content)
    for place, kind, value in places:
        struct.pack_into(kind, changed, place, value)
    return bytes(changed)


def without_xing(content: bytes) -> bytes:
    """An MP3 without its first frame, which holds the header of the encoder."""
    second = content.find(content[:2], 10)
    return content[second:]


def every_subtype() -> dict[str, Specimen]:
    """What libsndfile writes here, in every encoding."""
    found = {}
    for kind in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(kind) if kind not in ("RAW", "SD2") else ():
            for rate in (RATE, 8000):
                try:
                    content = encoded(kind, subtype, rate=rate)
                except soundfile.LibsndfileError:
                    continue
                lossless = subtype.startswith(("PCM", "FLOAT", "DOUBLE", "ALAC", "VORBIS", "OPUS", "MPEG"))
                exact = N_SAMPLES if lossless and (kind, subtype) != ("PAF", "PCM_24") and "8" not in subtype else None
                broken = "cannot be read|has an encoding" if subtype.startswith("DWVW") else ""
                found[f"{kind} {subtype}"] = Specimen(f".{kind.lower()}", content, None if broken else exact, broken)
                break
    return found


def odd_wavs() -> dict[str, Specimen]:
    """RIFF and its relatives with sizes that are wrong."""
    wav, w64, rf64 = encoded("WAV"), encoded("W64"), encoded("RF64")
    data = wav.index(b"data") + 4
    listed = wav + b"LIST" + struct.pack("<I", 12) + b"INFOIART\0\0\0\0"
    note = "header was never finished"
    found = {
        "wav": Specimen(".wav", wav, N_SAMPLES),
        "wav and chunks": Specimen(".wav", put(listed, (4, "<I", len(listed) - 8)), N_SAMPLES),
        "wav with garbage behind": Specimen(".wav", wav + b"\1\2\3garbage garbage", N_SAMPLES, note="are not read"),
        "wav and ID3v1": Specimen(".wav", wav + b"TAG" + bytes(125), N_SAMPLES),
        "wav cut": Specimen(".wav", wav[:50000], refused="cut off: its header promises 80006 bytes"),
        "wav empty": Specimen(".wav", encoded("WAV", n_samples=0), refused="is empty"),
        "wav empty with chunks": Specimen(
            ".wav", encoded("WAV", n_samples=0) + b"LIST\4\0\0\0INFO", refused="is empty"
        ),
        "wav odd": Specimen(".wav", encoded("WAV", "PCM_U8"), N_SAMPLES),
        "wav twice": Specimen(".wav", wav + encoded("WAV", n_samples=999, seed=1), N_SAMPLES + 999),
        "wav and flac": Specimen(".wav", wav + encoded("FLAC"), refused="joins streams of different kinds"),
        "two rates": Specimen(".wav", wav + encoded("WAV", rate=8000), refused="joins streams of different kinds"),
        "rf64": Specimen(".rf64", rf64, N_SAMPLES),
        "rf64 cut": Specimen(".rf64", rf64[:40000], refused="cut off"),
        "rf64 sizes 0": Specimen(".wav", put(rf64, (20, "<Q", 0), (28, "<Q", 0), (36, "<Q", 0)), N_SAMPLES, note=note),
        "rf64 twice": Specimen(".rf64", rf64 + rf64, 2 * N_SAMPLES),
        "w64": Specimen(".w64", w64, N_SAMPLES),
        "w64 cut": Specimen(".w64", w64[:40001], refused="cut off"),
        "w64 size 0": Specimen(".w64", put(w64, (16, "<Q", 0), (96, "<Q", 24)), N_SAMPLES, note=note),
        "w64 twice": Specimen(".w64", w64 + bytes(-len(w64) % 8) + w64, 2 * N_SAMPLES),
    }
    for size in (0, 0xFFFFFFFF, 0xFFFFFFFF - 36, 0x7FFFFFFF, 0x7FFFF000, 0x80000000, 0x40000000, 0x3FFFFFFF, 10**9):
        found[f"wav of {size:#x}"] = Specimen(".wav", put(wav, (data, "<I", size)), N_SAMPLES, note=note)
        both = put(wav, (4, "<I", min(size + 36, 2**32 - 1)), (data, "<I", size))
        found[f"wav of {size:#x} twice"] = Specimen(".wav", both, N_SAMPLES, note=note)
    found["wav flushed before it was killed"] = Specimen(
        ".wav", put(wav, (4, "<I", 0), (data, "<I", 30000)), N_SAMPLES, note=note
    )
    return found


def odd_others() -> dict[str, Specimen]:
    """AIFF, CAF, AU and NIST with sizes that are wrong."""
    aiff, caf, au, nist = (encoded(kind) for kind in ("AIFF", "CAF", "AU", "NIST"))
    ssnd, data = aiff.index(b"SSND") + 4, caf.index(b"data\0") + 4
    note = "header was never finished"
    unfinished = put(aiff, (4, ">I", 0), (aiff.index(b"COMM") + 10, ">I", 0), (ssnd, ">I", 0))
    return {
        "aiff of 0": Specimen(".aiff", unfinished, N_SAMPLES, note=note),
        "aiff of 8": Specimen(".aiff", put(unfinished, (ssnd, ">I", 8)), N_SAMPLES, note=note),
        "aiff cut": Specimen(".aiff", aiff[:50001], refused="cut off"),
        "aiff twice": Specimen(".aiff", aiff + aiff, 2 * N_SAMPLES),
        "caf to the end": Specimen(".caf", put(caf, (data, ">q", -1)), N_SAMPLES),
        "caf of 0": Specimen(".caf", put(caf, (data, ">q", 0)), N_SAMPLES, note=note),
        "caf cut": Specimen(".caf", caf[:50000], refused="cut off"),
        "caf twice": Specimen(".caf", caf + caf, 2 * N_SAMPLES),
        "au of unknown length": Specimen(".au", put(au, (8, ">I", 2**32 - 1)), N_SAMPLES),
        "au of 0": Specimen(".au", put(au, (8, ">I", 0)), N_SAMPLES, note=note),
        "au cut": Specimen(".au", au[:50000], refused="cut off"),
        "au twice": Specimen(".au", au + au, 2 * N_SAMPLES),
        "nist cut": Specimen(".sph", nist[:50000], refused="cut off"),
        "nist twice": Specimen(".sph", nist + nist, 2 * N_SAMPLES),
    }


def odd_flacs() -> dict[str, Specimen]:
    """FLAC whose header does not tell its length, or not the true one, and FLACs in a row."""
    flac = encoded("FLAC")
    bits = struct.unpack(">Q", flac[18:26])[0] & ~(2**36 - 1)
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    long = encoded("FLAC", n_samples=900_000)
    return {
        "flac of 0": Specimen(".flac", put(flac, (18, ">Q", bits)), N_SAMPLES, note="promises 0 samples"),
        "flac of half": Specimen(
            ".flac", put(flac, (18, ">Q", bits | 20000)), N_SAMPLES, note="promises 20000 samples"
        ),
        "flac of more": Specimen(
            ".flac", put(flac, (18, ">Q", bits | 50000)), refused="promises 50000 samples, 40003 are"
        ),
        "flac cut": Specimen(".flac", flac[: len(flac) // 2], refused="cut off"),
        "flac cut by a byte": Specimen(".flac", flac[:-1], refused="cut off|cannot be read"),
        "flac header only": Specimen(".flac", flac[:100], refused="cut off"),
        "flac behind a tag": Specimen(".flac", tag + flac, N_SAMPLES),
        "flac of 0 behind a tag": Specimen(
            ".flac", tag + put(flac, (18, ">Q", bits)), N_SAMPLES, note="promises 0 samples"
        ),
        "flac before a tag": Specimen(".flac", flac + b"TAG" + bytes(125), N_SAMPLES),
        "flac and another": Specimen(".flac", flac + encoded("FLAC", n_samples=20002, seed=1), N_SAMPLES + 20002),
        "flac and a short one": Specimen(".flac", flac + encoded("FLAC", n_samples=100, seed=1), N_SAMPLES + 100),
        "flac twice": Specimen(".flac", flac + flac, 2 * N_SAMPLES),
        "flac of 0 twice": Specimen(".flac", 2 * put(flac, (18, ">Q", bits)), 2 * N_SAMPLES, note="promises 0 samples"),
        "long flac twice": Specimen(".flac", long + long, 1_800_000),
        "long flac": Specimen(".flac", long, 900_000),
    }


def odd_mp3s() -> dict[str, Specimen]:
    """MP3 without a header that tells its length, or with a wrong one, and MP3s in a row."""
    mp3, other = encoded("MP3"), encoded("MP3", n_samples=30001, seed=1)
    bare, frame = without_xing(mp3), 576
    n_bare = struct.unpack(">I", mp3[mp3.index(b"Xing") + 8 :][:4])[0] * frame
    quiet_first = without_xing(silence_then_sound())
    tag = b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    return {
        "mp3": Specimen(".mp3", mp3, N_SAMPLES),
        "mp3 behind a tag": Specimen(".mp3", tag + mp3, N_SAMPLES),
        "mp3 before a tag": Specimen(".mp3", mp3 + b"TAG" + bytes(125), N_SAMPLES),
        "mp3 behind zeros": Specimen(".mp3", bytes(300) + mp3, N_SAMPLES),
        "mp3 cut": Specimen(".mp3", mp3[: len(mp3) // 2], refused="cut off"),
        "mp3 without xing": Specimen(".mp3", bare, n_bare),
        "mp3 without xing behind a tag": Specimen(".mp3", tag + bare, n_bare),
        "mp3 without xing, quiet first": Specimen(".mp3", quiet_first),
        "mp3 of unknown length": Specimen(".mp3", put(mp3, (mp3.index(b"Xing") + 8, ">I", 0))),
        "mp3 of too many frames": Specimen(
            ".mp3", put(mp3, (mp3.index(b"Xing") + 8, ">I", 10**9)), n_bare, note="are there"
        ),
        "mp3 of too few frames": Specimen(
            ".mp3", put(mp3, (mp3.index(b"Xing") + 8, ">I", 30)), n_bare, note="are there"
        ),
        "mp3 and another": Specimen(".mp3", mp3 + other, N_SAMPLES + 30001),
        "mp3 and another behind a tag": Specimen(".mp3", mp3 + tag + other, N_SAMPLES + 30001),
        "mp3 twice": Specimen(".mp3", mp3 + mp3, 2 * N_SAMPLES),
        "mp3 and one at another rate": Specimen(".mp3", mp3 + encoded("MP3", rate=44100), refused="joins streams"),
        "mp3 without xing, cut": Specimen(".mp3", bare[:-77], n_bare - 2 * frame),
        "mp3 of two frames": Specimen(".mp3", bare[:576], 2 * frame),
        "bare mp3 and garbage": Specimen(".mp3", bare + b"\1\2garbage" * 30, n_bare),
        "bare mp3 twice": Specimen(".mp3", bare + bare, 2 * n_bare),
    }


def silence_then_sound() -> bytes:
    """An MP3 of a variable rate, whose first frames are as short as can be."""
    buffer = io.BytesIO()
    audio = np.concatenate([np.zeros(3 * RATE, np.float32), 2 * sound()])
    with soundfile.SoundFile(
        buffer, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE", compression_level=0.0
    ) as file:
        file.write(audio)
    return buffer.getvalue()


def pages(content: bytes) -> list[bytearray]:
    """The pages of an Ogg file."""
    found, place = [], 0
    while place < len(content):
        n_segments = content[place + 26]
        length = 27 + n_segments + sum(content[place + 27 : place + 27 + n_segments])
        found.append(bytearray(content[place : place + length]))
        place += length
    return found


def odd_oggs() -> dict[str, Specimen]:
    """Ogg streams in a row, cut off, or with pages missing."""
    found = {}
    for subtype in ("VORBIS", "OPUS"):
        ogg, other = encoded("OGG", subtype), encoded("OGG", subtype, 30001, seed=1)
        parts = pages(encoded("OGG", subtype, 200_000))
        name = subtype.lower()
        found |= {
            f"{name} and another": Specimen(".ogg", ogg + other, N_SAMPLES + 30001),
            f"{name} twice": Specimen(".ogg", ogg + ogg, 2 * N_SAMPLES),
            f"{name} cut": Specimen(".ogg", ogg[:-100], refused="cut off"),
            f"{name} without its last page": Specimen(".ogg", b"".join(parts[:-1]), refused="no mark of the end"),
            f"{name} without a page": Specimen(".ogg", b"".join(parts[:4] + parts[5:]), refused="pages missing"),
            f"{name} before a tag": Specimen(".ogg", ogg + b"TAG" + bytes(125), N_SAMPLES),
        }
    vorbis, opus = encoded("OGG", "VORBIS"), encoded("OGG", "OPUS")
    return found | {"vorbis and opus": Specimen(".ogg", vorbis + opus, refused="joins streams of different kinds")}


def zoo() -> dict[str, Specimen]:
    """All of them."""
    makers: tuple[Callable[[], dict[str, Specimen]], ...] = (
        *(every_subtype, odd_wavs, odd_others, odd_flacs, odd_mp3s, odd_oggs),
    )
    return {name: specimen for make in makers for name, specimen in make().items()}
