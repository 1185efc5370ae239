"""Recordings find their partners, and what cannot be compared is refused by name with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.audio.io import load_audio
from audiodiff.data.manifest import Recording, write_manifest
from audiodiff.errors import AudioError, DataError
from audiodiff.evaluation.evaluate import AlignmentOptions, load_pair
from audiodiff.evaluation.listing import Match, match_files
from audiodiff.evaluation.signal import lag_ms

RATE = 16000
CLIP = Path(sys.modules["audiodiff"].__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Three seconds at 16 kHz: (48000,)."""
    return load_audio(CLIP, n_samples=3 * RATE)[0].numpy()


@pytest.fixture
def match(tmp_path, voice):
    """Write a generated recording and its original, and return both as a match."""

    def save(generated, rate=RATE, reference=None):
        reference = voice(1.0, RATE) if reference is None else reference
        soundfile.write(tmp_path / "generated.wav", generated, rate)
        soundfile.write(tmp_path / "reference.wav", reference, RATE)
        return Match("clip", tmp_path / "generated.wav", tmp_path / "reference.wav")

    return save


# --- partners ---------------------------------------------------------------------------------------------------------


def test_names_without_extension_and_with_subfolders_match(tmp_path, save_voice):
    for name in ("ours/a/1.wav", "ours/b/1.flac", "ours/2.wav", "theirs/a/1.flac", "theirs/b/1.wav", "theirs/3.wav"):
        save_voice(tmp_path / name, 0.1)
    matches, alone = match_files(tmp_path / "ours", tmp_path / "theirs")
    assert [match.name for match in matches] == ["a/1", "b/1"]
    assert matches[0].generated == tmp_path / "ours/a/1.wav"
    assert alone == [
        ("3", f"{tmp_path / 'theirs/3.wav'} has no partner in {tmp_path / 'ours'}."),
        ("2", f"{tmp_path / 'ours/2.wav'} has no partner in {tmp_path / 'theirs'}."),
    ]


def test_two_files_and_manifests_match(tmp_path, save_voice):
    first, second = save_voice(tmp_path / "x/a.wav", 0.1), save_voice(tmp_path / "y/b.wav", 0.1)
    assert match_files(first, second) == ([Match("b", first, second)], [])
    same = save_voice(tmp_path / "y/a.wav", 0.1)
    write_manifest(tmp_path / "list.jsonl", [Recording(audio=same, seconds=0.1, sample_rate=8000)])
    matches, alone = match_files(tmp_path / "x", tmp_path / "list.jsonl")
    assert [(match.name, match.reference.name) for match in matches] == [("a", "a.wav")]
    assert alone == []


def test_what_has_no_partner_at_all_is_an_error(tmp_path, save_voice):
    save_voice(tmp_path / "x/a.wav", 0.1)
    save_voice(tmp_path / "y/b.wav", 0.1)
    with pytest.raises(DataError, match=r"no file of .*x \(a\) has the name of one of .*y \(b\)"):
        match_files(tmp_path / "x", tmp_path / "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no audio"):
        match_files(tmp_path / "empty", tmp_path / "y")
    with pytest.raises(DataError, match="does not exist"):
        match_files(tmp_path / "x", tmp_path / "none")
    save_voice(tmp_path / "x/a.flac", 0.1)
    with pytest.raises(DataError, match="have one name, a; which one is meant"):
        match_files(tmp_path / "x", tmp_path / "y")


# --- comparable -------------------------------------------------------------------------------------------------------


def test_equal_recordings_are_left_alone(match, voice):
    found = load_pair(match(voice(1.0, RATE)), AlignmentOptions())
    assert found.notes == []
    assert torch.equal(found.pair.generated, found.pair.reference)


def test_another_rate_is_resampled_and_said(match, speech):
    found = load_pair(match(speech[::2], 8000, reference=speech), AlignmentOptions())
    assert "resampled from 8000 Hz to the reference's 16000 Hz" in found.notes
    assert found.pair.sample_rate == RATE


@pytest.mark.parametrize(("extra", "whose"), [(0.05, "generated"), (-0.05, "reference")])
def test_the_longer_is_cut_and_that_is_said(match, voice, extra, whose):
    whole = voice(1.1, RATE)
    n_samples = RATE + round(extra * RATE)
    found = load_pair(match(whole[:n_samples], reference=whole[:RATE]), AlignmentOptions())
    assert f"800 samples of the {whose} cut to equal length" in found.notes
    assert found.pair.reference.shape[1] == min(RATE, n_samples)


def test_another_length_is_refused_unless_allowed(match, voice):
    both = match(voice(1.5, RATE))
    with pytest.raises(AudioError, match=r"generated.wav is 1.50 s, its reference 1.00 s; .*--max-length-difference"):
        load_pair(both, AlignmentOptions())
    load_pair(both, AlignmentOptions(max_length_difference=0.5, max_lag_ms=1000))


def test_a_lag_is_refused_unless_allowed_or_undone(match, speech):
    both = match(np.concatenate([np.zeros(1600, np.float32), speech[:-1600]]), reference=speech)
    with pytest.raises(AudioError, match=r"generated.wav comes (99|100) ms after its reference; .*--align undoes"):
        load_pair(both, AlignmentOptions())
    assert load_pair(both, AlignmentOptions(max_lag_ms=150)).notes == []
    aligned = load_pair(both, AlignmentOptions(align=True))
    (note,) = aligned.notes
    assert float(note.split()[2]) == pytest.approx(-100, abs=1)
    assert abs(lag_ms(aligned.pair)) <= 1


def test_silence_before_and_after_is_no_lag(match, speech):
    """Digital zeros where the original has room noise, as vocoders make them of padding."""
    muted = speech.copy()
    muted[:4000] = muted[-3000:] = 0
    assert load_pair(match(muted, reference=speech), AlignmentOptions()).notes == []


def test_clipping_is_said(match, voice):
    loud = np.clip(4 * voice(1.0, RATE), -1, 1)
    (note,) = load_pair(match(loud), AlignmentOptions()).notes
    assert note.startswith("clipped: ")
    assert int(note.split()[1]) == int((np.abs(load_audio(Path(match(loud).generated)).numpy()) >= 1 - 2**-15).sum())


@pytest.mark.parametrize("which", ["generated", "reference"])
def test_silence_is_refused(match, voice, which):
    silence, sound = np.zeros(RATE, np.float32), voice(1.0, RATE)
    both = match(silence, reference=sound) if which == "generated" else match(sound, reference=silence)
    with pytest.raises(AudioError, match=f"{which}.wav is silent"):
        load_pair(both, AlignmentOptions())


def test_other_channels_are_refused(match, voice):
    with pytest.raises(AudioError, match="generated.wav has 2 channels, its reference 1"):
        load_pair(match(np.stack([voice(1.0, RATE)] * 2, 1)), AlignmentOptions())
