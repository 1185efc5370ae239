"""Train the network that completes mels above a cutoff (`audiodiff/audio/mel_completion.py`) on full-band speech.

Each clip of a batch is cut off somewhere, its level and tilt are changed, and the likelihood of the missing bands under
the predicted Gaussians is maximised, as far as the recording itself has those bands.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from audiodiff.audio.io import audio_info, load_audio, replacing
from audiodiff.audio.mel import MelSpectrogram, mel_frequencies
from audiodiff.audio.mel_completion import CONVENTION, MelCompletion
from audiodiff.config import mel_convention
from audiodiff.data.manifest import read_manifest

CONFIG = mel_convention(CONVENTION)
UPPER_EDGES = torch.tensor(mel_frequencies(CONFIG, CONFIG.n_mels + 2)[2:]).float()
OCTAVES = (UPPER_EDGES / 1000).clamp_min(0.1).log2()
N_FRAMES, BATCH = 192, 11
CUTOFFS = (700.0, 7600.0)
LEVEL_DEVIATION, TILT_DEVIATION = 0.6, 0.17
"""Of the random changes in nepers, and in nepers per octave."""
FLOOR = math.log(CONFIG.floor)
LEARNING_RATE = 1.5e-3


def _read_mels(manifest: Path) -> list[tuple[Tensor, Tensor]]:
    """Return the mels of the recordings, and which of their bands are no higher than their rates allow."""
    spectrogram, mels = MelSpectrogram(CONFIG), []
    for recording in read_manifest(manifest):
        mel = spectrogram(load_audio(recording.audio, CONFIG.sample_rate)[:1])[0]
        mel = mel.repeat(1, -(-N_FRAMES // mel.shape[1]))
        mels.append((mel, 0.465 * audio_info(recording.audio).sample_rate >= UPPER_EDGES))
    return mels


def _draw_batch(mels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mels `(batch, n_mels, n_frames)`, and which bands are known and which count `(batch, n_mels)`."""
    frames = torch.tensor([float(mel.shape[1]) for mel, _ in mels])
    clips, valid = [], []
    for i in torch.multinomial(frames, BATCH, replacement=True).tolist():
        mel, is_valid = mels[i]
        start = int(torch.randint(mel.shape[1] - N_FRAMES + 1, ()))
        clips.append(mel[:, start : start + N_FRAMES])
        valid.append(is_valid)
    change = LEVEL_DEVIATION * torch.randn(BATCH, 1) + TILT_DEVIATION * torch.randn(BATCH, 1) * OCTAVES
    hertz = torch.empty(BATCH, 1).uniform_(*map(math.log, CUTOFFS)).exp()
    known = (hertz >= UPPER_EDGES).float()
    return (torch.stack(clips) + change[:, :, None]).clamp_min(FLOOR), known, torch.stack(valid) * (1 - known)


def _make_network(mels: list[tuple[Tensor, Tensor]]) -> MelCompletion:
    """Return a new network that knows the statistics of the bands, relative to the level of each recording."""
    total, square, count = (torch.zeros(CONFIG.n_mels) for _ in range(3))
    for mel, valid in mels:
        relative = (mel - MelCompletion.level(mel[None], valid[None].float())[0][0]) * valid[:, None]
        total += relative.sum(1)
        square += relative.square().sum(1)
        count += valid * mel.shape[1]
    network, mean = MelCompletion(), total / count.clamp_min(1)
    network.mean.copy_(mean)
    network.deviation.copy_((square / count.clamp_min(1) - mean.square()).clamp_min(0.01).sqrt())
    return network


def train_mel_completion(
    manifest: Path,
    weights: Path,
    *,
    minutes: float,
    seed: int = 0,
    log_every: int = 250,
    on_log: Callable[[str], object] = print,
) -> None:
    """Train a network and write its weights.

    Args:
        manifest: Full-band speech; bands that a recording has not are left out.
        weights: Where they go, a .safetensors file in float16.
        minutes: How long; the learning rate falls to zero in that time. 25 are enough on one core.
        seed: Of weights and batches.
        log_every: Steps over which the loss is averaged.
        on_log: Told that loss.

    Raises:
        DataError: If the manifest is damaged.
        AudioError: If a recording cannot be read.
    """
    torch.manual_seed(seed)
    mels = _read_mels(manifest)
    network, began, step, loss_sum = _make_network(mels), time.monotonic(), 0, 0.0
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=1e-2, betas=(0.9, 0.98))
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 - done)
        mel, known, counts = _draw_batch(mels)
        mean, deviation = network(mel, known)
        likelihood = ((mel - mean) / deviation).square() / 2 + (deviation / network.deviation[:, None]).log()
        loss = (likelihood * counts[:, :, None]).sum() / counts.sum().clamp_min(1) / N_FRAMES
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        step, loss_sum = step + 1, loss_sum + loss.item()
        if step % log_every == 0:
            on_log(f"step {step}: loss {loss_sum / log_every:.4f}")
            loss_sum = 0.0
    with replacing(weights) as part:
        save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, part)
