"""Sweeps: every combination of some settings with every seed, each a training run of its own that resumes by itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from audiodiff.audio.io import make_folder
from audiodiff.data.parallel import default_workers
from audiodiff.errors import ConfigError

SEED = "training.seed"
LOG = "train.log"
"""What a run prints, in its folder."""


class SweepRun(NamedTuple):
    """One run of a sweep.

    Attributes:
        folder: The run's folder.
        settings: Dotted keys of the configuration, and their values.
    """

    folder: Path
    settings: Mapping[str, object]


def plan_sweep(folder: Path, vary: Mapping[str, Sequence[object]], seeds: Sequence[int]) -> list[SweepRun]:
    """Name the runs of a sweep.

    Args:
        folder: Where their folders go: `KEY=VALUE,KEY=VALUE/seed=SEED`, by the last words of the keys.
        vary: Dotted keys, each with the values to try.
        seeds: Seeds of every combination.

    Returns:
        The runs, all seeds of a combination together.

    Raises:
        ConfigError: If a value or a seed is there twice.
    """
    for key, values in {**vary, SEED: seeds}.items():
        if len({json.dumps(value) for value in values}) < len(values):
            raise ConfigError(f"{key} has a value twice: {', '.join(map(str, values))}.")
    last = [key.rpartition(".")[2] for key in vary]
    names = [word if last.count(word) == 1 else key for key, word in zip(vary, last, strict=True)]
    runs = []
    for values in product(*vary.values()):
        name = ",".join(f"{name}={_word(value)}" for name, value in zip(names, values, strict=True))
        for seed in seeds:
            settings = dict(zip(vary, values, strict=True)) | {SEED: seed}
            runs.append(SweepRun(folder / name / f"seed={seed}", settings))
    return runs


def _word(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return re.sub(r"[^\w.+-]+", "_", text).strip("_")[:60] or "_"


def run_sweep(
    runs: Sequence[SweepRun], conf: Path, arguments: Sequence[str] = (), workers: int | None = None
) -> Iterator[tuple[SweepRun, int]]:
    """Train the runs of a sweep, several at a time, each in a process of its own that prints into `train.log`.

    If this is interrupted, as by Ctrl-C, or the caller wants no more, the runs that have begun save a checkpoint; the
    same sweep started again goes on with them.

    Args:
        runs: What to train.
        conf: The configuration.
        arguments: Further words of `audiodiff train` for every run.
        workers: How many at a time; None is one per core. They share the cores.

    Yields:
        Each run when it has ended, with its exit code; 0 where it was complete before.

    Raises:
        OutputError: If a folder cannot be made.
    """
    workers = min(workers or default_workers(), len(runs))
    threads = ["--threads", str(max(1, default_workers() // workers))]
    waiting, running = list(runs), dict[Path, subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                run = waiting.pop(0)
                running[run.folder] = _start(run, conf, [*arguments, *threads])
            ended = _wait_for_one(running)
            yield next(run for run in runs if run.folder == ended), running.pop(ended).returncode
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


def _start(run: SweepRun, conf: Path, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    make_folder(run.folder)
    settings = [word for key, value in run.settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = [sys.executable, "-m", "audiodiff", "train", str(conf), "--run", str(run.folder), *settings, *arguments]
    with (run.folder / LOG).open("ab") as log:
        # A session of its own, or Ctrl-C in a terminal would reach it twice.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)


def _wait_for_one(running: Mapping[Path, subprocess.Popen[bytes]]) -> Path:
    while True:
        for folder, process in running.items():
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            return folder
