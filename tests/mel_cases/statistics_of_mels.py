"""The statistics that `audiodiff.audio.mel_matching` compares with: features of mels of real recordings."""

import math
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from audiodiff.audio.io import replacing
from audiodiff.audio.mel import MelSpectrogram
from audiodiff.audio.mel_candidates import bank_name
from audiodiff.audio.mel_matching import FLOORS, N_FEATURES, STATISTICS, features
from audiodiff.config import MEL_CONVENTIONS
from mel_cases.recordings import NOISE, at_level, excerpt, find, with_silence

SPEECH = ("librispeech", "fullband", "reader")
OTHER = ("piano", "drums", "fsdd", NOISE, "librispeech", "fullband")
PLAIN = {
    "log": "natural", "multiplier": 1.0, "offset": 0.0, "clip": None, "magnitude_floor": 0.0, "window_norm": False,
    "floor": 1e-30, "padding": "reflect",
    "full_scale": 1.0, "guard": "clamp", "dynamic_range": None, "mean": 0.0, "std": 1.0,
}  # fmt: skip


def plain_log(config, audio):
    """Return the natural logarithm of the mel magnitudes `(n_mels, frames)` of a convention, without floor."""
    spectrogram = MelSpectrogram(config.model_copy(update=PLAIN))
    return spectrogram(torch.from_numpy(audio)).numpy().astype(np.float64) / config.power


def build(folders, n_excerpts):
    """Write the statistics of every filter bank of the table, from `n_excerpts` of each kind of sound."""
    corpora = find(folders, held_out=False) | {NOISE: []}
    banks = {bank_name(config): config for config in MEL_CONVENTIONS.values()}
    with ProcessPoolExecutor(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(_of_bank, banks.values(), [corpora] * len(banks), [n_excerpts] * len(banks)))
    names = [f"{bank}/{entry}" for bank, entries in zip(banks, found, strict=True) for entry in entries]
    means, covariances = zip(*(each for entries in found for each in entries.values()), strict=True)
    with replacing(STATISTICS) as partial, partial.open("wb") as file:
        np.savez_compressed(file, names=names, means=np.float32(means), covariances=np.float16(covariances))


def _of_bank(config, corpora, n_excerpts):
    """Return means and upper triangles of covariances of speech and other sounds, by entry."""
    rng = np.random.default_rng(0)
    sets = _data_sets(corpora, config, rng)
    rows = {}
    for kind in (SPEECH, OTHER):
        for _ in range(n_excerpts):
            log_mel = plain_log(config, _sound({name: corpora[name] for name in kind}, config.sample_rate, rng))
            log_mel = _blurred(log_mel, rng) if kind is OTHER and rng.random() < 0.2 else log_mel
            for entry, values in _entries(log_mel, sets[rng.integers(len(sets))], rng).items():
                rows.setdefault(entry, {}).setdefault(kind, []).append(features(values.astype(np.float32)))
    upper = np.triu_indices(N_FEATURES)
    found = {}
    for entry, by_kind in rows.items():
        of_kinds = [np.array(each) for each in by_kind.values()]
        found[entry] = [each.mean(0) for each in of_kinds], [np.cov(each.T)[upper] for each in of_kinds]
    print(bank_name(config), flush=True)
    return found


def _sound(corpora, sample_rate, rng):
    _, audio = excerpt(corpora, sample_rate, rng, seconds=(0.6, 8))
    if rng.random() < 0.7:
        audio = at_level(audio, rng, 20 if rng.random() < 0.85 else 50)
    return with_silence(audio, sample_rate, rng) if rng.random() < 0.25 else audio.astype(np.float32)


def _blurred(mel, rng):
    """Return a mel as smooth as predicted ones are."""
    n_frames = rng.integers(2, 5)
    mel = sum(np.roll(mel, shift, 1) for shift in range(n_frames)) / n_frames
    return (mel + np.roll(mel, 1, 0)) / 2 if rng.random() < 0.5 else mel


def _data_sets(corpora, config, rng):
    """Return mean and standard deviation, of all values and by bin, of some data sets."""
    found = []
    for name in SPEECH:
        mels = [plain_log(config, excerpt({name: corpora[name]}, config.sample_rate, rng)[1]) for _ in range(20)]
        mel = np.maximum(np.concatenate(mels, 1), FLOORS["1e-5"])
        found.append((mel.mean(), mel.std(), mel.mean(1, keepdims=True), mel.std(1, keepdims=True) + 1e-3))
    return found


def _entries(log_mel, data_set, rng):
    """Return what the same mel is with several floors, and standardised."""
    entries = {name: np.maximum(log_mel, floor) for name, floor in FLOORS.items()}
    mean, deviation, means, deviations = data_set
    usual = entries["1e-5"]
    entries["standardised"] = (usual - mean) / deviation
    if rng.random() < 0.5:  # of each utterance
        means, deviations = usual.mean(1, keepdims=True), usual.std(1, keepdims=True) + 1e-3
    entries["standardised by bin"] = (usual - means) / deviations
    entries["relative"] = np.maximum(log_mel - log_mel.max(), -80 * math.log(10) / 20)
    entries["clipped"] = np.maximum(log_mel, max(log_mel.max() - 4 * math.log(10), FLOORS["1e-5"]))
    return entries
