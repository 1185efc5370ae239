"""The statistics that `audiodiff.audio.mel_matching` compares with: features of mels of real recordings."""

import math
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from audiodiff.audio.io import replacing
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_candidates import bank_name, heard_bins, reference_banks
from audiodiff.audio.mel_features import N_FEATURES, features
from audiodiff.audio.mel_matching import FLOORS, KINDS, STATISTICS
from mel_cases.recordings import (
    MUSIC,
    NARROW,
    NOISE,
    TONES,
    at_level,
    excerpt,
    find,
    speech_of,
    with_other,
    with_silence,
)

PLAIN = {
    "log": "natural", "multiplier": 1.0, "offset": 0.0, "clip": None, "magnitude_floor": 0.0, "window_norm": False,
    "floor": 1e-30, "padding": "reflect", "reference": "absolute",
    "full_scale": 1.0, "guard": "clamp", "dynamic_range": None, "mean": 0.0, "std": 1.0,
}  # fmt: skip
STANDARDISED = ("hifigan-22k", "bigvgan-24k", "vocos-24k")
"""Conventions of which there are statistics of standardised values."""


def build(folders, n_excerpts):
    """Write the statistics of every filter bank of the table, from `n_excerpts` of speech, fewer of other sounds."""
    corpora, found = find(folders), {}
    banks = list(reference_banks().values())
    with ProcessPoolExecutor(2, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for rate in sorted({config.sample_rate for config in banks}):
            sounds = list(_sounds(corpora, rate, n_excerpts, np.random.default_rng(0)))
            of_rate = [config for config in banks if config.sample_rate == rate]
            for rows in pool.map(_of_bank, of_rate, [sounds] * len(of_rate)):
                found |= rows
                print(next(iter(rows)), flush=True)
    means, covariances = (np.array(each) for each in zip(*found.values(), strict=True))
    with replacing(STATISTICS) as partial, partial.open("wb") as file:
        np.savez_compressed(file, names=list(found), means=np.float32(means), covariances=np.float16(covariances))


def _sounds(corpora, sample_rate, n_excerpts, rng):
    """Yield (kind, corpus, audio) for every kind of sound."""

    def of(*names):
        return excerpt({name: corpora[name] for name in names}, sample_rate, rng, seconds=(0.6, 4.5))

    speech = [name for name in speech_of(corpora) if name not in NARROW]
    for kind in KINDS:
        for _ in range(n_excerpts if kind == "speech" else n_excerpts // 2):
            name, audio = {
                "noise": lambda: of(NOISE), "tones": lambda: of(TONES), "music": lambda: of(*MUSIC),
                "narrow": lambda: of(*NARROW),
            }.get(kind, lambda: of(*speech))()  # fmt: skip
            if kind == "noisy":
                audio = with_other(audio, of(*MUSIC, NOISE, NOISE)[1], rng, (0, 25))
            elif kind == "music" and rng.random() < 0.6:
                audio = with_other(audio, of(*MUSIC)[1], rng, (-10, 10))
            if kind == "quiet":
                audio = audio * 10 ** rng.uniform(-2.5, -1)
            elif rng.random() < 0.7:
                audio = at_level(audio, rng, 20 if rng.random() < 0.8 else 50)
            yield kind, name, with_silence(audio, sample_rate, rng) if rng.random() < 0.25 else audio.astype(np.float32)


def _of_bank(config, sounds):
    """Return means and upper triangles of covariances of every kind, by name of bank and entry."""
    rng = np.random.default_rng(0)
    spectrogram, heard = MelSpectrogram(config.model_copy(update=PLAIN)), heard_bins(config)
    mels = [
        (kind, name, spectrogram(torch.from_numpy(audio)).numpy()[heard] / config.power) for kind, name, audio in sounds
    ]
    sets = _data_sets([(name, mel) for kind, name, mel in mels if kind == "speech"])
    rows = {}
    for kind, _, mel in mels:
        mel = _smoothed(mel, rng) if kind == "predicted" else mel
        for entry, values in _entries(mel, config, sets[rng.integers(len(sets))], rng).items():
            rows.setdefault(entry, {}).setdefault(kind, []).append(features(values.astype(np.float32)))
    upper, found = np.triu_indices(N_FEATURES), {}
    for entry, by_kind in rows.items():
        of_kinds = [np.array(by_kind[kind]) for kind in KINDS]
        found[f"{bank_name(config)}/{entry}"] = (
            [each.mean(0) for each in of_kinds],
            [np.cov(each.T)[upper] for each in of_kinds],
        )
    return found


def _smoothed(mel, rng):
    """Return a mel as smooth as predicted ones are."""
    n_frames = rng.integers(1, 5)
    mel = sum(np.roll(mel, shift, 1) for shift in range(n_frames)) / n_frames
    return (mel + np.roll(mel, 1, 0)) / 2 if rng.random() < 0.5 else mel


def _data_sets(mels):
    """Return mean and standard deviation, of all values and by bin, of data sets: (corpus, mel)."""
    found = []
    for corpus in sorted({name for name, _ in mels}):
        mel = np.maximum(np.concatenate([mel for name, mel in mels if name == corpus], 1), FLOORS["1e-5"])
        found.append((mel.mean(), mel.std(), mel.mean(1, keepdims=True), mel.std(1, keepdims=True) + 1e-3))
    return found


def _entries(mel, config, data_set, rng):
    """Return what the same mel is with several floors, standardised, and relative to its loudest value."""
    clips = config.clip is not None or config.name in STANDARDISED
    floors = [name for name in FLOORS if name in ("1e-10", "1e-5") or config.power == 2 or (clips and name == "1e-4")]
    entries = {name: np.maximum(mel, FLOORS[name]) for name in floors}
    if config.power == 2:
        entries["relative"] = np.maximum(mel - mel.max(), -80 * math.log(10) / 20)
        entries["clipped"] = np.maximum(mel, max(mel.max() - 4 * math.log(10), FLOORS["1e-5"]))
    elif config.name in STANDARDISED:
        mean, deviation, means, deviations = data_set
        entries["standardised"] = (entries["1e-5"] - mean) / deviation
        if rng.random() < 0.5:  # of each utterance
            means, deviations = (each(entries["1e-5"], 1, keepdims=True) for each in (np.mean, np.std))
        entries["standardised by bin"] = (entries["1e-5"] - means) / (deviations + 1e-3)
    return entries
