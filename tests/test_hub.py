"""Models travel to the hub and back: against a small hub of our own on this machine, through the command line."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import torch
import yaml

from audiodiff import Generator, Vocoder
from audiodiff.checkpoint import CONFIG, WEIGHTS, load_config
from audiodiff.errors import MissingPackageError
from audiodiff.hub import model_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload and a download touch; its repositories are a dict."""

    repositories: dict[str, dict[str, bytes]]
    asked: list[dict]

    def answer(self, document: object, **headers: str) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(200)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            self.asked.append(json.loads(text))
            name = f"{self.asked[-1]['organization']}/{self.asked[-1]['name']}"
            self.repositories.setdefault(name, {})
            self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(text)["files"]
            ]
            self.answer({"files": files})
        elif "/commit/" in self.path:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, text.splitlines()):
                if line["key"] == "file":
                    self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{COMMIT}",
                    "commitOid": COMMIT,
                    "pullRequestUrl": "",
                }
            )
        else:
            self.answer({})

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            name = "/".join(parts[2:4])
            if "tree" in parts:
                entries = [
                    {"type": "file", "path": path, "size": len(content), "oid": COMMIT}
                    for path, content in self.repositories[name].items()
                ]
                return self.answer(entries)
            files = [{"rfilename": path} for path in self.repositories.get(name, {})]
            self.answer({"id": name, "sha": COMMIT, "siblings": files, "tags": [], "private": False, "downloads": 0})
        elif parts[-1] not in self.repositories.get("/".join(parts[:2]), {}):
            self.send_error(404)
        else:
            content = self.repositories["/".join(parts[:2])][parts[-1]]
            etag = hashlib.sha1(content).hexdigest()
            self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=COMMIT, X_Linked_Size=str(len(content)))

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    kind = type("OwnHub", (Hub,), {"repositories": {}, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", kind
        server.shutdown()


def run(arguments: list[str], endpoint: str, home: object) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    command = [sys.executable, "-m", "audiodiff", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_a_model_is_sent_to_the_hub_and_used_from_there(hub, tmp_path, tiny_vocoder_folder):
    endpoint, kind = hub
    sent = run(["export", str(tiny_vocoder_folder), "hub:me/my-voice", "--private"], endpoint, tmp_path / "hf")
    assert sent.returncode == 0, sent.stderr
    assert f"/me/my-voice/commit/{COMMIT}" in sent.stdout
    created = kind.asked[0]
    assert created.get("private") is True or created.get("visibility") == "private"  # by the version of the package
    files = kind.repositories["me/my-voice"]
    assert {"README.md", CONFIG, WEIGHTS} <= files.keys()
    assert "hub:me/my-voice" in files["README.md"].decode()
    exported = run(["export", "hub:me/my-voice", str(tmp_path / "back")], endpoint, tmp_path / "hf")
    assert exported.returncode == 0, exported.stderr
    assert load_config(tmp_path / "back") == load_config(tiny_vocoder_folder)
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == files[WEIGHTS]


@pytest.mark.slow  # its client tries for a while
def test_a_hub_that_is_not_there_is_an_error_in_a_sentence(tmp_path, tiny_vocoder_folder):
    sent = run(["export", str(tiny_vocoder_folder), "hub:me/my-voice"], "http://127.0.0.1:9", tmp_path)
    assert sent.returncode == 1
    assert "Traceback" not in sent.stderr
    assert "the hub did not take me/my-voice" in sent.stderr
    assert "Check the name, the network, and `hf auth login`" in sent.stderr


def test_without_the_hubs_package_the_extra_is_named(monkeypatch, tiny_vocoder_folder):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingPackageError, match=r"^hub:me/voice needs .*pip install 'audiodiff\[hub\]'"):
        Vocoder.from_pretrained(tiny_vocoder_folder, "cpu").push_to_hub("hub:me/voice")


def test_a_pipeline_saves_itself(tmp_path, tiny_vocoder_folder):
    Vocoder.from_pretrained(tiny_vocoder_folder, "cpu").save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / WEIGHTS).read_bytes() == (tiny_vocoder_folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize(("kind", "name"), [(Vocoder, "speech-22k-tiny"), (Generator, "words-16k")])
def test_a_card_tells_data_licence_and_use(kind, name, monkeypatch):
    config = kind.from_pretrained(name, "cpu").config
    _, header, text = model_card(config, f"me/{name}").split("---\n", 2)
    header = yaml.safe_load(header)
    assert header["license"] == "mit"
    assert header["library_name"] == "audiodiff"
    assert header["pipeline_tag"] == ("audio-to-audio" if kind is Vocoder else "text-to-audio")
    assert config.provenance["data"][0][:20] in text
    code = text.split("```python\n")[1].split("```")[0].replace(f"hub:me/{name}", name).replace("(mel)", "(MEL)")
    made = {}
    monkeypatch.setattr("audiodiff.save_audio", lambda path, audio, rate: made.update(audio=audio))
    exec(code, {"MEL": torch.full((80, 20), -11.5)})
    assert made["audio"].shape[-1] > 1000
