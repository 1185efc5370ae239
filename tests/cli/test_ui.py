"""`audiodiff ui` as a command: what keeps it from starting; and in a browser, by twenty users, until it is stopped."""

from __future__ import annotations

import importlib.util
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from audiodiff.cli.main import main

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra ui")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs chromium and playwright"
)


@pytest.mark.parametrize(
    "package",
    ["gradio", *(pytest.param(name, marks=needs_gradio) for name in ("uvicorn", "websockets", "matplotlib"))],
)
def test_a_missing_package_is_a_sentence_before_anything_is_loaded(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("audiodiff.cli.verbs.import_module", None)  # which would import torch
    result = CliRunner().invoke(main, ["ui", "--model", "nowhere"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: audiodiff ui needs {package} (")
    assert result.stderr.endswith("Run: pip install 'audiodiff[ui]'\n")
    assert result.stderr.count("\n") == 1


@needs_gradio
def test_a_port_in_use_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["ui", "--port", str(port)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: cannot listen on http://127.0.0.1:{port}: Address already in use. Choose another --port or --host.\n"
    )


@contextmanager
def running(folder, *words):
    """Start the command with a temporary folder of its own; give the process and the address."""
    folder.mkdir()
    command = [sys.executable, "-m", "audiodiff", "ui", "--port", "0", "--device", "cpu", *map(str, words)]
    with subprocess.Popen(
        ["env", f"TMPDIR={folder}", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr.readline() == "loading …\n"
            line = process.stderr.readline()
            found = re.fullmatch(r"the page is at (http://127\.0\.0\.1:\d+)\n", line)
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


def assert_stopped(process, folder):
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "stopped\n")
    assert list(folder.iterdir()) == []


@needs_gradio
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_twenty_users_at_once_and_an_orderly_end_in_the_middle(
    number, tmp_path, tiny_vocoder_folder, tiny_generator_folder, save_voice
):
    from gradio_client import Client, handle_file

    clip, vocoder, folder = save_voice(tmp_path / "in.wav", 1.0), str(tiny_vocoder_folder), tmp_path / "temporary"
    with running(folder, "--model", vocoder, "--model", tiny_generator_folder) as (process, address):
        clients = [Client(address, verbose=False, download_files=str(tmp_path / f"got{i}")) for i in range(20)]

        def use(i):
            if i % 2:
                made = clients[i].predict(str(tiny_generator_folder), "yes", i, 1.0, api_name="/generate")
                return Path(made).name == f"yes_{i}.wav"
            note, *_, after, _picture = clients[i].predict(
                handle_file(clip), vocoder, "estimate", 2, i, api_name="/vocode"
            )
            return "2 steps" in note and Path(after).stat().st_size == 16_044

        with ThreadPoolExecutor(20) as pool:
            assert all(pool.map(use, range(20)))
        long = save_voice(tmp_path / "long.wav", 50.0)
        job = clients[0].submit(handle_file(long), vocoder, "noise", 50, 0, api_name="/vocode")
        while not job.outputs():
            time.sleep(0.05)
        process.send_signal(number)
        assert_stopped(process, folder)


@needs_gradio
@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(width, tmp_path, tiny_vocoder_folder, tiny_generator_folder, save_voice):
    from playwright.sync_api import sync_playwright

    clip, folder, asked, wrong = save_voice(tmp_path / "in.wav", 1.0), tmp_path / "temporary", [], []
    words = ["--model", tiny_vocoder_folder, "--model", tiny_generator_folder]
    with running(folder, *words) as (process, address), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 850})
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(urlsplit(request.url)))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)
        page.locator("input[type=file]").first.set_input_files(clip)
        page.get_by_role("button", name="Cut").or_(page.get_by_label("Trim audio")).first.wait_for()
        page.get_by_role("button", name="Vocode", exact=True).click()
        page.locator(".states figcaption", has_text="the result").wait_for()
        page.locator(".note:visible strong").wait_for()
        assert page.locator(".states figure").count() == 3
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("tab", name="Generate").click()
        page.locator("#pad button", has_text="no").click()
        page.locator("#pad a", has_text="Download no_0.wav").wait_for()
        assert page.locator("#pad button.ready").count() == 1
        before = len(asked)
        page.locator("#pad button", has_text="no").click()  # from its memory
        page.wait_for_timeout(1000)
        assert [url.path for url in asked[before:] if url.scheme == "http" and "heartbeat" not in url.path] == []
        page.get_by_role("tab", name="Repair").click()
        page.get_by_text("Noise", exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
        process.send_signal(signal.SIGTERM)
        assert_stopped(process, folder)
    own = {("http", urlsplit(address).netloc)}
    assert {url[:2] for url in asked if url.scheme not in ("data", "blob")} == own
    assert wrong == []
