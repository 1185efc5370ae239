"""NSynth (Engel et al. 2017): single notes of synthesised and recorded instruments.

Source: https://magenta.tensorflow.org/datasets/nsynth (the json/wav archives). Licence: CC BY 4.0. No checksum of
these archives is published, so they have no download here. 340 hours, 305,979 notes of 4 s, 1,006 instruments, 16,000
Hz.

Layout: `nsynth-PART/examples.json` and `nsynth-PART/audio/NOTE.wav`, where PART is train, valid or test. Split: the
official one, in which no instrument of the training part is in the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from audiodiff.data.splits import Part
from audiodiff.errors import DataError
from audiodiff.text import read_json
from recipes._common import Item, Recipe, need

_PARTS: tuple[Part, ...] = ("train", "valid", "test")


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the notes of all parts that are there, labelled by family; the speaker is the instrument."""
    folders = {part: corpus_dir / f"nsynth-{part}" for part in _PARTS if (corpus_dir / f"nsynth-{part}").is_dir()}
    for part, folder in folders.items():
        table = need(folder / "examples.json", "the table of notes")
        try:
            for name, note in read_json(table).items():
                audio = folder / "audio" / f"{name}.wav"
                yield Item(audio, speaker=note["instrument_str"], label=note["instrument_family_str"], part=part)
        except (AttributeError, KeyError, TypeError) as error:
            raise DataError(f"{table} is no table of notes: {error!r}. Get it from the publisher again.") from error


RECIPE = Recipe(find, source="https://magenta.tensorflow.org/datasets/nsynth", inner=("nsynth-*", "audio"))

if __name__ == "__main__":
    RECIPE()
