"""Any folder of recordings.

Source, licence, rate and hours are your own.

Layout: audio files of any format of libsndfile, in subfolders or not; a text beside a recording (`a.txt` of `a.wav`)
goes into the manifest. Split: files are held out at random; of ten speakers or more, whole speakers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from recipes._common import Item, Recipe, find_audio, read_note


def find(corpus_dir: Path, label_from: str = "none", speaker_from: str = "none") -> Iterator[Item]:
    """Yield all recordings; the folder that a file lies in may name its label or its speaker."""
    for path in find_audio(corpus_dir):
        name = path.parent.name
        yield Item(
            path,
            speaker=name if speaker_from == "folder" else None,
            label=name if label_from == "folder" else None,
            text=read_note(path.with_suffix(".txt")),
        )


def _option(name: str, what: str) -> click.Option:
    choice = click.Choice(["none", "folder"])
    return click.Option([name], type=choice, default="none", show_default=True, help=f"Where the {what} comes from.")


RECIPE = Recipe(
    find,
    source="your recordings",
    valid_fraction=0.05,
    test_fraction=0.05,
    options=(_option("--label-from", "label"), _option("--speaker-from", "speaker")),
)

if __name__ == "__main__":
    RECIPE()
