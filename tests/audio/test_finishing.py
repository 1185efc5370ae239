"""Clips are brought to a level and faded, and what would only amplify noise is told instead."""

from __future__ import annotations

import pytest
import torch

from audiodiff.audio.finishing import fade_ends, finish_clip, loudness, parse_level, remove_patch_pattern
from audiodiff.choices import LEVEL, Level
from audiodiff.errors import ConfigError

RATE = 16000


def tone(peak_db, floor_db=-200.0):
    """Return half a second of a tone within half a second of a noise floor, `(1, time)`; its ends are at the floor."""
    audio = torch.randn(RATE, generator=torch.Generator().manual_seed(0)) * 10 ** (floor_db / 20)
    audio[4000:12000] += 10 ** (peak_db / 20) * torch.sin(torch.arange(8000) * 0.3)
    return audio[None]


def peak_db(audio):
    return float(20 * audio.abs().max().log10())


@pytest.mark.parametrize("peak", [-20.5, -3.0, 0.0, 7.0])
@pytest.mark.parametrize("level", [-1.0, -6.0, 0.0])
def test_a_clip_is_brought_to_its_peak(peak, level):
    audio, remark = finish_clip(tone(peak, -90), RATE, Level(level))
    assert peak_db(audio) == pytest.approx(level, abs=0.01)
    assert remark == ""


@pytest.mark.parametrize(
    ("floor", "gain"),
    [
        (-90.0, 38),  # to the level
        (-70.0, 35),  # the quietest frames are a dB below the floor
        (-50.0, 24),  # always allowed
    ],
)
def test_a_quiet_clip_is_amplified_as_far_as_its_noise_allows(floor, gain):
    quiet = tone(-39, floor)
    audio, remark = finish_clip(quiet, RATE, Level(-1))
    assert peak_db(audio) - peak_db(quiet) == pytest.approx(gain, abs=1)
    assert remark == (
        "" if gain == 38 else f"quiet and noisy: peak {peak_db(audio):.1f} dBFS, as more would bring up its noise"
    )


def test_silence_is_left_alone():
    for audio in (torch.zeros(1, RATE), tone(-65, -90)):
        same, remark = finish_clip(audio, RATE, Level(-1))
        assert torch.equal(same, audio)
        assert remark.startswith("silence (peak -")


def test_loudness_is_reached_below_full_scale():
    pytest.importorskip("pyloudnorm")
    audio, remark = finish_clip(tone(-30, -90), RATE, Level(-23, "LUFS"))
    assert (loudness(audio, RATE), remark) == (pytest.approx(-23, abs=0.05), "")
    short, _ = finish_clip(tone(-30, -90)[:, 4000:8000], RATE, Level(-23, "LUFS"))
    assert loudness(short, RATE) == pytest.approx(-23, abs=0.05)
    click = torch.zeros(1, RATE)
    click[0, 100] = 0.5
    audio, remark = finish_clip(click, RATE, Level(-5, "LUFS"))
    assert peak_db(audio) == pytest.approx(-1)
    assert "its peak is at -1 dBFS" in remark


def test_ends_are_faded_where_they_are_not_silent():
    sound = torch.cos(torch.arange(RATE) * 0.01)[None]
    faded = fade_ends(sound, RATE)
    assert float(faded[0, 0]) == float(faded[0, -1]) == 0
    assert torch.equal(faded[:, 200:-200], sound[:, 200:-200])
    assert (faded.abs() <= sound.abs()).all()
    assert torch.equal(fade_ends(tone(-1), RATE), tone(-1))
    decay = sound * torch.exp(-torch.arange(RATE) / 1000)
    assert torch.equal(fade_ends(decay, RATE)[:, 20:], decay[:, 20:])


def line_db(audio, k):
    """Return the level of the line at k eighths of the rate in the second half of a clip, in dBFS."""
    half = audio[0, RATE // 2 :]
    return float(20 * torch.fft.rfft(half).abs()[k * len(half) // 8].mul(2 / len(half)).log10())


def test_the_pattern_of_the_patches_is_taken_out_of_silence_and_the_sound_stays():
    pattern = torch.randn(8, generator=torch.Generator().manual_seed(1)) * 10 ** (-75 / 20)
    sound = tone(-1, -95)
    sound[:, 4000:8000] *= torch.exp(-torch.arange(4000) / 400)
    sound[:, 8000:12000] = sound[:, :4000]
    dirty = sound + pattern.repeat(RATE // 8)
    clean = remove_patch_pattern(dirty, 8)
    for k in (1, 2, 3):
        assert line_db(clean, k) < line_db(dirty, k) - 20
    assert peak_db(clean - dirty) < -58
    assert torch.equal(remove_patch_pattern(dirty, 1), dirty)
    assert torch.equal(remove_patch_pattern(dirty[:, :2000], 8), dirty[:, :2000])


def test_a_note_at_an_eighth_of_the_rate_is_no_pattern():
    note = 0.5 * torch.sin(torch.arange(RATE) * torch.pi / 4)[None]
    assert line_db(remove_patch_pattern(note, 8), 1) == pytest.approx(line_db(note, 1), abs=0.02)


def test_an_attack_is_faded_in_faster_than_a_sound_that_goes_on():
    swell = 0.01 + torch.linspace(0, 1, RATE).square()[None]
    changed = (fade_ends(swell, RATE) != swell)[0, : RATE // 2]
    assert int(changed.sum()) == RATE // 1000  # a millisecond
    assert int((fade_ends(swell.flip(1), RATE) != swell.flip(1))[0, : RATE // 2].sum()) == RATE // 4000


@pytest.mark.parametrize("n_samples", [1, 2, 5, 40])
def test_the_shortest_clips_stay_finite(n_samples):
    audio, _ = finish_clip(torch.ones(1, n_samples), RATE, Level(-1))
    assert audio.shape == (1, n_samples)
    assert bool(audio.isfinite().all())


def test_levels_in_words():
    assert parse_level(None) is None
    assert parse_level(-1) == parse_level("-1") == parse_level(" -1 dBFS") == Level(-1.0, "dBFS")
    assert LEVEL.parse("-16 lufs") == LEVEL.parse(Level(-16, "LUFS")) == Level(-16.0, "LUFS")
    for wrong in ("loud", "3", "nan", "LUFS", True, -61, "-16LU"):
        with pytest.raises(ConfigError, match=r"level: .* is not a peak in dBFS such as -1, or a loudness"):
            parse_level(wrong)
