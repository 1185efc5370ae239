"""Which convention a mel follows."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from audiodiff.audio.io import load_audio
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_candidates import Candidate, bank_name, clipped, variants
from audiodiff.audio.mel_features import N_LEVELS, features
from audiodiff.audio.mel_fitting import fit_values, match_audio
from audiodiff.audio.mel_matching import likeliest, match, refuse_unlikely
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError
from audiodiff.pipelines.mel_chunks import judged

sys.path.insert(0, str(Path(__file__).parents[1]))

from mel_cases.cases import CASES, HIFIGAN, accepted, mel_of, run

CLIPS = Path(__file__).parents[2] / "audiodiff" / "assets" / "clips"


@pytest.fixture(scope="module")
def speech():
    return load_audio(CLIPS / "sense-and-sensibility.flac", 22050)[0, :88200]


def test_statistics_are_there_for_every_convention():
    from audiodiff.audio.mel_matching import _references

    banks = {name.partition("/")[0] for name in _references()}
    assert {bank_name(config) for config in MEL_CONVENTIONS.values()} <= banks


def test_mels_of_other_toolkits_are_named_and_not_vocoded():
    outcomes = list(run({"clips": sorted(CLIPS.glob("*.flac"))}, 2 * len(CASES), np.random.default_rng(0)))
    wrong = [
        (outcome.case.name, outcome.names) for outcome in outcomes if not set(outcome.case.right) & set(outcome.names)
    ]
    assert len(wrong) <= 0.02 * len(outcomes), wrong
    judged = [outcome for outcome in outcomes if not outcome.case.tolerable]
    assert not [outcome.case.name for outcome in judged if outcome.accepted != outcome.case.usable]


@pytest.mark.filterwarnings("ignore:.*bins of mel convention")
@pytest.mark.parametrize("name", MEL_CONVENTIONS)
@pytest.mark.parametrize("gain", [0.01, 0.1, 1.0, 3.0])
def test_right_mels_are_not_refused(name, gain):
    config = MEL_CONVENTIONS[name]
    audio = gain * load_audio(CLIPS / "sense-and-sensibility-0880.flac", config.sample_rate)[0]
    refuse_unlikely(MelSpectrogram(config)(audio.clamp(-1, 1)), config)


@pytest.mark.parametrize("frames", [1, 9, 30])
def test_short_and_silent_mels_are_not_judged(frames):
    refuse_unlikely(torch.rand(80, frames), HIFIGAN)
    refuse_unlikely(torch.full((80, 30 * frames), -11.5129), HIFIGAN)


TIME = torch.arange(44100) / 22050
SOUNDS = {
    "sine": (2 * torch.pi * 440 * TIME).sin(),
    "square": (2 * torch.pi * 100 * TIME).sin().sign(),
    "chirp": (2 * torch.pi * (100 + 1000 * TIME) * TIME).sin(),
    "noise": torch.randn(44100, generator=torch.Generator().manual_seed(0)).clamp(-4, 4) / 4,
    "drum": torch.randn(44100, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    / 4
    * (-20 * (TIME % 0.5)).exp(),
    "clicks": (torch.arange(44100) % 4000 == 0).float(),
}


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("level", [-60, -40, -20, 0])
@pytest.mark.parametrize("name", ["hifigan-22k", "tacotron2", "bigvgan-24k"])
def test_right_mels_of_other_sounds_are_not_refused(sound, level, name):
    refuse_unlikely(MelSpectrogram(MEL_CONVENTIONS[name])(SOUNDS[sound] * 10 ** (level / 20)), MEL_CONVENTIONS[name])


def test_the_refusal_names_the_convention(speech):
    whisper = MelSpectrogram(MEL_CONVENTIONS["whisper"])(speech[:64000])
    with pytest.raises(MelError, match=r"looks like .*whisper.*not like hifigan-22k: use --mel-convention whisper"):
        refuse_unlikely(whisper, HIFIGAN)
    with pytest.raises(MelError, match=r"shape \(\d+, 80\).*transposed, not like hifigan-22k"):
        refuse_unlikely(MelSpectrogram(HIFIGAN)(speech).T, HIFIGAN)
    with pytest.raises(MelError, match=r"shape \(\d+, 100\).*looks like .*vocos-24k.*transposed"):
        refuse_unlikely(MelSpectrogram(MEL_CONVENTIONS["vocos-24k"])(speech).T, HIFIGAN)
    with pytest.raises(MelError, match="linear magnitudes"):
        refuse_unlikely(MelSpectrogram(HIFIGAN)(speech).exp(), HIFIGAN)


def test_a_stream_is_judged_once_by_its_first_audible_second(speech):
    mel = MelSpectrogram(HIFIGAN)(speech)
    within = (mel[:, 100:140] - mel.min()) / (mel.max() - mel.min())  # that alone lies in 0..1
    pieces = [*mel.split(10, dim=1), within]
    assert len(list(judged(iter(pieces), HIFIGAN))) == len(pieces)
    silence = torch.full((80, 300), float(np.log10(1e-5)))
    wrong = [silence, *(mel / np.log(10)).split(10, dim=1)]
    passed = []
    with pytest.raises(MelError, match="looks like log10"):
        passed += judged(iter(wrong), HIFIGAN)
    short = [(mel / np.log(10))[:, 40:80]]
    with pytest.raises(MelError, match="looks like log10"):
        list(judged(iter(short), HIFIGAN))


def test_features_follow_affine_maps(speech):
    mel = MelSpectrogram(HIFIGAN)(speech).numpy()
    plain, mapped = features(mel), features(3 * mel - 2)
    np.testing.assert_allclose(mapped[:N_LEVELS], 3 * plain[:N_LEVELS] - 2, atol=1e-3)
    np.testing.assert_allclose(mapped[N_LEVELS:], plain[N_LEVELS:] + np.log(3), atol=1e-3)


def test_mean_and_deviation_are_estimated_from_values_and_fitted_to_audio(speech):
    mel = MelSpectrogram(HIFIGAN)(speech).numpy()
    values = (mel + 6.2) / 2.3
    found = likeliest(match(values, HIFIGAN))[0]
    assert found.candidate.to_fit == "standardised" or found.candidate.name == "matcha"
    standardised = next(each for each in match(values, HIFIGAN) if each.candidate.to_fit == "standardised")
    fields = fit_values([values], standardised, HIFIGAN)
    assert fields["mean"] == pytest.approx(-6.2, abs=1.2)
    assert fields["std"] == pytest.approx(2.3, rel=0.15)
    exact = match_audio([(values, speech, 22050)], HIFIGAN)[0]
    assert exact.error_db < 0.1
    assert exact.fields["mean"] == pytest.approx(-6.2, abs=0.02)
    assert exact.fields["std"] == pytest.approx(2.3, rel=0.01)
    by_bin = (mel - mel.mean(1, keepdims=True)) / mel.std(1, keepdims=True)
    exact = match_audio([(by_bin, speech, 22050)], HIFIGAN)[0]
    assert exact.error_db < 0.1
    np.testing.assert_allclose(exact.fields["mean"], mel.mean(1), atol=0.05)


@pytest.mark.parametrize("case", [case for case in CASES if not case.bank and "transposed" not in case.name])
def test_audio_names_what_values_leave_open(case, speech):
    best = match_audio([(mel_of(case, speech.numpy()), speech, 22050)], HIFIGAN)[0]
    assert best.error_db < 0.5


def test_another_recording_is_refused(speech):
    with pytest.raises(MelError, match="Is this its audio"):
        match_audio([(MelSpectrogram(HIFIGAN)(speech).numpy(), speech[:30000], 22050)], HIFIGAN)


def test_variants_are_valid_conventions():
    for candidate in variants(HIFIGAN):
        assert MelConfig(**candidate.config.model_dump()) == candidate.config


def test_forced_values_are_in_range():
    low, high = Candidate("", HIFIGAN).limits
    mel = clipped(torch.tensor([[-100.0, 0.0, 100.0, float("nan")]]), HIFIGAN)
    assert mel[0, :3].tolist() == pytest.approx([low, 0.0, high], rel=1e-5)
    assert mel[0, 3].isnan()


def test_judging_takes_little_time(speech):
    mel = MelSpectrogram(HIFIGAN)(speech)
    refuse_unlikely(mel, HIFIGAN)
    started = time.process_time()
    for _ in range(5):
        refuse_unlikely(mel, HIFIGAN)
    assert (time.process_time() - started) / 5 < 0.1  # some 15 ms; the rest is for busy machines
    assert accepted(mel.numpy(), HIFIGAN)


def test_huge_values_are_left_to_the_check_of_values(recwarn):
    refuse_unlikely(np.full((80, 200), 1e38, np.float32), HIFIGAN)
    assert not recwarn.list
