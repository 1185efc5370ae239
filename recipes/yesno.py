"""YesNo (Kaldi project): a man says yes or no in Hebrew, eight times in each recording.

Source: https://www.openslr.org/1. Licence: none is stated in the archive; see there.
6 minutes, 60 recordings of one speaker, 8,000 Hz.

Layout: `waves_yesno/0_1_1_0_0_1_0_1.wav`, where 1 is yes. Split: none is published; recordings are held out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiodiff.errors import DataError
from recipes._common import Archive, Item, Recipe, find_audio, folder_named

_WORDS = {"0": "no", "1": "yes"}


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the recordings, with the words in English as text."""
    for path in find_audio(folder_named(corpus_dir, "waves_yesno")):
        words = path.stem.split("_")
        if not set(words) <= set(_WORDS):
            raise DataError(f"{path} is not named like 0_1_1_0_0_1_0_1.wav. Remove what is not of the corpus.")
        yield Item(path, text=" ".join(_WORDS[word] for word in words))


RECIPE = Recipe(
    find,
    (
        Archive(
            "http://www.openslr.org/resources/1/waves_yesno.tar.gz",
            "c3f49e0cca421f96b75b41640749167b52118f232498667ca7a5f9416aef8e73",
        ),
    ),
    valid_fraction=0.1,
    test_fraction=0.1,
)

if __name__ == "__main__":
    RECIPE()
