"""LJ Speech 1.1 (Ito and Johnson 2017), and any corpus in its layout.

Source: https://keithito.com/LJ-Speech-Dataset. Licence: public domain.
24 hours, 13,100 clips of one reader, 22,050 Hz, 16 bit.

Layout: `metadata.csv` with `id|text|normalised text` per line, and `wavs/ID.wav`; other corpora keep FLAC there, or
have no third column. Split: none is published; whole chapters (LJ001 to LJ050) are held out, or clips
where there are few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiodiff.audio.io import AUDIO_EXTENSIONS
from audiodiff.errors import DataError
from audiodiff.text import read_lines
from recipes._common import Archive, Item, Recipe, find_audio, folder_named, log_left_out, need


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the clips that `metadata.csv` lists, with their normalised text."""
    folder = folder_named(corpus_dir, "LJSpeech-1.*")
    clips, table = need(folder / "wavs", "the clips"), need(folder / "metadata.csv", "the texts")
    paths = find_audio(clips)
    audio = {path.stem: path for path in paths}
    audio |= {path.relative_to(clips).with_suffix("").as_posix(): path for path in paths}
    rows = [(number, [cell.strip() for cell in line.split("|")]) for number, line in read_lines(table)]
    found = [(path, texts) for _, (name, *texts) in rows if (path := audio.get(name) or audio.get(_bare(name)))]
    if missing := [f"line {n} {name!r}" for n, (name, *_) in rows if not (audio.get(name) or audio.get(_bare(name)))]:
        raise DataError(
            f"{table} lists {len(missing)} clips that are not in {clips}: {', '.join(missing[:3])}"
            f"{' ...' * (len(missing) > 3)}; there is, for example, {next(iter(audio), None)!r}. "
            "Restore them, or delete their lines."
        )
    log_left_out(sorted({*paths} - {path for path, _ in found}), f"{table} does not list them")
    for path, texts in found:
        yield Item(path, text=texts[-1] if texts else None, group=path.stem.partition("-")[0])


def _bare(name: str) -> str:
    """Return a name without folder `wavs` and without the extension of an audio file."""
    stem, dot, extension = name.replace("\\", "/").removeprefix("wavs/").rpartition(".")
    return stem if f"{dot}{extension}".lower() in AUDIO_EXTENSIONS else name.removeprefix("wavs/")


RECIPE = Recipe(
    find,
    (
        Archive(
            "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
            "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
        ),
    ),
    inner=("wavs",),
)

if __name__ == "__main__":
    RECIPE()
