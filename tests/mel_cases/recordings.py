"""Excerpts of real recordings at many levels, and a few sounds that no corpus holds."""

from pathlib import Path

import numpy as np

from audiodiff.audio.io import load_audio

EXTENSIONS = (".wav", ".flac")
NOISE, TONES = "noise", "tones"
NARROW = ("fsdd",)
"""Speech of telephone quality."""
MUSIC = ("piano", "drums")


def find(folders):
    """Return the recordings of each corpus, a folder; and names of synthetic sounds, without any."""
    found = {}
    for folder in map(Path, folders):
        found[folder.name] = sorted(path for path in folder.rglob("*") if path.suffix in EXTENSIONS)
    return {name: paths for name, paths in found.items() if paths} | {NOISE: [], TONES: []}


def speech_of(corpora):
    """Return the corpora of speech, of any quality."""
    return {name: paths for name, paths in corpora.items() if name not in (*MUSIC, NOISE, TONES)}


def excerpt(corpora, sample_rate, rng, seconds=(1, 10)):
    """Return (corpus, mono float32 audio) of recordings of one corpus."""
    name = str(rng.choice(sorted(corpora)))
    n_samples = int(rng.uniform(*seconds) * sample_rate)
    if name == NOISE:
        audio = _noise(n_samples, rng)
    elif name == TONES:
        audio = _tones(n_samples, sample_rate, rng)
    else:
        parts = []
        while sum(map(len, parts)) < n_samples:
            path = corpora[name][rng.integers(len(corpora[name]))]
            parts.append(load_audio(path, sample_rate).mean(0).numpy())
        audio = np.concatenate(parts)
        first = rng.integers(max(1, len(audio) - n_samples + 1))
        audio = audio[first : first + n_samples]
    return name, audio


def _noise(n_samples, rng):
    """Return white, pink or brown noise, steady or not."""
    noise = rng.standard_normal(n_samples)
    if (exponent := rng.choice([0, 0.5, 1])) > 0:
        noise = np.fft.irfft(np.fft.rfft(noise) / (np.arange(n_samples // 2 + 1) + 20) ** exponent, n_samples)
    if rng.random() < 0.3:
        noise *= 0.02 + np.sin(np.linspace(0, rng.uniform(3, 30), n_samples)) ** 2
    return (0.1 * noise / noise.std()).astype(np.float32)


def _tones(n_samples, sample_rate, rng):
    """Return a sine, a chirp, a chord of harmonic tones or clicks, in noise of -100 to -50 dB or in none."""
    time = np.arange(n_samples) / sample_rate
    kind, pitch = rng.integers(4), rng.uniform(60, 1000)
    if kind == 0:
        audio = np.sin(2 * np.pi * pitch * time)
    elif kind == 1:
        audio = np.sin(2 * np.pi * (pitch + rng.uniform(0, 2000) * time) * time)
    elif kind == 2:
        pitches = pitch * np.array([1, 1.25, 1.5])[:, None] * np.arange(1, 8)
        audio = sum(np.sin(2 * np.pi * each * time) / (1 + each / pitch) for each in pitches[pitches < sample_rate / 2])
    else:
        audio = (np.arange(n_samples) % int(sample_rate / rng.uniform(2, 50)) == 0).astype(float)
    audio = 0.3 * audio / np.abs(audio).max()
    if rng.random() < 0.8:
        audio = audio + 10 ** rng.uniform(-5, -2.5) * rng.standard_normal(n_samples)
    return audio.astype(np.float32)


def with_other(audio, other, rng, decibels):
    """Return audio with another sound, shorter or longer, that is quieter by a number of decibels of this range."""
    other = np.resize(other, len(audio))
    gain = audio.std() / (other.std() + 1e-9) * 10 ** (-rng.uniform(*decibels) / 20)
    return (audio + gain * other).astype(np.float32)


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
