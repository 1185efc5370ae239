"""Any sample rate from 8 to 48 kHz can be configured without arithmetic: what does not fit names what would."""

import warnings

import pytest
import torch
from librosa import hz_to_mel

from audiodiff.audio.mel import MelSpectrogram, align_to_hops
from audiodiff.audio.whitening import Whitening
from audiodiff.config import MEL_CONVENTIONS, ModelConfig, mel_convention, parse_config
from audiodiff.errors import ConfigError
from audiodiff.networks import build_network

RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)


def model(**values):
    return parse_config(ModelConfig, values, "test")


def mels_per_bin(config):
    low, high = hz_to_mel([config.f_min, config.f_max], htk=config.scale == "htk")
    return (high - low) / config.n_mels


@pytest.mark.parametrize("name", [name for name, mel in MEL_CONVENTIONS.items() if not mel.only_given])
def test_a_convention_can_be_carried_to_every_rate(name):
    base = MEL_CONVENTIONS[name]
    for rate in RATES:
        config = mel_convention(f"{name}@{rate}")
        assert config.sample_rate == rate
        for kept in ("scale", "norm", "log", "floor", "centre"):
            assert getattr(config, kept) == getattr(base, kept)
        assert config.n_fft == base.n_fft * config.hop_length // base.hop_length
        seconds = config.hop_length / rate
        assert abs(seconds - base.hop_length / base.sample_rate) <= 8 / rate + 1e-9  # of rounding
        assert config.f_max == min(base.f_max if base.f_max < base.sample_rate / 2 else rate / 2, rate / 2)
        density, base_density = (mels_per_bin(c) for c in (config, base))
        assert density == pytest.approx(base_density, rel=0.01)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as empty filters do
            assert MelSpectrogram(config).filterbank.sum(1).min() > 0


def test_its_own_rate_is_the_convention_itself():
    assert mel_convention("hifigan-22k@22050") == mel_convention("hifigan-22k") == MEL_CONVENTIONS["hifigan-22k"]


@pytest.mark.parametrize("name", ["hifigan", "hifigan-22k@", "hifigan-22k@fast", "hifigan-22k@96000", "x@16000"])
def test_an_unknown_convention_is_refused(name):
    with pytest.raises(ConfigError, match="mel: "):
        model(sample_rate=16000, mel=name)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("kind", ["stft", "diffwave"])
def test_a_derived_convention_makes_a_working_model(rate, kind):
    mel = mel_convention(f"vocos-24k@{rate}")
    network = {"kind": kind, "channels": 8, "layers": 1, "patch": 16, "n_fft": mel.n_fft, "hop_length": mel.hop_length}
    config = model(sample_rate=rate, mel=mel.name, network=network, whitening={"kind": "spectral"})
    audio = 0.1 * torch.randn(1, 1, 8 * mel.hop_length)
    values = align_to_hops(MelSpectrogram(mel)(audio[:, 0]), mel)
    whitening = Whitening(config.whitening, mel)
    torch.testing.assert_close(whitening.colour(whitening.whiten(audio, values), values), audio, atol=1e-4, rtol=1e-3)
    network = build_network(config)
    assert network(audio, torch.zeros(1), network.encode(values)).shape == audio.shape


def test_a_rate_that_is_not_the_mels_names_both_ways_out():
    with pytest.raises(ConfigError, match=r"write mel: hifigan-22k@16000, or sample_rate: 22050"):
        model(sample_rate=16000, mel="hifigan-22k")


def test_a_patch_that_does_not_divide_the_hop_names_those_that_do():
    with pytest.raises(
        ConfigError, match=r"patch 5 must divide the hop length 192; these do: 1, 2, 3, 4, 6, 8, 12, 16"
    ):
        model(sample_rate=16000, mel="hifigan-22k@16000", network={"patch": 5})


@pytest.mark.parametrize(("n_fft", "hop"), [(1000, 256), (256, 256), (375, 75 * 2)])
def test_a_window_that_does_not_fit_the_hop_names_those_that_do(n_fft, hop):
    with pytest.raises(ConfigError, match=f"these do: {2 * hop}, {3 * hop}"):
        model(sample_rate=16000, network={"kind": "stft", "n_fft": n_fft, "hop_length": hop})


def test_the_named_windows_do():
    for n_fft in (150 * 2, 150 * 3, 150 * 8):
        model(sample_rate=16000, network={"kind": "stft", "n_fft": n_fft, "hop_length": 150})
    model(sample_rate=16000, network={"kind": "stft", "n_fft": 75 * 3, "hop_length": 75})
    with pytest.raises(ConfigError, match="these do: 225, 375"):
        model(sample_rate=16000, network={"kind": "stft", "n_fft": 150, "hop_length": 75})


def test_the_named_window_or_hop_mends_an_odd_difference():
    odd = {
        "sample_rate": 16000,
        "n_fft": 801,
        "hop_length": 200,
        "win_length": 800,
        "n_mels": 40,
        "f_min": 0,
        "f_max": 8e3,
    }
    with pytest.raises(ConfigError, match="n_fft 802 or hop_length 199 would do"):
        model(sample_rate=16000, mel=odd)
    for mended in ({"n_fft": 802}, {"hop_length": 199}):
        model(sample_rate=16000, mel=odd | mended)
