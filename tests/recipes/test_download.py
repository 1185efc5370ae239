"""Downloads from a real server that breaks off, knows no ranges, or sends something else."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from audiodiff.errors import DataError
from recipes import _archives
from recipes._archives import Archive, download

CONTENT = bytes(range(256)) * 4000


class Server(BaseHTTPRequestHandler):
    """Serves `CONTENT`; the class attributes say how badly."""

    ranges = True
    breaks_off_after = None  # bytes of a response, as often as `breaks`
    breaks = 0
    status = None
    asked = None

    def do_GET(self):
        cls = type(self)
        cls.asked.append(self.headers.get("Range"))
        if cls.status:
            self.send_error(cls.status)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if cls.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if cls.breaks:
            cls.breaks -= 1
            body = body[: cls.breaks_off_after]
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(_archives, "_BLOCK", 2**14)
    kind = type("Kind", (Server,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        kind.url = f"http://127.0.0.1:{running.server_port}/corpus.tar.gz"
        yield kind
        running.shutdown()
        thread.join()


def archive(server, content=CONTENT):
    return Archive(server.url, hashlib.sha256(content).hexdigest())


def test_it_arrives_whole_and_is_fetched_once(server, tmp_path):
    path = download(archive(server), tmp_path / "deep" / "corpus")
    assert path.read_bytes() == CONTENT
    assert path.name == "corpus.tar.gz"
    download(archive(server), tmp_path / "deep" / "corpus")
    assert server.asked == [None]
    assert list(path.parent.iterdir()) == [path]


def test_a_broken_connection_goes_on_where_it_was(server, tmp_path):
    server.breaks, server.breaks_off_after = 3, 300_000
    assert download(archive(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_what_an_earlier_command_left_is_used(server, tmp_path):
    (tmp_path / "corpus.tar.gz.part").write_bytes(CONTENT[:1000])
    assert download(archive(server), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_a_complete_part_needs_no_more(server, tmp_path):
    (tmp_path / "corpus.tar.gz.part").write_bytes(CONTENT)
    assert download(archive(server), tmp_path).read_bytes() == CONTENT


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "corpus.tar.gz.part").write_bytes(b"x" * 1000)
    assert download(archive(server), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match=r"corpus.tar.gz.part has SHA-256 \w+, expected"):
        download(archive(server, b"something else"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(server, tmp_path):
    (tmp_path / "corpus.tar.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="Delete it and try again"):
        download(archive(server), tmp_path)


def test_an_unknown_page_is_an_error_at_once(server, tmp_path):
    server.status = 404
    with pytest.raises(DataError, match="answers 404"):
        download(archive(server), tmp_path)
    assert len(server.asked) == 1


def test_a_server_that_brings_nothing_is_given_up(server, tmp_path):
    server.status = 503
    with pytest.raises(DataError, match="Rerun the same command"):
        download(archive(server), tmp_path)
    assert len(server.asked) == 5


def test_a_server_that_brings_a_little_is_not_given_up(server, tmp_path):
    server.breaks, server.breaks_off_after = 12, 70_000
    assert download(archive(server), tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 13


def test_no_server_is_an_error(tmp_path):
    with pytest.raises(DataError, match="cannot be fetched"):
        download(Archive("http://127.0.0.1:9/corpus.tar.gz", "0" * 64), tmp_path)
