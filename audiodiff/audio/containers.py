"""The streams of an audio file and the bytes each takes: joined files, headers that were never finished, cut-off ends.

A header may lie: recorders that were killed and programs that write to a pipe leave placeholders, and files that were
joined end to end have several headers. Here containers are walked, without decoding; `audiodiff.audio.io` decodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from audiodiff.audio.frames import FLAC_START, Stream, bytes_at, cut_off, flac_stream, id3_size, mp3_start, mp3_stream
from audiodiff.errors import AudioError

_W64_TAIL = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
_SEARCHED = 2**16


def find_streams(file: BinaryIO, name: str) -> tuple[list[Stream], list[str]]:
    """Find the streams of a file.

    The cost is that of a few reads, but for Ogg and MP3, whose pages and frames are all visited.

    Args:
        file: The open file.
        name: What to call it in messages.

    Returns:
        The streams in order, at least one, and what is amiss with them but can be read.

    Raises:
        AudioError: If a stream is cut off or damaged.
    """
    size = file.seek(0, 2)
    streams: list[Stream] = []
    notes: list[str] = []
    start = 0
    while start < size or not streams:
        stream, note, after = _stream(file, start, size, name)
        streams.append(stream)
        notes += [f"{name}: {note}"] if note else []
        start = after if after and _begins_stream(file, after) else size
    if len(streams) == 1 and not (streams[0].header or streams[0].guessed or _overruns(file)):
        streams[0].stop = size
    return streams, notes


def _begins_stream(file: BinaryIO, position: int) -> bool:
    place = position + id3_size(file, position)
    head = bytes_at(file, place, 12)
    return (
        head.startswith((FLAC_START, b"OggS", b"caff\x00\x01", b".snd\x00", b"NIST_1A\n", b"riff\x2e\x91"))
        or (head[:4] in _LAYOUTS and head[8:] in (b"WAVE", b"AIFF", b"AIFC"))
        or (head[:1] == b"\xff" and mp3_start(bytes_at(file, place, _SEARCHED)) == 0)
    )


def _overruns(file: BinaryIO) -> bool:
    """Tell whether libsndfile reads what follows the audio as audio too."""
    return bytes_at(file, 0, 4) in (b"riff", b"NIST")


def _stream(file: BinaryIO, start: int, size: int, name: str) -> tuple[Stream, str, int]:
    """Return the stream at a position, what is amiss with it, and where another might begin (0: nowhere)."""
    magic = bytes_at(file, start, 12)
    flac = start + id3_size(file, start)
    if layout := _LAYOUTS.get(magic[:4]):
        if layout.kinds and magic[8:12] not in layout.kinds:
            return Stream(start, size), "", 0
        return _chunked(file, start, size, layout, name)
    if magic[:4] in (b".snd", b"dns."):
        return _au(file, start, size, name)
    if magic.startswith(b"NIST_1A"):
        return _nist(file, start, size, name)
    if magic.startswith(b"OggS"):
        stop = _ogg(file, start, size, name)
        return Stream(start, stop), "", stop
    if bytes_at(file, flac, 4) == b"fLaC":
        return flac_stream(file, start, flac, size, name)
    return mp3_stream(file, start, size, name)


# --- containers of chunks ---------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How a container is made of chunks.

    Attributes:
        first: Bytes before the first chunk.
        name: Bytes of a chunk's name.
        size: Format of a chunk's size, as in `struct`.
        align: Bytes that chunks begin at a multiple of.
        audio: Name of the chunk with the audio.
        lead: Bytes of that chunk before the audio.
        kinds: What the bytes from 8 to 12 may be; empty if anything.
    """

    first: int
    name: int
    size: str
    align: int
    audio: bytes
    lead: int = 0
    kinds: tuple[bytes, ...] = ()

    @property
    def head(self) -> int:
        """Bytes of a chunk's name and size."""
        return self.name + struct.calcsize(self.size)


_WAVE = _Layout(12, 4, "<I", 2, b"data", kinds=(b"WAVE",))
_LAYOUTS = {
    b"RIFF": _WAVE,
    b"RF64": _WAVE,
    b"BW64": _WAVE,
    b"RIFX": _WAVE._replace(size=">I"),
    b"FORM": _Layout(12, 4, ">I", 2, b"SSND", 8, (b"AIFF", b"AIFC")),
    b"caff": _Layout(8, 4, ">Q", 1, b"data", 4),
    b"riff": _Layout(40, 16, "<Q", 8, b"data" + _W64_TAIL),
}


