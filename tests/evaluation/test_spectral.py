"""Spectral distances equal their published implementation and their definition, clip by clip."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from audiodiff.errors import AudioError
from audiodiff.evaluation.spectral import (
    RESOLUTIONS,
    log_mel_distance,
    log_spectral_distance,
    multi_resolution_stft_distance,
    snr_db,
)

RATE = 22050


def clips(seed: int = 0, n_samples: int = 6000) -> Tensor:
    """Three clips of noise, each with its own loudness and colour: (3, n_samples)."""
    noise = torch.randn(3, n_samples, generator=torch.Generator().manual_seed(seed)) * 0.1
    return noise * torch.tensor([[0.3], [1.0], [2.0]]) + 0.5 * noise.roll(1, -1)


def definition(generated: np.ndarray, reference: np.ndarray, n_bins: dict[int, int] | None = None) -> float:
    """M-STFT of one clip in float64 with librosa; `n_bins` says how many to keep for each FFT length."""
    total = 0.0
    for n_fft, hop, win in RESOLUTIONS:
        x, y = (
            np.sqrt(
                np.maximum(
                    np.abs(librosa.stft(audio, n_fft=n_fft, hop_length=hop, win_length=win, pad_mode="reflect")) ** 2,
                    1e-8,
                )
            )[: n_bins and n_bins[n_fft]]
            for audio in (generated.astype(np.float64), reference.astype(np.float64))
        )
        total += np.linalg.norm(y - x) / np.linalg.norm(y) + np.abs(np.log(x) - np.log(y)).mean()
    return total / len(RESOLUTIONS)


def test_equals_auraloss():
    auraloss = pytest.importorskip("auraloss")
    loss = auraloss.freq.MultiResolutionSTFTLoss()
    generated, reference = clips(0), clips(1)
    expected = torch.stack(
        [loss(x[None, None], y[None, None]) for x, y in zip(generated, reference, strict=True)]
    ).squeeze()
    torch.testing.assert_close(multi_resolution_stft_distance(generated, reference), expected, rtol=1e-5, atol=1e-5)


def test_equals_its_definition_clip_by_clip():
    generated, reference = clips(0), clips(1)
    expected = [definition(x.numpy(), y.numpy()) for x, y in zip(generated, reference, strict=True)]
    got = multi_resolution_stft_distance(generated, reference)
    assert got.tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(got[1:2], multi_resolution_stft_distance(generated[1:2], reference[1:2]))


def test_bandwidth_ignores_the_bins_above_for_each_clip():
    generated, reference = clips(0), clips(1)
    bandwidth = torch.tensor([2000.0, 5000.0, RATE / 2])
    got = multi_resolution_stft_distance(generated, reference, sample_rate=RATE, bandwidth=bandwidth)
    for i, hertz in enumerate(bandwidth.tolist()):
        n_bins = {n_fft: int(hertz * n_fft / RATE) + 1 for n_fft, _, _ in RESOLUTIONS}
        assert got[i] == pytest.approx(definition(generated[i].numpy(), reference[i].numpy(), n_bins), abs=1e-5)
    assert got[2] == pytest.approx(float(multi_resolution_stft_distance(generated, reference)[2]))


def test_equal_clips_have_no_distance_and_phase_is_not_heard():
    audio = clips()
    assert multi_resolution_stft_distance(audio, audio).tolist() == [0, 0, 0]
    assert multi_resolution_stft_distance(-audio, audio).max() < 1e-5
    assert log_mel_distance(-audio, audio, sample_rate=RATE).max() < 1e-5


@pytest.mark.parametrize("distance", [multi_resolution_stft_distance, log_mel_distance])
@pytest.mark.parametrize("silent", ["generated", "reference", "both"])
def test_gradient_is_finite_on_silence(distance, silent):
    rate = {"sample_rate": RATE}
    generated, reference = clips(0), clips(1)
    generated = torch.zeros_like(generated) if silent != "reference" else generated
    reference = torch.zeros_like(reference) if silent != "generated" else reference
    generated.requires_grad_()
    value = distance(generated, reference, **rate)
    value.sum().backward()
    assert value.isfinite().all()
    assert generated.grad.isfinite().all()


def test_gradient_points_towards_the_reference():
    reference = clips(1)
    generated = (reference * 1.2).requires_grad_()
    multi_resolution_stft_distance(generated, reference).sum().backward()
    assert ((generated.grad * reference).sum(1) > 0).all()


def test_works_under_autocast_and_in_half_and_double_precision():
    generated, reference = clips(0), clips(1)
    expected = multi_resolution_stft_distance(generated.double(), reference.double())
    assert expected.dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        got = multi_resolution_stft_distance(generated, reference)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    half = multi_resolution_stft_distance(generated.bfloat16(), reference.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), expected, rtol=0.05, atol=0)


def test_log_mel_distance_of_a_louder_clip_is_the_log_of_its_gain():
    audio = clips()
    assert log_mel_distance(2 * audio, audio, sample_rate=RATE).tolist() == pytest.approx([np.log(2)] * 3, abs=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_log_mel_distance_at_any_rate_hears_nothing_above_8_khz(rate):
    time = torch.arange(12000) / rate
    audio = clips(0, 12000)
    tone = 0.1 * torch.sin(2 * torch.pi * 0.47 * rate * time)
    distance = log_mel_distance(audio + tone, audio, sample_rate=rate)
    assert (distance.max() < 0.02) == (0.47 * rate > 8000)


@pytest.mark.parametrize("distance", [multi_resolution_stft_distance, log_mel_distance])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 6000), (2, 5999)), r"\(2, 6000\) and \(2, 5999\)"),
        (((6000,), (6000,)), r"expected the same, \(batch, time\)"),
        (((1, 300), (1, 300)), "300 samples"),
    ],
)
def test_clips_that_cannot_be_compared_are_refused(distance, shapes, message):
    with pytest.raises(AudioError, match=message):
        distance(*(torch.zeros(shape) for shape in shapes), sample_rate=RATE)


def test_bandwidth_needs_the_sample_rate():
    with pytest.raises(AudioError, match="sample_rate"):
        multi_resolution_stft_distance(clips(), clips(), bandwidth=torch.full((3,), 4000.0))


AUDIO = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
ALL = torch.ones(8000, dtype=torch.bool)


def test_halving_is_6_db_in_both():
    assert snr_db(0.5 * AUDIO, AUDIO, ALL) == pytest.approx(6.02, abs=0.01)
    assert log_spectral_distance(0.5 * AUDIO, AUDIO, ALL) == pytest.approx(6.02, abs=0.05)
    assert snr_db(torch.zeros_like(AUDIO), AUDIO, ALL) == pytest.approx(0)


def test_only_what_is_asked_for_counts():
    first = torch.arange(8000) < 2000
    spoilt = torch.where(first, AUDIO, 0)
    assert snr_db(spoilt, AUDIO, first) == math.inf
    assert snr_db(spoilt, AUDIO, ~first) == pytest.approx(0)
    assert log_spectral_distance(spoilt, AUDIO, torch.arange(8000) < 1000) == 0
    assert math.isnan(snr_db(spoilt, AUDIO, ~ALL))


def test_phases_do_not_matter_to_the_spectral_distance():
    assert log_spectral_distance(-AUDIO, AUDIO, ALL) == 0
    assert snr_db(-AUDIO, AUDIO, ALL) == pytest.approx(-6.02, abs=0.01)
