"""kill -9 at random moments, and a thousand damaged files: nothing is lost, nothing crashes, nothing hangs."""

import os
import random
import signal
import time
import traceback

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.checkpoint import load_model
from audiodiff.data.crops import CropReader
from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.errors import AudioError, DataError
from audiodiff.training.checkpoints import RunFolder, load_checkpoint
from audiodiff.training.trainer import train

KILLS = 50
BAD_FILES = 1000


def configured(config, *, data, **settings):
    parts = {"training": settings, "data": data}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=update) for name, update in parts.items()}
    )


def all_numbers(run):
    checkpoint = RunFolder(run).newest()
    tensors = [*checkpoint.ema.state_dict().values(), *checkpoint.state["network"].values()]
    tensors += [value for state in checkpoint.state["optimiser"].values() for value in state.values()]
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def steps(run):
    return [int(path.name.removeprefix("step-")) for path in RunFolder(run).checkpoints()]


def start(function, *arguments):
    """Run a function in a fork, which starts in no time; its exit code is 1 if it raises."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    try:
        function(*arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path, tiny_run_config):
    random_moment = random.Random(0)
    data = {"workers": 2, "resident": "off", "time_reversal": True, "mel_noise_db": 1.0}
    config = configured(
        tiny_run_config, data=data, steps=2500, checkpoint_every=2, keep=2, validate_every=10, sample_every=10**6
    )
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(config, straight)
    lost, n_kills, newest = [], 0, 0
    while n_kills < KILLS:
        pid, seen = start(train, config, killed), newest
        deadline = time.monotonic() + random_moment.uniform(0.2, 3.0)
        while time.monotonic() < deadline:
            time.sleep(0.01)
            seen = max([seen, *steps(killed)])
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status), "the run ended by itself: give it more steps"
        n_kills += 1
        present = RunFolder(killed).checkpoints()
        newest = max([newest, *steps(killed)])
        lost += [seen] if newest < seen else []
        for path in present:
            load_checkpoint(path)
        with RunFolder(killed).claimed():
            for model in ("best", "last"):
                assert newest < 10 or load_model(killed / model)
    print(f"{n_kills} kills up to step {newest}: {len(lost)} lost checkpoints")
    assert lost == []
    assert train(config, killed).step == 2500
    different = int((all_numbers(straight) != all_numbers(killed)).sum())
    print(f"{different} of {len(all_numbers(straight))} numbers differ from the undisturbed run")
    assert different == 0
    assert (straight / "curve.json").read_text() == (killed / "curve.json").read_text()


def damaged(content, kind, generator):
    """Damage a file as disks and transfers do."""
    size = len(content)
    if kind == "empty":
        return b""
    if kind == "truncated":
        return content[: int(generator.integers(1, size))]
    changed = np.frombuffer(content, np.uint8).copy()
    if kind == "header":
        changed[generator.integers(0, 64, 8)] = generator.integers(0, 256, 8)
    else:
        n_flips = int(10 ** generator.uniform(0, 3.5))
        changed[generator.integers(0, size, n_flips)] ^= 1 << generator.integers(0, 8, n_flips).astype(np.uint8)
    return changed.tobytes()


@pytest.fixture
def bad_files(tmp_path, voice):
    """A manifest of a thousand damaged files that says what they were, and fifty whole ones."""
    generator, recordings = np.random.default_rng(0), []
    sounds = [voice(0.5 + 0.05 * i, seed=i) for i in range(10)]
    formats = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_24"}
    (tmp_path / "bad").mkdir()
    for i in range(BAD_FILES + 50):
        name = list(formats)[i % 5]
        path = tmp_path / "bad" / f"{i}.{name}"
        soundfile.write(path, sounds[i % 10], 8000, subtype=formats[name])
        n_samples = soundfile.info(path).frames
        recordings.append(Recording(audio=path, seconds=n_samples / 8000, sample_rate=8000, n_samples=n_samples))
        if i < BAD_FILES:
            kind = ("truncated", "flipped", "header", "empty")[i // 5 % 4]
            path.write_bytes(damaged(path.read_bytes(), kind, generator))
    write_manifest(tmp_path / "bad.jsonl", recordings[:-25])
    write_manifest(tmp_path / "good.jsonl", recordings[-25:])
    return recordings


@pytest.mark.slow
def test_a_thousand_damaged_files(tmp_path, tiny_run_config, bad_files):
    def read_all():
        reader, refused, slowest = CropReader(8000, 2048, 256), 0, 0.0
        for recording in bad_files:
            began = time.monotonic()
            try:
                reader.read(recording, 0.5)
            except (AudioError, DataError):
                refused += 1
            slowest = max(slowest, time.monotonic() - began)
        print(f"{refused} of {BAD_FILES} refused, the slowest took {slowest:.2f} s", flush=True)
        os._exit(0 if refused >= BAD_FILES // 2 and slowest < 1 else 1)

    def train_on_all():
        files = {"train": str(tmp_path / "bad.jsonl"), "valid": str(tmp_path / "good.jsonl")}
        data = files | {"workers": 2, "resident": "off", "max_bad_fraction": 1.0}
        outcome = train(configured(tiny_run_config, data=data, steps=400, sample_every=10**6), tmp_path / "run")
        print(f"step {outcome.step}, {outcome.bad_recordings} bad recordings listed", flush=True)
        os._exit(0 if outcome.step == 400 and outcome.bad_recordings > 500 else 1)

    for function in (read_all, train_on_all):
        _, status = os.waitpid(start(function), 0)
        assert status == 0, f"{function.__name__} ended with {status}"
