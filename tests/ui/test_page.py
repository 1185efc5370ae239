"""The page as an application: what it serves, what it refuses, and that no request leaves the machine."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from starlette.testclient import TestClient

from audiodiff.ui.serve import MAX_UPLOAD, page_app


@pytest.fixture(scope="module")
def served(models):
    """Give a client of the page, and the addresses that anything in this process connected to meanwhile."""
    asked, connect = [], socket.socket.connect

    def note(self, address):
        asked.append(address)
        return connect(self, address)

    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", note)
        with page_app(models, max_seconds=2.0) as app, TestClient(app, raise_server_exceptions=False) as client:
            yield client, asked, Path(os.environ["GRADIO_TEMP_DIR"])
    assert asked == []
    assert dict(os.environ) == before


@pytest.fixture
def client(served):
    return served[0]


@pytest.fixture
def folder(served):
    return served[2]


def join(client, path, **more):
    """Ask for a recording to be vocoded by its path."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}} | more
    return client.post("/gradio_api/queue/join", json={"data": [file], "fn_index": 2, "session_hash": "s"})


def test_the_page_names_no_other_machine_for_the_browser_to_load(client):
    page = client.get("/")
    assert page.status_code == 200
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"([^\"]+)", page.text)
    assert loaded
    assert not [url for url in loaded if "//" in url]
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    assert not re.findall(r"@import.*|url\(['\"]?(?:https?:)?//.*", client.get("/theme.css").text)
    assert client.get("/config").json()["analytics_enabled"] is False


def test_an_upload_is_served_and_nothing_beside_it(client, folder, record):
    data = Path(record()).read_bytes()
    answer = client.post("/gradio_api/upload", files={"files": ("../../../a b.wav", data)})
    assert answer.status_code == 200, answer.text
    (path,) = answer.json()
    assert folder in Path(path).parents
    assert client.get(f"/gradio_api/file={path}").content == data
    (folder / "link.wav").symlink_to("/etc/passwd")
    for wrong in (
        "/etc/passwd",
        "etc/passwd",
        "../../etc/passwd",
        f"{folder}/../../etc/passwd",
        f"{folder}/%2e%2e/%2e%2e/etc/passwd",
        f"{folder}/link.wav",
        str(folder),
        f"{folder}x/a.wav",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.wav",
        "https://example.org/a.wav",
        __file__,
        "/proc/self/environ",
        "",
    ):
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
            assert client.get(route + wrong).status_code in (403, 404), wrong


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../../../../../../../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/svelte/../../../../etc/passwd",
        "/gradio_api/proxy=https://example.hf.space/x",
        "/gradio_api/custom_component/x/client/component/../../x",
        "/gradio_api/vibe-code/",
        "/gradio_api/runs",
        "/gradio_api/deep_link",
        "/gradio_api/mcp/sse",
        "/monitoring",
        "/docs",
        "/openapi.json",
    ],
)
def test_what_the_page_does_not_need_is_not_there(path, client):
    assert client.get(path).status_code == 404
    assert client.post(path, json={}).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x.wav",
        "https://example.org/a.wav",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "/etc\0",
        7,
        ["x"],
    ],
)
def test_a_question_names_no_file_but_the_pages_own(path, client, folder):
    assert join(client, path).status_code == 403
    nested = {"data": [[{"x": {"path": path}}]], "fn_index": 0, "session_hash": "s"}
    assert client.post("/gradio_api/queue/join", json=nested).status_code == 403
    assert join(client, f"{folder}/../../etc/passwd").status_code == 403


def test_questions_have_a_length_and_are_json(client):
    url = "/gradio_api/queue/join"
    assert client.post(url, content=iter([b"{}"])).status_code == 411
    assert client.post(url, content=b"x" * 1_000_001).status_code == 413
    assert client.post(url, content=b"{").status_code == 400
    assert client.post(url, content=b"[" * 100_000).status_code == 400
    headers = {"content-length": str(MAX_UPLOAD * 2), "content-type": "multipart/form-data; boundary=x"}
    assert client.post("/gradio_api/upload", content=b"", headers=headers).status_code == 413


def test_the_folder_is_removed_at_the_end(models):
    with page_app(models):
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        assert folder.stat().st_mode & 0o077 == 0  # nobody else on this machine reads along
        (folder / "a.wav").touch()
    assert not folder.exists()
