"""Griffin-Lim finds a waveform whose magnitudes come ever closer to the true ones."""

from pathlib import Path

import pytest
import soundfile
import torch
from torch.testing import assert_close

import audiodiff
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_inversion import griffin_lim, limit_energy, magnitude_from_mel
from audiodiff.audio.transforms import FramedSTFT
from audiodiff.config import MEL_CONVENTIONS

CLIP = Path(audiodiff.__file__).parent / "assets" / "clips" / "sense-and-sensibility.flac"


@pytest.fixture(scope="module")
def stft():
    return FramedSTFT(1024, 256)


@pytest.fixture(scope="module")
def speech():
    """Return a second of real speech, `(1, 86 * 256)`."""
    audio, sample_rate = soundfile.read(CLIP, dtype="float32")
    return torch.from_numpy(audio[sample_rate : sample_rate + 86 * 256]).unsqueeze(0)


@pytest.fixture(scope="module")
def noise(speech):
    return 0.1 * torch.randn(speech.shape, generator=torch.Generator().manual_seed(0))


def spectral_convergence(estimate, truth, stft):
    magnitude = stft(truth).abs()
    return float((stft(estimate).abs() - magnitude).norm() / magnitude.norm())


def test_the_estimate_improves_with_iterations(stft, speech, noise):
    magnitude = stft(speech).abs()
    errors = [
        spectral_convergence(griffin_lim(magnitude, noise, stft, iterations=n), speech, stft) for n in (0, 4, 16, 48)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]
    assert errors[-1] < 0.2


def test_without_momentum_no_iteration_makes_it_worse(stft, speech, noise):
    # Griffin and Lim 1984 prove it for the distance to the signal's own spectrum
    magnitude = stft(speech).abs()
    errors = [
        spectral_convergence(griffin_lim(magnitude, noise, stft, iterations=n, momentum=0.0), speech, stft)
        for n in range(8)
    ]
    assert errors == sorted(errors, reverse=True)


def test_momentum_beats_none_at_equal_iterations(stft, speech, noise):
    magnitude = stft(speech).abs()
    fast, plain = (
        spectral_convergence(griffin_lim(magnitude, noise, stft, iterations=32, momentum=m), speech, stft)
        for m in (0.99, 0.0)
    )
    assert fast < 0.9 * plain


def test_a_start_from_the_true_phases_stays_there(stft, speech):
    estimate = griffin_lim(stft(speech).abs(), speech, stft, iterations=8)
    assert (estimate - speech).norm() < 1e-4 * speech.norm()


def test_silence_gives_silence(stft, noise):
    silence = torch.zeros_like(stft(noise).abs())
    assert torch.equal(griffin_lim(silence, noise, stft), torch.zeros_like(noise))


def test_silent_frames_and_a_silent_start_give_no_nan(stft, speech, noise):
    magnitude = stft(speech).abs()
    magnitude[:, 20:40] = 0.0
    assert griffin_lim(magnitude, noise, stft).isfinite().all()
    assert griffin_lim(magnitude, torch.zeros_like(noise), stft).isfinite().all()


def test_each_clip_of_a_batch_is_estimated_alone(stft, speech, noise):
    magnitude = torch.cat([stft(speech).abs(), 2 * stft(speech.flip(1)).abs()])
    together = griffin_lim(magnitude, noise.expand(2, -1), stft, iterations=4)
    alone = griffin_lim(magnitude[1:], noise, stft, iterations=4)
    assert (together[1:] - alone).norm() < 1e-4 * alone.norm()


@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, 256), (512, 256), (2048, 256), (1200, 300), (825, 275)])
def test_only_what_no_signal_of_these_magnitudes_can_have_is_lowered(speech, n_fft, hop_length):
    stft = FramedSTFT(n_fft, hop_length)
    truth = speech[:, : speech.shape[1] // hop_length * hop_length].clone()
    truth[:, : 20 * hop_length] = 0
    truth[:, 40 * hop_length :] = 0
    truth[:, 60 * hop_length :: 6 * hop_length + 1] = 0.5  # clicks, wherever a frame begins or ends
    early = torch.zeros_like(truth)
    early[:, 10 * hop_length : 10 * hop_length + n_fft] = 0.1
    magnitude = stft(truth).abs()
    assert_close(limit_energy(truth, magnitude, stft), truth, rtol=1e-3, atol=0)
    assert (limit_energy(truth + early, magnitude, stft) - truth).norm() < 0.01 * truth.norm()


def test_nothing_is_lowered_to_nan(stft, speech):
    silence = torch.zeros_like(stft(speech).abs())
    assert torch.equal(limit_energy(speech, silence, stft), torch.zeros_like(speech))
    assert torch.equal(limit_energy(torch.zeros_like(speech), silence, stft), torch.zeros_like(speech))


@pytest.mark.parametrize("n_frames", [1, 3, 16, 41])
def test_estimated_magnitudes_are_the_same_bits_however_a_mel_is_cut(n_frames):
    spectrogram = MelSpectrogram(MEL_CONVENTIONS["hifigan-22k"])
    mel = spectrogram(0.1 * torch.randn(1, 22050, generator=torch.Generator().manual_seed(0)))
    whole = magnitude_from_mel(mel, spectrogram)
    pieces = [magnitude_from_mel(piece, spectrogram) for piece in mel.split(n_frames, -1)]
    assert torch.equal(torch.cat(pieces, 1), whole)
