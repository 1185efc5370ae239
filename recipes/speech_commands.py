"""Speech Commands 0.02 (Warden 2018); its ten digits are SC09.

Source: https://arxiv.org/abs/1804.03209. Licence: CC BY 4.0.
29 hours, 105,829 clips of one second, 35 words, 2,618 speakers, 16,000 Hz.

Layout: `WORD/SPEAKER_nohash_N.wav`, with lists of the official split. Split: `validation_list.txt` and
`testing_list.txt`; where they are missing, the hash of the speaker's name that they were made with.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import click
import torch

from audiodiff.audio.io import audio_info, load_audio
from audiodiff.data.splits import Part
from audiodiff.errors import DataError
from recipes._common import Archive, Item, Recipe, find_audio, folder_named, read_lines

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_CLIPS_PER_CLASS = 2**27 - 1
"""The constant of the corpus' README that its hash is taken modulo of, plus one."""

_QUIET_DB = -20.0
"""How far the ends of a whole clip are below its loudest part."""


def find(corpus_dir: Path, words: str = "all", whole: bool = False) -> Iterator[Item]:
    """Yield the clips of the wanted words, all by default, or the whole ones of them; background noise is no word."""
    folder = folder_named(corpus_dir, "SpeechCommands", "speech_commands_v0.02")
    there = {path.name: path for path in sorted(folder.glob("[a-z]*")) if path.is_dir()}
    if any(folder.glob("*_nohash_*")):  # the folder of one word
        there, folder = {folder.resolve().name: folder}, folder.resolve().parent
    wanted = DIGITS if words == "sc09" else there if words == "all" else words.split(",")
    if missing := set(wanted) - set(there):
        raise DataError(f"{folder} has no word {sorted(missing)[0]!r}; it has {', '.join(there) or 'none'}.")
    listed: dict[str, Part] = {}
    for part, name in (("valid", "validation_list.txt"), ("test", "testing_list.txt")):
        listed |= dict.fromkeys(read_lines(folder / name) if (folder / name).is_file() else (), part)  # type: ignore[arg-type]
    cut_off = 0
    for word in wanted:
        for path in find_audio(there[word]):
            if whole and not is_whole(path):
                cut_off += 1
                continue
            speaker = path.stem.partition("_nohash_")[0]
            part = listed.get(f"{word}/{path.name}", "train") if listed else part_of(speaker)
            yield Item(path, speaker=speaker, label=word, part=part)
    if cut_off:
        click.echo(f"{cut_off} clips are left out, because their word is cut off", err=True)


def is_whole(path: Path) -> bool:
    """Return whether a clip begins and ends in what is quiet for it, so that its word is not cut off.

    That is: its first and last 40 ms are 20 dB below its loudest 20 ms.
    """
    info = audio_info(path)
    frame = info.sample_rate // 50
    power = load_audio(path)[0].unfold(0, frame, frame).square().mean(1)
    return bool(torch.cat([power[:2], power[-2:]]).max() <= 10 ** (_QUIET_DB / 10) * power.max())


def part_of(speaker: str) -> Part:
    """Return the part that the corpus' README computes from a speaker's name: 10 % validation, 10 % test."""
    hashed = int(sha1(speaker.encode()).hexdigest(), 16)
    percentage = hashed % (_CLIPS_PER_CLASS + 1) * (100.0 / _CLIPS_PER_CLASS)
    return "valid" if percentage < 10 else "test" if percentage < 20 else "train"


RECIPE = Recipe(
    find,
    (
        Archive(
            "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
            "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        ),
    ),
    options=(
        click.Option(
            ["--words"], default="all", show_default=True, metavar="all|sc09|WORD,WORD", help="sc09: the ten digits."
        ),
        click.Option(["--whole"], is_flag=True, help="Leave out clips whose word is cut off, about one in six."),
    ),
)

if __name__ == "__main__":
    RECIPE()
