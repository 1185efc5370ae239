"""`audiodiff serve` as a process: what keeps it from starting, and how it stops."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("uvicorn")
from click.testing import CliRunner

from audiodiff import Vocoder
from audiodiff.cli.main import main

HOP = 64


@pytest.fixture
def process(tiny_vocoder_folder):
    """Start a server on a free port; give the process and the port, and leave no process behind."""
    words = ["serve", "--model", str(tiny_vocoder_folder), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-m", "audiodiff", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            line = running.stderr.readline()
            found = re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", line)
            assert found, line + running.stderr.read()
            yield running, int(found[1])
        finally:
            running.kill()


def ended(running):
    """Return exit code, stdout and the rest of stderr."""
    out, err = running.communicate(timeout=60)
    return running.returncode, out, err


def clients(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return int(re.search(r"^audiodiff_clients (\d+)$", text, re.M)[1])


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionError:
        return True
    return False


def test_a_port_in_use_is_a_sentence(tiny_vocoder_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["serve", "--model", str(tiny_vocoder_folder), "--port", str(port)])
    assert (result.exit_code, result.stdout) == (1, "")
    url = f"http://127.0.0.1:{port}"
    assert result.stderr == f"error: cannot listen on {url}: Address already in use. Choose another --port or --host.\n"


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "websockets"])
def test_without_the_extra_it_says_what_to_install_before_anything_is_loaded(package):
    code = f"""
import sys
sys.modules[{package!r}] = None
from audiodiff.cli.main import main
try:
    main(["serve", "--model", "nowhere"])
finally:
    print(sorted({{"torch", "numpy", "librosa"}} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, "[]\n"), result.stderr
    assert result.stderr.startswith(f"error: audiodiff serve needs {package} (")
    assert result.stderr.endswith("Run: pip install 'audiodiff[serve]'\n")
    assert result.stderr.count("\n") == 1


def test_sigterm_in_the_middle_of_a_request_lets_it_end(process, tiny_vocoder_folder, voice):
    running, port = process
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")
    mel = vocoder.mel(voice(1.0, 8000, 1))
    body = mel.T.astype("<f4").tobytes()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", "/vocode?format=s16le&seed=3")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:1000])
    until(lambda: clients(port) == 1)
    running.send_signal(signal.SIGTERM)
    until(lambda: refused(port))
    connection.send(body[1000:])
    response = connection.getresponse()
    audio = np.frombuffer(response.read(), "<i2") / 32768
    connection.close()
    assert response.status == 200
    assert np.abs(audio - np.clip(vocoder(mel, seed=3), -1, 1)).max() < 2e-4
    assert ended(running) == (0, "", "stopped\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_when_asked_to(number, process):
    running, port = process
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/health")  # and stays connected
    assert json.loads(connection.getresponse().read())["status"] == "ok"
    running.send_signal(number)
    assert ended(running) == (0, "", "stopped\n")
    connection.close()
    assert not os.path.exists(f"/proc/{running.pid}")