def _chunks(file: BinaryIO, position: int, size: int, layout: _Layout) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, where its content begins, and how long it is said to be; ends with what is none."""
    while position + layout.head <= size:
        head = bytes_at(file, position, layout.head)
        name, (length,) = head[: layout.name], struct.unpack(layout.size, head[layout.name :])
        length -= layout.head if layout.name == 16 else 0  # the sizes of W64 include this
        if length < 0 or not all(32 <= byte < 127 for byte in name[:4]) or name[4:] not in (b"", _W64_TAIL):
            return
        position += layout.head
        yield name, position, length
        position += length
        position += -position % layout.align if layout.align > 2 else position % layout.align and length % 2


class _Found(NamedTuple):
    """The chunk with the audio.

    Attributes:
        begin: Where the audio begins.
        promised: Its bytes, as the header says.
        field: Where the header says so.
        width: Bytes of that number.
        unfinished: Whether the size of the whole was never filled in.
    """

    begin: int
    promised: int
    field: int
    width: int
    unfinished: bool


def _find_audio(file: BinaryIO, start: int, size: int, layout: _Layout) -> _Found | None:
    ds64 = 0
    for chunk, begin, length in _chunks(file, start + layout.first, size, layout):
        if chunk == layout.audio:
            if ds64 and length == 2**32 - 1:
                outer, length = struct.unpack("<QQ", bytes_at(file, ds64, 16))
                return _Found(begin, length, ds64 + 8, 8, outer == 0 or _is_made_up(outer, 8))
            (outer,) = struct.unpack(layout.size[0] + "I", bytes_at(file, start + 4, 4))
            unfinished = layout.size[1] == "I" and (outer == 0 or _is_made_up(outer, 4))
            width = struct.calcsize(layout.size)
            return _Found(begin, length, begin - width, width, unfinished)
        ds64 = begin if chunk == b"ds64" else ds64
    return None


def _chunked(file: BinaryIO, start: int, size: int, layout: _Layout, name: str) -> tuple[Stream, str, int]:
    found = _find_audio(file, start, size, layout)
    if found is None:
        return Stream(start, size), "", 0
    there, promised = size - found.begin, found.promised
    end, clean = _after_audio(file, found.begin + promised, size, layout) if promised <= there else (size, False)
    if clean or (layout.lead < promised <= there and not found.unfinished):
        behind = b"" if clean else bytes_at(file, end, min(size - end, _SEARCHED))
        lost = len(behind) > 8 and behind.strip(b"\0") and not behind.startswith(_TAGS)
        note = (
            f"{size - end} bytes behind its audio are not read; its header says they are no part of it." if lost else ""
        )
        return Stream(start, found.begin + promised if layout.name == 16 else end), note, end
    if promised > there and not (found.unfinished or _is_made_up(promised, found.width)):
        raise cut_off(name, f"its header promises {promised} bytes of audio, {there} are there")
    header = bytearray(bytes_at(file, start, found.begin - start))
    _put(header, found.field - start, layout.size[0], found.width, there + (layout.head if layout.name == 16 else 0))
    if found.width == 4:
        _put(header, 4, layout.size[0], 4, size - start - 8)
    legal = layout.lead == 4 and promised == 2**64 - 1  # CAF's way to say "to the end"
    return Stream(start, size, bytes(header)), "" if legal else _unfinished(promised, there), 0


def _after_audio(file: BinaryIO, position: int, size: int, layout: _Layout) -> tuple[int, bool]:
    """Return where the chunks behind the audio end, and whether the file or another stream does so there."""
    position += -position % layout.align if position < size else 0
    while position < size - 1 and not _begins_stream(file, position):
        chunk = next(_chunks(file, position, size, layout), None)
        if chunk is None or chunk[1] + chunk[2] > size:
            return position, False
        position = min(chunk[1] + chunk[2] + -chunk[2] % layout.align, size)
    return min(position, size), True


def _is_made_up(length: int, width: int) -> bool:
    """Tell whether a length is one that programs write before they know it: round, or about as large as it can be."""
    if width == 8:
        return length >= 2**44
    near = any(abs(length - limit) <= 2**20 for limit in (2**31, 2**32))
    round_number = length >= 2**24 and (length + 4096) % 2**24 <= 4096
    return near or round_number or (length >= 10**8 and length % 10**6 == 0)


def _unfinished(promised: int, there: int) -> str:
    return (
        f"its header was never finished: it promises {promised} bytes of audio, and {there} follow. All are read; a "
        "recorder that was stopped, or a program that writes to a pipe, leaves such a header. Save it again to mend it."
    )


def _put(header: bytearray, position: int, order: str, width: int, value: int) -> None:
    struct.pack_into(order + ("Q" if width == 8 else "I"), header, position, min(value, 256**width - 1))


# --- containers with one header ---------------------------------------------------------------------------------------


_AU_HEADER = 24
"""Bytes of the header of an AU file, at least; where it says less, libsndfile goes by rules of its own."""


def _au(file: BinaryIO, start: int, size: int, name: str) -> tuple[Stream, str, int]:
    head = bytes_at(file, start, 12)
    if len(head) < 12:
        return Stream(start, size), "", 0
    order = ">" if head[:4] == b".snd" else "<"
    offset, promised = struct.unpack(order + "II", head[4:])
    if offset < _AU_HEADER:
        return Stream(start, size, must_decode=True), "", 0
    there = size - start - offset
    if there > 0 and (promised == 0 or (promised > there and _is_made_up(promised, 4))):
        header = bytearray(bytes_at(file, start, offset))
        _put(header, 8, order, 4, there)
        return Stream(start, size, bytes(header)), "" if promised == 2**32 - 1 else _unfinished(promised, there), 0
    if promised > there:
        raise cut_off(name, f"its header promises {promised} bytes of audio, {max(there, 0)} are there")
    return Stream(start, start + offset + promised), "", start + offset + promised


def _nist(file: BinaryIO, start: int, size: int, name: str) -> tuple[Stream, str, int]:
    lines = bytes_at(file, start, 1024).split(b"\n")
    fields = {words[0]: words[2] for words in (line.split() for line in lines) if len(words) == 3}
    try:
        count, width, channels = (int(fields[key]) for key in (b"sample_count", b"sample_n_bytes", b"channel_count"))
        end = start + int(lines[1]) + count * width * channels
    except (KeyError, ValueError, IndexError):  # libsndfile says what is wrong, or does without
        return Stream(start, size), "", 0
    if fields.get(b"sample_coding") not in (b"pcm", b"ulaw", b"alaw", b"mu-law"):
        return Stream(start, size), "", 0
    if end > size:
        raise cut_off(
            name, f"its header promises {count} samples, and the file ends {end - size} bytes before the last"
        )
    return Stream(start, end), "", end


def _ogg(file: BinaryIO, start: int, size: int, name: str) -> int:
    """Walk the pages of an Ogg stream; where it ends, for another may follow."""
    numbers: dict[bytes, int] = {}
    position, ended, began = start, False, False
    while position < size:
        head = bytes_at(file, position, 27 + 255)
        if head[:4] != b"OggS":
            break
        if len(head) < 27:
            raise cut_off(name, "its last page is not whole")
        if head[5] & 2 and began:
            break
        n_segments, serial, (number,) = head[26], head[14:18], struct.unpack("<I", head[18:22])
        if number != numbers.get(serial, -1) + 1 and serial in numbers:
            raise AudioError(f"{name} is damaged: there are pages missing from it. Copy or download it again.")
        numbers[serial], began, ended = number, began or not head[5] & 2, bool(head[5] & 4)
        position += 27 + n_segments + sum(head[27 : 27 + n_segments])
        if len(head) < 27 + n_segments or position > size:
            raise cut_off(name, "its last page is not whole")
    if not ended:
        missing = "its last page has no mark of the end"
        if position < size and bytes_at(file, position, 4) != b"OggS":
            raise AudioError(f"{name} is damaged: at byte {position} there is no page. Copy or download it again.")
        raise cut_off(name, missing)
    return position
