"""What a mel convention's mean and standard deviation are, fitted to mels alone or to mels and their audio."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from audiodiff.audio.mel import DECIBELS, MelSpectrogram
from audiodiff.audio.mel_candidates import Candidate, Values, bank_name, candidates, variants
from audiodiff.audio.mel_features import N_LEVELS, Vector, features
from audiodiff.audio.mel_matching import FLOORS, Match, reference_bins, score
from audiodiff.audio.resample import resample
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError

FRAMES_OFF = 8
"""How many frames a mel may be early or late against its audio."""
_SIMPLER = 0.1
"""By how many dB each fitted number must better a fit, at least."""
_SHIFTS = range(-FRAMES_OFF, FRAMES_OFF + 1)


class AudioMatch(NamedTuple):
    """How well a convention explains a mel whose audio is known.

    Attributes:
        name: Of the convention.
        error_db: Root mean square of the difference to the mel of the audio, where that is above the floor.
        fields: What a file for --mel-convention says.
        shift: Frames by which the mel is late.
        n_fitted: How many numbers were fitted, in a way.
    """

    name: str
    error_db: float
    fields: dict[str, Any]
    shift: int
    n_fitted: int


def convention_fields(candidate: Candidate, base: MelConfig) -> dict[str, Any]:
    """Return the fields of a convention as a file for --mel-convention has them: the name of one and what differs."""
    if candidate.name in MEL_CONVENTIONS:
        return {"base": candidate.name}
    fields = candidate.config.model_dump(mode="json")
    start = MEL_CONVENTIONS.get(base.name)
    if start is None:
        return fields
    same = start.model_dump(mode="json")
    return {"base": base.name} | {name: value for name, value in fields.items() if value != same[name]}


def fit_values(mels: Sequence[Values], found: Match, base: MelConfig) -> dict[str, Any]:
    """Return `convention_fields` of the likeliest convention; mean and standard deviation are fitted to the values.

    Args:
        mels: All follow the convention.
        found: It.
        base: The convention of the model.
    """
    candidate, mel = found.candidate, np.concatenate([each.T if found.transposed else each for each in mels], axis=1)
    fields = convention_fields(candidate, base)
    if candidate.to_fit == "standardised":
        return fields | dict(zip(("mean", "std"), _fit_standardisation(mel, candidate), strict=True))
    if candidate.to_fit == "standardised by bin":
        means, deviations = reference_bins(candidate.config)
        scale = deviations / mel.std(1).clip(1e-3)
        return fields | {"mean": _rounded(means - scale * mel.mean(1)), "std": _rounded(scale)}
    return fields


def _fit_standardisation(mel: Values, candidate: Candidate) -> tuple[float, float]:
    """Return the mean and the standard deviation with which the mel is likeliest; a floor that shows decides one."""
    found, plain = features(mel), Candidate(candidate.name, candidate.config)
    lowest, floor = float(mel.min()), FLOORS["1e-5"]
    shows = (mel <= lowest + 1e-4).mean() > 1e-3
    best = (-math.inf, 0.0, 1.0)
    for deviation in np.arange(1.2, 3.6, 0.05):
        means = [floor - deviation * lowest] if shows else np.arange(-10.0, -2.0, 0.1)
        for mean in means:
            levels = found.copy()
            levels[:N_LEVELS] = found[:N_LEVELS] * deviation + mean
            levels[N_LEVELS:] += math.log(deviation)
            likelihood = score(mel, plain, levels)[0] + N_LEVELS * math.log(deviation)
            best = max(best, (likelihood, float(mean), float(deviation)))
    return round(best[1], 4), round(best[2], 4)


def match_audio(pairs: Sequence[tuple[Values, Tensor, int]], base: MelConfig) -> list[AudioMatch]:
    """Rank the conventions that mels may follow by how well the mels of their audio agree, the best first.

    Args:
        pairs: Values `(n_mels, frames)`, what they are the mel of, `(time,)`, and its rate in Hz. All mels are compared
            with each convention as it is; mean and standard deviation, of all values and by bin, are fitted to them.
        base: The convention of the model.

    Returns:
        The conventions; simpler ones that are hardly worse come first.

    Raises:
        MelError: If no convention makes about so many frames of the audio.
    """
    matches, fitted = [], set()
    for candidate in candidates(len(pairs[0][0]), base):
        config = candidate.config
        seconds_per_frame = config.hop_length / config.sample_rate
        if any(abs(len(audio) / rate / seconds_per_frame - mel.shape[1]) > FRAMES_OFF for mel, audio, rate in pairs):
            continue
        resampled = [(mel, resample(audio, rate, config.sample_rate)) for mel, audio, rate in pairs]
        if not candidate.to_fit:
            matches.append(_agreement(candidate, resampled, base))
        if (bank := (bank_name(config), config.centre)) not in fitted:
            fitted.add(bank)
            matches += _fits(candidate, resampled)
    if not matches:
        mel, audio, rate = pairs[0]
        raise MelError(
            f"the mel has shape {mel.shape}, and no convention with {len(mel)} bins makes about so many frames of "
            f"{len(audio) / rate:.2f} s of audio. Is this its audio?"
        )
    return sorted(matches, key=lambda found: found.error_db + _SIMPLER * found.n_fitted)


def _agreement(candidate: Candidate, pairs: Sequence[tuple[Values, Tensor]], base: MelConfig) -> AudioMatch:
    """Compare mels with what a convention makes of the audio."""
    config, factor = candidate.config, candidate.affine[0]
    floor = FLOORS["1e-5"] * config.power
    is_linear = config.log == "none"
    if is_linear:
        config = config.model_copy(update={"log": "natural", "floor": math.exp(floor)})
    made = _made(config, [audio for _, audio in pairs])
    mels = [np.log(mel.clip(math.exp(floor))) if is_linear else mel for mel, _ in pairs]
    errors = {shift: _rms(*_aligned(made, mels, shift)) / factor for shift in _SHIFTS}
    shift = min(errors, key=lambda each: (round(errors[each], 4), abs(each)))
    return AudioMatch(candidate.name, DECIBELS * errors[shift], convention_fields(candidate, base), shift, 0)


def _made(config: MelConfig, audio: Sequence[Tensor]) -> list[Vector]:
    spectrogram = MelSpectrogram(config)
    return [spectrogram(each).numpy().astype(np.float64) for each in audio]


def _fits(candidate: Candidate, pairs: Sequence[tuple[Values, Tensor]]) -> Iterator[AudioMatch]:
    """Fit mean and standard deviation, of all values and of each bin, to what natural logarithms are of the audio."""
    config = candidate.config
    if config.log != "natural" or config.clip or (config.mean, config.std) != (0, 1):
        config = variants(config)[0].config
    made, mels = _made(config, [audio for _, audio in pairs]), [mel for mel, _ in pairs]
    start = convention_fields(Candidate("", config), candidate.config)
    for by_bin, name in ((False, "one mean and standard deviation"), (True, "mean and standard deviation by bin")):
        fits = {shift: _fit(made, mels, shift, by_bin=by_bin) for shift in _SHIFTS}
        shift = min(fits, key=lambda each: (round(fits[each][0], 4), abs(each)))
        error, mean, deviation = fits[shift]
        fields = start | {"mean": _rounded(mean), "std": _rounded(deviation)}
        title = f"natural logarithm of the bins of {candidate.name}, {name}"
        yield AudioMatch(title, DECIBELS * error, fields, shift, 10 if by_bin else 2)


def _fit(made: Sequence[Vector], mels: Sequence[Values], shift: int, *, by_bin: bool) -> tuple[float, Vector, Vector]:
    """Return the root mean square error in the units of `made`, mean and deviation: mel = (made - mean) / deviation."""
    ours, theirs = _aligned(made, mels, shift)
    if not by_bin:
        ours, theirs = ours.reshape(1, -1), theirs.reshape(1, -1)
    one, other = ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
    slope = (one * other).sum(1) / np.square(one).sum(1).clip(1e-9)
    deviation = 1 / slope.clip(1e-6)
    error = math.sqrt(np.square(other * deviation[:, None] - one).mean())
    return error, ours.mean(1) - deviation * theirs.mean(1), deviation


def _aligned(made: Sequence[Vector], mels: Sequence[Values], shift: int) -> tuple[Vector, Vector]:
    """Return the frames that both have, `(n_mels, frames)` each, if the mels are late by `shift` frames."""
    parts = [(one[:, max(0, -shift) :], other[:, max(0, shift) :]) for one, other in zip(made, mels, strict=True)]
    lengths = [min(one.shape[1], other.shape[1]) for one, other in parts]
    ours = [one[:, :length] for (one, _), length in zip(parts, lengths, strict=True)]
    theirs = [other[:, :length] for (_, other), length in zip(parts, lengths, strict=True)]
    return np.concatenate(ours, 1), np.concatenate(theirs, 1).astype(np.float64)


def _rms(one: Vector, other: Vector) -> float:
    return math.sqrt(np.square(one - other).mean())


def _rounded(values: Vector) -> list[float] | float:
    rounded = [round(float(value), 4) for value in values]
    return rounded[0] if len(rounded) == 1 else rounded
