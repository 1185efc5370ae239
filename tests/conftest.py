"""What tests of data, training and the command line share: a small corpus of voice-like sounds, and a tiny model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from audiodiff.config import (
    DataConfig,
    EmbeddingConfig,
    MelConfig,
    ModelConfig,
    NetworkConfig,
    RunConfig,
    SynthesisConfig,
    TrainingConfig,
    WhiteningConfig,
)

SAMPLE_RATE = 8000

if not torch.cuda.is_available():  # kernels run in Triton's interpreter; it must know before anyone imports it
    os.environ.setdefault("TRITON_INTERPRET", "1")


def make_voice(seconds: float, sample_rate: int = SAMPLE_RATE, seed: int = 0) -> NDArray[np.float32]:
    """Return harmonics that glide under a few formants, in syllables, with a little noise: `(time,)`, peak 0.5."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = random.uniform(90, 220) * (
        1 + 0.2 * np.sin(2 * np.pi * random.uniform(0.5, 2) * time + random.uniform(0, 6))
    )
    phase = 2 * np.pi * np.cumsum(pitch) / sample_rate
    formants = random.uniform([300, 900, 2200], [800, 2000, 3200])
    audio = 0.003 * random.standard_normal(len(time))
    for harmonic in range(1, int(0.45 * sample_rate / 264)):
        level = sum(np.exp(-(((harmonic * pitch - formant) / 250) ** 2)) for formant in formants) + 0.02
        audio += level * np.sin(harmonic * phase + random.uniform(0, 6))
    audio *= 0.15 + np.square(np.sin(np.pi * random.uniform(2, 4) * time))
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


@pytest.fixture(scope="session")
def voice() -> Callable[..., NDArray[np.float32]]:
    """Give `make_voice(seconds, sample_rate, seed)`."""
    return make_voice


@pytest.fixture(scope="session")
def save_voice() -> Callable[..., Path]:
    """Give a function (path, seconds, sample_rate, seed) that writes such a sound and returns the path."""

    def save(path: Path, seconds: float = 1.0, sample_rate: int = SAMPLE_RATE, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, make_voice(seconds, sample_rate, seed), sample_rate)
        return path

    return save


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory: pytest.TempPathFactory, save_voice: Callable[..., Path]) -> Path:
    """Give a folder of eight sounds, 1 to 2.4 s, 8000 Hz, WAV and FLAC, in two subfolders; do not write into it."""
    folder = tmp_path_factory.mktemp("speech")
    for i in range(8):
        save_voice(folder / "ab"[i % 2] / f"clip{i}.{('wav', 'flac')[i // 4]}", 1 + 0.2 * i, seed=i)
    return folder


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    """Give a vocoder of kind `stft` that trains hundreds of steps in seconds: 8000 Hz, 20 mels, hop 64."""
    return ModelConfig(
        sample_rate=SAMPLE_RATE,
        mel=MelConfig(
            sample_rate=SAMPLE_RATE, n_fft=256, hop_length=64, win_length=256, n_mels=20, f_min=0, f_max=SAMPLE_RATE / 2
        ),
        network=NetworkConfig(
            kind="stft",
            channels=32,
            layers=2,
            n_fft=256,
            hop_length=64,
            embedding=EmbeddingConfig(width=16, centres=8),
        ),
        whitening=WhiteningConfig(kind="spectral", exponent=0.5),
        synthesis=SynthesisConfig(steps=2),
    )


@pytest.fixture(scope="session")
def tiny_run_config(speech_folder: Path, tiny_model_config: ModelConfig) -> RunConfig:
    """Give a training run of 8 steps on `speech_folder`, validated and saved every 4, on the CPU."""
    return RunConfig(
        model=tiny_model_config,
        data=DataConfig(train=str(speech_folder), crop_seconds=0.25, valid_fraction=0.2),
        training=TrainingConfig(
            steps=8,
            batch_size=4,
            learning_rate=2e-3,
            warmup_steps=2,
            ema_decay=0.9,
            device="cpu",
            validate_every=4,
            validation_crops=4,
            validation_levels=3,
            sample_every=8,
            checkpoint_every=4,
        ),
    )


@pytest.fixture(scope="session")
def save_random_model() -> Callable[..., Path]:
    """Give a function (folder, config, seed) that writes a model whose random weights let every condition count."""
    import torch

    from audiodiff.checkpoint import save_model
    from audiodiff.networks import build_network

    def save(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = build_network(config)
            for parameter in network.output.parameters():  # which start at zero
                torch.nn.init.normal_(parameter, std=0.1)
        save_model(folder, network.state_dict(), config)
        return folder

    return save


@pytest.fixture(scope="session")
def tiny_vocoder_folder(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model_config: ModelConfig,
    save_random_model: Callable[..., Path],
) -> Path:
    """Give the folder of a model of `tiny_model_config` with random weights; do not write into it."""
    return save_random_model(tmp_path_factory.mktemp("models") / "tiny-vocoder", tiny_model_config)


@pytest.fixture(scope="session")
def tiny_generator_folder(tmp_path_factory: pytest.TempPathFactory, save_random_model: Callable[..., Path]) -> Path:
    """Give the folder of a class-conditional generator with random weights: 8000 Hz, half a second, yes and no."""
    config = ModelConfig(
        sample_rate=SAMPLE_RATE,
        labels=("yes", "no"),
        clip_seconds=0.5,
        network=NetworkConfig(
            channels=8, layers=2, patch=8, embedding=EmbeddingConfig(width=16, centres=8, initialisation="quantiles")
        ),
        whitening=WhiteningConfig(gain=(500.0,)),
        synthesis=SynthesisConfig(steps=2),
    )
    return save_random_model(tmp_path_factory.mktemp("models") / "tiny-generator", config)
