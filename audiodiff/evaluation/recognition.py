"""Word and character error rates of speech, by a speech recogniser."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.errors import AudioError
from audiodiff.evaluation import plugin
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.signal import SPEECH_RATE

_INT16 = 32767


def wer(pair: Pair) -> float:
    """Return the word error rate in % of what a recogniser hears in the generated, against the manifest's `text`.

    Letters, digits and apostrophes count; case and punctuation do not. The mean is that of the corpus: all errors by
    all words. `--recogniser` names the recogniser.

    The default, PocketSphinx with its en-us model, is weak and for English only: it gets 29 % of the words of eight LJ
    Speech recordings wrong (17 % of the characters), where Whisper gets few, and may hear a word in silence. Only large
    differences mean anything; measure the recordings themselves too.

    Raises:
        AudioError: If the manifest has no text.
    """
    return 100 * _rate("wer", _reference_text(pair), _heard(pair, "generated"))


def cer(pair: Pair) -> float:
    """Return the character error rate in %, as `wer`, of whose text it is; a space between words counts as one."""
    return 100 * _rate("cer", _reference_text(pair), _heard(pair, "generated"))


def dwer(pair: Pair) -> float:
    """Return the differential word error rate in %: against what the recogniser hears in the reference recording.

    It needs no text, and recordings have 0. What is misheard in both alike does not count; see `wer`.

    Raises:
        AudioError: If nothing is heard in the reference.
    """
    return 100 * _rate("wer", _heard_in_reference(pair), _heard(pair, "generated"))


def dcer(pair: Pair) -> float:
    """Return the differential character error rate in %, as `dwer`."""
    return 100 * _rate("cer", _heard_in_reference(pair), _heard(pair, "generated"))


def n_words(pair: Pair) -> float:
    """Return the number of words of the text."""
    return float(len(_reference_text(pair).split()))


def n_characters(pair: Pair) -> float:
    """Return the number of characters of the text."""
    return float(len(_reference_text(pair)))


def n_words_heard(pair: Pair) -> float:
    """Return the number of words that are heard in the reference recording."""
    return float(len(_heard_in_reference(pair).split()))


def n_characters_heard(pair: Pair) -> float:
    """Return the number of characters that are heard in the reference recording."""
    return float(len(_heard_in_reference(pair)))


def normalise(text: str) -> str:
    r"""Return words of letters, digits and apostrophes, folded to lower case, with one space between them.

    Example:
        >>> normalise("“Don’t,” said the Well-known\tPrinter; 1455!")
        "don't said the well known printer 1455"
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    return " ".join(filter(None, (word.strip("'") for word in kept.split())))


def _rate(kind: str, reference: str, heard: str) -> float:
    import jiwer

    return float(getattr(jiwer, kind)(reference, heard))


def _reference_text(pair: Pair) -> str:
    if pair.text is None:
        raise AudioError("there is no text. Give REFERENCE as a manifest with `text`; dwer and dcer need none.")
    text = normalise(pair.text)
    if not text:
        raise AudioError(f"the text {pair.text!r} has no words.")
    return text


def _heard_in_reference(pair: Pair) -> str:
    text = _heard(pair, "reference")
    if not text:
        raise AudioError("the recogniser hears nothing in the reference.")
    return text


def _heard(pair: Pair, which: str) -> str:
    """Return the normalised text that is heard in the mean of the channels, recognised once per pair."""
    audio: Tensor = getattr(pair, which).mean(0)
    return pair.cached(
        f"text of {which}", lambda: normalise(plugin.transcribe(pair.recogniser, audio, pair.sample_rate))
    )


def pocketsphinx(samples: NDArray[np.float32], sample_rate: int) -> str:
    """Return what PocketSphinx 5 hears with the en-us model of its package, at 16 kHz; US English alone.

    Args:
        samples: Of one channel `(time,)`, in [-1, 1].
        sample_rate: In Hz.
    """
    import soxr  # type: ignore[import-untyped]

    at_16k = soxr.resample(samples, sample_rate, SPEECH_RATE, quality="VHQ")
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw((at_16k.clip(-1, 1) * _INT16).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    return found.hypstr if found else ""


@cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    # Cepstral means are those of the utterance, not of those before it, so that the order of recordings does not count.
    return Decoder(samprate=SPEECH_RATE, cmn="batch", loglevel="FATAL")
