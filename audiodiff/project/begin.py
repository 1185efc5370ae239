"""The beginning of a project: lists of recordings, a configuration, and how fast this machine trains it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from audiodiff.checkpoint import find_model, load_config
from audiodiff.choices import ProjectKind
from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.errors import DataError
from audiodiff.project.plan import (
    GENERATORS,
    NAMES,
    Project,
    check_model,
    is_full_band,
    measure_step,
    nearest_model,
    write_conf,
)
from audiodiff.project.recordings import Look, cut, hold_out, labels_of


class Begun(NamedTuple):
    """A project that has begun.

    Attributes:
        project: What is to be done.
        parts: Number of recordings, or pieces, and seconds of each part.
        labels: Of one-shots, else none.
    """

    project: Project
    parts: dict[str, tuple[int, float]]
    labels: list[str]


def check_folder(folder: Path, sources: Sequence[Path]) -> None:
    """Refuse a folder that holds something else, such as the recordings themselves.

    Raises:
        DataError: If it does.
    """
    inside = [source.resolve() for source in sources]
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        ours = path.name in NAMES or path.name.startswith(".")
        if not ours and not any(source.is_relative_to(path.resolve()) for source in inside):
            raise DataError(
                f"{folder} already holds other files, such as {path.name}. Give a new folder, then the recordings."
            )


def begin(folder: Path, sources: Sequence[Path], kind: ProjectKind, found: Look, model: str | None = None) -> Begun:
    """Write a project's lists, configuration and commands, and measure a training step.

    Args:
        folder: The project's.
        sources: The folders and files that were given.
        kind: What the recordings are.
        found: What was found in them.
        model: What to start from; None chooses a bundled model.

    Returns:
        The project.

    Raises:
        DataError: If there are too few recordings.
        ConfigError: If the model is of the other kind.
    """
    if model is not None:
        check_model(kind, model)
        if find_model(model).resolve() == Path(model).resolve():
            model = str(Path(model).resolve())  # the commands run in the project's folder
    stems = [one.recording.audio.stem.casefold() for one in found.usable]
    recordings: list[Recording] = []
    origins: list[str] = []
    for one, stem in zip(found.usable, stems, strict=True):
        pieces = cut(one, folder / "pieces", kind, as_it_is=stems.count(stem) == 1)
        recordings += pieces
        origins += [one.name] * len(pieces)
    labels: list[str] = []
    if kind == "one-shots":
        known = [label for name in GENERATORS for label in load_config(find_model(name)).labels]
        labels = labels_of([Path(origin) for origin in origins], [source.resolve() for source in sources], known)
        recordings = [
            recording.model_copy(update={"label": label}) for recording, label in zip(recordings, labels, strict=True)
        ]
    parts = hold_out(recordings, origins, kind)
    for part, held in parts.items():
        write_manifest(folder / "lists" / f"{part}.jsonl", held)
    model = model or nearest_model(kind, recordings, labels)
    write_conf(folder, kind, model, labels, [recording.seconds for recording in recordings])
    project = Project(kind, model, is_full_band(parts["test"]), measure_step(folder))
    amounts = {part: (len(held), sum(recording.seconds for recording in held)) for part, held in parts.items()}
    return Begun(project, amounts, sorted(set(labels)))
