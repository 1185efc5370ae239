"""Every published convention gives what the toolkit's own code gives.

`toolkit_mels.json` holds what that code made of `voice_like` at the convention's rate: every 6th bin and 4th frame,
with the toolkit's version and the call. librosa and torchaudio are run here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch

from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.resample import import_torchaudio
from audiodiff.config import MEL_CONVENTIONS
from audiodiff.config.mel_conventions import PUBLISHED_CONVENTIONS

sys.path.append(str(Path(__file__).parents[1]))
from mel_signals import voice_like

STORED = json.loads(Path(__file__).with_name("toolkit_mels.json").read_text())


def ours(name: str) -> torch.Tensor:
    config = MEL_CONVENTIONS[name]
    return MelSpectrogram(config)(voice_like(config.sample_rate))[0]


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: f"{stored['convention']} by {stored['toolkit']}")
def test_mel_equals_the_toolkits_own(stored) -> None:
    mel = ours(stored["convention"])
    assert 0 <= mel.shape[1] - stored["frames"] <= 1  # Whisper and NeMo leave out the last
    torch.testing.assert_close(mel[::6, : stored["frames"] : 4], torch.tensor(stored["values"]), rtol=0, atol=2e-4)


def test_librosa() -> None:
    power = librosa.feature.melspectrogram(y=voice_like(22050)[0].numpy(), sr=22050)
    np.testing.assert_allclose(ours("librosa"), power, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours("librosa-db"), librosa.power_to_db(power), atol=1e-3)
    np.testing.assert_allclose(ours("librosa-db-max"), librosa.power_to_db(power, ref=np.max), atol=1e-3)


def test_torchaudio() -> None:
    transforms = import_torchaudio().transforms
    with pytest.warns(UserWarning, match="all zero values"):
        theirs = transforms.MelSpectrogram()(voice_like(16000))[0]
    torch.testing.assert_close(ours("torchaudio"), theirs, rtol=1e-4, atol=1e-4)


def test_each_convention_is_held_against_what_it_says() -> None:
    checked = {(stored["convention"], stored["toolkit"]) for stored in STORED}
    checked |= {(name, "librosa 0.11.0") for name in ("librosa", "librosa-db", "librosa-db-max")}
    checked |= {("torchaudio", "torchaudio 2.11.0"), ("lmnt", "diffwave 0.1.7"), ("bigvgan-24k", "bigvgan 2.4.1")}
    for published in PUBLISHED_CONVENTIONS:
        for toolkit in published.checked.partition(";")[0].split(", "):
            assert (published.mel.name, toolkit) in checked
