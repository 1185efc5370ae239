"""MUSDB18-HQ (Rafii et al. 2019): songs and their four stems.

Source: https://zenodo.org/records/3338373. Licence: for academic purposes only, so it has no download here.
10 hours, 150 songs, 44,100 Hz, stereo, uncompressed.

Layout: `train/SONG/STEM.wav` and `test/SONG/STEM.wav`; stems are mixture, vocals, drums, bass and other. Split: the
official one, 86 songs to train on, 14 to validate on (those that the package `musdb` names) and 50 for tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from audiodiff.data.splits import Part
from recipes._common import Item, Recipe, find_audio, folder_named, need

STEMS = ("mixture", "vocals", "drums", "bass", "other")
_VALID = {
    "ANiMAL - Rockshow",
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
}


def find(corpus_dir: Path, stem: str = "mixture") -> Iterator[Item]:
    """Yield one stem of every song, or all of them, labelled by stem."""
    folder = folder_named(corpus_dir, "musdb18hq")
    parts = [name for name in ("train", "test") if (folder / name).is_dir()]
    for name in parts or [need(folder / "train", "the songs").name]:
        for path in find_audio(folder / name):
            song = path.parent.name
            part: Part = "test" if name == "test" else "valid" if song in _VALID else "train"
            if path.stem in (STEMS if stem == "all" else (stem,)):
                yield Item(path, label=path.stem, text=song, part=part)


RECIPE = Recipe(
    find,
    source="https://zenodo.org/records/3338373",
    inner=("train", "test"),
    options=(
        click.Option(
            ["--stem"], type=click.Choice([*STEMS, "all"]), default="mixture", show_default=True, help="What to list."
        ),
    ),
)

if __name__ == "__main__":
    RECIPE()
