"""Resampling keeps what both rates can hold, removes the rest, and does so at any rate, device and length."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from audiodiff.audio import resample as module
from audiodiff.audio.resample import resample
from audiodiff.errors import AudioError


def sine(hertz: float, rate: int, seconds: float = 1.0) -> Tensor:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return torch.sin(2 * math.pi * hertz * time).float()


def level_db(audio: Tensor) -> float:
    """RMS of the middle half relative to a full-scale sine, in dB."""
    middle = audio[..., audio.shape[-1] // 4 : audio.shape[-1] * 3 // 4].double()
    return 20 * math.log10(max(math.sqrt(2 * float(middle.square().mean())), 1e-12))


PAIRS = [(16000, 22050), (22050, 16000), (44100, 22050), (48000, 22050), (8000, 24000), (24000, 44100)]
ODD_PAIRS = [(44101, 22050), (16001, 22050)]  # these go through soxr


@pytest.mark.parametrize(("from_rate", "to_rate"), PAIRS + ODD_PAIRS)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_tone_below_both_nyquists_is_the_same_tone(from_rate: int, to_rate: int, share: float) -> None:
    hertz = round(share * min(from_rate, to_rate) / 2)
    result = resample(sine(hertz, from_rate), from_rate, to_rate)
    assert abs(level_db(result)) < 0.01
    assert level_db(result - sine(hertz, to_rate)) < -60


@pytest.mark.parametrize("hertz", [1000, 7000])
def test_passband_16_to_22_khz(hertz: int) -> None:
    assert abs(level_db(resample(sine(hertz, 16000), 16000, 22050))) < 0.01


@pytest.mark.parametrize(("from_rate", "to_rate"), [(22050, 16000), (44100, 22050), (44101, 22050)])
@pytest.mark.parametrize("share", [1.01, 1.05, 1.25])
def test_tone_above_the_new_nyquist_is_gone(from_rate: int, to_rate: int, share: float) -> None:
    assert level_db(resample(sine(share * to_rate / 2, from_rate), from_rate, to_rate)) < -100


@pytest.mark.parametrize(("from_rate", "to_rate"), PAIRS + ODD_PAIRS + [(22050, 22050)])
@pytest.mark.parametrize("n_samples", [1, 2, 441, 1000, 1001])
def test_length_is_exact(from_rate: int, to_rate: int, n_samples: int) -> None:
    expected = -(-n_samples * to_rate // from_rate)
    assert resample(torch.ones(2, 1, n_samples), from_rate, to_rate).shape == (2, 1, expected)


@pytest.mark.slow
def test_length_is_exact_for_long_audio() -> None:
    """Beyond 2 ** 24 samples a length computed in float32 is off."""
    assert resample(torch.zeros(5_592_411), 8000, 24000).shape == (16_777_233,)


def test_both_libraries_agree() -> None:
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    tone = resample(noise, 8000, 16000)  # band-limited, so that the edges of the two filters do not matter
    ours, theirs = module._with_torchaudio(tone, 160, 441), module._with_soxr(tone, 160, 441)
    n_samples = min(ours.shape[-1], theirs.shape[-1])
    assert level_db(ours[:, :n_samples] - theirs[:, :n_samples]) < -90


@pytest.mark.parametrize(("from_rate", "to_rate"), [(16000, 22050), (16001, 22050)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_shape_follow_the_input(from_rate: int, to_rate: int, dtype: torch.dtype) -> None:
    audio = sine(440, from_rate, 0.1).reshape(2, -1, 4).transpose(0, 2).to(dtype)  # not contiguous
    result = resample(audio, from_rate, to_rate)
    assert result.dtype == dtype
    assert result.shape[:2] == audio.shape[:2]
    alone = resample(audio[1, 3], from_rate, to_rate)
    torch.testing.assert_close(result[1, 3], alone)


def test_equal_rates_change_nothing() -> None:
    audio = sine(440, 8000)
    assert resample(audio, 8000, 8000) is audio


def test_gradient_passes_even_if_the_filter_was_first_used_without() -> None:
    module._resampler.cache_clear()
    audio = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        resample(audio, 3, 2)
    assert torch.autograd.gradcheck(lambda x: resample(x, 3, 2), (audio.requires_grad_(),))


def test_autocast_changes_nothing() -> None:
    audio = sine(440, 16000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = resample(audio, 16000, 22050)
    assert torch.equal(inside, resample(audio, 16000, 22050))


@pytest.mark.parametrize(
    ("audio", "rates", "message"),
    [
        (torch.ones(5), (0, 16000), "cannot resample from 0 Hz to 16000 Hz"),
        (torch.ones(5), (16000, -1), "cannot resample from 16000 Hz to -1 Hz"),
        (torch.ones(2, 0), (16000, 8000), r"audio of shape \(2, 0\) is empty"),
        (torch.ones(5, dtype=torch.int16), (16000, 8000), r"audio is torch.int16; expected floating point"),
        (torch.ones(5, requires_grad=True), (16001, 22050), r"resampling by 22050/16001 has no gradient"),
    ],
)
def test_what_cannot_be_resampled_is_refused(audio: Tensor, rates: tuple[int, int], message: str) -> None:
    with pytest.raises(AudioError, match=message):
        resample(audio, *rates)
