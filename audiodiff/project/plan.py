"""What a project does: the configuration of its training, and the commands that train, make sound and score it."""

from __future__ import annotations

import json
import math
import os
import shlex
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from audiodiff.audio.io import replacing
from audiodiff.checkpoint import find_model, load_config
from audiodiff.choices import ProjectKind
from audiodiff.config import ModelConfig, load_run_config
from audiodiff.data.manifest import Recording
from audiodiff.errors import ConfigError, DataError
from audiodiff.evaluation.listening_test import missing_packages
from audiodiff.evaluation.scoring import METRICS
from audiodiff.text import read_json
from audiodiff.training.dry_run import measure_cost

STATE, CONF, COMMANDS, SCORES, PAGE = "project.json", "conf.yaml", "commands.sh", "scores.json", "page/index.html"
MODEL = "run/last"
NAMES = frozenset({STATE, CONF, COMMANDS, SCORES, "page", "lists", "pieces", "converted", "run", "before", "after"})
"""What a project's folder holds."""
GENERATORS = ("drums-22k", "words-16k")
"""Bundled models that one-shots may start from."""
_CLIPS = 4
"""Generated clips of each label."""
_FULL_BAND = 10_000
"""Hz that a recording must reach for its band above 8 kHz to be scored."""
_LONGEST_CLIP = 1.5
"""Seconds; longer one-shots are trained on up to there."""

_VOCODER: dict[str, dict[str, Any]] = {
    "data": {"crop_seconds": 0.75, "gain_db": [-8, 3], "mask_bandwidth": True},
    "training": {
        "few_step_weight": 2.0,
        "batch_size": 8,
        "learning_rate": 4e-4,
        "final_learning_rate": 1e-5,
        "warmup_steps": 5,
        "ema_decay": 0.95,
    },
}
"""Fine-tuning of a vocoder; what was tried is in egs/folder/finetune/README.md."""
_GENERATOR: dict[str, dict[str, Any]] = {
    "data": {
        "one_shots": True,
        "peak_db": -1,
        "gain_db": [0, 0],
        "fade_seconds": [0.0, 0.01],
        "speed": [0.9, 1.1],
        "polarity": False,
        "mask_bandwidth": False,
    },
    "training": {
        "condition_dropout": 0.1,
        "batch_size": 8,
        "learning_rate": 4e-4,
        "final_learning_rate": 1e-5,
        "warmup_steps": 20,
        "ema_decay": 0.98,
    },
}
"""Fine-tuning of a generator of one-shots, with level and fades as in egs/drums/generation."""
_ALWAYS: dict[str, Any] = {
    "precision": "auto",
    "seed": 0,
    "steps": 100_000,
    "validate_every": 100,
    "validation_crops": 8,
    "sample_every": 1_000_000,
    "checkpoint_every": 1_000_000,
    "checkpoint_minutes": 1,
    "keep": 2,
}
"""The time ends a run; a checkpoint a minute is what a killed process loses."""


@dataclass(frozen=True)
class Project:
    """What is known of a project; its project.json.

    Attributes:
        kind: What the recordings are.
        model: The name of a bundled model, or the folder of another, that training starts from, and that the result is
            compared with.
        full_band: Whether held-out recordings reach well above 8 kHz.
        step_seconds: What a training step takes on this machine.
        minutes: How long training may take; None as long as nobody has said.
    """

    kind: ProjectKind
    model: str
    full_band: bool
    step_seconds: float
    minutes: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Project | None:
        """Return the project of a folder, None if none has begun there.

        Raises:
            DataError: If its project.json is damaged.
        """
        path = folder / STATE
        if not path.is_file():
            return None
        found = read_json(path)
        if (
            not isinstance(found, dict)
            or found.keys() != {*cls.__dataclass_fields__}
            or found["kind"] not in get_args(ProjectKind)
        ):
            raise DataError(f"{path} is damaged. Remove it to begin anew; what was trained stays.")
        return cls(**found)

    def write(self, folder: Path) -> None:
        """Store the project, and its commands for a shell."""
        lines = [
            "#!/bin/sh",
            "# What `audiodiff new` does once it has written lists/ and conf.yaml. Change them, and go on from here.",
            'set -e; cd "$(dirname "$0")"',
            *(shlex.join(["audiodiff", *words]) for words in self.commands(title(folder))),
        ]
        with replacing(folder / COMMANDS) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with replacing(folder / STATE) as part:
            part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @property
    def metrics(self) -> list[str]:
        """Names of what suits the kind and is installed."""
        names = ["pesq_wb", "estoi"] if self.kind == "voice" else []
        names += ["m_stft", "log_mel", *["lsd_above_8k"] * (self.full_band and self.kind != "one-shots")]
        return [name for name in names if METRICS[name].installed]

    def commands(self, name: str) -> list[list[str]]:
        """Return the words after `audiodiff` of each command, which is to be run in the project's folder.

        Args:
            name: What the trained model is called on the page.
        """
        old = Path(self.model).name
        new = f"new {name}" if name == old else name
        if self.kind == "one-shots":
            make, how = ["generate", "--as-dataset", "--count", str(_CLIPS)], ["--nearest"]
            before, after = "before/train.jsonl", "after/train.jsonl"
        else:
            make, how = ["vocode", "lists/test.jsonl", "--resample"], []
            before, after = "before", "after"
        score = ["evaluate", "pairs", before, "lists/test.jsonl", *how, "--name", old, "--compare", f"{new}={after}"]
        score += ["--metrics", ",".join(self.metrics), "--json", SCORES]
        return [
            ["train", CONF, "--run", "run", *(["--minutes", f"{self.minutes:g}"] if self.minutes else [])],
            [*make, "--model", self.model, "--output", "before"],
            [*make, "--model", MODEL, "--output", "after", "--overwrite"],
            [*score, "--report", "page"],
        ]

    @property
    def missing(self) -> list[str]:
        """What is not installed and would be used, one sentence each."""
        lines = []
        if self.kind == "voice" and "pesq_wb" not in self.metrics:
            lines.append("PESQ is not installed (`pip install 'audiodiff[eval]'`): the gain is measured by M-STFT.")
        return lines + missing_packages()


