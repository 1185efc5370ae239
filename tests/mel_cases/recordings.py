"""Excerpts of real recordings at many levels, and a few sounds that no corpus holds."""

import hashlib
from pathlib import Path

import numpy as np

from audiodiff.audio.io import load_audio

EXTENSIONS = (".wav", ".flac")
NOISE = "noise"


def find(folders, *, held_out):
    """Return the recordings of each corpus that are held out of the statistics, or those that are not.

    What is in one subfolder is on one side (a speaker of LibriSpeech), but for folders that hold a whole corpus.
    """
    found = {}
    for folder in map(Path, folders):
        files = sorted(path for path in folder.rglob("*") if path.suffix in EXTENSIONS)
        groups = {path: str(path.parent.relative_to(folder)) for path in files}
        if len(set(groups.values())) < 20:
            groups = {path: path.stem for path in files}
        found[folder.name] = [path for path in files if _is_held_out(groups[path]) == held_out]
    return {name: paths for name, paths in found.items() if paths}


def _is_held_out(name):
    return hashlib.sha1(name.encode()).digest()[0] % 2 == 1


def excerpt(corpora, sample_rate, rng, seconds=(1, 10)):
    """Return (corpus, mono float32 audio) of recordings of one corpus."""
    name = str(rng.choice(sorted(corpora)))
    n_samples = int(rng.uniform(*seconds) * sample_rate)
    if name == NOISE:
        audio = _noise(n_samples, rng)
    else:
        parts = []
        while sum(map(len, parts)) < n_samples:
            path = corpora[name][rng.integers(len(corpora[name]))]
            parts.append(load_audio(path, sample_rate).numpy().ravel())
        audio = np.concatenate(parts)
        first = rng.integers(max(1, len(audio) - n_samples + 1))
        audio = audio[first : first + n_samples]
    return name, audio


def _noise(n_samples, rng):
    noise = rng.standard_normal(n_samples)
    if rng.random() < 0.5:  # pink, more or less
        noise = np.fft.irfft(np.fft.rfft(noise) / np.sqrt(np.arange(n_samples // 2 + 1) + 20), n_samples)
    return (0.1 * noise / noise.std()).astype(np.float32)


def at_level(audio, rng, decibels=20.0):
    """Return audio at another level; what is beyond full scale is brought back to it."""
    audio = audio * 10 ** (rng.uniform(-decibels, decibels) / 20)
    return (audio / max(1.0, np.abs(audio).max())).astype(np.float32)


def with_silence(audio, sample_rate, rng):
    """Return audio with digital silence, or nearly so, before or after it."""
    silence = np.zeros(int(rng.uniform(0.1, 1.5) * sample_rate), np.float32)
    if rng.random() < 0.5:
        silence += 1e-4 * rng.standard_normal(len(silence)).astype(np.float32)
    return np.concatenate([silence, audio] if rng.random() < 0.5 else [audio, silence])
