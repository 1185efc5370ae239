"""A degradation does what it says, leaves known what it says, and its baseline is right where theory says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiodiff.audio.degradation import (
    Clipping,
    Gaps,
    LowPass,
    MelStatistics,
    Noise,
    ignore,
)
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_completion import whole_bands
from audiodiff.audio.resample import low_pass
from audiodiff.audio.restoration import AR_ORDERS, choose_order, cubic_spline, estimate_noise, fill_gap, wiener
from audiodiff.config import MEL_CONVENTIONS, mel_convention
from audiodiff.errors import AudioError

RATE = 8000
KINDS = (
    Gaps(((0.3, 0.304), (0.6, 0.603)), RATE),
    Clipping(0.2),
    Noise(10.0),
    LowPass(1500.0, RATE),
)


@pytest.fixture(scope="module")
def speech(voice):
    return torch.from_numpy(np.stack([voice(1.0, RATE, seed) for seed in (1, 2)]))


@pytest.fixture(scope="module")
def noise():
    return torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))


def ids(kind):
    return type(kind).__name__


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_the_baseline_is_nearer_to_the_recording_than_the_degraded(kind, speech, noise):
    degraded = kind.degrade(speech, noise)
    error, baseline_error = ((version - speech).square().mean() for version in (degraded, kind.baseline(degraded)))
    assert error > 0
    assert baseline_error < error or isinstance(kind, LowPass)  # which leaves it as it is


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_the_truth_fits_and_what_fits_is_observed(kind, speech, noise):
    degraded = kind.degrade(speech, noise)
    if isinstance(kind, Noise):
        return
    if isinstance(kind, Gaps):
        kind = Gaps(((0.3, 0.36),), RATE)
        middle = slice(round(0.304 * RATE), round(0.356 * RATE))
        fitted = kind.fit(speech, kind.observe(speech), kind.baseline(degraded), ignore)
        assert torch.equal(fitted[:, middle], speech[:, middle])
        return
    assert torch.allclose(kind.fit(speech, degraded, kind.baseline(degraded), ignore), speech, atol=1e-5)
    fitted = kind.fit(torch.zeros_like(speech), degraded, degraded, ignore)
    assert torch.allclose(kind.observe(fitted), degraded, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=ids)
def test_the_mask_is_all_that_differs(kind, speech, noise):
    degraded = kind.degrade(speech, noise)
    mask = kind.mask(degraded)
    assert torch.equal(degraded[:, ~mask], speech[:, ~mask])
    assert bool(mask.any())


def test_noise_is_as_loud_as_it_says_and_known_from_the_noisy_recording(speech, noise):
    noisy = Noise(6.0).degrade(speech, noise)
    ratio = 10 * torch.log10(speech.square().mean() / (noisy - speech).square().mean())
    assert float(ratio) == pytest.approx(6.0, abs=0.1)
    assert Noise(6.0).level(noisy) == pytest.approx(float((noisy - speech).std()), rel=0.02)
    half = Noise(6.0).fit(torch.zeros_like(noisy), noisy, noisy, lambda difference, level: difference / 2)
    assert torch.allclose(half, noisy / 2)


def test_linear_prediction_continues_tones_exactly():
    time = np.arange(4000) / RATE
    samples = np.sin(2 * np.pi * 440 * time) + 0.5 * np.sin(2 * np.pi * 1030 * time + 1)
    errors = [np.abs(fill_gap(samples, 1900, 2100, order) - samples[1900:2100]).max() for order in (2, 4, 96)]
    assert errors[0] > errors[1] > errors[2]  # two tones are beyond an order of 2
    assert errors[2] < 0.05
    for start, stop in ((0, 100), (3900, 4000)):  # at the ends there is one side to go by
        assert np.abs(fill_gap(samples, start, stop)).max() < 2
    assert not fill_gap(np.zeros(4000), 1900, 2100).any()


def ringing(n_samples):
    """Return a note of thirty partials that ring on, two of each close together, as those of a piano's strings are."""
    time, draw = np.arange(n_samples) / 22050, np.random.default_rng(3)
    tones = [(110 * k * detune * (1 + 3e-4 * k * k), k) for k in range(1, 31) for detune in (1, 1.003)]
    parts = [np.exp(-time * (1 + k / 9)) / k * np.sin(2 * np.pi * f * time + draw.uniform(0, 6)) for f, k in tones]
    return 0.1 * np.sum(parts, 0)


def test_of_a_long_gap_only_the_edges_are_predicted():
    samples = np.random.default_rng(0).standard_normal(150_000)
    missing = np.zeros(len(samples), bool)
    assert choose_order(samples, 60_000, 90_000, missing) == (AR_ORDERS[0], -np.inf)
    filled = fill_gap(np.sin(0.1 * np.arange(150_000)), 60_000, 90_000)
    assert np.allclose(filled[:500], np.sin(0.1 * np.arange(60_000, 60_500)), atol=0.1)
    assert np.allclose(filled[-500:], np.sin(0.1 * np.arange(89_500, 90_000)), atol=0.1)
    assert not filled[12_000:-12_000].any()
    assert np.abs(filled).max() < 2


