"""What recipes have in common: a recipe says what a corpus holds; this reads, splits, converts and writes it.

A recipe is a module with a function `find(corpus_dir)` that yields an `Item` per recording, and a `Recipe` around it;
CONTRIBUTING.md shows one.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import click
from tqdm import tqdm

from audiodiff import text
from audiodiff.audio.io import replacing
from audiodiff.data.features import MelPrecision, add_mel, at_rate, check_convention
from audiodiff.data.manifest import Recording, find_audio, probe, write_manifest
from audiodiff.data.measure import measured_bandwidth
from audiodiff.data.parallel import default_workers, parallel_map
from audiodiff.data.splits import Part, Split, assign_parts, refuse_empty_training, split_keys
from audiodiff.errors import AudioError, DataError
from recipes._archives import Archive, download, extract

__all__ = [
    "Archive",
    "Item",
    "Recipe",
    "find_audio",
    "folder_named",
    "log_left_out",
    "need",
    "official_part",
    "read_csv",
    "read_lines",
    "read_note",
]

_NAMED = 3
"""How many names a message repeats before it only counts."""
_LOG = logging.getLogger("audiodiff.recipes")


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
class FeatureOptions:
    """What is made of every recording beside its line in the manifest.

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


class PrepareResult(NamedTuple):
    """What came of a corpus.

    Attributes:
        recordings: One per item, None for those that cannot be read.
        unreadable: Why, for each of these.
        split: The manifests that were written.
    """

    recordings: list[Recording | None]
    unreadable: list[str]
    split: Split = Split([], [], [])


