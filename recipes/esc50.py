"""ESC-50 (Piczak 2015): sounds of the environment.

Source: https://github.com/karolpiczak/ESC-50. Licence: CC BY-NC 3.0; GitHub's archives have no lasting checksum, so
it has no download here. 2.8 hours, 2,000 clips of 5 s in 50 classes, 44,100 Hz.

Layout: `meta/esc50.csv` and `audio/FOLD-SOURCE-TAKE-CLASS.wav`. Split: one of the five official folds is for tests;
of the others, whole source recordings are held out to validate on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from audiodiff.choices import Number
from audiodiff.data.splits import Part
from audiodiff.errors import DataError
from recipes._common import Item, Recipe, folder_named, read_csv

_FOLDS = ("1", "2", "3", "4", "5")


def find(corpus_dir: Path, test_fold: int = 5) -> Iterator[Item]:
    """Yield the clips, labelled by class."""
    folder = folder_named(corpus_dir, "ESC-50*")
    for where, row in read_csv(folder / "meta" / "esc50.csv", ("filename", "fold", "category", "src_file")):
        if row["fold"] not in _FOLDS:
            raise DataError(f"{where} has fold {row['fold']!r}; expected 1 to 5. Correct the line.")
        part: Part | None = "test" if row["fold"] == str(test_fold) else None
        yield Item(folder / "audio" / row["filename"], label=row["category"], part=part, group=row["src_file"])


RECIPE = Recipe(
    find,
    source="https://github.com/karolpiczak/ESC-50",
    valid_fraction=0.1,
    inner=("audio",),
    options=(
        click.Option(
            ["--test-fold"], type=Number(int, low=1, high=5), default=5, show_default=True, help="The fold to test on."
        ),
    ),
)

if __name__ == "__main__":
    RECIPE()
