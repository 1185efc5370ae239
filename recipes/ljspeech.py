"""LJ Speech 1.1 (Ito and Johnson 2017), and any corpus in its layout.

Source: https://keithito.com/LJ-Speech-Dataset. Licence: public domain.
24 hours, 13,100 clips of one reader, 22,050 Hz, 16 bit.

Layout: `metadata.csv` with `id|text|normalised text` per line, and `wavs/ID.wav`; other corpora keep FLAC there, or
have no third column. Split: none is published; held out are whole chapters (LJ001 to LJ050), or clips where there are
few of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiodiff.errors import DataError
from recipes._common import Archive, Item, Recipe, find_audio, folder_named, need, read_lines


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the clips that `metadata.csv` lists, with their normalised text."""
    folder = folder_named(corpus_dir, "LJSpeech-1.1")
    audio = {path.stem: path for path in find_audio(need(folder / "wavs", "the clips"))}
    for line in read_lines(folder / "metadata.csv"):
        name, *texts = line.split("|")
        if name not in audio:
            raise DataError(f"{folder / 'wavs'} has no {name}, which metadata.csv lists. Unpack the corpus again.")
        yield Item(audio[name], text=texts[-1] if texts else None, group=name.partition("-")[0])


RECIPE = Recipe(
    find,
    (
        Archive(
            "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
            "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
        ),
    ),
)

if __name__ == "__main__":
    RECIPE()
