"""Nothing in an archive gets out of the folder that it is unpacked to."""

import errno
import io
import tarfile
import zipfile
from contextlib import suppress

import numpy as np
import pytest

from audiodiff.errors import DataError, OutputError
from recipes import _archives
from recipes._archives import extract


def make_tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            else:
                entry.type, entry.linkname = content
                archive.addfile(entry)
    return path


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w"])
def test_a_tar_is_unpacked(tmp_path, mode):
    archive = make_tar(tmp_path / "a.tar", {"./corpus/a.wav": b"a", "corpus/b/c.wav": b"c" * 3_000_000}, mode)
    extract(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {"corpus/a.wav": b"a", "corpus/b/c.wav": b"c" * 3_000_000}


def test_a_zip_is_unpacked(tmp_path):
    extract(make_zip(tmp_path / "a.zip", {"corpus/": b"", "corpus/a.wav": b"a"}), tmp_path / "out")
    assert files(tmp_path / "out") == {"corpus/a.wav": b"a"}


@pytest.mark.parametrize("name", ["../evil.wav", "/tmp/evil.wav", "a/../../evil.wav", "C:/evil.wav", "a\\..\\..\\evil"])
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_path_that_leads_out_is_refused(tmp_path, make, name):
    archive = make(tmp_path / "archive", {"good.wav": b"good", name: b"evil"})
    with pytest.raises(DataError, match="leads out of its folder"):
        extract(archive, tmp_path / "deep" / "out")
    assert files(tmp_path) == {"archive": archive.read_bytes(), "deep/out/good.wav": b"good"}


@pytest.mark.parametrize(
    "content",
    [(tarfile.SYMTYPE, "/etc"), (tarfile.LNKTYPE, "good.wav"), (tarfile.CHRTYPE, ""), (tarfile.FIFOTYPE, "")],
)
def test_links_and_devices_of_a_tar_are_left_out(tmp_path, content, caplog):
    archive = make_tar(tmp_path / "a.tar", {"good.wav": b"good", "link": content, "link2/evil.wav": b"x"})
    extract(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {"good.wav": b"good", "link2/evil.wav": b"x"}
    assert "link is a link or a device, and left out" in caplog.text


def test_a_file_below_a_link_of_a_tar_stays_inside(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = (tarfile.SYMTYPE, str(tmp_path / "elsewhere"))
    extract(make_tar(tmp_path / "a.tar", {"link": link, "link/evil.wav": b"evil"}), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_link_of_a_zip_is_left_out(tmp_path, caplog):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    extract(make_zip(tmp_path / "a.zip", {link: b"/etc/passwd", "good.wav": b"good"}), tmp_path / "out")
    assert files(tmp_path / "out") == {"good.wav": b"good"}
    assert "left out" in caplog.text


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_file_that_comes_again_is_left_out(tmp_path, make, caplog):
    first = make(tmp_path / "first", {"a.wav": b"first", "./a.wav": b"second!", "b.wav": b"b"})
    extract(first, tmp_path / "out")
    extract(first, tmp_path / "out")
    assert files(tmp_path / "out") == {"a.wav": b"first", "b.wav": b"b"}
    assert "a.wav comes again, and left out" in caplog.text


# --- damage -----------------------------------------------------------------------------------------------------------

CONTENT = {f"{i}.wav": np.random.default_rng(i).bytes(3000) for i in range(40)}


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "w", "zip"])
def test_an_archive_that_is_cut_off_anywhere_or_has_one_bit_wrong_is_named(tmp_path, mode):
    archive = make_zip(tmp_path / "a", CONTENT) if mode == "zip" else make_tar(tmp_path / "a", CONTENT, mode)
    whole = archive.read_bytes()
    random = np.random.default_rng(0)
    last = whole.rfind(b"39.wav")  # a cut in the zeros that end a plain tar takes nothing away
    cuts = [0, 1, 512, 512 * 9, *random.integers(1, min(len(whole) - 10, last if mode == "w" else len(whole)), 6)]
    for number, cut in enumerate(cuts):
        archive.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a cannot be unpacked \(.+\)\. Delete it and download it again\.$"):
            extract(archive, tmp_path / f"cut-{number}")
        assert files(tmp_path / f"cut-{number}").items() <= CONTENT.items()
    for number in range(20):
        place = int(random.integers(len(whole)))
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << number % 8]) + whole[place + 1 :])
        with suppress(DataError):  # a plain tar has no checksum of its contents
            extract(archive, tmp_path / f"bit-{number}")
        if mode not in ("w",):
            found = files(tmp_path / f"bit-{number}")
            assert all(found[name] == CONTENT[name] for name in found.keys() & CONTENT.keys()), place


def encrypt(archive):
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = -1
        while (start := content.find(mark, start + 1)) >= 0:
            content[start + place] |= 1
    archive.write_bytes(bytes(content))


def change_method(archive):
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        content[content.find(mark) + place] = 99
    archive.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (encrypt, r"\(0.wav is encrypted\). Unpack it by hand"),
        (change_method, r"\(That compression method is not supported\)"),
        (lambda path: path.write_bytes(b""), r"\(empty header at byte 0\)"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>" * 100), r"\(invalid header at byte 0\)"),
        (lambda path: path.write_bytes(b"PK\5\6" + bytes(18)), "holds no files"),
        (lambda path: path.write_bytes(bytes(10240)), "holds no files"),
        (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(99)), "needs zstd|cannot be unpacked"),
    ],
)
def test_odd_archives_are_explained(tmp_path, change, message):
    archive = make_zip(tmp_path / "a.zip", CONTENT)
    change(archive)
    with pytest.raises(DataError, match=message):
        extract(archive, tmp_path / "out")
    assert files(tmp_path / "out") == {}


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = make_zip(tmp_path / "b.zip", {"c.wav": b"c"}).read_bytes()
    extract(make_tar(tmp_path / "a.tar", {"b.zip": inner}, "w"), tmp_path / "out")
    assert files(tmp_path / "out") == {"b.zip": inner}


