"""From the items of a corpus to recordings: lengths read, mels and waveforms made, several files at a time."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from audiodiff.data.features import MelPrecision, add_mel, at_rate, check_convention
from audiodiff.data.manifest import Recording, probe
from audiodiff.data.measure import measured_bandwidth
from audiodiff.data.parallel import parallel_map
from audiodiff.data.splits import Part, Split
from audiodiff.errors import AudioError, DataError


@dataclass(frozen=True)
class Item:
    """One recording of a corpus, as a recipe finds it.

    Attributes:
        audio: The audio file.
        speaker: Who speaks, sings or plays.
        label: Its class.
        text: What is said.
        part: Where the published split puts it; None where there is no such split.
        group: What must not be divided between parts, where that is not the speaker: a piece, a chapter, an instrument.
    """

    audio: Path
    speaker: str | None = None
    label: str | None = None
    text: str | None = None
    part: Part | None = None
    group: str | None = None


@dataclass(frozen=True)
class Wishes:
    """What is to be made of every recording.

    Attributes:
        mels: A mel convention to write mel spectrograms of.
        mel_precision: Their type.
        waves: A sample rate in Hz to write waveforms at, which the manifests then list.
        bandwidth: Whether the true bandwidth is measured and noted.
    """

    mels: str | None = None
    mel_precision: MelPrecision = "float16"
    waves: int | None = None
    bandwidth: bool = False


class Outcome(NamedTuple):
    """What came of a corpus.

    Attributes:
        recordings: One per item, None for those that cannot be read.
        unreadable: Why, for each of these.
        split: The manifests that were written.
    """

    recordings: list[Recording | None]
    unreadable: list[str]
    split: Split = Split([], [], [])


def read_recordings(items: Sequence[Item], corpus_dir: Path, output_dir: Path, wishes: Wishes, workers: int) -> Outcome:
    """Read the length of every recording, and make what is wished for; what was made before is kept.

    Args:
        items: The recordings.
        corpus_dir: The corpus; what is made of `CORPUS_DIR/a/b.wav` lies below its folder as `a/b`.
        output_dir: Where that goes: `mels/CONVENTION` and `waves/RATE`.
        wishes: What to make.
        workers: Files at a time.

    Returns:
        The recordings and the reasons of those that cannot be read.

    Raises:
        DataError: If two items would become one file, or there is no such mel convention.
    """
    if wishes.mels:
        check_convention(wishes.mels)
    names = [item.audio.relative_to(corpus_dir).with_suffix("") for item in items]
    if wishes.mels or wishes.waves:
        _refuse_twins(names, corpus_dir)

    def read(pair: tuple[Item, Path]) -> Recording | str:
        try:
            return _read(*pair, output_dir, wishes)
        except AudioError as error:
            return str(error)

    outcome = Outcome([], [])
    with tqdm(total=len(items), unit="file", delay=2, disable=not sys.stderr.isatty()) as bar:
        for found in parallel_map(read, list(zip(items, names, strict=True)), workers):
            outcome.recordings.append(found if isinstance(found, Recording) else None)
            outcome.unreadable.extend([found] if isinstance(found, str) else [])
            bar.update()
    return outcome


def _refuse_twins(names: Sequence[Path], corpus_dir: Path) -> None:
    """Refuse two recordings that differ in their extension alone, because what is made of them would be one file."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{corpus_dir} has {name} {count} times, in several formats. Keep one of them.")


def _read(item: Item, name: Path, output_dir: Path, wishes: Wishes) -> Recording:
    known: dict[str, object] = {"speaker": item.speaker, "label": item.label, "text": item.text}
    if wishes.bandwidth:
        known["bandwidth"] = measured_bandwidth(item.audio)
    source = recording = probe(item.audio).model_copy(update=known)
    if wishes.waves:
        target = output_dir / "waves" / str(wishes.waves) / name
        recording = at_rate(source, target.with_name(target.name + ".flac"), wishes.waves)
    if wishes.mels:
        target = output_dir / "mels" / wishes.mels / name
        made = add_mel(source, target.with_name(target.name + ".npy"), wishes.mels, wishes.mel_precision)
        recording = recording.model_copy(update={"mel": made.mel, "mel_convention": made.mel_convention})
    return recording