def title(folder: Path) -> str:
    """Return what a project's model is called: the name of the folder, in characters that can be written."""
    return os.fsencode(folder.resolve().name).decode(errors="replace") or "mine"


def nearest_model(kind: ProjectKind, recordings: Sequence[Recording], labels: Sequence[str]) -> str:
    """Name the bundled model to start from: for one-shots the generator that knows more of the labels.

    Where neither knows any, it is the one of drums, unless no recording reaches above 8 kHz.
    """
    if kind != "one-shots":
        return "speech-22k"
    known = {name: len({*labels} & {*load_config(find_model(name)).labels}) for name in GENERATORS}
    if any(known.values()):
        return max(known, key=lambda name: known[name])
    highest = max(min(one.bandwidth or math.inf, one.sample_rate / 2) for one in recordings)
    return "drums-22k" if highest > load_config(find_model("words-16k")).sample_rate / 2 else "words-16k"


def check_model(kind: ProjectKind, model: str) -> None:
    """Refuse a model that such recordings cannot start from.

    Raises:
        ModelError: If there is no such model.
        ConfigError: If it is of the other kind.
    """
    config = load_config(find_model(model))
    if (kind == "one-shots") == (config.mel is not None):
        raise ConfigError(
            f"{model} is a {'vocoder' if config.mel else 'generator'}, and {kind} need a "
            f"{'generator' if kind == 'one-shots' else 'vocoder'}. Give another --model, or another --kind."
        )


def write_conf(folder: Path, kind: ProjectKind, model: str, labels: Sequence[str], lengths: Sequence[float]) -> None:
    """Write the configuration of the training.

    Args:
        folder: The project's.
        kind: What the recordings are.
        model: What to start from.
        labels: Of one-shots.
        lengths: Of the recordings, in seconds.
    """
    config = load_config(find_model(model))
    plain: dict[str, Any] = _stated(config)
    recipe = _GENERATOR if kind == "one-shots" else _VOCODER
    data = {"train": "lists/train.jsonl", "valid": "lists/valid.jsonl", **recipe["data"]}
    if kind == "one-shots":
        usual = statistics.quantiles(lengths, n=4)[2]
        plain["clip_seconds"] = data["crop_seconds"] = round(
            min(max(usual, config.clip_seconds or 0.0), _LONGEST_CLIP), 2
        )
        plain["labels"] = sorted(set(labels))
    training = {"initial_model": model, **recipe["training"], **_ALWAYS}
    text = (
        "# Written by `audiodiff new`. Change what you like, and run commands.sh; `audiodiff train --help` says more.\n"
    )
    text += yaml.safe_dump({"model": plain, "data": data, "training": training}, sort_keys=False, allow_unicode=True)
    with replacing(folder / CONF) as part:
        part.write_text(text, encoding="utf-8")


def _stated(config: ModelConfig) -> dict[str, Any]:
    """Return what a model's configuration states beside defaults, without what its training measured and noted."""
    plain: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=True, exclude={"provenance"})
    plain.get("whitening", {}).pop("gain", None)
    return plain


def is_full_band(recordings: Sequence[Recording]) -> bool:
    """Tell whether every recording reaches well above 8 kHz."""
    return all(min(one.bandwidth or one.sample_rate / 2, one.sample_rate / 2) >= _FULL_BAND for one in recordings)


def measure_step(folder: Path) -> float:
    """Take a few training steps and return the seconds that one takes on this machine."""
    with inside(folder):
        return measure_cost(load_run_config(Path(CONF))).step_seconds


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a project's folder, which the paths of its configuration and commands are relative to."""
    here = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
