"""Nothing in an archive gets out of the folder that it is unpacked to."""

import io
import tarfile
import zipfile

import pytest

from audiodiff.errors import DataError
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
