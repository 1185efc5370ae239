"""What all cases share and none may change: tiny models, sounds, a corpus, manifests, shards and a finished run."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import shutil
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile
import torch
import yaml

TESTS = Path(__file__).resolve().parent.parent
RATE = 8000
HOP = 64
N_MELS = 20


@cache
def module_of(path: Path) -> ModuleType:
    """Import a conftest of the other tests, for the sounds, models and published networks that it makes."""
    spec = importlib.util.spec_from_file_location(f"campaign_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def voice(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Return a voice-like sound `(time,)`, peak 0.5."""
    return module_of(TESTS / "conftest.py").make_voice(seconds, rate, seed)


class World:
    """The folder of what all cases share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vocoder, self.generator = folder / "models" / "vocoder", folder / "models" / "generator"
        self.clip, self.corpus, self.words = folder / "clip.wav", folder / "corpus", folder / "words"
        self.mel, self.manifest = folder / "mel.npy", folder / "lists" / "train.jsonl"
        self.shards, self.conf, self.run = folder / "lists" / "train.shards.json", folder / "conf.yaml", folder / "run"
        self.checkpoint = folder / "weights.pt"
        self.evaluation = folder / "scores.json"

    def make(self) -> World:
        """Write everything."""
        conftest = module_of(TESTS / "conftest.py")
        save = conftest.save_random_model.__wrapped__()
        config = conftest.tiny_model_config.__wrapped__()
        (self.folder / "models").mkdir(parents=True)
        save(self.vocoder, config)
        conftest.tiny_generator_folder.__wrapped__(_Folders(self.folder / "models"), save).rename(self.generator)
        soundfile.write(self.clip, voice(0.5), RATE)
        for i in range(8):
            path = self.corpus / "ab"[i % 2] / f"clip{i}.{('wav', 'flac')[i // 4]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, voice(0.4 + 0.05 * i, seed=i), RATE)
        for i in range(24):
            path = self.words / ("yes", "no")[i % 2] / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, voice(0.2, seed=100 + i), RATE)
        self._lists()
        from audiodiff import Vocoder, load_audio

        np.save(self.mel, Vocoder.from_pretrained(str(self.vocoder)).mel(load_audio(self.clip))[0].numpy())
        run_config = conftest.tiny_run_config.__wrapped__(self.manifest, config)
        values = run_config.model_dump(mode="json")
        values["training"] |= {"steps": 4, "checkpoint_every": 2, "validate_every": 2, "sample_every": 1000}
        values["training"]["post_hoc_ema"] = {"snapshot_every": 2}
        self.conf.write_text(yaml.safe_dump(values, sort_keys=False))
        self._call("-q", "train", str(self.conf), "--run", str(self.run))
        timings, generated = self.folder / "timings.txt", self.folder / "generated" / "clip.wav"
        generated.parent.mkdir()
        timings.write_text(
            self._call("-q", "vocode", str(self.clip), "-o", str(generated), "--model", str(self.vocoder))
        )
        self._call(
            "evaluate",
            "pairs",
            str(generated),
            str(self.clip),
            "-m",
            "m_stft",
            "-j",
            "1",
            "--timings",
            str(timings),
            "--json",
            str(self.evaluation),
        )
        network = module_of(TESTS / "interop" / "conftest.py").Lmnt()
        torch.save({"model": network.state_dict(), "params": network.params, "step": 7}, self.checkpoint)
        return self

    def _lists(self) -> None:
        from audiodiff.data.manifest import scan_folder, write_manifest
        from audiodiff.data.shards import write_shards

        recordings = [
            recording.model_copy(update={"label": ("yes", "no")[i % 2], "speaker": "abcd"[i % 4], "text": f"line {i}"})
            for i, recording in enumerate(scan_folder(self.corpus).recordings)
        ]
        write_manifest(self.manifest, recordings)
        write_shards(recordings, self.shards, 2)

    def _call(self, *words: str) -> str:
        """Run a command, and return what it prints."""
        from audiodiff.cli.main import main

        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as out:
            warnings.simplefilter("ignore")
            main.main(list(words), standalone_mode=False)
        return out.getvalue()

    def state(self) -> dict[str, tuple[int, int]]:
        """Return size and time of every file, to prove that no case changed one."""
        return state_of(self.folder)

    def copy(self, source: Path, target: Path) -> Path:
        """Copy a file or folder of the world into that of a case."""
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
        return target

    def lines(self) -> list[dict]:
        """Return the entries of the manifest, with absolute paths."""
        entries = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        return [entry | {"audio": str((self.manifest.parent / entry["audio"]).resolve())} for entry in entries]


class _Folders:
    """Stands in for pytest's factory of temporary folders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mktemp(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of modification of every file below a folder, links not followed."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not path.is_dir() or path.is_symlink():
            found[str(path.relative_to(folder))] = (status.st_size, status.st_mtime_ns)
    return found
