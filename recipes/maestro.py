"""MAESTRO 3.0.0 (Hawthorne et al. 2019): piano performances of a competition.

Source: https://magenta.tensorflow.org/datasets/maestro. Licence: CC BY-NC-SA 4.0, so not for commercial use.
199 hours, 1,276 performances, 44,100 or 48,000 Hz, stereo; the download has 101 GB.

Layout: `maestro-v3.0.0.csv` and `YEAR/NAME.wav`. Split: the official one in the table, in which no piece is in two
parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiodiff.data.splits import Part
from audiodiff.errors import DataError
from recipes._common import Archive, Item, Recipe, folder_named, read_csv

_PARTS: dict[str, Part] = {"train": "train", "validation": "valid", "test": "test"}
_COLUMNS = ("split", "audio_filename", "canonical_composer", "canonical_title")


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the performances, with composer and title as text."""
    folder = folder_named(corpus_dir, "maestro-v3.0.0")
    for where, row in read_csv(folder / "maestro-v3.0.0.csv", _COLUMNS):
        if row["split"] not in _PARTS:
            raise DataError(f"{where} has split {row['split']!r}; expected {', '.join(_PARTS)}. Correct the line.")
        text = f"{row['canonical_composer']}: {row['canonical_title']}"
        yield Item(folder / row["audio_filename"], text=text, part=_PARTS[row["split"]])


RECIPE = Recipe(
    find,
    (
        Archive(
            "https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0.zip",
            "6680fea5be2339ea15091a249fbd70e49551246ddbd5ca50f1b2352c08c95291",
        ),
    ),
    inner=("20[0-9][0-9]",),
)

if __name__ == "__main__":
    RECIPE()
