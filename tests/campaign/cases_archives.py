"""Archives of corpora: members that lead elsewhere, links, devices, odd names, damage, and bombs."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

from campaign.case import Case, Draw, Result, damage
from campaign.world import World

NAMES = (
    "../x.wav", "/x.wav", "a/../../x.wav", "", ".", "..", "./", "a/", "a//b.wav", "a/./b.wav", "C:/x.wav", "a\\..\\x.wav", "\\x", "x" * 300, "x" * 250,
    "a/" * 200 + "x", "\u202egpj.wav", "a\nb", "a\0b", " ", "~/x", "-x", "CON", "é.wav", "a:b", "//host/x", "...", "a\x1b[31m.wav", "pwned",
)  # fmt: skip


def make(draw: Draw, folder: Path, world: World) -> Case:
    """Write an archive with something odd in it, and unpack it as recipes do."""
    good = {f"corpus/good{i}.wav": world.clip.read_bytes()[: 500 + i] for i in range(3)}
    how = draw.choice(["whole", "name", "name", "name", "damage", "damage", "link", "device", "bomb", "many", "twice", "encrypted", "no archive", "file and folder"])
    form = draw.choice(["zip", "zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
    name = draw.choice(NAMES) if how == "name" else "corpus/odd.wav"
    about = f"{form}, {how} {name[:30]!r}"
    data = _zip(good, how, name, draw) if form == "zip" else _tar(good, how, name, form, draw)
    if how == "damage":
        data, what = damage(data, draw)
        about = f"{form}, {what}"
    if how == "no archive":
        data = draw.choice([b"", b"\0" * 10_240, b"<html>404</html>", world.clip.read_bytes(), b"PK\3\4", b"\x1f\x8b\x08", b"PK\5\6" + bytes(18)])
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


def _zip(good: dict[str, bytes], how: str, name: str, draw: Draw) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", draw.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])) as archive:
        for key, content in good.items():
            archive.writestr(key, content)
        odd = zipfile.ZipInfo(name or "x")
        odd.filename = name
        if how == "link":
            odd.external_attr = 0o120777 << 16
            archive.writestr(odd, b"/etc/passwd")
        elif how == "device":
            odd.external_attr = 0o020777 << 16
            archive.writestr(odd, b"")
        elif how == "bomb":
            with archive.open(zipfile.ZipInfo("corpus/bomb.wav"), "w", force_zip64=True) as file:
                file._compressor = zipfile._get_compressor(zipfile.ZIP_DEFLATED)  # type: ignore[attr-defined]
                file._zinfo.compress_type = zipfile.ZIP_DEFLATED  # type: ignore[attr-defined]
                for _ in range(400):
                    file.write(bytes(2**20))
        elif how == "many":
            for i in range(500):
                archive.writestr(f"corpus/many/{i}", b"x")
        elif how == "twice":
            archive.writestr("corpus/odd.wav", b"1")
            archive.writestr(draw.choice(["corpus/Odd.wav", "corpus/odd.wav/inner", "corpus/./odd.wav"]), b"22")
        elif how == "file and folder":
            archive.writestr("corpus/x", b"1")
            archive.writestr("corpus/x/y", b"2")
        elif how == "name":
            archive.writestr(odd, b"odd")
    data = bytearray(buffer.getvalue())
    if how == "encrypted":  # the flag of every entry
        for mark, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.find(mark)
            while at >= 0:
                data[at + offset] |= 1
                at = data.find(mark, at + 4)
    return bytes(data)


def _tar(good: dict[str, bytes], how: str, name: str, form: str, draw: Draw) -> bytes:
    buffer = io.BytesIO()
    mode = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}[form]

    def add(archive: tarfile.TarFile, key: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
        member = tarfile.TarInfo(key)
        member.size, member.type, member.linkname = len(content), kind, target
        archive.addfile(member, io.BytesIO(content))

    with tarfile.open(fileobj=buffer, mode=mode, format=draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])) as archive:
        for key, content in good.items():
            add(archive, key, content)
        if how == "link":
            kind = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE])
            target = draw.choice(["/etc", "../..", "/etc/passwd", "corpus/good0.wav", "corpus/link"])
            add(archive, "corpus/link", kind=kind, target=target)
            add(archive, "corpus/link/x.wav", b"x") if draw.random() < 0.5 else None
        elif how == "device":
            add(archive, "corpus/device", kind=draw.choice([tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V", b"9"]))
        elif how == "bomb":
            _add_bomb(archive, form)
        elif how == "many":
            for i in range(500):
                add(archive, f"corpus/many/{i}", b"x")
        elif how == "twice":
            add(archive, "corpus/odd.wav", b"1")
            add(archive, draw.choice(["corpus/Odd.wav", "corpus/odd.wav/inner", "corpus/./odd.wav"]), b"22")
        elif how == "file and folder":
            add(archive, "corpus/x", b"1")
            add(archive, "corpus/x/y", b"2")
        elif how == "name":
            try:
                add(archive, name, b"odd")
            except ValueError:
                add(archive, "odd", b"odd")
    return buffer.getvalue()


def _add_bomb(archive: tarfile.TarFile, form: str) -> None:
    """Add 400 MB of zeros (32 MB where compressing takes longer); to an uncompressed archive a member that claims a petabyte."""
    member = tarfile.TarInfo("corpus/bomb.wav")
    if form == "tar":
        member.size = 2**50
        archive.fileobj.write(member.tobuf(tarfile.GNU_FORMAT))  # type: ignore[union-attr]
        return
    member.size = (400 if form == "tar.gz" else 32) * 2**20
    archive.addfile(member, _Zeros())


class _Zeros(io.RawIOBase):
    def read(self, n: int = -1) -> bytes:
        return bytes(n)


