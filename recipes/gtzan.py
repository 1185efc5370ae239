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

from recipes._common import Item, Recipe, find_audio, folder_named, log_left_out


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the clips, labelled by genre."""
    folder = folder_named(corpus_dir, "Data", "genres", "genres_original")
    paths = find_audio(folder)
    yield from (Item(path, label=path.parent.name) for path in paths if _is_clip(path))
    log_left_out([path for path in paths if not _is_clip(path)], "they are not named GENRE/GENRE.NNNNN")


def _is_clip(path: Path) -> bool:
    return path.stem.startswith(f"{path.parent.name}.")


RECIPE = Recipe(
    find, source="a copy of GTZAN (search for `GTZAN genre collection`)", valid_fraction=0.1, test_fraction=0.1
)

if __name__ == "__main__":
    RECIPE()
