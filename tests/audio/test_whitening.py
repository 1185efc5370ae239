"""Whitening can be undone exactly, whitens what the mel knows, and as `energy` is the prior of PriorGrad."""

import math
from functools import lru_cache

import pytest
import torch
from torch.testing import assert_close

from audiodiff.audio.mel import MelSpectrogram, align_to_hops
from audiodiff.audio.transforms import MDCT
from audiodiff.audio.whitening import Whitening
from audiodiff.config import MEL_CONVENTIONS, MelConfig, WhiteningConfig
from audiodiff.diffusion.process import alpha_sigma, diffuse
from audiodiff.errors import ConfigError

KINDS = ("none", "energy", "spectral")
HOP_CENTRED = [name for name, mel in MEL_CONVENTIONS.items() if mel.centre == "hop" and not mel.only_given]
ROUNDING = 1e-5  # the buffers are float32
# How far from unit variance whitened noise may be. A mel of magnitudes reads Gaussian noise 1.05 dB low, because the
# mean of |X| is sqrt(pi) / 2 of its root mean square; the gain measured on training data takes that up.
UNIT_DB = 1.5


@lru_cache
def whitening(kind, exponent=1.0, gain=(1.0,), convention="hifigan-22k"):
    config = WhiteningConfig(kind=kind, exponent=exponent, gain=gain)
    return Whitening(config, MEL_CONVENTIONS[convention]).double()


@lru_cache
def spectrogram(convention="hifigan-22k"):
    return MelSpectrogram(MEL_CONVENTIONS[convention]).double()


def mel_of(audio, convention="hifigan-22k"):
    return align_to_hops(spectrogram(convention)(audio[:, 0]), MEL_CONVENTIONS[convention])


