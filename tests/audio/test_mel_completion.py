"""Mels that end at a cutoff go on above it as speech does: nearer to the recording than silence or an even spectrum."""

from __future__ import annotations

import pytest
import torch

from audiodiff import load_audio
from audiodiff.audio.degradation import LowPass, MelStatistics
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_completion import CONVENTION, complete_mel, whole_bands
from audiodiff.audio.resample import low_pass
from audiodiff.config import MelConfig, mel_convention
from audiodiff.errors import AudioError

CLIP = "audiodiff/assets/clips/sense-and-sensibility-0870.flac"


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    return load_audio(CLIP, sample_rate=22050)[:1, : 3 * 22050 // 256 * 256]


def mels(speech: torch.Tensor, cutoff: float, config: MelConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the mel of a recording, that without what is above a cutoff, and which bands are whole."""
    spectrogram = MelSpectrogram(config)
    return spectrogram(speech), spectrogram(low_pass(speech, cutoff, 22050)), whole_bands(spectrogram, cutoff)


@pytest.mark.parametrize("cutoff", [1500.0, 2000.0, 4000.0])
def test_missing_bands_are_predicted(cutoff, speech):
    whole, cut, known = mels(speech, cutoff, mel_convention(CONVENTION))
    completed = complete_mel(cut, cutoff, mel_convention(CONVENTION))
    torch.testing.assert_close(completed[:, known], cut[:, known], rtol=0, atol=1e-4)
    true, made = whole[:, ~known], completed[:, ~known]
    level = (made.exp().square().mean() / true.exp().square().mean()).log10() * 10
    assert -12 < level < 4  # dB
    varying = [(one - one.mean(2, keepdim=True)).flatten() for one in (true, made)]
    assert torch.corrcoef(torch.stack(varying))[0, 1] > 0.5  # in time: it hears where there are consonants


def test_the_level_of_a_recording_is_that_of_what_is_predicted(speech):
    _, cut, known = mels(speech, 4000.0, mel_convention(CONVENTION))
    louder = complete_mel(cut + 1.5, 4000.0, mel_convention(CONVENTION))
    torch.testing.assert_close(
        louder[:, ~known], complete_mel(cut, 4000.0, mel_convention(CONVENTION))[:, ~known] + 1.5, rtol=0, atol=1e-4
    )


def test_other_conventions_are_completed_through_the_network_s(speech):
    own, other = mel_convention(CONVENTION), mel_convention("tacotron2")
    errors = []
    for config in (own, other.model_copy(update={"log": "log10"})):
        whole, cut, known = mels(speech, 4000.0, config)
        completed = complete_mel(cut, 4000.0, config)
        assert completed.shape == cut.shape
        scale = 2.302585 if config.log == "log10" else 1
        errors.append(scale * (completed - whole)[:, ~known].abs().mean())
    assert errors[1] < 1.2 * errors[0]


def test_a_cutoff_below_all_bands_is_refused(speech):
    spectrogram = MelSpectrogram(mel_convention(CONVENTION))
    statistics = MelStatistics(torch.zeros(80), torch.ones(80))
    with pytest.raises(AudioError, match=r"there are . whole mel bands, at least 4 are needed"):
        LowPass(100.0, 22050).mel(spectrogram(speech), spectrogram, statistics)