@pytest.mark.parametrize("make", [make_tar, make_zip])
@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({".": b"x"}, r"holds a file called '\.?', which is no name"),
        ({"./.": b"x"}, r"holds a file called '\./\.', which is no name"),
        ({"a": b"x", "a/b": b"y"}, r"holds 'a/b', which cannot be written \(File exists\). Unpack it by hand"),
        ({"a": b"x", "a/b/c": b"y"}, r"holds 'a/b/c', which cannot be written \(Not a directory\)"),
        ({"a/b": b"x", "a": b"y"}, r"holds 'a', which cannot be written \(a folder has its name\)"),
        ({"n" * 256: b"x"}, r"which cannot be written \(File name too long\)"),
    ],
)
def test_names_that_cannot_be_are_explained(tmp_path, make, members, message):
    with pytest.raises(DataError, match=message):
        extract(make(tmp_path / "archive", members), tmp_path / "out")


def test_a_tar_whose_file_has_no_name_is_explained(tmp_path):
    with pytest.raises(DataError, match="holds a file called '', which is no name"):
        extract(make_tar(tmp_path / "a.tar", {"": b"x"}), tmp_path / "out")


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "zip"])
def test_an_archive_that_unpacks_to_too_much_is_stopped(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(_archives, "ALWAYS_ALLOWED", 2**22)
    bomb = {f"{i}.wav": bytes(2**20) for i in range(8)}
    if mode == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in bomb.items():
                opened.writestr(name, content)
    else:
        make_tar(tmp_path / "a", bomb, mode)
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        extract(tmp_path / "a", tmp_path / "out")
    assert sum(map(len, files(tmp_path / "out").values())) <= 2**22


def test_holes_of_a_sparse_file_count(tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "ALWAYS_ALLOWED", 2**20)
    header = bytearray(tarfile.TarInfo("corpus/holes.wav").tobuf(tarfile.GNU_FORMAT))
    header[156:157], header[386:410] = tarfile.GNUTYPE_SPARSE, b"%011o\0" % 0 * 2
    header[483:495] = b"%011o\0" % 2**30  # bytes, of which none is stored
    header[148:156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:512])
    (tmp_path / "a.tar").write_bytes(header + bytes(1024))
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert files(tmp_path) == {"a.tar": header + bytes(1024)}


def test_a_header_that_would_fill_the_memory_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(_archives, "LONGEST_HEADER", 2**22)
    with tarfile.open(tmp_path / "a", "w:gz", format=tarfile.PAX_FORMAT) as opened:
        for entry in (tarfile.TarInfo("a.wav"), tarfile.TarInfo("b.wav")):
            entry.size = 2**20
            opened.addfile(entry, io.BytesIO(bytes(2**20)))
        entry.pax_headers = {"comment": "x" * 2**23}
        opened.addfile(entry, io.BytesIO(bytes(2**20)))
    for _ in range(2):  # files that are skipped are no headers either
        with pytest.raises(DataError, match="has a header of more than"):
            extract(tmp_path / "a", tmp_path / "out")
        assert set(files(tmp_path / "out")) == {"a.wav", "b.wav"}


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_an_archive_larger_than_the_disk_or_of_too_many_files_is_stopped(tmp_path, monkeypatch, make):
    archive = make(tmp_path / "a", CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(_archives.shutil, "disk_usage", lambda _: _archives.shutil._ntuple_diskusage(10**6, 0, 50_000))
        with pytest.raises(DataError, match="does not fit on the disk, .* Make room, and rerun the same command"):
            extract(archive, tmp_path / "out")
        assert 0 < sum(map(len, files(tmp_path / "out").values())) <= 49_000
    with monkeypatch.context() as patch:
        patch.setattr(_archives, "MOST_FILES", 20)
        with pytest.raises(DataError, match="holds more than 20 files"):
            extract(archive, tmp_path / "out")
    extract(archive, tmp_path / "out")
    assert files(tmp_path / "out") == CONTENT


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(_archives.shutil, "copyfileobj", full)
    with pytest.raises(OutputError, match="0.wav cannot be written: No space left on device. Make room"):
        extract(make_tar(tmp_path / "a.tar", CONTENT), tmp_path / "out")


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_damaged_archive_is_named(tmp_path, make):
    archive = make(tmp_path / "archive", {f"{i}.wav": bytes(range(256)) * 50 for i in range(50)})
    archive.write_bytes(archive.read_bytes()[:-600] if make is make_tar else b"PK" + archive.read_bytes()[40:])
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(archive, tmp_path / "out")


def test_an_interrupted_extraction_leaves_no_half_file_and_goes_on(tmp_path, monkeypatch):
    archive = make_tar(tmp_path / "a.tar", {f"{i}.wav": bytes([i]) * 1000 for i in range(6)})
    copy, done = _archives.shutil.copyfileobj, []

    def interrupted(content, file, length):
        done.append(length)
        if len(done) == 4:
            file.write(b"half")
            raise KeyboardInterrupt
        copy(content, file, length)

    monkeypatch.setattr(_archives.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(archive, tmp_path / "out")
    assert len(files(tmp_path / "out")) == 3
    extract(archive, tmp_path / "out")
    assert len(done) == 4 + 3  # the first three are not unpacked again
    assert files(tmp_path / "out") == {f"{i}.wav": bytes([i]) * 1000 for i in range(6)}
