"""Labelled clips: which files there are, what each is labelled, and which are held out to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from audiodiff.data.manifest import read_manifest
from audiodiff.data.splits import SPEAKERS_TO_SPLIT_BY, assign_parts, split_keys
from audiodiff.errors import DataError
from audiodiff.evaluation.pairing import list_recordings

FEWEST = 10
"""Clips of a class that there must be; every tenth of them, or of the speakers, is held out."""

LabelledClip = tuple[Path, str | None]
"""A file and its label."""


def list_labelled(path: Path, known: Sequence[str] = ()) -> list[tuple[Path, str | None]]:
    """List recordings with their labels.

    The label is what a manifest says; else, if it is among the known ones, the name of the folder or the part of the
    file's name before its last or first underscore (`yes_12.wav`, as `audiodiff generate` writes; `7_jackson_3.wav`).
    With no known labels the folder decides where there are subfolders, else the part before the first underscore.

    Args:
        path: A folder or a manifest (.jsonl).
        known: The labels that count.

    Returns:
        Paths and labels; None where there is no label, or none that is known.

    Raises:
        DataError: If there is no recording.
    """
    if path.suffix == ".jsonl":
        found = [(recording.audio, recording.label) for recording in read_manifest(path)]
        if not found:
            raise DataError(f"{path} lists no recordings.")
        return [(audio, label if not known or label in known else None) for audio, label in found]
    labelled: list[tuple[Path, str | None]] = []
    for file in list_recordings(path):
        candidates = [file.stem.rpartition("_")[0], file.stem.partition("_")[0]]
        if file.parent != path:
            candidates.insert(0, file.parent.name)
        if not known:
            labelled.append((file, candidates[0] if file.parent != path else candidates[-1]))
        else:
            labelled.append((file, next((label for label in candidates if label in known), None)))
    return labelled


def hold_out(sources: Mapping[Path, Sequence[LabelledClip]]) -> tuple[list[LabelledClip], str]:
    """Choose clips to measure on: all of some speakers where enough are known, else some of each class.

    Args:
        sources: Clips by the folder or manifest that they were listed from.

    Returns:
        The chosen clips, and in words how they were chosen.
    """
    chosen: list[LabelledClip] = []
    how = set()
    for path, clips in sources.items():
        speakers = [recording.speaker for recording in read_manifest(path)] if path.suffix == ".jsonl" else []
        if len(set(speakers) - {None}) >= SPEAKERS_TO_SPLIT_BY:
            parts = assign_parts(split_keys([file for file, _ in clips], speakers, path.parent), 1 / FEWEST, 0)
            chosen += [clip for clip, part in zip(clips, parts, strict=True) if part == "valid"]
            how.add("their speakers held out")
        else:
            of_label: dict[str | None, list[LabelledClip]] = {}
            for clip in clips:
                of_label.setdefault(clip[1], []).append(clip)
            chosen += [clip for same in of_label.values() for clip in same[FEWEST - 1 :: FEWEST]]
            how.add("every tenth held out")
    return chosen, ", ".join(sorted(how))


def list_held_out(path: Path, labels: Sequence[str]) -> tuple[list[LabelledClip], str]:
    """List clips to measure on, and say in words what they are.

    Raises:
        DataError: If a clip has none of these labels.
    """
    clips = list_labelled(path, labels)
    if unknown := [file for file, label in clips if label is None]:
        raise DataError(
            f"{len(unknown)} held-out clips have none of the labels {', '.join(labels)}, such as {unknown[0]}. "
            "Hold out clips of the same labels."
        )
    return clips, f"those of {path.name}"
