"""Archives of corpora: members that lead elsewhere, links, devices, odd names, damage, and bombs."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from campaign.case import Case, Draw, Result, damage
from campaign.world import World

NAMES = (
    "../x.wav", "/x.wav", "a/../../x.wav", "", ".", "..", "./", "a/", "a//b.wav", "a/./b.wav", "C:/x.wav",
    "a\\..\\x.wav", "\\x", "x" * 300, "x" * 250,
    "a/" * 200 + "x", "\u202egpj.wav", "a\nb", "a\0b", " ", "~/x", "-x", "CON", "é.wav", "a:b", "//host/x", "...",
    "a\x1b[31m.wav", "pwned",
)  # fmt: skip


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Write an archive with something odd in it, and unpack it as recipes do."""
    good = {f"corpus/good{i}.wav": world.clip.read_bytes()[: 500 + i] for i in range(3)}
    how = draw.choice(
        [
            "whole",
            "name",
            "name",
            "name",
            "damage",
            "damage",
            "link",
            "device",
            "bomb",
            "many",
            "twice",
            "encrypted",
            "no archive",
            "file and folder",
        ]
    )
    form = draw.choice(["zip", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
    name = draw.choice(NAMES) if how == "name" else "corpus/odd.wav"
    about = f"{form}, {how} {name[:30]!r}"
    data = _zip(good, how, name, draw) if form == "zip" else _tar(good, how, name, form, draw)
    if how == "damage":
        data, what = damage(data, draw)
        about = f"{form}, {what}"
    if how == "no archive":
        data = draw.choice(
            [
                b"",
                b"\0" * 10_240,
                b"<html>404</html>",
                world.clip.read_bytes(),
                b"PK\3\4",
                b"\x1f\x8b\x08",
                b"PK\5\6" + bytes(18),
            ]
        )
    archive = folder / f"corpus.{draw.choice([form, form, form, 'zip', 'tar.gz'])}"
    archive.write_bytes(data)

    def run() -> None:
        from recipes._archives import extract

        extract(archive, folder / "out")

    case = Case(run, about, "accept" if how == "whole" else "either", ["corpus."], _contents(good, how), keeps=True)
    if (how, form) in (("bomb", "zip"), ("bomb", "tar.gz"), ("bomb", "tar"), ("encrypted", "zip")):
        case.expect = "refuse"
    return case


def _contents(good: dict[str, bytes], how: str):
    """Return a check that the good members are there and nothing lies outside."""

    def check(result: Result) -> str | None:
        for path in result.new_files:
            inside = path.relative_to(result.folder)
            if inside.parts[0] != "out" or path.is_symlink():
                return f"{inside} was made"
        for name, content in good.items():
            path = result.folder / "out" / name
            if how not in ("damage", "no archive") and (not path.is_file() or path.read_bytes() != content):
                return f"{name} is missing or wrong"
        return None

    return check


def _odd_members(how: str, name: str, draw: Draw) -> dict[str, bytes]:
    """Return the plain members that make an archive odd."""
    again = draw.choice(["corpus/Odd.wav", "corpus/odd.wav/inner", "corpus/./odd.wav"])
    return {
        "name": {name: b"odd"},
        "many": {f"corpus/many/{i}": b"x" for i in range(500)},
        "twice": {"corpus/odd.wav": b"1", again: b"22"},
        "file and folder": {"corpus/x": b"1", "corpus/x/y": b"2"},
    }.get(how, {})


def _zip(good: dict[str, bytes], how: str, name: str, draw: Draw) -> bytes:
    buffer = io.BytesIO()
    methods = [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]
    with zipfile.ZipFile(buffer, "w", draw.choice(methods)) as archive:
        for key, content in {**good, **_odd_members(how, name, draw)}.items():
            member = zipfile.ZipInfo(key or "x")
            member.filename = key
            archive.writestr(member, content)
        if how in ("link", "device"):
            member = zipfile.ZipInfo(name)
            member.external_attr = (0o120777 if how == "link" else 0o020777) << 16
            archive.writestr(member, b"/etc/passwd" if how == "link" else b"")
        elif how == "bomb":
            member = zipfile.ZipInfo("corpus/bomb.wav")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                for _ in range(400):
                    file.write(bytes(2**20))
    data = bytearray(buffer.getvalue())
    if how == "encrypted":  # the flag of every entry
        for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.find(mark)
            while at >= 0:
                data[at + offset] |= 1
                at = data.find(mark, at + 4)
    return bytes(data)


def _add(
    archive: tarfile.TarFile, key: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> None:
    member = tarfile.TarInfo(key)
    member.size, member.type, member.linkname = len(content), kind, target
    archive.addfile(member, io.BytesIO(content))


def _tar(good: dict[str, bytes], how: str, name: str, form: str, draw: Draw) -> bytes:
    buffer = io.BytesIO()
    mode = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[form]
    with tarfile.open(
        fileobj=buffer, mode=mode, format=draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
    ) as archive:
        for key, content in {**good, **_odd_members(how, name, draw)}.items():
            _add(archive, key, content)
        if how == "link":
            kind = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE])
            target = draw.choice(["/etc", "../..", "/etc/passwd", "corpus/good0.wav", "corpus/link"])
            _add(archive, "corpus/link", kind=kind, target=target)
            if draw.random() < 0.5:
                _add(archive, "corpus/link/x.wav", b"x")
        elif how == "device":
            kinds = [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V", b"9"]
            _add(archive, "corpus/device", kind=draw.choice(kinds))
        elif how == "bomb":
            _add_bomb(archive, form)
    return buffer.getvalue()


def _add_bomb(archive: tarfile.TarFile, form: str) -> None:
    """Add 400 MB of zeros, 32 MB where compressing takes longer, or a petabyte that is only claimed."""
    member = tarfile.TarInfo("corpus/bomb.wav")
    if form == "tar":
        member.size = 2**50
        archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))
        return
    member.size = (400 if form == "tar.gz" else 32) * 2**20
    archive.addfile(member, _Zeros())


class _Zeros(io.RawIOBase):
    def read(self, n: int = -1) -> bytes:
        return bytes(n)
