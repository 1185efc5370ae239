"""Which recordings a folder or manifest holds: pairs by name, labelled clips, and clips held out to measure on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audiodiff.data.manifest import find_audio, read_manifest
from audiodiff.data.splits import SPEAKERS_TO_SPLIT_BY, assign_parts, split_keys
from audiodiff.errors import DataError

MIN_CLIPS_PER_LABEL = 10
"""One in ten clips of a class, or of the speakers, is held out."""

LabelledClip = tuple[Path, str | None]
"""A file and its label."""


@dataclass(frozen=True)
class Match:
    """Two files of one name.

    Attributes:
        name: The path within both folders, without extension.
        generated: The generated file.
        reference: The original.
        text: What is said, as a manifest states it.
    """

    name: str
    generated: Path
    reference: Path
    text: str | None = None


def match_files(generated: Path, reference: Path) -> tuple[list[Match], list[tuple[str, str]]]:
    """Pair the recordings of two folders, manifests (.jsonl) or files by their names without extension.

    Where both are folders, subfolders count too: `a/1.wav` belongs to `a/1.flac`. Two single files always belong
    together. Texts are those of the manifest of originals, or else of the other.

    Returns:
        The pairs, sorted by name, and name and reason for every file that has no partner.

    Raises:
        DataError: If one of the two cannot be listed, holds no audio, or has two files of one name; or no file has a
            partner.
    """
    if generated.is_file() and reference.is_file() and ".jsonl" not in (generated.suffix, reference.suffix):
        return [Match(reference.stem, generated, reference)], []
    with_folders = generated.is_dir() and reference.is_dir()
    outputs, originals = (_by_name(path, with_folders=with_folders) for path in (generated, reference))
    unmatched = [
        (name, f"{originals[name]} has no partner in {generated}.") for name in sorted(set(originals) - set(outputs))
    ]
    unmatched += [
        (name, f"{outputs[name]} has no partner in {reference}.") for name in sorted(set(outputs) - set(originals))
    ]
    texts = _texts(generated) | _texts(reference)
    matches = [
        Match(name, outputs[name], originals[name], texts.get(originals[name], texts.get(outputs[name])))
        for name in sorted(set(outputs) & set(originals))
    ]
    if not matches:
        raise DataError(
            f"no file of {generated} ({_examples(outputs)}) has the name of one of {reference} "
            f"({_examples(originals)}). Files are paired by name without extension; rename one set."
        )
    return matches, unmatched


def _texts(path: Path) -> dict[Path, str]:
    recordings = read_manifest(path) if path.suffix == ".jsonl" else []
    return {recording.audio: recording.text for recording in recordings if recording.text is not None}


def _examples(files: dict[str, Path]) -> str:
    return ", ".join(list(files)[:2]) + (" ..." if len(files) > 2 else "")


def _by_name(path: Path, *, with_folders: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in list_recordings(path):
        name = os.fspath(file.relative_to(path).with_suffix("")) if with_folders else file.stem
        if name in found:
            raise DataError(
                f"{found[name]} and {file} have one name, {name}; which one is meant? Rename or remove one."
            )
        found[name] = file
    return found


def list_recordings(path: Path) -> list[Path]:
    """List the recordings of a folder and its subfolders, a manifest or a file.

    Raises:
        DataError: If there is none.
    """
    if path.suffix == ".jsonl":
        found = [recording.audio for recording in read_manifest(path)]
    elif path.is_file():
        found = [path]
    elif path.is_dir():
        found = find_audio(path)
    else:
        raise DataError(f"{path} does not exist; expected a folder of audio, a manifest (.jsonl) or an audio file.")
    if not found:
        raise DataError(f"{path} holds no audio. Check the path.")
    return found


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
    """Choose clips to hold out: all of some speakers where enough are known, else some of each class.

    Args:
        sources: Clips by the folder or manifest that they were listed from.

    Returns:
        The chosen clips, and a description of how they were chosen.
    """
    chosen: list[LabelledClip] = []
    reasons = set()
    for path, clips in sources.items():
        speakers = [recording.speaker for recording in read_manifest(path)] if path.suffix == ".jsonl" else []
        if len(set(speakers) - {None}) >= SPEAKERS_TO_SPLIT_BY:
            parts = assign_parts(
                split_keys([file for file, _ in clips], speakers, path.parent), 1 / MIN_CLIPS_PER_LABEL, 0
            )
            chosen += [clip for clip, part in zip(clips, parts, strict=True) if part == "valid"]
            reasons.add("their speakers held out")
        else:
            of_label: dict[str | None, list[LabelledClip]] = {}
            for clip in clips:
                of_label.setdefault(clip[1], []).append(clip)
            chosen += [
                clip for same in of_label.values() for clip in same[MIN_CLIPS_PER_LABEL - 1 :: MIN_CLIPS_PER_LABEL]
            ]
            reasons.add("every tenth held out")
    return chosen, ", ".join(sorted(reasons))


def list_held_out(path: Path, labels: Sequence[str]) -> tuple[list[LabelledClip], str]:
    """List held-out clips, and describe them in words.

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
