"""Where streams of FLAC and MP3 begin and end, and how long they are: told by their frames, without decoding."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO, NamedTuple

from audiodiff.errors import AudioError

FLAC_START = b"fLaC\x00\x00\x00\x22"
_SEARCHED = 2**16
"""Bytes that are read at once; a few frames of FLAC, dozens of MP3."""


@dataclass
class Stream:
    """One stream of a file.

    Attributes:
        start: Its first byte.
        stop: The byte after its last.
        header: What is to be read instead of its first bytes, with the true lengths.
        n_samples: How many samples it decodes to, per channel; None until that is known.
        promised: How many it should decode to at least; -1: as many as libsndfile says.
        must_decode: Whether only decoding tells how long it is.
        guessed: Whether libsndfile guesses its length, and stops reading there.
    """

    start: int
    stop: int
    header: bytes = b""
    n_samples: int | None = None
    promised: int = 0
    must_decode: bool = False
    guessed: bool = False


def cut_off(name: str, evidence: str) -> AudioError:
    """Return the error for a file whose end is missing."""
    return AudioError(f"{name} is cut off: {evidence}. Copy or download it again, or convert what is left with ffmpeg.")


def bytes_at(file: BinaryIO, position: int, count: int) -> bytes:
    """Return bytes of a file from a position on."""
    file.seek(position)
    return file.read(count)


def flac_stream(file: BinaryIO, start: int, marker: int, size: int, name: str) -> tuple[Stream, str, int]:
    """Return a stream of FLAC; its frames are numbered, and the last one tells how long it is."""
    head = bytearray(bytes_at(file, start, marker - start + 42))
    if len(head) < marker - start + 42:
        raise cut_off(name, "its header is not whole")
    info, (said,) = bytes(head[-34:]), struct.unpack(">Q", head[-24:-16])
    total = said & (2**36 - 1)
    stop, ends = size, _flac_ends(file, marker, size, info)
    places = [_flac_ends(file, marker, size * part // 16, info) for part in range(1, 16)] if size > 2**20 else []
    counts = [place[-1] for place in [*places, ends] if place]
    if total not in ends[-1:] or not places or counts != sorted(counts):
        stop = _find(file, FLAC_START, marker + 8, size)
        ends = _flac_ends(file, marker, stop, info) if stop < size else ends
    if not ends:
        raise cut_off(name, "it has no frame of audio, or none that is whole")
    if 0 < ends[-1] < total:
        raise cut_off(name, f"its header promises {total} samples, {ends[-1]} are there")
    note = ""
    if ends[-1] != total:
        struct.pack_into(">Q", head, len(head) - 24, said - total + ends[-1])
        note = f"its header promises {total} samples, and {ends[-1]} are there; all are read. Save it again to mend it."
    whole = total == ends[-1] and _flac_is_whole(file, marker, stop, info)
    return Stream(start, stop, bytes(head) if note else b"", must_decode=not whole, promised=ends[-1]), note, stop


def _find(file: BinaryIO, what: bytes, position: int, size: int) -> int:
    """Return where some bytes next are in a file, or its size."""
    overlap = b""
    file.seek(position)
    while block := file.read(2**20):
        found = (overlap + block).find(what)
        if found >= 0:
            return position - len(overlap) + found
        position += len(block)
        overlap = (overlap + block)[1 - len(what) :]
    return size


def _flac_frames(tail: bytes, info: bytes) -> list[tuple[int, int, int]]:
    """Find headers of frames (RFC 9639, section 9.1): where in the bytes, first sample, and sample after the last."""
    smallest, frames = int.from_bytes(info[:2], "big"), []
    for match in re.finditer(rb"\xff[\xf8\xf9]", tail):
        frame = tail[match.start() : match.start() + 16].ljust(16, b"\0")
        n_more = max(0, 7 - (frame[4] ^ 0xFF).bit_length()) if frame[4] >= 0xC0 else 0
        number = frame[4] & (0x3F >> n_more) if n_more else frame[4]
        for byte in frame[5 : 5 + n_more]:
            number = number << 6 | byte & 0x3F
        code, end = frame[2] >> 4, 5 + n_more
        n_bytes = {6: 1, 7: 2}.get(code, 0)
        length = int.from_bytes(frame[end : end + n_bytes], "big") + 1 if n_bytes else _FLAC_BLOCKS.get(code, 0)
        end += n_bytes + {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
        if length and frame[4] != 0xFF and not frame[3] & 1 and _crc(frame[:end], 8, 7) == frame[end]:
            first = number if frame[1] & 1 else number * smallest
            frames.append((match.start(), first, first + length))
    return frames


def _flac_ends(file: BinaryIO, marker: int, stop: int, info: bytes) -> list[int]:
    """Return the sample after each of the last frames before a byte; a frame that follows none is not believed."""
    begin = max(marker + 42, stop - 4 * _SEARCHED)
    frames = _flac_frames(bytes_at(file, begin, max(stop - begin, 0)), info)
    known = {0, *(end for _, _, end in frames)}
    return [end for _, first, end in frames if first in known]


def _flac_is_whole(file: BinaryIO, marker: int, stop: int, info: bytes) -> bool:
    """Tell whether the checksum of the last frame is right."""
    begin = max(marker + 42, stop - 4 * _SEARCHED)
    tail = bytes_at(file, begin, stop - begin)
    last = max((place for place, _, end in _flac_frames(tail, info)), default=0)
    return _crc(tail[last:], 16, 0x8005) == 0


_FLAC_BLOCKS = {1: 192, **{2 + n: 576 << n for n in range(4)}, **{8 + n: 256 << n for n in range(8)}}


@cache
def _crc_table(width: int, polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        value <<= width - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (width - 1) & 1 else 0)
        table.append(value & (1 << width) - 1)
    return table


def _crc(data: bytes, width: int, polynomial: int) -> int:
    table, value, mask = _crc_table(width, polynomial), 0, (1 << width) - 1
    for byte in data:
        value = (value << 8 ^ table[value >> (width - 8) ^ byte]) & mask
    return value


def id3_size(file: BinaryIO, position: int) -> int:
    """Return the bytes of the ID3v2 tags at a position."""
    size = 0
    while (head := bytes_at(file, position + size, 10))[:3] == b"ID3" and len(head) == 10:
        n_bytes = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        size += 10 + n_bytes + (10 if head[5] & 16 else 0)
    return size


class _Frame(NamedTuple):
    """The header of an MP3 frame: what stays the same within a stream, its bytes, and those before its audio."""

    kind: tuple[int, int, int]
    n_bytes: int
    n_side: int


def _mp3_frame(head: bytes) -> _Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer, rate = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 2 & 3
    index, mono = head[2] >> 4, head[3] >> 6 == 3
    if version == 1 or layer == 0 or rate == 3 or index in (0, 15):
        return None
    hertz = (44100, 48000, 32000)[rate] >> (0, 0, 1, 0)[version] >> (2 if version == 0 else 0)
    kbps = _KBPS[(version == 3, layer)][index - 1]
    if layer == 3:
        n_bytes = (12000 * kbps // hertz + (head[2] >> 1 & 1)) * 4
    else:
        n_bytes = (144000 if version == 3 or layer == 2 else 72000) * kbps // hertz + (head[2] >> 1 & 1)
    side = ((17 if mono else 32) if version == 3 else (9 if mono else 17)) + 4
    return _Frame((version, layer, rate), n_bytes, side)


_LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_KBPS = {
    (True, 3): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): _LOW,
    (False, 1): _LOW,
}
"""Bit rates of MPEG-1 and the later versions, by layer as the header numbers it (3 is layer I), ISO 11172-3."""


def mp3_start(data: bytes, position: int = 0) -> int:
    """Return where in some bytes MP3 begins, with three frames in a row or as many as there are; -1 if nowhere."""
    for match in _SYNC.finditer(data, position):
        place, frame = match.start(), _mp3_frame(data[match.start() : match.start() + 4])
        kind = frame and frame.kind
        for _ in range(2):
            if frame is None or place + frame.n_bytes == len(data):
                break
            place += frame.n_bytes
            frame = _mp3_frame(data[place : place + 4])
            frame = frame if frame and frame.kind == kind else None
        if frame:
            return match.start()
    return -1


_SYNC = re.compile(rb"\xff[\xe0-\xff]")


def _mp3_walk(data: bytes) -> tuple[int, int]:
    """Return where the last whole frame ends, and how many there are; what is amid frames is skipped."""
    position = stop = count = 0
    while position < len(data):
        frame = _mp3_frame(data[position : position + 4])
        if frame and position + frame.n_bytes <= len(data):
            position = stop = position + frame.n_bytes
            count += 1
        elif (position := mp3_start(data, position + 1)) < 0:
            break
    return stop, count


def mp3_stream(file: BinaryIO, start: int, size: int, name: str) -> tuple[Stream, str, int]:
    """Return a stream of MP3, or of what libsndfile alone knows.

    The Xing or Info header of an MP3 is believed if it agrees with the bytes and frames that are there. Else libsndfile
    takes the length from the first frames, which is a guess. The file is read, but not decoded.
    """
    place = start + id3_size(file, start)
    block = bytes_at(file, place, 2 * _SEARCHED)
    if not _mp3_frame(block[:4]) and not name.lower().endswith(".mp3"):
        return Stream(start, size), "", 0
    found = mp3_start(block)
    frame = _mp3_frame(block[found : found + 4]) if found >= 0 else None
    if frame is None:
        return Stream(start, size, must_decode=True, guessed=_SYNC.match(block) is not None), "", 0
    place, tag = place + found, block[found + frame.n_side : found + frame.n_side + 16]
    n_frames = n_bytes = 0
    if tag[:4] in (b"Xing", b"Info") and tag[7] & 3 == 3:
        n_frames, n_bytes = struct.unpack(">II", tag[8:16])
    if not n_frames or not n_bytes:
        stop, _ = _mp3_walk(bytes_at(file, place, size - place))
        return Stream(start, place + stop, must_decode=True, guessed=True), "", 0
    end = place + n_bytes
    if end > size:
        return Stream(start, size, must_decode=True, promised=-1), "", 0
    _, found_frames = _mp3_walk(bytes_at(file, place, n_bytes))
    if not found_frames - 2 <= n_frames <= found_frames + 1:  # with or without the header's own frame, and a cut one
        stop, _ = _mp3_walk(bytes_at(file, place, size - place))
        note = f"its header promises {n_frames} frames, and {found_frames - 1} are there; all are read."
        return Stream(place + frame.n_bytes, place + stop, must_decode=True, guessed=True), note, 0
    after = end + id3_size(file, end)
    again = mp3_start(bytes_at(file, after, 2 * _SEARCHED))
    return Stream(start, end), "", after + again if again >= 0 else 0