def noise(n_hops, batch=1, convention="hifigan-22k", seed=0):
    n_samples = n_hops * MEL_CONVENTIONS[convention].hop_length
    return torch.randn(batch, 1, n_samples, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def pink(audio):
    """Filter a signal to fall by 30 dB, fastest at low frequencies."""
    spectrum = torch.fft.rfft(audio)
    decibels = -30 * torch.linspace(0, 1, spectrum.shape[-1], dtype=torch.float64) ** 0.7
    return torch.fft.irfft(spectrum * 10 ** (decibels / 20))


def speech_like(n_hops, convention="hifigan-22k", batch=1):
    """Make pink noise whose level moves over 60 dB, with a silent stretch."""
    audio = pink(noise(n_hops, batch, convention))
    level = 10 ** (-1.5 + 1.5 * torch.sin(torch.linspace(0, 9, audio.shape[-1], dtype=torch.float64)))
    audio = 0.1 * level * audio
    audio[..., audio.shape[-1] // 2 :][..., :2000] = 0.0
    return audio


def band_decibels(audio, n_bands=16):
    power = MDCT(256).double()(audio[0, 0]).square().mean(0)
    return 10 * torch.log10(power.view(n_bands, -1).mean(1))


@pytest.mark.parametrize("convention", HOP_CENTRED)
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_colour_undoes_whiten_and_whiten_undoes_colour(kind, exponent, convention):
    pair = whitening(kind, exponent, convention=convention)
    audio = speech_like(20, convention, batch=2)
    mel = mel_of(audio, convention)
    white = pair.whiten(audio, mel)
    assert white.shape == audio.shape
    # white is up to 1e4 times larger than the quietest audio, so rounding is measured against the loudest
    assert_close(pair.colour(white, mel), audio, rtol=0, atol=ROUNDING * audio.abs().max().item())
    signal = noise(20, 2, convention, seed=1)
    assert_close(pair.whiten(pair.colour(signal, mel), mel), signal, rtol=0, atol=10 * ROUNDING)


@pytest.mark.parametrize("exponent", [0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_multiplies_what_is_whitened_and_is_undone_too(kind, exponent):
    audio = speech_like(20)
    mel = mel_of(audio)
    plain, scaled = whitening(kind, exponent), whitening(kind, exponent, gain=(2.5,))
    assert_close(scaled.whiten(audio, mel), 2.5 * plain.whiten(audio, mel))
    assert_close(scaled.colour(audio, mel), plain.colour(audio, mel) / 2.5)


def test_a_gain_per_band_multiplies_the_coefficients_of_its_band():
    gain = tuple(1.0 + i / 64 for i in range(256))
    audio = speech_like(20)
    mel = mel_of(audio)
    plain, scaled = (whitening("spectral", 1.0, g) for g in ((1.0,), gain))
    lapped = plain.transform
    expected = lapped(plain.whiten(audio, mel)) * torch.tensor(gain)
    assert_close(lapped(scaled.whiten(audio, mel)), expected, rtol=1e-5, atol=1e-5)
    assert_close(scaled.colour(scaled.whiten(audio, mel), mel), audio, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("kind", "n_gains"), [("none", 2), ("none", 256), ("energy", 256), ("spectral", 2)])
def test_a_wrong_number_of_gains_is_refused(kind, n_gains):
    config = WhiteningConfig(kind=kind, gain=(1.0,) * n_gains)
    with pytest.raises(ConfigError, match=f"brings {n_gains}"):
        Whitening(config, MEL_CONVENTIONS["hifigan-22k"])


@pytest.mark.parametrize("kind", ["energy", "spectral"])
def test_whitening_by_a_mel_without_a_mel_is_refused(kind):
    with pytest.raises(ConfigError, match="needs a mel"):
        whitening(kind).whiten(noise(4), None)


def test_kind_none_needs_no_mel_and_applies_the_gain_only():
    pair = Whitening(WhiteningConfig(kind="none", gain=(4.0,)), None)
    audio = noise(4)
    assert torch.equal(pair.whiten(audio, None), 4 * audio)
    assert torch.equal(pair.colour(audio, None), audio / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_exponent_zero_leaves_audio_alone(kind):
    audio = speech_like(20)
    assert_close(whitening(kind, 0.0).whiten(audio, mel_of(audio)), audio, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("kind", ["energy", "spectral"])
def test_whitening_twice_by_half_is_whitening_once(kind):
    audio = speech_like(20)
    mel, half = mel_of(audio), whitening(kind, 0.5)
    once = whitening(kind, 1.0).whiten(audio, mel)
    assert_close(half.whiten(half.whiten(audio, mel), mel), once, rtol=1e-4, atol=1e-4)


def test_every_kind_and_exponent_does_something_else():
    audio = pink(noise(20))
    mel = mel_of(audio)
    results = [whitening(kind, exponent).whiten(audio, mel) for kind in KINDS[1:] for exponent in (0.5, 1.0)]
    results.append(whitening("none").whiten(audio, mel))
    for i, first in enumerate(results):
        assert all((first - second).norm() > 0.1 * first.norm() for second in results[:i])


@pytest.mark.parametrize("convention", [name for name, mel in MEL_CONVENTIONS.items() if not mel.only_given])
@pytest.mark.parametrize("kind", ["energy", "spectral"])
def test_the_level_of_white_noise_is_divided_out_in_every_convention(kind, convention):
    audio = 0.03 * noise(100, convention=convention)
    white = whitening(kind, convention=convention).whiten(audio, mel_of(audio, convention))
    assert abs(10 * math.log10(white.var())) < UNIT_DB


def test_the_level_of_white_noise_is_divided_out_of_a_mel_of_powers_exactly():
    powers = MEL_CONVENTIONS["hifigan-22k"].model_copy(update={"power": 2, "norm": "none", "win_length": 800})
    audio = 0.03 * noise(100)
    white = (
        Whitening(WhiteningConfig(kind="energy"), powers)
        .double()
        .whiten(audio, MelSpectrogram(powers).double()(audio[:, 0]))
    )
    assert abs(10 * math.log10(white.var())) < 0.3


def test_spectral_whitening_flattens_noise_of_a_known_smooth_filter_to_unit_variance():
    audio = pink(noise(200, convention="bigvgan-24k"))  # its mel covers all frequencies
    before = band_decibels(audio)
    white = whitening("spectral", convention="bigvgan-24k").whiten(audio, mel_of(audio, "bigvgan-24k"))
    after = band_decibels(white)
    assert before.max() - before.min() > 20
    assert (after - after.mean()).abs().max() < 1
    assert abs(10 * math.log10(white.var())) < UNIT_DB


def test_half_the_exponent_leaves_half_of_the_spectral_tilt():
    audio = pink(noise(200, convention="bigvgan-24k"))
    half = whitening("spectral", 0.5, convention="bigvgan-24k").whiten(audio, mel_of(audio, "bigvgan-24k"))
    before, after = band_decibels(audio), band_decibels(half)
    assert_close(after - after.mean(), (before - before.mean()) / 2, rtol=0, atol=0.7)


@pytest.mark.parametrize("kind", ["energy", "spectral"])
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_a_step_in_level_is_taken_out_frame_by_frame(kind, exponent):
    quiet, loud = 0.01 * noise(60), 0.32 * noise(60, seed=1)  # 30 dB apart
    audio = torch.cat([quiet, loud], dim=2)
    hops = whitening(kind, exponent).whiten(audio, mel_of(audio)).unflatten(2, (-1, 256))
    before, after = (10 * torch.log10(hops[0, 0, i : i + 54].var()) for i in (3, 63))
    assert (after - before).item() == pytest.approx(30.1 * (1 - exponent), abs=0.5)
    if exponent == 1.0:
        variance = hops[0, 0].var(1)
        inner = torch.cat([variance[3:57], variance[63:-3]])
        assert ((inner > 0.7) & (inner < 2.0)).all()  # a variance of 256 samples has a standard error of 9 %


def test_energy_whitening_keeps_the_shape_of_the_spectrum():
    audio = pink(noise(200))
    before, after = band_decibels(audio), band_decibels(whitening("energy").whiten(audio, mel_of(audio)))
    assert_close(after - after.mean(), before - before.mean(), rtol=0, atol=0.7)


def test_the_envelope_is_the_standard_deviation_of_the_lapped_coefficients():
    audio = pink(noise(400, convention="bigvgan-24k"))
    pair = whitening("spectral", convention="bigvgan-24k")
    measured = pair.transform(audio[:, 0])[0].square().mean(0).sqrt()
    estimated = pair.envelope(mel_of(audio, "bigvgan-24k"))[0].square().mean(0).sqrt()
    decibels = 20 * torch.log10(estimated / measured).view(32, -1).mean(1)
    assert decibels.abs().max() < UNIT_DB


def test_louder_audio_has_a_proportionally_larger_envelope():
    audio, pair = 0.02 * noise(20), whitening("spectral")
    ratio = pair.envelope(mel_of(10 * audio)) / pair.envelope(mel_of(audio))
    assert_close(ratio, torch.full_like(ratio, 10.0), rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_silence_stays_silent_and_does_not_blow_up_what_is_near_it(kind):
    silence = torch.zeros(1, 1, 256 * 10, dtype=torch.float64)
    pair = whitening(kind)
    assert torch.equal(pair.whiten(silence, mel_of(silence)), silence)
    # -100 dB under a mel that says silence: the envelope stops at -80 dB
    faint = 1e-5 * noise(10)
    assert pair.whiten(faint, mel_of(silence)).std() < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_each_clip_is_whitened_by_its_own_mel(kind):
    audio = torch.cat([0.1 * noise(20), pink(noise(20, seed=1))])
    pair = whitening(kind)
    together = pair.whiten(audio, mel_of(audio))
    alone = torch.cat([pair.whiten(clip, mel_of(clip)) for clip in audio.split(1)])
    assert_close(together, alone)


def test_energy_whitening_with_noise_mse_is_the_weighted_loss_of_priorgrad():
    # Lee et al. 2022: diffuse with noise from N(0, S), S diagonal, and weight the squared error of noise by S^-1.
    audio = speech_like(20, batch=2)
    mel, pair = mel_of(audio), whitening("energy", gain=(1.7,))
    deviation = pair.envelope(mel).square().mean(-1).sqrt().repeat_interleave(256, 1).unsqueeze(1) / 1.7
    unit, guess = noise(20, 2, seed=2), noise(20, 2, seed=3)  # a predictor's guess, whatever it is
    log_snr = torch.tensor([-2.0, 3.0], dtype=torch.float64)

    whitened_loss = (unit - guess).square().mean((1, 2))
    noise_in_audio, guess_in_audio = deviation * unit, deviation * guess
    priorgrad_loss = ((noise_in_audio - guess_in_audio) ** 2 / deviation**2).mean((1, 2))
    assert_close(priorgrad_loss, whitened_loss)

    # and both predictors look at the same noisy signal, once as it is and once divided by the prior
    alpha, sigma = (scale.view(-1, 1, 1) for scale in alpha_sigma(log_snr))
    noisy_in_audio = alpha * audio + sigma * noise_in_audio
    noisy_whitened = diffuse(pair.whiten(audio, mel), unit, log_snr)
    assert_close(pair.colour(noisy_whitened, mel), noisy_in_audio, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["none", "energy", "spectral"])
def test_exponent_zero_still_round_trips_with_a_gain(kind):
    whitening = Whitening(WhiteningConfig(kind=kind, exponent=0.0, gain=(2.0,)), MEL_CONVENTIONS["hifigan-22k"])
    mel = torch.full((1, 80, 6), -4.0)
    audio = torch.randn(1, 1, 6 * 256, generator=torch.Generator().manual_seed(0))
    white = whitening.whiten(audio, mel)
    torch.testing.assert_close(white, 2 * audio, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whitening.colour(white, mel), audio, rtol=1e-4, atol=1e-5)


def test_a_mel_with_filters_that_hold_no_bin_is_refused_by_name():
    mel = MelConfig(sample_rate=22050, n_fft=512, hop_length=128, win_length=512, n_mels=128, f_min=0, f_max=11025)
    with pytest.raises(ConfigError, match="n_mels 128 is too many for n_fft 512"):
        Whitening(WhiteningConfig(kind="spectral"), mel)


@pytest.mark.parametrize("kind", ["none", "energy", "spectral"])
def test_shrinking_keeps_what_is_loud_and_drops_what_noise_hides(kind):
    mel_config = MEL_CONVENTIONS["hifigan-22k"]
    audio = 0.1 * torch.randn(1, 1, 256 * 20, generator=torch.Generator().manual_seed(0))
    mel = MelSpectrogram(mel_config)(audio[:, 0])
    whitening = Whitening(WhiteningConfig(kind=kind, exponent=1.0), mel_config)
    assert torch.allclose(whitening.shrink(audio, mel, signal_deviation=1.0, noise_deviation=0.0), audio, atol=1e-4)
    assert float(whitening.shrink(audio, mel, signal_deviation=1.0, noise_deviation=100.0).abs().max()) < 1e-3
    half = whitening.shrink(audio, mel, signal_deviation=1.0, noise_deviation=1.0 if kind == "none" else 0.1)
    assert torch.allclose(half.norm() / audio.norm(), torch.tensor(0.5), atol=0.1)
    assert (
        half.norm()
        > whitening.shrink(audio, mel, signal_deviation=0.5, noise_deviation=1.0 if kind == "none" else 0.1).norm()
    )
