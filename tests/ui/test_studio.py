"""What the page computes, without a browser: recordings as they come, settings as they should not."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from audiodiff import Generator, Vocoder, load_audio, save_audio
from audiodiff.audio.io import audio_info
from audiodiff.errors import AudiodiffError
from audiodiff.ui import studio as module
from audiodiff.ui.background import CancelledError, reported
from audiodiff.ui.pictures import Scale
from audiodiff.ui.studio import DamageSettings, Studio


def test_the_result_is_what_vocode_makes_and_every_step_is_seen(studio, record, vocoder):
    path, seen = record(seconds=0.7), []
    pair = studio.vocode(path, vocoder, "noise", 3, 5, report=seen.append)
    plain = Vocoder.from_pretrained(vocoder, "cpu", dtype="fp32")
    expected = plain(plain.mel(load_audio(path)), seed=5, start="noise", steps=3)[:, : audio_info(path).n_samples]
    torch.testing.assert_close(load_audio(pair.after), expected.clamp(-1, 1), rtol=0, atol=1e-4)  # 16 bits
    assert [len(each.states) for each in seen] == [0, 1, 2, 3]
    assert seen[0].before is not None  # the recording is there before the network has run
    captions = [caption for _, caption in pair.states]
    assert captions[0].startswith("start, log-SNR -")
    assert captions[-1] == "after step 3: the result"
    assert "3 steps in" in pair.note
    for picture in (pair.before_picture, pair.after_picture, *(picture for picture, _ in pair.states)):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the drawing out, which takes most of the time."""
    monkeypatch.setattr(module, "draw_signal", lambda path, *_args, **_how: path.touch() or Scale(1.0, 0.0))
    monkeypatch.setattr(module, "draw_state", lambda path, *_args: path.touch())


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_whole_and_floating_point_samples_are_the_same_recording(subtype, studio, record, vocoder, voice, undrawn):
    pair = studio.vocode(record(subtype=subtype), vocoder, "estimate", 1, 0)
    torch.testing.assert_close(load_audio(pair.before)[0], torch.from_numpy(voice(0.5, 8000)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [4000, 96_000])
def test_another_rate_is_resampled_and_stereo_stays_stereo(rate, studio, record, vocoder, voice, undrawn):
    stereo = np.stack([voice(0.5, rate, 1), voice(0.5, rate, 2)], axis=1)
    pair = studio.vocode(record(stereo, rate), vocoder, "estimate", 1, 0)
    for path in (pair.before, pair.after):
        info = audio_info(path)
        assert (info.sample_rate, info.channels, round(info.seconds, 2)) == (8000, 2, 0.5)
    assert f"{rate:,} Hz" in pair.note
    assert "stereo" in pair.note


def test_silence_can_be_drawn(studio, record, vocoder):
    pair = studio.vocode(record(np.zeros(4000)), vocoder, "estimate", 1, 0)
    assert load_audio(pair.after).isfinite().all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0), "empty"),
        (np.full(1, 0.01), "sample"),
        (np.zeros(17_000), "2.1 s; at most 2 s can be used here"),
        (np.array([0.1, np.nan] * 2000), "NaN"),
    ],
    ids=["empty", "one sample", "too long", "NaN"],
)
def test_what_cannot_be_used_is_said(samples, message, studio, record, vocoder):
    path = record(samples, subtype="FLOAT")
    for attempt in (
        lambda: studio.vocode(path, vocoder, "estimate", 1, 0),
        lambda: studio.repair(path, vocoder, DamageSettings("noise"), 0),
    ):
        with pytest.raises(AudiodiffError, match=message):
            attempt()


def test_a_small_file_that_would_fill_memory_is_refused(studio, record, vocoder):
    path = record(np.zeros((100_000, 8)), 655_350, name="many.flac")
    with pytest.raises(AudiodiffError, match="8 channels of 655350 Hz"):
        studio.vocode(path, vocoder, "estimate", 1, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("estimate", 51, 0), "steps"),
        (("estimate", None, 0), "steps"),
        (("estimate", 1, -1), "seed"),
        (("estimate", 1, None), "seed"),
    ],
)
def test_a_setting_beyond_its_bounds_is_named(settings, message, studio, record, vocoder):
    with pytest.raises(AudiodiffError, match=message):
        studio.vocode(record(), vocoder, *settings)


def test_only_models_on_offer_are_loaded(studio, record, generator, tiny_vocoder_folder):
    for name in ("/etc", "../..", str(tiny_vocoder_folder / "config.json"), "hub:a/b"):
        with pytest.raises(AudiodiffError, match="there is no model"):
            studio.vocode(record(), name, "estimate", 1, 0)
    with pytest.raises(AudiodiffError, match="is not a vocoder"):
        studio.vocode(record(), generator, "estimate", 1, 0)
    with pytest.raises(AudiodiffError, match="There is no recording yet"):
        studio.vocode(None, "speech-22k", "estimate", 1, 0)


def test_a_clip_is_at_its_level_and_made_once(studio, generator, monkeypatch):
    first = studio.generate(generator, "yes", 3, 1.0)
    expected = Generator.from_pretrained(generator, "cpu").generate("yes", seed=3, guidance=1.0, level=-1)[0]
    torch.testing.assert_close(load_audio(first), expected, rtol=0, atol=1e-3)
    monkeypatch.setattr(Generator, "generate", None)  # which would fail
    second = studio.generate(generator, "yes", 3, 1.0)
    assert first.read_bytes() == second.read_bytes()
    assert (first.name, first.parent == second.parent) == ("yes_3.wav", False)
    with pytest.raises(TypeError):
        studio.generate(generator, "no", 3, 1.0)


@pytest.mark.parametrize("kind", ["gap", "clipping", "noise", "bandwidth"])
def test_every_damage_is_repaired(kind, models, tmp_path, vocoder, undrawn):
    studio = Studio(models, tmp_path)
    damage = DamageSettings(kind, first=0.2, end=0.25, cutoff=1500)
    path = studio.damaged_example(vocoder, damage)
    save_audio(path, load_audio(path)[:, :6000], 8000)  # shorter is faster
    pair = studio.repair(str(path), vocoder, damage, 0)
    after, before = load_audio(pair.after), load_audio(pair.before)
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    if kind == "gap":  # what is known stays
        assert before[:, 1600:2000].abs().max() == 0
        assert after[:, 1600:2000].abs().max() > 0
        torch.testing.assert_close(after[:, :1500], before[:, :1500], rtol=0, atol=1e-3)


def test_a_damage_that_cannot_be_is_said(studio, record, vocoder):
    for damage, message in (
        (DamageSettings("gap", 0.4, 0.3), "the end must be after the start"),
        (DamageSettings("gap", 0.4, 9), "exceeds the recording"),
        (DamageSettings("clipping"), "does not look clipped"),
        (DamageSettings("melted"), "there is no damage"),
    ):
        with pytest.raises(AudiodiffError, match=message):
            studio.repair(record(), vocoder, damage, 0)


def test_a_computation_ends_with_its_reader():
    going, ended = threading.Event(), []

    def endless(report):
        try:
            while True:
                report(1)
                going.wait(0.01)
        except CancelledError:
            ended.append(True)
            going.set()
            raise

    reports = reported(endless, threading.Event())
    assert next(reports) == 1
    reports.close()
    assert going.wait(10)
    closed = threading.Event()
    going.clear()
    reports = reported(endless, closed)
    next(reports)
    closed.set()
    with pytest.raises(CancelledError):
        list(reports)
    assert ended == [True, True]
