"""GTZAN (Tzanetakis and Cook 2002): thirty seconds of a thousand pieces of music, by genre.

Source: http://marsyas.info/downloads/datasets.html, long offline; copies are on several sites. Licence: none, the
music is under copyright, so it has no download here. 8.3 hours, 10 genres of 100 clips, 22,050 Hz.

Layout: `genres/GENRE/GENRE.NNNNN.au`, or .wav under `genres_original`; jazz.00054 is damaged in one such copy, and
then left out. Split: none is published; clips are held out. Some pieces are there twice (Sturm 2013): `audiodiff
doctor` finds exact copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipes._common import Item, Recipe, find_audio, folder_named


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the clips, labelled by genre."""
    folder = folder_named(corpus_dir, "Data", "genres", "genres_original")
    for path in find_audio(folder):
        if path.stem.startswith(f"{path.parent.name}."):
            yield Item(path, label=path.parent.name)


RECIPE = Recipe(
    find, source="a copy of GTZAN (search for `GTZAN genre collection`)", valid_fraction=0.1, test_fraction=0.1
)

if __name__ == "__main__":
    RECIPE()
