"""Signals are brought to the mel that they are to have: by gains of bands and frames, which leave phases alone."""

from __future__ import annotations

import pytest
import torch

from audiodiff.audio.mel import MelSpectrogram, align_to_hops
from audiodiff.audio.mel_consistency import MAX_LOG_GAIN, MelConsistency
from audiodiff.audio.whitening import Whitening
from audiodiff.config import MEL_CONVENTIONS, MelConfig, WhiteningConfig
from audiodiff.errors import ConfigError

RATE, HOP = 8000, 64


def make(**changes) -> MelConsistency:
    values = {"sample_rate": RATE, "n_fft": 256, "hop_length": HOP, "win_length": 256, "n_mels": 20}
    config = MelConfig(**values | {"f_min": 0, "f_max": 4000} | changes)
    return MelConsistency(MelSpectrogram(config), Whitening(WhiteningConfig(kind="spectral", exponent=0.5), config))


@pytest.fixture
def audio(voice) -> torch.Tensor:
    return torch.from_numpy(voice(1.0, RATE))[None, : RATE // HOP * HOP]


@pytest.mark.parametrize(
    "changes",
    [{}, {"centre": "frame"}, {"power": 2}, {"win_length": 200}, {"log": "log10"}, {"padding": "constant"}],
    ids=str,
)
def test_a_signal_of_its_mel_stays(changes, audio):
    consistency = make(**changes)
    mel = consistency.mel(audio)
    assert mel.shape[-1] * HOP == audio.shape[1]
    assert (consistency(audio[:, None], mel) - audio[:, None]).abs().max() < 1e-5


@pytest.mark.parametrize("changes", [{}, {"centre": "frame"}, {"power": 2}, {"win_length": 200}], ids=str)
def test_the_mel_of_what_was_filtered_and_faded_is_restored(changes, audio):
    consistency = make(**changes)
    mel = consistency.mel(audio)
    spectrum = torch.fft.rfft(audio) * torch.linspace(1.5, 0.4, audio.shape[1] // 2 + 1)
    faded = torch.fft.irfft(spectrum, n=audio.shape[1]) * torch.linspace(0.5, 1.5, audio.shape[1])
    loud = mel > mel.max() - 5
    before, after = (
        (consistency.mel(one) - mel)[loud].abs().mean() for one in (faded, consistency(faded[:, None], mel)[:, 0])
    )
    assert after < before / 8
    whitened = consistency.whitening.whiten(faded[:, None], mel)
    coloured = consistency.whitening.colour(consistency.whitened(whitened, mel), mel)
    assert (coloured - consistency(faded[:, None], mel)).abs().max() < 1e-4


def test_gains_are_bounded_and_go_on_above_the_highest_band(audio):
    consistency = make(f_max=2000)
    quiet, mel = audio * 1e-3, consistency.mel(audio)
    gain = consistency.gain(mel, consistency.mel(quiet))
    assert gain.max() == pytest.approx(torch.tensor(MAX_LOG_GAIN).exp())
    assert torch.equal(gain[..., -1], gain[..., 70])
    assert consistency(quiet[:, None], mel).abs().max() < 1e-3 * 7.5


@pytest.mark.parametrize("n_frames", [1, 2, 3])
def test_what_is_too_short_for_a_mel_stays(n_frames, audio):
    short = audio[:, None, : n_frames * HOP]
    assert torch.equal(make()(short, torch.zeros(1, 20, n_frames)), short)


@pytest.mark.parametrize("beyond", [0, HOP // 2, HOP])
def test_a_sample_depends_on_what_the_look_ahead_says(beyond, audio):
    consistency = make()
    mel, middle = consistency.mel(audio), 60
    changed = audio.clone()
    changed[:, middle * HOP : (middle + 1) * HOP] *= 0.3
    moved = (consistency(changed[:, None], mel) - consistency(audio[:, None], mel))[0, 0].abs()
    ends = torch.arange(1, len(mel[0, 0]) - 1) * HOP
    depends = moved[ends + beyond - 1] > 1e-7
    look_ahead = consistency.look_ahead(beyond)
    assert not depends[ends + look_ahead <= middle * HOP].any()
    assert depends[ends + look_ahead <= (middle + 2) * HOP].any()  # so it is not too long


def test_the_gradient_is_finite_in_silence():
    consistency = make()
    silence = torch.zeros(1, 1, 10 * HOP, requires_grad=True)
    consistency(silence, torch.full((1, 20, 10), -5.0)).square().sum().backward()
    assert silence.grad is not None
    assert silence.grad.isfinite().all()


def test_hops_that_do_not_divide_the_window_are_refused():
    consistency = make(n_fft=250, win_length=250, hop_length=60)
    with pytest.raises(ConfigError, match="n_fft must be a multiple of hop_length"):
        consistency(torch.zeros(1, 1, 600), torch.zeros(1, 20, 10))


def test_the_bundled_convention_aligns(voice):
    consistency = MelConsistency(
        spectrogram := MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"]),
        Whitening(WhiteningConfig(kind="none"), spectrogram.config),
    )
    audio = torch.from_numpy(voice(0.5, 22050))[None, : 40 * 256]
    assert torch.equal(consistency.mel(audio), align_to_hops(spectrogram(audio), spectrogram.config))
    assert consistency.look_ahead(0) == 3.5 * 256