def test_the_order_of_linear_prediction_is_what_fits_beside_the_gap():
    note, noise = ringing(22050), 0.1 * np.random.default_rng(0).standard_normal(22050)
    start, stop = 11000, 11441
    missing = np.zeros(22050, bool)
    missing[start:stop] = True
    for sound, expected, snr in ((note, AR_ORDERS[1], 20), (noise, AR_ORDERS[0], -3)):
        order, expected_snr = choose_order(sound, start, stop, missing)
        error = fill_gap(sound, start, stop, order) - sound[start:stop]
        reached = 10 * np.log10((sound[start:stop] ** 2).sum() / (error**2).sum())
        assert order == expected
        assert reached > snr
        assert expected_snr == pytest.approx(reached, abs=6)
    assert choose_order(note[:1000], 400, 500, missing[:1000]) == (AR_ORDERS[0], -np.inf)
    missing[8000:14000] = True  # other gaps are where it would be tried
    assert choose_order(note, start, stop, missing) == (AR_ORDERS[0], -np.inf)


def test_long_gaps_remain_unless_they_can_be_predicted():
    note, noise = (torch.from_numpy(sound)[None].float() for sound in (ringing(22050), 0.1 * np.random.randn(22050)))
    short, long = (0.3, 0.31), (0.5, 0.55)
    for sound, remaining in (
        (note, None),
        (noise, Gaps([long], 22050)),
        (torch.cat([note, noise]), Gaps([long], 22050)),
    ):
        gaps = Gaps([short, long], 22050)
        filled, left = gaps.restored(gaps.observe(sound))
        assert left == remaining
        assert torch.equal(filled[:, ~gaps.mask(sound)], sound[:, ~gaps.mask(sound)])


def test_what_is_in_a_gap_does_not_count():
    note = torch.from_numpy(ringing(22050))[None].float()
    gaps = Gaps([(0.3, 0.31), (0.32, 0.33)], 22050)
    assert torch.equal(gaps.baseline(note), gaps.baseline(note.masked_fill(gaps.mask(note), 9.0)))


def test_a_band_without_sound_does_not_spoil_the_prediction():
    sound = low_pass(torch.from_numpy(ringing(22050)), 3000, 22050).numpy()
    error = fill_gap(sound, 11000, 11441, 1200) - sound[11000:11441]
    assert (error**2).sum() < 0.01 * (sound[11000:11441] ** 2).sum()


def test_a_spline_goes_through_what_is_known_and_is_exact_for_cubics():
    x = np.linspace(-1, 1, 50)
    known = np.ones(50, bool)
    known[20:25] = False
    assert np.allclose(cubic_spline(x**3 - x, known), x**3 - x)


def test_clipped_samples_stay_above_the_clipping_level(speech):
    clipped = Clipping(0.2).observe(speech)
    repaired = Clipping(0.2).baseline(clipped)
    cut = Clipping(0.2).cut(clipped)
    assert bool((repaired.abs()[cut] >= clipped.abs()[cut]).all())
    assert torch.equal(repaired[~cut], clipped[~cut])
    assert bool((repaired[cut].sign() == clipped[cut].sign()).all())


def test_wiener_leaves_a_recording_without_noise_alone(speech):
    assert torch.allclose(wiener(speech, 0.0), speech, atol=1e-4)
    assert float(wiener(0.1 * torch.randn(1, RATE), 0.1).std()) < 0.03


def test_low_pass_is_an_orthogonal_projection(speech, noise):
    once = low_pass(speech, 1500, RATE)
    assert torch.allclose(low_pass(once, 1500, RATE), once, atol=1e-6)
    assert float((once * (noise - low_pass(noise, 1500, RATE))).sum()) == pytest.approx(0, abs=1e-3)


@pytest.fixture(scope="module")
def spectrogram():
    return MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"])


def test_a_mel_is_interpolated_over_the_blocks_that_are_missing(spectrogram):
    blocks = torch.arange(40.0).expand(1, 80, 40).clone()
    blocks[..., 10:16] = -99
    gap = Gaps(((10 * 256 / 22050, 16 * 256 / 22050),), 22050)
    mel_statistics = MelStatistics(torch.zeros(80), torch.ones(80))
    assert torch.allclose(gap.mel(blocks, spectrogram, mel_statistics), torch.arange(40.0).expand(1, 80, 40), atol=1e-4)
    at_start = Gaps(((0.0, 3 * 256 / 22050),), 22050)
    assert torch.allclose(at_start.mel(blocks, spectrogram, mel_statistics)[..., :3], torch.tensor(3.0))
    at_end = Gaps(((37 * 256 / 22050, 40 * 256 / 22050),), 22050)
    assert torch.allclose(at_end.mel(blocks, spectrogram, mel_statistics)[..., 37:], torch.tensor(36.0))
    short = Gaps(((0.1, 0.102),), 22050)
    assert torch.equal(short.mel(blocks, spectrogram, mel_statistics), blocks)


