"""Free Spoken Digit Dataset (Jackson et al.).

Source: https://github.com/Jakobovski/free-spoken-digit-dataset. Licence: CC BY-SA 4.0. 22 minutes, 3,000 clips: ten
digits, six speakers, fifty takes each; 8,000 Hz. The download is release 1.0.9, with 2,500.

Layout: `recordings/DIGIT_SPEAKER_TAKE.wav`. Split: takes 0 to 4 are the official test set; of the others, some are
held out to validate on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiodiff.errors import DataError
from recipes._common import Archive, Item, Recipe, find_audio, folder_named, need

_TEST_TAKES = 5


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield all takes, labelled by their digit."""
    folder = folder_named(corpus_dir, "free-spoken-digit-dataset*")
    for path in find_audio(need(folder / "recordings", "the clips")):
        digit, speaker, take = (*path.stem.split("_"), "", "")[:3]
        if not (digit.isdecimal() and take.isdecimal()):
            raise DataError(f"{path} is not named DIGIT_SPEAKER_TAKE.wav. Remove what is not of the corpus.")
        yield Item(path, speaker=speaker, label=digit, part="test" if int(take) < _TEST_TAKES else None)


RECIPE = Recipe(
    find,
    (
        Archive(
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.tar.gz",
            "8bc44cde129d505cbbb6b365c09f80c663f2aa77578afc634e6141a2f87100c0",
        ),
    ),
    valid_fraction=0.05,
    inner=("recordings",),
)

if __name__ == "__main__":
    RECIPE()
