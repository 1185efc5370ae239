"""What goes wrong around a run (full disks, lost or damaged files, other processes) costs it nothing it had."""

import errno
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from audiodiff.checkpoint import load_config, load_model
from audiodiff.data.manifest import scan_folder, write_manifest
from audiodiff.data.parallel import locked
from audiodiff.errors import DataError, TrainingError
from audiodiff.training import checkpoints
from audiodiff.training.checkpoints import RunFolder, load_checkpoint
from audiodiff.training.trainer import train

ROOT = Path(__file__).parents[2]
HOLD = (
    "import os, sys, time\nfrom pathlib import Path\nfrom audiodiff.data.parallel import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    child = os.fork()\n"
    "    if child:\n        print(child, flush=True)\n"
    "    time.sleep(60)\n"
)


def configured(config, *, data=None, **settings):
    parts = {"training": settings, "data": data or {}}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=update) for name, update in parts.items()}
    )


def all_numbers(run):
    checkpoint = RunFolder(run).newest()
    tensors = [*checkpoint.ema.state_dict().values(), *checkpoint.state["network"].values()]
    tensors += [value for state in checkpoint.state["optimiser"].values() for value in state.values()]
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_run_config):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(tiny_run_config, run)
    return all_numbers(run)


# --- one process per folder -------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    path = tmp_path / "run" / "lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    try:
        with pytest.raises(TrainingError, match=f"in use by process {process.pid} on "), locked(path):
            pass
        process.kill()
        process.wait()
        os.kill(child, 0)  # a process that it had started is still there
        with locked(path):
            assert f"process {os.getpid()} on" in path.read_text()
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
    assert path.read_text() == ""


def test_a_run_holds_the_lock_of_its_folder(tmp_path, tiny_run_config):
    held = []
    train(
        configured(tiny_run_config, steps=1),
        tmp_path,
        callback=lambda event: held.append((tmp_path / "lock").read_text()),
    )
    assert all(f"process {os.getpid()}" in text for text in held)


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_model_lost_between_two_renames_is_put_back(tmp_path, tiny_run_config, name):
    train(configured(tiny_run_config, steps=1), tmp_path)
    (tmp_path / f".{name}.abc").mkdir()
    (tmp_path / name).rename(tmp_path / f".{name}.abc" / "new")
    (tmp_path / f".{name}.abc" / "old").mkdir()
    (tmp_path / ".config.yaml.123.part").touch()
    (tmp_path / "checkpoints" / ".half").mkdir()
    with RunFolder(tmp_path).claimed():
        assert load_config(tmp_path / name).provenance["training"]["steps"] == 1
    assert not [*tmp_path.glob(".*"), *tmp_path.glob("checkpoints/.*")]


# --- full disks -------------------------------------------------------------------------------------------------------


def full_disk(*_arguments, **_named):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_waited_for(tmp_path, tiny_run_config, undisturbed, monkeypatch, caplog):
    events, original = [], checkpoints.flush_to_disk
    monkeypatch.setattr(checkpoints, "flush_to_disk", full_disk)

    def empty_the_disk(event):
        events.append((event.kind, event.step))
        if (event.kind, event.step) == ("step", 6):
            monkeypatch.setattr(checkpoints, "flush_to_disk", original)

    with caplog.at_level(logging.WARNING):
        train(tiny_run_config, tmp_path, callback=empty_the_disk)
    assert "step 4: " in caplog.text
    assert "step-00000004 cannot be written: No space left on device. Make room on the disk, or" in caplog.text
    assert [step for kind, step in events if kind == "saved"] == [6, 8]  # tried again before the next interval
    assert torch.equal(all_numbers(tmp_path), undisturbed)


def test_a_disk_that_stays_full_ends_the_run_with_what_was_there_before(tmp_path, tiny_run_config, monkeypatch):
    config = configured(tiny_run_config, steps=40, sample_every=100, validate_every=100)

    def stop(event):
        if (event.kind, event.step) == ("step", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(config, tmp_path, callback=stop).step == 4
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("checkpoints/*/*")}
    monkeypatch.setattr(checkpoints, "flush_to_disk", full_disk)
    with pytest.raises(TrainingError, match="step-00000017 cannot be written: No space left"):
        train(config, tmp_path)
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("checkpoints/*/*")} == before
    assert load_model(tmp_path / "last")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's writer