def test_a_mel_goes_on_above_the_network_as_typical_ones_do():
    spectrogram = MelSpectrogram(mel_convention("hifigan-22k").model_copy(update={"f_max": 11025.0, "name": "wide"}))
    mean, deviation = torch.linspace(0, -4, 80), torch.linspace(1, 2, 80)
    cut = torch.randn(1, 80, 20) - 5
    completed = LowPass(9000.0, 22050).mel(cut, spectrogram, MelStatistics(mean, deviation))
    n_whole = int(whole_bands(spectrogram, 9000.0).sum())
    assert torch.equal(completed[:, :n_whole], cut[:, :n_whole])
    standing = ((completed - mean[:, None]) / deviation[:, None])[:, n_whole:]
    edge = ((cut - mean[:, None]) / deviation[:, None])[:, n_whole - 4 : n_whole].mean(1, keepdim=True)
    torch.testing.assert_close(standing, edge.expand_as(standing))
    assert torch.equal(LowPass(11025.0, 22050).mel(cut, spectrogram, MelStatistics(mean, deviation)), cut)


def test_a_gap_outside_is_refused(speech):
    for span, message in (
        ((0.5, 1.2), r"gap 0.5-1.2 s: exceeds the recording \(1.000 s\)"),
        ((0.4, 0.4), "gap 0.4-0.4 s: the end must be after the start"),
        ((0.4, 0.3), "gap 0.4-0.3 s: the end must be after the start"),
        ((0.4, 0.4 + 1e-9), "is shorter than a sample"),
        ((-0.1, 0.2), "exceeds the recording"),
        ((0.0, 1.0), r"is all of the recording \(1.000 s\)"),
    ):
        with pytest.raises(AudioError, match=message):
            Gaps((span,), RATE).observe(speech)
    with pytest.raises(AudioError, match=r"the gaps are all of the recording \(1.000 s\)"):
        Gaps(((0.0, 0.6), (0.5, 1.0)), RATE).restored(speech)


@pytest.mark.parametrize("n_samples", [1, 100, 256, 257])
def test_noise_is_removed_from_short_audio(n_samples):
    audio = torch.full((2, n_samples), 0.5)
    assert wiener(audio, 1e-6).shape == audio.shape
    torch.testing.assert_close(wiener(audio, 1e-6), audio, atol=1e-3, rtol=0)


@pytest.mark.parametrize("known", [0, 1])
def test_a_spline_needs_two_samples(known):
    with pytest.raises(AudioError, match=f"{known} of 10 samples are below the level of clipping"):
        cubic_spline(np.ones(10), np.arange(10) < known)


@pytest.mark.parametrize("snr_db", [5, 10, 20, 30])
@pytest.mark.parametrize("colour", ["white", "red", "hum"])
def test_noise_is_estimated_from_pauses_whatever_its_colour(colour, snr_db, voice):
    speech = torch.from_numpy(voice(4.0, RATE, 1))[None]
    speech[:, 12000:13600] = speech[:, 20000:21600] = 0
    time = torch.arange(4 * RATE) / RATE
    noise = {
        "white": torch.randn(4 * RATE, generator=torch.Generator().manual_seed(1)),
        "red": torch.from_numpy(np.convolve(np.random.default_rng(0).standard_normal(4 * RATE), 0.9 ** np.arange(50)))[
            : 4 * RATE
        ].float(),
        "hum": sum(torch.sin(2 * torch.pi * 50 * k * time + k) / k for k in range(1, 9)),
    }[colour]
    scale = (speech.square().mean() / noise.square().mean()).sqrt() * 10 ** (-snr_db / 20)
    noisy = speech + scale * noise
    found = Noise.estimated(noisy)
    assert found.snr_db == pytest.approx(snr_db, abs=1.5)
    error = found.baseline(noisy) - speech
    assert error.square().sum() < 0.75 * (scale * noise).square().sum()
    if colour != "white":
        assert error.square().sum() < (Noise(float(snr_db)).baseline(noisy) - speech).square().sum()


def test_noise_is_found_between_digital_silence_and_not_in_it():
    noise = 0.1 * torch.randn(2, 2 * RATE, generator=torch.Generator().manual_seed(0))
    noise[1] *= 2
    noise[:, 4000:12000] = 0
    assert torch.allclose(estimate_noise(noise).square().mean(1).sqrt(), torch.tensor([0.1, 0.2]), rtol=0.15)
    assert not estimate_noise(torch.zeros(1, RATE)).any()
    assert not estimate_noise(noise[:, :500]).any()
    noise[0] = 0
    assert torch.allclose(estimate_noise(noise).square().mean(1).sqrt(), torch.tensor([0.0, 0.2]), rtol=0.15)
