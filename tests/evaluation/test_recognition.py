"""Error rates are those of jiwer on normalised text; PocketSphinx hears speech, and silence is nothing."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.audio.io import load_audio
from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.evaluation import plugin
from audiodiff.evaluation.evaluate import evaluate
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.recognition import dwer, normalise, pocketsphinx, wer
from audiodiff.evaluation.scoring import score_pair

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"
jiwer = pytest.importorskip("jiwer")


@pytest.fixture(autouse=True)
def heard(monkeypatch) -> dict[int, object]:
    """Give what the recogniser `fake:hear` hears, by the level of the audio in per cent."""
    texts: dict[int, object] = {}
    module = types.ModuleType("fake")

    def hear(samples: np.ndarray, sample_rate: int) -> object:
        assert samples.ndim == 1
        text = texts[round(100 * float(samples.mean()))]
        if isinstance(text, Exception):
            raise text
        return text

    module.hear = hear
    monkeypatch.setitem(sys.modules, "fake", module)
    yield texts
    plugin.load_function.cache_clear()


def pair(text: str | None, channels: int = 1) -> Pair:
    generated, reference = (torch.full((channels, 100), level) for level in (0.01, 0.02))
    return Pair(generated, reference, 8000, text=text, recogniser="fake:hear")


RATES = ("wer", "cer", "dwer", "dcer")


def test_error_rates_are_those_of_jiwer(heard):
    heard.update({1: "The cat sat, on a mat!", 2: "a cat sat on the mat"})
    scores = score_pair(pair("The cats sat on the mat."), RATES)
    made, recorded, text = "the cat sat on a mat", "a cat sat on the mat", "the cats sat on the mat"
    expected = (jiwer.wer(text, made), jiwer.cer(text, made), jiwer.wer(recorded, made), jiwer.cer(recorded, made))
    assert scores.values == {name: pytest.approx(100 * rate) for name, rate in zip(RATES, expected, strict=True)}
    assert scores.weights == {"wer": 6, "cer": len(text), "dwer": 6, "dcer": len(recorded)}
    assert expected[0] == pytest.approx(2 / 6)


def test_everything_wrong_is_100_per_cent_and_more_is_possible(heard):
    heard[1] = ""
    assert wer(pair("one two")) == 100
    heard[1] = "three four five six"
    assert wer(pair("one two")) == 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don’t -- “STOP”!", "don't stop"),
        ("'tis the dogs' bone", "tis the dogs bone"),
        ("Straße, ÉCOLE", "strasse école"),
        ("ＡＢ ﬁn", "ab fin"),
        ("हिन्दी में।", "हिन्दी में"),
        ("今日は、いい天気。", "今日は いい天気"),
        ("1,455\u00a0a_b", "1 455 a b"),
        ("... \n\t –", ""),
        ("😀", ""),
        ("e\u0301", "é"),
    ],
)
def test_case_punctuation_and_spelling_of_unicode_do_not_count(text, expected):
    assert normalise(text) == expected
    assert normalise(expected) == expected


@pytest.mark.parametrize(
    ("text", "made", "recorded", "reasons"),
    [
        (None, "x", "x", {"wer": "there is no text. Give REFERENCE as a manifest with `text`"}),
        ("", "x", "x", {"wer": "the text '' has no words."}),
        ("?!", "x", "x", {"wer": "the text '?!' has no words."}),
        ("x", "x", "...", {"dwer": "the recogniser hears nothing in the reference."}),
        ("x", None, "x", dict.fromkeys(("wer", "dwer"), "fake:hear returned NoneType; expected the text as str.")),
        ("x", ["x"], "x", {"wer": "fake:hear returned list; expected the text as str."}),
        ("x", KeyError("k"), "x", dict.fromkeys(("wer", "dwer"), "fake:hear failed: KeyError: 'k'")),
    ],
)
def test_what_has_no_error_rate_says_why(heard, text, made, recorded, reasons):
    heard.update({1: made, 2: recorded})
    failures = score_pair(pair(text), ("wer", "dwer")).failures
    for name, reason in reasons.items():
        assert failures[name].startswith(reason)


def test_the_mean_of_the_channels_is_heard_once(heard):
    heard[1] = "x"
    assert wer(pair("x", channels=2)) == 0
    recordings = pair("x")
    heard[2] = "x"
    assert dwer(recordings) == 0
    heard.clear()
    assert dwer(recordings) == 0


def test_the_mean_is_that_of_the_corpus_and_systems_compare_by_it(heard, tmp_path):
    texts = {"a": "one two three four five six", "b": "seven"}
    recordings = []
    for i, (name, text) in enumerate(texts.items()):
        for folder, level in (("real", 0.5), ("good", 0.1 + 0.1 * i), ("bad", 0.3 + 0.1 * i)):
            (tmp_path / folder).mkdir(exist_ok=True)
            soundfile.write(tmp_path / folder / f"{name}.wav", np.full(4000, level), 8000, subtype="FLOAT")
        path = tmp_path / "real" / f"{name}.wav"
        recordings.append(Recording(audio=path, seconds=0.5, sample_rate=8000, text=text))
    write_manifest(tmp_path / "real.jsonl", recordings)
    heard.update({10: texts["a"], 20: "eleven", 30: "one", 40: "seven"})
    systems = {"good": tmp_path / "good", "bad": tmp_path / "bad"}
    found = evaluate(systems, tmp_path / "real.jsonl", ["wer"], recogniser="fake:hear", jobs=1)
    assert found.systems[0].scores("wer") == {"a": 0, "b": 100}
    assert found.systems[0].summary("wer").mean == pytest.approx(100 * 1 / 7)
    assert found.systems[1].summary("wer").mean == pytest.approx(100 * 5 / 7)
    assert found.comparison("wer", 0, 1).mean == pytest.approx(100 * 4 / 7)
    assert found.settings["recogniser"] == "fake:hear"


@pytest.mark.slow
def test_pocketsphinx_hears_the_same_whatever_it_heard_before():
    pytest.importorskip("pocketsphinx")
    speech = load_audio(CLIP, n_samples=2 * RATE)[0].numpy()
    silence, click = np.zeros(RATE, np.float32), np.ones(1, np.float32)  # in which it may hear a word
    first = pocketsphinx(speech, RATE)
    assert len(first.split()) >= 3
    for audio in (silence, click, speech[: RATE // 10], 100 * speech):
        assert isinstance(pocketsphinx(audio, RATE), str)
    assert pocketsphinx(speech, RATE) == first