@pytest.mark.parametrize("limit", [1, 2000, 60_000, 150_000])
def test_a_limit_of_the_system_on_files_loses_nothing(tmp_path, tiny_run_config, undisturbed, limit, caplog):
    """Let writes fail for real, at several places: config.json, weights, training.pt."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def squeeze(event):
        if (event.kind, event.step) in (("step", 4), ("step", 5)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit if event.step == 4 else soft, hard))

    try:
        with caplog.at_level(logging.WARNING):
            train(configured(tiny_run_config, sample_every=100), tmp_path, callback=squeeze)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "cannot be written: " in caplog.text
    assert torch.equal(all_numbers(tmp_path), undisturbed)
    assert not [*tmp_path.glob(".*"), *tmp_path.glob("checkpoints/.*")]


def test_curves_that_cannot_be_drawn_are_given_up(tmp_path, monkeypatch, caplog, tiny_run_config):
    from torch.utils.tensorboard import SummaryWriter

    monkeypatch.setattr(SummaryWriter, "add_scalar", full_disk)
    with caplog.at_level(logging.WARNING):
        assert train(tiny_run_config, tmp_path).step == 8
    assert caplog.text.count("no more curves") == 1


# --- data that goes bad -----------------------------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path, save_voice):
    """Twelve recordings and a manifest, of which a quarter may go bad; held out are others."""
    for i in range(15):
        save_voice(tmp_path / ("valid" if i > 11 else "corpus") / f"{i}.wav", 1 + 0.1 * i, seed=i)
    for part in ("corpus", "valid"):
        write_manifest(tmp_path / f"{part}.jsonl", scan_folder(tmp_path / part).recordings)
    return {
        "train": str(tmp_path / "corpus.jsonl"),
        "valid": str(tmp_path / "valid.jsonl"),
        "time_reversal": True,
        "max_bad_fraction": 0.25,
    }


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def listed(run):
    return [json.loads(line) for line in (run / "bad_recordings.jsonl").read_text().splitlines()]


def test_damaged_recordings_are_skipped_counted_and_listed(tmp_path, tiny_run_config, corpus, caplog):
    config = configured(tiny_run_config, data=corpus)
    for name in ("2", "7"):
        cut(tmp_path / "corpus" / f"{name}.wav")
    with caplog.at_level(logging.WARNING):
        outcome = train(config, tmp_path / "run")
    assert (outcome.step, outcome.bad_recordings) == (8, 2)
    bad = listed(tmp_path / "run")
    assert sorted(Path(entry["audio"]).name for entry in bad) == ["2.wav", "7.wav"]
    assert all("cut off" in entry["reason"] for entry in bad)
    assert "skipped from now on (2 so far)" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_on_damaged_data_resumes_bit_identically(tmp_path, tiny_run_config, corpus, workers):
    cut(tmp_path / "corpus" / "2.wav")
    (tmp_path / "corpus" / "5.wav").unlink()
    (tmp_path / "corpus" / "5.wav").touch()
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(configured(tiny_run_config, data=corpus), straight)

    def terminate(event):
        if (event.kind, event.step) == ("step", 3):
            os.kill(os.getpid(), signal.SIGTERM)

    config = configured(tiny_run_config, data=corpus | {"workers": workers, "resident": "off"})
    assert train(config, resumed, callback=terminate).step == 3
    assert train(config, resumed).bad_recordings == 2
    assert torch.equal(all_numbers(straight), all_numbers(resumed))
    assert sorted(map(str, listed(straight))) == sorted(map(str, listed(resumed)))


def test_too_many_stop_the_run_after_saving_and_it_can_go_on(tmp_path, tiny_run_config, corpus):
    straight, run = tmp_path / "straight", tmp_path / "run"
    config = configured(tiny_run_config, data=corpus | {"resident": "off"})
    train(config, straight)
    whole = {path: path.read_bytes() for path in (tmp_path / "corpus").iterdir()}

    def lose_the_disk(event):
        if (event.kind, event.step) == ("step", 6):
            for path in whole:
                path.unlink()

    with pytest.raises(DataError, match=r"4 of 15 recordings \(26.7%\) cannot be read; .* allows 25.0%, and .*bad_rec"):
        train(config, run, callback=lose_the_disk)
    assert names(run) == ["step-00000004", "step-00000006"]
    for path, content in whole.items():
        path.write_bytes(content)
    (run / "bad_recordings.jsonl").unlink()
    train(config, run)
    assert torch.equal(all_numbers(straight), all_numbers(run))


def test_the_list_survives_a_torn_line_and_decides_how_much_more_is_allowed(tmp_path, tiny_run_config, corpus):
    run = tmp_path / "run"
    run.mkdir()
    entries = [{"audio": f"gone{i}.wav", "reason": "gone"} for i in range(3)]
    (run / "bad_recordings.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"audio": "x')
    cut(tmp_path / "corpus" / "2.wav")
    with pytest.raises(DataError, match="4 of 15"):
        train(configured(tiny_run_config, data=corpus), run)
    assert len(listed(run)) == 4


def test_damaged_validation_recordings_are_left_out(tmp_path, tiny_run_config, corpus):
    cut(tmp_path / "valid" / "12.wav")
    outcome = train(configured(tiny_run_config, data=corpus), tmp_path / "run")
    assert (outcome.step, outcome.bad_recordings) == (8, 1)


def test_a_lost_worker_ends_the_run_after_saving(tmp_path, tiny_run_config, monkeypatch):
    from audiodiff.data.crops import CropReader

    original, parent, began = CropReader.read, os.getpid(), time.monotonic()

    def read(reader, *request):
        if os.getpid() != parent and (tmp_path / "now").exists():
            os._exit(7)
        return original(reader, *request)

    monkeypatch.setattr(CropReader, "read", read)
    config = configured(tiny_run_config, data={"workers": 1, "resident": "off"}, steps=100)
    with pytest.raises((DataError, RuntimeError), match="died|worker"):
        train(
            config,
            tmp_path / "run",
            callback=lambda event: (tmp_path / "now").touch() if event.step == 2 else None,
        )
    newest = load_checkpoint(tmp_path / "run" / "checkpoints" / names(tmp_path / "run")[-1])
    assert newest.state["progress"]["step"] >= 2
    assert time.monotonic() - began < 30


def test_a_signal_before_the_first_step_ends_the_run_at_once(tmp_path, tiny_run_config, monkeypatch):
    from audiodiff.training import trainer

    original = trainer.resume_or_initialise

    def start(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(trainer, "resume_or_initialise", start)
    outcome = train(tiny_run_config, tmp_path)
    assert (outcome.step, outcome.stopped_by) == (0, signal.SIGTERM)
    assert not (tmp_path / "checkpoints").exists()
