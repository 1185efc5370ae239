"""Many files: side by side in threads, with the same result as one after the other."""

import threading
import time

import numpy as np
import pytest
import torch

from audiodiff import Vocoder
from audiodiff.audio.io import save_audio
from audiodiff.pipelines import vocode_files as module
from audiodiff.pipelines.files import collect_jobs
from audiodiff.pipelines.vocode_files import VocodeOptions, vocode_files


@pytest.fixture
def vocoder(tiny_vocoder_folder):
    """Give a vocoder; the test may set torch's threads."""
    threads = torch.get_num_threads()
    yield Vocoder.from_pretrained(tiny_vocoder_folder, device="cpu", dtype="fp32")
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tmp_path):
    """Give a folder of nine recordings and a file that is none."""
    clips = tmp_path / "clips"
    clips.mkdir()
    for number in range(9):
        noise = torch.randn(1, 4000 + 300 * (number % 4), generator=torch.Generator().manual_seed(number))
        save_audio(clips / f"{number}.wav", 0.1 * noise, 8000)
    (clips / "broken.wav").write_text("no audio")
    return clips


@pytest.fixture
def running(monkeypatch):
    """Note the batches that are in work whenever one begins, and torch's threads there."""
    now, seen, original = [], [], module._vocode_batch

    def batch(*arguments):
        now.append(threading.current_thread().name)
        time.sleep(0.05)
        seen.append((len(now), torch.get_num_threads()))
        try:
            yield from original(*arguments)
        finally:
            now.remove(threading.current_thread().name)

    monkeypatch.setattr(module, "_vocode_batch", batch)
    return seen


def vocoded(vocoder, folder, output, n_threads, **options):
    """Return the bytes of each file, the errors, and the progress."""
    torch.set_num_threads(n_threads)
    progress = []
    results = list(vocode_files(vocoder, collect_jobs([folder], output), VocodeOptions(**options), progress.append))
    assert torch.get_num_threads() == n_threads
    files = {path.name: path.read_bytes() for path in output.iterdir()}
    return files, [result.error for result in results if result.error], sum(progress)


@pytest.mark.parametrize(("n_threads", "batch_size", "bits"), [(2, 1, 0), (5, 1, 0), (3, 2, 1), (40, 1, 1)])
def test_any_number_of_threads_makes_the_same_files(n_threads, batch_size, bits, vocoder, folder, tmp_path):
    """To the bit where a file has one thread of torch; sums of several, and of batches, are rounded otherwise."""
    alone = vocoded(vocoder, folder, tmp_path / "alone", 1)
    together = vocoded(vocoder, folder, tmp_path / "together", n_threads, batch_size=batch_size)
    assert alone[0].keys() == {f"{number}.wav" for number in range(9)}  # and nothing else is left behind
    assert together[0].keys() == alone[0].keys()
    for name, file in alone[0].items():
        samples = [np.frombuffer(each[44:], "<i2").astype(int) for each in (file, together[0][name])]
        assert np.abs(samples[0] - samples[1]).max() <= bits
    assert together[1] == alone[1]
    assert "broken.wav" in together[1][0]
    assert together[2] == pytest.approx(alone[2]) == pytest.approx(10, abs=0.01)


@pytest.mark.parametrize(("n_threads", "files", "each"), [(1, 1, 1), (3, 3, 1), (7, 7, 1), (40, 10, 4)])
def test_as_many_files_as_threads_are_in_work(n_threads, files, each, vocoder, folder, tmp_path, running):
    vocoded(vocoder, folder, tmp_path / "out", n_threads)
    assert max(n_files for n_files, _ in running) == files
    assert {n for _, n in running} == {each}


def test_a_file_alone_has_all_threads(vocoder, folder, tmp_path, running):
    vocoded(vocoder, folder / "1.wav", tmp_path / "out", 4)
    assert running == [(1, 4)]


def test_files_in_work_are_bounded(vocoder, folder, tmp_path, running, monkeypatch):
    monkeypatch.setattr(module, "MAX_FILES", 2)
    vocoded(vocoder, folder, tmp_path / "out", 7)
    assert max(running) == (2, 3)


def test_a_caller_that_has_enough_ends_the_threads(vocoder, folder, tmp_path, running):
    torch.set_num_threads(2)
    results = vocode_files(vocoder, collect_jobs([folder], tmp_path / "out"))
    next(results)
    results.close()
    begun = len(running)
    assert begun <= 4
    time.sleep(0.2)
    assert len(running) == begun
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("audiodiff")]
    assert {path.suffix for path in (tmp_path / "out").iterdir()} <= {".wav"}


def test_an_error_of_a_thread_is_the_callers(vocoder, folder, tmp_path):
    def fail(_n_files):
        raise KeyError("a bar")

    torch.set_num_threads(2)
    with pytest.raises(KeyError, match="a bar"):
        list(vocode_files(vocoder, collect_jobs([folder], tmp_path / "out"), on_progress=fail))
