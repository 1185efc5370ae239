"""LibriSpeech (Panayotov et al. 2015).

Source: https://www.openslr.org/12. Licence: CC BY 4.0.
982 hours of audio books, 2,484 speakers of English, 16,000 Hz; many come from MP3, and end below 8,000 Hz.

Layout: `LibriSpeech/SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac`, with all texts of a chapter in
`SPEAKER-CHAPTER.trans.txt`. Split: the official one, train-*, dev-* and test-*; of dev or test subsets that are not
there, speakers of the training subsets take the place.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from recipes._common import Archive, Item, Recipe, find_audio, folder_named, official_part, read_lines

_SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the clips of all subsets that are there; texts are None where a chapter has none."""
    folder = folder_named(corpus_dir, "LibriSpeech")
    for subset in sorted(path for name in _SHA256 if (path := folder / name).is_dir()):
        for chapter, paths in groupby(find_audio(subset), lambda path: path.parent):
            table = chapter / f"{chapter.parent.name}-{chapter.name}.trans.txt"
            lines = (line.partition(" ") for line in (read_lines(table) if table.is_file() else ()))
            texts = {name: text for name, _, text in lines}
            for path in paths:
                speaker = path.stem.partition("-")[0]
                yield Item(path, speaker=speaker, text=texts.get(path.stem), part=official_part(subset.name))


RECIPE = Recipe(
    find,
    tuple(
        Archive(
            f"http://www.openslr.org/resources/12/{name}.tar.gz",
            sha256,
            name,
            default=name in ("train-clean-100", "dev-clean", "test-clean"),
        )
        for name, sha256 in _SHA256.items()
    ),
    inner=(*_SHA256, "[0-9]*"),
)

if __name__ == "__main__":
    RECIPE()
