"""Each recording beside the generated clip that is most like it: whether a generator can make such a sound."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from audiodiff.audio.io import audio_info, load_audio
from audiodiff.errors import DataError
from audiodiff.evaluation.listing import Match, list_labelled
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.signal import log_mel


def match_nearest(generated: Path, reference: Path) -> tuple[list[Match], list[tuple[str, str]]]:
    """Pair every recording with the clip of its label that is nearest by the log-mel distance.

    Of a generator that has no clip of that label, all clips are looked at: the choice is then larger, which is in its
    favour.

    Args:
        generated: A folder or a manifest of clips, with labels as `audiodiff.evaluation.listing.list_labelled` reads
            them.
        reference: The recordings, likewise.

    Returns:
        The pairs, and nothing that is left over.

    Raises:
        DataError: If two recordings have one name.
    """
    clips = list_labelled(generated)

    @cache
    def clip(path: Path, rate: int) -> Tensor:
        return load_audio(path, rate)

    def distance(path: Path, audio: Tensor, rate: int) -> float:
        candidate = clip(path, rate)
        candidate = functional.pad(candidate, (0, max(0, audio.shape[1] - candidate.shape[1])))[:, : audio.shape[1]]
        found = log_mel(Pair(candidate, audio, rate))
        return found if math.isfinite(found) else math.inf

    matches: dict[str, Match] = {}
    for path, label in list_labelled(reference):
        if path.stem in matches:
            raise DataError(f"{matches[path.stem].reference} and {path} have one name. Rename one.")
        rate = audio_info(path).sample_rate
        audio = load_audio(path)
        same = [file for file, theirs in clips if theirs == label] or [file for file, _ in clips]
        nearest = min(same, key=lambda file: distance(file, audio, rate))
        matches[path.stem] = Match(path.stem, nearest, path)
    return list(matches.values()), []
