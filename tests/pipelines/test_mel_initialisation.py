"""Estimates that the reverse process starts from: transients keep the silence before them, however a signal is cut."""

import math

import pytest
import torch

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.whitening import Whitening
from audiodiff.config import MEL_CONVENTIONS, SynthesisConfig, WhiteningConfig
from audiodiff.pipelines.mel_initialisation import MelInitialisation

ONSET, N_SAMPLES, HOP = 8000, 64 * 256, 256
STARTS = {
    "griffin-lim": SynthesisConfig(start="griffin-lim", start_log_snr=2.0, griffin_lim_iterations=8),
    "phase-gradient": SynthesisConfig(start="phase-gradient", start_log_snr=2.0, griffin_lim_iterations=1),
}


@pytest.fixture(scope="module", params=["none", "spectral"])
def initialisation(request):
    config = MEL_CONVENTIONS["hifigan-22k"]
    return MelInitialisation(MelSpectrogram(config), Whitening(WhiteningConfig(kind=request.param), config))


def sound(kind, onset=ONSET):
    """Return a click, or a snare: a tone of 190 Hz and noise, both decaying; silence before it."""
    audio = torch.zeros(1, N_SAMPLES)
    time = torch.arange(N_SAMPLES - onset) / 22050
    if kind == "click":
        audio[:, onset] = 0.8
    else:
        noise = 0.2 * torch.randn(len(time), generator=torch.Generator().manual_seed(0))
        audio[:, onset:] = (0.3 * (2 * math.pi * 190 * time).sin() + noise) * (-25 * time).exp()
    return audio


def estimate(initialisation, mel, start):
    whitened = initialisation.estimate(mel, [3], STARTS[start])
    return initialisation.whitening.colour(whitened, mel)[0, 0]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ["click", "snare"])
@pytest.mark.parametrize("late", [0, 64, 128, 192])
def test_what_is_earlier_than_a_frame_can_tell_apart_from_the_onset_is_silent(initialisation, start, kind, late):
    audio = sound(kind, ONSET + late)
    made = estimate(initialisation, initialisation.spectrogram(audio), start)
    before = made[: ONSET + late - 3 * HOP // 2]
    assert before.square().sum() < 1e-5 * audio.square().sum()


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("n_frames", [1, 2, 7, 30])
def test_estimates_join_to_the_estimate_of_the_whole(initialisation, start, n_frames):
    mel = initialisation.spectrogram(sound("snare"))
    settings = STARTS[start]
    whole, reach = initialisation.estimate(mel, [3], settings), initialisation.reach(settings)
    estimates, parts = initialisation.estimates([3], settings), []
    for first in range(0, mel.shape[2], n_frames):
        low, high = max(0, first - reach), min(mel.shape[2], first + n_frames + reach)
        part = estimates.next(mel[..., low:high], low, last=high == mel.shape[2])
        parts.append(part[..., (first - low) * HOP : (first - low + n_frames) * HOP])
    assert (torch.cat(parts, 2) - whole).norm() < 1e-5 * whole.norm()
