"""CSTR VCTK 0.92 (Yamagishi, Veaux and MacDonald 2019).

Source: https://datashare.ed.ac.uk/handle/10283/3443. Licence: CC BY 4.0.
About 40 hours by each of two microphones, 110 speakers of English, 48,000 Hz.

Layout: `wav48_silence_trimmed/SPEAKER/SPEAKER_NNN_micM.flac` and `txt/SPEAKER/SPEAKER_NNN.txt`; p280 and p315 lack
mic2, p315 has no texts. Split: none is published; held out are whole speakers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from recipes._common import Archive, Item, Recipe, find_audio, folder_named, need, read_note


def find(corpus_dir: Path, mic: str = "mic1") -> Iterator[Item]:
    """Yield the clips of one microphone."""
    folder = folder_named(corpus_dir, "VCTK-Corpus*")
    for path in find_audio(need(folder / "wav48_silence_trimmed", "the clips")):
        speaker, number, microphone = (*path.stem.split("_"), "", "")[:3]
        if microphone != mic:
            continue
        text = folder / "txt" / speaker / f"{speaker}_{number}.txt"
        yield Item(path, speaker=speaker, text=read_note(text))


RECIPE = Recipe(
    find,
    (
        Archive(
            "https://datashare.is.ed.ac.uk/bitstream/handle/10283/3443/VCTK-Corpus-0.92.zip",
            "f96258be9fdc2cbff6559541aae7ea4f59df3fcaf5cf963aae5ca647357e359c",
        ),
    ),
    valid_fraction=0.05,
    test_fraction=0.05,
    inner=("wav48_silence_trimmed", "p[0-9]*", "s5"),
    options=(
        click.Option(
            ["--mic"],
            type=click.Choice(["mic1", "mic2"]),
            default="mic1",
            show_default=True,
            help="mic1 is an omnidirectional microphone, mic2 a condenser with a narrower pattern.",
        ),
    ),
)

if __name__ == "__main__":
    RECIPE()