@dataclass(frozen=True)
class Recipe:
    """How one corpus becomes manifests.

    Attributes:
        find: From the corpus' folder, and `options` by keyword, to its recordings, in any order.
        archives: What can be downloaded; none where the licence or a missing checksum forbids it.
        source: Where to get the corpus, for the message where it cannot be downloaded.
        valid_fraction: What is held out to validate on unless an item says otherwise, 0 to 1.
        test_fraction: What is held out for tests, likewise.
        options: Options of its own on the command line, handed to `find`.
        inner: Patterns of folders within the corpus, such as `train-*`; a user may give one, and gets what is in it.
    """

    find: Callable[..., Iterable[Item]]
    archives: tuple[Archive, ...] = ()
    source: str = ""
    valid_fraction: float = 0.02
    test_fraction: float = 0.02
    options: Sequence[click.Option] = field(default=(), hash=False)
    inner: tuple[str, ...] = ()

    def download(self, target_dir: Path, parts: Sequence[str] = ()) -> None:
        """Fetch and unpack the corpus; what is there already is kept.

        Args:
            target_dir: The folder that is to hold it.
            parts: Names of archives; none means those that are fetched by default.

        Raises:
            DataError: If it cannot be downloaded, or there is no such part.
        """
        if not self.archives:
            raise DataError(f"this corpus has no download here. Get it from {self.source} and give its folder.")
        if unknown := set(parts) - {archive.name for archive in self.archives}:
            known = ", ".join(archive.name for archive in self.archives)
            raise DataError(f"there is no part {sorted(unknown)[0]!r}; choose from {known}.")
        for archive in self.archives:
            done = target_dir / f".{archive.file_name}.unpacked"
            if (archive.name in parts if parts else archive.default) and not done.is_file():
                extract(download(archive, target_dir), target_dir)
                with replacing(done) as part:
                    part.touch()

    def prepare(
        self,
        corpus_dir: Path,
        output_dir: Path,
        features: FeatureOptions | None = None,
        *,
        seed: int = 0,
        valid_fraction: float | None = None,
        test_fraction: float | None = None,
        resplit: bool = False,
        workers: int | None = None,
        **options: Any,
    ) -> PrepareResult:
        """Write OUTPUT_DIR/train.jsonl, valid.jsonl and test.jsonl.

        Items that say their part go there. A fraction of the others is held out for each part that no item names: by
        speaker or piece where there are at least ten, else by file, and by a hash, so that it is always the same.

        Args:
            corpus_dir: The corpus, as it is published.
            output_dir: Where manifests, mels and waveforms go.
            features: What is to be made of each recording.
            seed: Another seed is another division, where none is official.
            valid_fraction: What is held out to validate on, instead of the recipe's own.
            test_fraction: What is held out for tests, likewise.
            resplit: Leave the published split aside, as for a piece of a corpus that has only one of its parts.
            workers: Files at a time; None is one per processor.
            **options: Handed to `find`.

        Returns:
            What was written, and which files could not be read.

        Raises:
            DataError: If the folder does not hold this corpus, or two recordings would become the same file.
        """
        corpus_dir, items = self._items(corpus_dir, output_dir / "waves", options)
        if resplit:
            items = [replace(item, part=None) for item in items]
        valid_fraction = self.valid_fraction if valid_fraction is None else valid_fraction
        test_fraction = self.test_fraction if test_fraction is None else test_fraction
        parts = _parts(items, corpus_dir, valid_fraction, test_fraction, seed)
        _refuse_empty_training(Counter(parts), {item.part for item in items}, corpus_dir)
        result = read_recordings(
            items, corpus_dir, output_dir, features or FeatureOptions(), workers or default_workers()
        )
        divided = Split([], [], [])
        for part, recording in zip(parts, result.recordings, strict=True):
            if recording is not None:
                getattr(divided, part).append(recording)
        if not divided.train:
            raise DataError(
                f"of {parts.count('train')} recordings of the training part none can be read; the first because: "
                f"{result.unreadable[0]}"
            )
        for name, recordings in divided._asdict().items():
            write_manifest(output_dir / f"{name}.jsonl", recordings)
        return result._replace(split=divided)

    def _items(self, corpus_dir: Path, waves: Path, options: dict[str, Any]) -> tuple[Path, list[Item]]:
        """Find the recordings of a corpus, or of an inner folder of it, and the folder that they are in."""
        if not corpus_dir.is_dir():
            raise DataError(f"{corpus_dir} is no folder; expected one with a corpus. Check the path.")
        try:
            items, failure = list(self.find(corpus_dir, **options)), None
        except DataError as error:
            items, failure = [], error
        given = corpus_dir
        for start in dict.fromkeys(() if items else (Path(os.path.abspath(given)), Path(os.path.realpath(given)))):
            root = start
            while not items and any(fnmatchcase(root.name, pattern) for pattern in self.inner):
                root = root.parent
                with suppress(DataError):
                    items = [item for item in self.find(root, **options) if start in item.audio.parents]
                    corpus_dir = start
        made = Path(os.path.abspath(waves))  # in an earlier run
        items = [item for item in items if made not in Path(os.path.abspath(item.audio)).parents]
        if failure and not items:
            raise DataError(f"{failure}{self._how_to_get(given) if isinstance(failure, MissingError) else ''}")
        if not items:
            raise DataError(
                f"{given} holds no recordings in the layout of this corpus, which --help shows. Check the folder."
                + self._how_to_get(given)
            )
        for item in items:
            if Path(os.path.abspath(corpus_dir)) not in Path(os.path.abspath(item.audio)).parents:
                raise DataError(f"{str(item.audio)!r} is listed, and is not in {corpus_dir}. Correct the list.")
        return corpus_dir, sorted(items, key=lambda item: item.audio)

    def _how_to_get(self, corpus_dir: Path) -> str:
        """Return what to do where a corpus is not there: what was unpacked before is not unpacked again."""
        markers = [corpus_dir / f".{archive.file_name}.unpacked" for archive in self.archives]
        unpacked = next((marker for marker in markers if marker.is_file()), None)
        again = f" after deleting {unpacked}" if unpacked else ""
        return f" --download{again} fetches it." if self.archives else f" It is from {self.source}."

    def __call__(self) -> None:
        """Run as a command line; see `recipes._cli`."""
        from recipes._cli import run

        run(self)


def _parts(items: Sequence[Item], root: Path, valid_fraction: float, test_fraction: float, seed: int) -> list[Part]:
    """Return the part of each item: the one it names, or by hash one that no item names."""
    official = {item.part for item in items}
    free = [item for item in items if item.part is None]
    keys = split_keys([item.audio for item in free], [item.group or item.speaker for item in free], root)
    fractions = (0.0 if "valid" in official else valid_fraction, 0.0 if "test" in official else test_fraction)
    drawn = iter(assign_parts(keys, *fractions, seed) if free else [])
    return [item.part if item.part is not None else next(drawn) for item in items]


def _refuse_empty_training(counts: Counter[Part], named: set[Part | None], corpus_dir: Path) -> None:
    if counts["train"]:
        return
    if None not in named:
        where = {"valid": "validation", "test": "test"}
        parts = " and ".join(f"{count} in the {where[part]} part" for part, count in sorted(counts.items()) if count)
        raise DataError(
            f"{corpus_dir} has {counts.total()} recordings, none of them in the training part of the published split: "
            f"{parts}. Get the rest of the corpus, or divide these anew with --resplit."
        )
    refuse_empty_training(counts, corpus_dir)


