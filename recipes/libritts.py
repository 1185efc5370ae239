"""LibriTTS (Zen et al. 2019): LibriSpeech from the original recordings, for speech synthesis.

Source: https://www.openslr.org/60. Licence: CC BY 4.0.
585 hours of audio books, 2,456 speakers of English, 24,000 Hz.

Layout: `LibriTTS/SUBSET/SPEAKER/CHAPTER/SPEAKER_CHAPTER_NNNNNN_NNNNNN.wav`, and beside each its text in
`….normalized.txt`. Split: the official one, train-*, dev-* and test-*; of dev or test subsets that are not there,
speakers of the training subsets take the place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recipes._common import Archive, Item, Recipe, find_audio, folder_named, official_part, read_note

_SHA256 = {
    "dev-clean": "da0864e1bd26debed35da8a869dd5c04dfc27682921936de7cff9c8a254dbe1a",
    "dev-other": "d413eda26f3a152ac7c9cf3658ef85504dfb1b625296e5fa83727f5186cca79c",
    "test-clean": "234ea5b25859102a87024a4b9b86641f5b5aaaf1197335c95090cde04fe9a4f5",
    "test-other": "33a5342094f3bba7ccc2e0500b9e72d558f72eb99328ac8debe1d9080402f10d",
    "train-clean-100": "c5608bf1ef74bb621935382b8399c5cdd51cd3ee47cec51f00f885a64c6c7f6b",
    "train-clean-360": "ce7cff44dcac46009d18379f37ef36551123a1dc4e5c8e4eb73ae57260de4886",
    "train-other-500": "e35f7e34deeb2e2bdfe4403d88c8fdd5fbf64865cae41f027a185a6965f0a5df",
}


def find(corpus_dir: Path) -> Iterator[Item]:
    """Yield the clips of all subsets that are there."""
    folder = folder_named(corpus_dir, "LibriTTS")
    for subset in sorted(path for name in _SHA256 if (path := folder / name).is_dir()):
        for path in find_audio(subset):
            yield Item(
                path,
                speaker=path.stem.partition("_")[0],
                text=read_note(path.with_name(f"{path.stem}.normalized.txt")),
                part=official_part(subset.name),
            )


RECIPE = Recipe(
    find,
    tuple(
        Archive(
            f"http://www.openslr.org/resources/60/{name}.tar.gz",
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
