"""Single notes of a piano at several velocities, for a generator that takes a note and a velocity.

Source: https://github.com/sfzinstruments/SplendidGrandPiano (recorded by AKAI). Licence: public domain.
Half an hour, 226 notes of up to 14 seconds at four velocities, 44,100 Hz.

Layout: `FF_C3.flac`: a velocity (PP, Mp, Mf or MF, FF), a note and its octave, which counts from one below the usual
name: `FF_C3` is middle C, here labelled `C4`. The velocity is the speaker. Split: a few notes are held out for
validation, and none for tests, because every note is the only one of its key and velocity.

Two keys in five were not recorded. With `--fill` they are made of their nearest neighbour, played up to two semitones
faster or slower, and written to `CORPUS_DIR/filled`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import click

from audiodiff.audio.io import audio_info, load_audio, make_folder, save_audio
from audiodiff.audio.resample import resample
from recipes._common import Item, Recipe, find_audio, log_left_out

NOTES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")
_FILLED = "filled"
_FARTHEST = 2
"""Semitones that a note is retuned by at most."""
_SECONDS = 3.0
"""Length of a retuned note."""
_LARGEST_DENOMINATOR = 60
"""Of the ratio of two rates: right to 1 cent, and few enough filters."""
_NAME = re.compile(r"(?P<velocity>[A-Za-z]+)_(?P<note>[A-G]s?)(?P<octave>-?\d)", re.ASCII)


def midi_number(label: str) -> int:
    """Return the MIDI number of a label: 60 for `C4`."""
    return 12 * (int(label[-1]) + 1) + NOTES.index(label[:-1])


def label_of(midi: int) -> str:
    """Return the label of a MIDI number."""
    return f"{NOTES[midi % 12]}{midi // 12 - 1}"


def find(corpus_dir: Path, fill: bool = False) -> Iterator[Item]:
    """Yield all notes, then those made of their neighbours; files of other names are left out with a warning."""
    recorded: dict[str, dict[int, Path]] = defaultdict(dict)
    paths = [path for path in find_audio(corpus_dir) if path.parent.name != _FILLED]
    log_left_out([path for path in paths if not _NAME.fullmatch(path.stem)], "they are not named VELOCITY_NOTE")
    for path in paths:
        name = _NAME.fullmatch(path.stem)
        if name:
            velocity, label = name["velocity"].lower(), f"{name['note']}{int(name['octave']) + 1}"
            recorded[velocity][midi_number(label)] = path
            yield Item(path, speaker=velocity, label=label)
    for velocity, notes in recorded.items() if fill else ():
        for midi in range(min(notes), max(notes)):
            nearest = min(notes, key=lambda other: abs(other - midi))
            if 0 < abs(nearest - midi) <= _FARTHEST:
                path = corpus_dir / _FILLED / f"{velocity}_{label_of(midi)}.flac"
                retune(notes[nearest], path, midi - nearest)
                yield Item(path, speaker=velocity, label=label_of(midi))


def retune(source: Path, target: Path, semitones: int) -> None:
    """Write the start of a note as it sounds when played faster or slower; what was written before is kept."""
    if target.exists():
        return
    info = audio_info(source)
    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(_LARGEST_DENOMINATOR)
    audio = load_audio(source, n_samples=min(math.ceil(_SECONDS * info.sample_rate * ratio), info.n_samples))
    audio = resample(audio, ratio.numerator, ratio.denominator)
    make_folder(target.parent)
    save_audio(target, audio, info.sample_rate)


RECIPE = Recipe(
    find,
    source="https://github.com/sfzinstruments/SplendidGrandPiano",
    valid_fraction=0.03,
    test_fraction=0.0,
    options=(click.Option(["--fill"], is_flag=True, help="Make the keys between from their neighbours."),),
)

if __name__ == "__main__":
    RECIPE()
