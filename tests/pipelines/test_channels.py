"""Channels of one recording keep what lies between them; those of two recordings are made as if alone."""

from importlib.resources import files

import pytest
import torch

from audiodiff import Vocoder, load_audio
from audiodiff.pipelines.channels import common_phases, vocode_channels

CLIPS = files("audiodiff") / "assets" / "clips"


@pytest.fixture(scope="module")
def vocoder():
    return Vocoder.from_pretrained("speech-22k-tiny", "cpu", "fp32")


@pytest.fixture(scope="module")
def readings():
    names = ("sense-and-sensibility-0870.flac", "sense-and-sensibility-0930.flac")
    return [load_audio(CLIPS / name, 22050)[0, 8000:40000] for name in names]


def vocoded(vocoder, audio, **changes):
    made = vocode_channels(vocoder, vocoder.mel(audio), common_phases(vocoder, audio), **changes)
    return made[:, : audio.shape[1]]


def correlation(left, right):
    return float(torch.corrcoef(torch.stack([left, right]))[0, 1])


def side_to_mid_db(audio):
    return float(20 * torch.log10((audio[0] - audio[1]).norm() / (audio[0] + audio[1]).norm()))


def placed(readings, gain, delay):
    """Put one reading left of centre, a later one right, the second channel behind by some samples."""
    first, second = readings
    audio = torch.stack([first + gain * second, (gain * first + second).roll(delay)])
    return audio[:, delay:] * 0.5


@pytest.mark.parametrize(("gain", "delay"), [(0.5, 0), (0.7, 4), (0.9, 15)])
def test_the_image_is_kept(vocoder, readings, gain, delay):
    audio = placed(readings, gain, delay)
    made = vocoded(vocoder, audio)
    assert correlation(*made) == pytest.approx(correlation(*audio), abs=0.05)
    assert side_to_mid_db(made) == pytest.approx(side_to_mid_db(audio), abs=1)
    alone = vocoder(vocoder.mel(audio), seed=0)
    assert abs(correlation(*alone) - correlation(*audio)) > 0.05  # which is what it is for


def test_opposite_phases_stay_opposite(vocoder, readings):
    first = readings[0]
    assert correlation(*vocoded(vocoder, torch.stack([first, -0.5 * first]))) < -0.98


def test_unrelated_channels_are_made_as_if_alone(vocoder, readings):
    audio = torch.stack(readings)
    assert torch.equal(vocoded(vocoder, audio, seed=3), vocoder(vocoder.mel(audio), seed=3)[:, : audio.shape[1]])


def test_a_silent_channel_stays_silent_and_changes_no_other(vocoder, readings):
    first = readings[0]
    made = vocoded(vocoder, torch.stack([torch.zeros_like(first), first]))
    assert made[0].abs().max() < 1e-3
    alone = vocoder(vocoder.mel(first), seed=0)[: len(first)]
    torch.testing.assert_close(made[1], alone, atol=1e-5, rtol=0)


def test_six_channels_in_chunks_are_those_of_the_whole_and_one_at_a_time(vocoder, readings, monkeypatch):
    audio = placed(readings, 0.7, 4)
    audio = torch.cat([audio, audio.flip(0), torch.zeros(1, audio.shape[1]), audio[:1]])
    whole = vocoded(vocoder, audio)
    torch.testing.assert_close(vocoded(vocoder, audio, chunk_seconds=0.05), whole, atol=1e-5, rtol=0)
    monkeypatch.setattr(vocoder.engine, "largest_batch", 1)
    torch.testing.assert_close(vocoded(vocoder, audio), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole[0], whole[5], atol=5e-3, rtol=0)  # arccos magnifies rounding


def test_where_noise_is_the_start_channels_have_only_that_in_common(vocoder, readings):
    audio = placed(readings, 0.7, 4)
    made = vocoded(vocoder, audio, start="noise", steps=2)
    alone = vocoder(vocoder.mel(audio), seed=0, start="noise", steps=2)
    torch.testing.assert_close(made, alone[:, : audio.shape[1]])
