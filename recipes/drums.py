"""One-shots of drums and other sounds: any folder tree in which folder or file names tell the instrument.

Source: your own; for example https://github.com/oramics/sampled (public domain). Licence, rate and hours are those
of what is there.

Layout: `ANY/FOLDERS/tr505-hihat-closed.wav`. The label is the first instrument that the file name names (`hihat`), or
the folder's name with `--label-from folder`. Split: sounds are held out at random; of ten machines (folders) or more,
whole machines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from recipes._common import Item, Recipe, find_audio

_INSTRUMENTS = {
    "kick": "kick bd bassdrum",
    "snare": "snare sd snr",
    "hihat": "hihat hat hh ch oh closedhat openhat",
    "tom": "tom toms",
    "cymbal": "cymbal cymball crash ride splash china",
    "clap": "clap handclap cp",
    "cowbell": "cowbell cowb cb",
    "conga": "conga",
    "bongo": "bongo",
    "rim": "rim rimshot rs sidestick",
    "tambourine": "tamb tambourine",
    "shaker": "shaker maraca maracas cabasa",
}
_NAMES = {word: label for label, words in _INSTRUMENTS.items() for word in words.split()}


def label_of(path: Path) -> str:
    """Return the instrument that a file's name tells, `percussion` where it tells none of the usual ones."""
    words = (word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", path.stem.lower()))
    return next((_NAMES[word] for word in words if word in _NAMES), "percussion")


def find(corpus_dir: Path, label_from: str = "name") -> Iterator[Item]:
    """Yield all sounds."""
    for path in find_audio(corpus_dir):
        folder = path.parent.name
        yield Item(path, label=label_of(path) if label_from == "name" else folder, group=str(path.parent))


RECIPE = Recipe(
    find,
    source="a sample library of yours",
    valid_fraction=0.1,
    test_fraction=0.1,
    options=(
        click.Option(
            ["--label-from"],
            type=click.Choice(["name", "folder"]),
            default="name",
            show_default=True,
            help="Where a sound's label comes from.",
        ),
    ),
)

if __name__ == "__main__":
    RECIPE()