def read_recordings(
    items: Sequence[Item], corpus_dir: Path, output_dir: Path, features: FeatureOptions, workers: int
) -> PrepareResult:
    """Read the length of every recording, and make the features; what was made before is kept.

    Args:
        items: The recordings.
        corpus_dir: The corpus; what is made of `CORPUS_DIR/a/b.wav` lies below its folder as `a/b`.
        output_dir: Where that goes: `mels/CONVENTION` and `waves/RATE`.
        features: What to make.
        workers: Files at a time.

    Returns:
        The recordings and the reasons of those that cannot be read.

    Raises:
        DataError: If two items would become one file, or there is no such mel convention.
    """
    if features.mels:
        check_convention(features.mels)
    names = [item.audio.relative_to(corpus_dir).with_suffix("") for item in items]
    if features.mels or features.waves:
        _refuse_duplicate_names(names, corpus_dir)

    def read(pair: tuple[Item, Path]) -> Recording | str:
        try:
            return _read(*pair, output_dir, features)
        except AudioError as error:
            return str(error)

    result = PrepareResult([], [])
    with tqdm(total=len(items), unit="file", delay=2, disable=not sys.stderr.isatty()) as bar:
        for found in parallel_map(read, list(zip(items, names, strict=True)), workers):
            result.recordings.append(found if isinstance(found, Recording) else None)
            result.unreadable.extend([found] if isinstance(found, str) else [])
            bar.update()
    return result


def _refuse_duplicate_names(names: Sequence[Path], corpus_dir: Path) -> None:
    """Refuse two recordings that differ in their extension alone, because what is made of them would be one file."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{corpus_dir} has {name} {count} times, in several formats. Keep one of them.")


def _read(item: Item, name: Path, output_dir: Path, features: FeatureOptions) -> Recording:
    known: dict[str, object] = {"speaker": item.speaker, "label": item.label, "text": item.text}
    if features.bandwidth:
        known["bandwidth"] = measured_bandwidth(item.audio)
    source = recording = probe(item.audio).model_copy(update=known)
    if features.waves:
        target = output_dir / "waves" / str(features.waves) / name
        recording = at_rate(source, target.with_name(target.name + ".flac"), features.waves)
    if features.mels:
        target = output_dir / "mels" / features.mels / name
        made = add_mel(source, target.with_name(target.name + ".npy"), features.mels, features.mel_precision)
        recording = recording.model_copy(update={"mel": made.mel, "mel_convention": made.mel_convention})
    return recording


class MissingError(DataError):
    """A file or folder of a corpus is not where its publisher put it."""


def need(path: Path, what: str) -> Path:
    """Return a path that must be there.

    Raises:
        MissingError: If it is not, naming what it is of the corpus.
    """
    if not path.exists():
        raise MissingError(f"{path} is missing: {what}. Give the folder of the corpus as it is published.")
    return path


def folder_named(corpus_dir: Path, *names: str) -> Path:
    """Return the innermost folder of those that archives unpack to, whichever of them the user gave.

    Args:
        corpus_dir: What the user gave.
        *names: Patterns of folders below each other, such as "ESC-50*" or "SpeechCommands", "speech_commands_v0.02".

    Returns:
        The last of those that is there, below `corpus_dir`, or `corpus_dir` itself.
    """
    for name in names:
        corpus_dir = next((path for path in sorted(corpus_dir.glob(name)) if path.is_dir()), corpus_dir)
    return corpus_dir


def official_part(subset: str) -> Part | None:
    """Return the part of a subset called dev-* or test-*; what others are divided into is not published."""
    return "valid" if subset.startswith("dev") else "test" if subset.startswith("test") else None


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a text file that hold something, without the blanks around them.

    Raises:
        DataError: If the file is missing or no text.
    """
    yield from (line for _, line in text.read_lines(need(path, "a list of the corpus")))


def read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each row of a CSV file with a header is, and its cells; see `audiodiff.text.read_csv`."""
    yield from text.read_csv(need(path, "a table of the corpus"), columns)


def read_note(path: Path) -> str | None:
    """Return the text of a file beside a recording, None where there is none."""
    return text.read_text(path).strip() if path.is_file() else None


def log_left_out(paths: Sequence[Path], reason: str) -> None:
    """Log recordings of a corpus that a recipe does not list."""
    if paths:
        names = ", ".join(path.name for path in paths[:_NAMED]) + (" ..." if len(paths) > _NAMED else "")
        _LOG.warning("left out, because %s: %d recordings (%s)", reason, len(paths), names)
