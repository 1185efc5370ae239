"""Which convention a mel follows, by its values alone: what real recordings read as in each, against what came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audiodiff.audio.mel import DECIBELS
from audiodiff.audio.mel_candidates import (
    Candidate,
    Values,
    bank_name,
    candidates,
    heard_bins,
    logarithm,
    may_be_linear,
    reference_banks,
    same,
)
from audiodiff.audio.mel_features import (
    LAGS,
    N_BANDS,
    N_FEATURES,
    N_LEVELS,
    PERCENTILES,
    Vector,
    audible_frames,
    features,
)
from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError

STATISTICS = Path(__file__).parents[1] / "assets" / "mel_statistics.npz"
"""Made by `python tests/mel_cases --build` from several corpora of speech, music, drums and noise."""
FLOORS = {"1e-10": -23.026, "1e-5": -11.513, "1e-4": -9.21, "1e-2.5": -5.756}
"""Floors of the magnitude for which there are statistics, as natural logarithms."""
KINDS = {
    "speech": 0.7, "quiet": 0.03, "predicted": 0.06, "noisy": 0.06, "narrow": 0.06, "music": 0.05, "noise": 0.02,
    "tones": 0.02,
}  # fmt: skip
"""What mels are of, and how often: `tests/mel_cases/statistics_of_mels.py` says what is meant."""
SPEECH = ("speech", "quiet", "predicted", "noisy", "narrow")
"""Of these, what a mel must look like in another convention before it is refused."""
MARGIN = 15.0
"""Difference of log-likelihoods from which a mel is refused: three million to 1."""
PLAUSIBLE = 60.0
"""Distance up to which a mel looks like a convention at all; see `Match`."""
INSEPARABLE = 7.0
"""Conventions within this difference of the best are named with it."""
OTHER_BINS = 15.0
"""Likewise of those that differ in filters, rate and hop alone, which depend more on the speaker than on these."""
OTHER_STATISTICS = 40.0
"""Likewise of unknown mean and standard deviation, where known ones fit best: others may fit as well."""
_HUGE = 1e12
"""No mel has such values."""
SHORTEST_SECONDS = 0.4
"""Less audible mel than this is not judged."""
_SHRINKAGE = 0.2
"""How much of the covariances that all kinds have in common is in that of each: fewer excerpts than numbers."""
_OVERSHOOT = 0.7
"""Nepers by which a value may lie beyond what samples in [-1, 1] can give: audio that is not clipped, predictions."""
_NEARLY_SILENT = 6.0
"""Nepers (52 dB) below the highest value of a convention: what never reaches that is so quiet that it is not judged."""
_TAILS = 12
"""Degrees of freedom of Student's t distribution: how surprising what lies far off is."""
_MARGIN_FRAMES = 40
"""Of silence at the ends that are looked at."""


class Match(NamedTuple):
    """How well a candidate explains a mel.

    Attributes:
        candidate: The convention.
        score: Log-likelihood; only differences mean something.
        transposed: Whether it is the transposed mel that follows it.
        distance: Squared Mahalanobis distance to the nearest of `KINDS`; real ones have some 5 to 60.
        is_speech: Whether it is rather speech than another sound.
    """

    candidate: Candidate
    score: float
    transposed: bool = False
    distance: float = 0.0
    is_speech: bool = True

    def same_values(self, other: Match) -> bool:
        """Return whether another candidate makes the same values of a magnitude, but for bins, floor and statistics."""
        (factor, offset), (its_factor, its_offset) = self.candidate.affine, other.candidate.affine
        kinds = [
            (one.transposed, one.candidate.entry_of_values, one.candidate.config.log == "none") for one in (self, other)
        ]
        return kinds[0] == kinds[1] and (
            kinds[0][1] == "standardised"
            or (abs(math.log(factor / its_factor)) < 0.05 and abs(offset - its_offset) < 0.3 * factor)
        )

    def is_usable_as(self, wanted: Match) -> bool:
        """Return whether its values would be vocoded as another convention's but for a level, a rate or single bins."""
        (factor, level), (its_factor, its_level) = self.candidate.factor_and_level, wanted.candidate.factor_and_level
        return (
            (self.transposed, self.candidate.config.log) == (wanted.transposed, wanted.candidate.config.log)
            and self.candidate.to_fit == wanted.candidate.to_fit
            and abs(math.log(factor / its_factor)) < 0.05
            and abs(level - its_level) < 2.5 * factor
        ) or self.same_values(wanted)


class _Reference(NamedTuple):
    """Features of each of `KINDS`: means `(len(KINDS), N_FEATURES)`, inverse covariances, their log-determinants."""

    mean: Vector
    precision: Vector
    log_determinant: Vector


@cache
def _references() -> dict[str, _Reference]:
    """Read the statistics, by `bank_name`/entry."""
    upper = np.triu_indices(N_FEATURES)
    noise = np.diag(np.r_[np.full(N_LEVELS, 0.15**2), np.full(N_FEATURES - N_LEVELS, 0.045**2)])
    references = {}
    with np.load(STATISTICS, allow_pickle=False) as file:
        for name, mean, packed in zip(file["names"], file["means"], file["covariances"], strict=True):
            covariance = np.zeros((len(KINDS), N_FEATURES, N_FEATURES))
            covariance[:, upper[0], upper[1]] = covariance[:, upper[1], upper[0]] = packed
            pooled = np.tensordot(list(KINDS.values()), covariance, 1)
            covariance += noise + _SHRINKAGE * (pooled - covariance)
            references[str(name)] = _Reference(
                mean.astype(np.float64),
                np.asarray(np.linalg.inv(covariance), np.float64),
                np.asarray(np.linalg.slogdet(covariance)[1], np.float64),
            )
    return references


def _reference(candidate: Candidate) -> _Reference:
    """Return the statistics of the filter bank that is most alike, with the nearest floor."""
    config, references = candidate.config, _references()
    entries = [candidate.entry] if candidate.entry else list(FLOORS)

    def has(bank: str) -> list[str]:
        return [entry for entry in entries if f"{bank}/{entry}" in references]

    name = bank_name(config)
    if not has(name):
        banks = reference_banks()
        name = min(filter(has, banks), key=lambda bank: _distance(banks[bank], config))
    if candidate.entry:
        return references[f"{name}/{candidate.entry}"]
    factor, offset = candidate.affine
    floor = max(FLOORS["1e-10"], (candidate.limits[0] - offset) / factor)
    return references[f"{name}/{min(has(name), key=lambda entry: abs(FLOORS[entry] - floor))}"]


def reference_bins(config: MelConfig) -> tuple[Vector, Vector]:
    """Return mean and standard deviation of the natural logarithm of speech in each bin, roughly, `(n_mels,)` each."""
    mean = _reference(Candidate("", config.model_copy(update={"log": "natural", "floor": 1e-5}))).mean[0]
    centres = (np.arange(N_BANDS) + 0.5) * config.n_mels / N_BANDS - 0.5
    means = np.interp(np.arange(config.n_mels), centres, mean[len(PERCENTILES) : N_LEVELS])
    return means, np.full(config.n_mels, math.exp(mean[-1]))


def _distance(other: MelConfig, config: MelConfig) -> float:
    return (
        4 * abs(math.log(other.n_mels / config.n_mels))
        + abs(math.log(other.f_max / config.f_max))
        + abs(math.log(other.hop_length * config.sample_rate / config.hop_length / other.sample_rate))
        + (other.power != config.power)
        + (other.norm != config.norm)
    )


def score(mel: Values, candidate: Candidate, known: Vector | None = None) -> tuple[float, float, bool]:
    """Return the log-likelihood of a mel under a convention, its distance, and whether it is speech; see `Match`.

    Args:
        mel: Values `(n_mels, frames)`.
        candidate: The convention.
        known: The features of the mel, or of its logarithm for a linear one; None computes them.
    """
    mel = candidate.plain_values(mel)
    found = (features(mel) if known is None else known).copy()
    factor, offset = candidate.affine
    found[:N_LEVELS] = (found[:N_LEVELS] - offset) / factor
    found[N_LEVELS:] -= math.log(factor)
    mean, precision, log_determinant = _reference(candidate)
    jacobian = -N_LEVELS * math.log(factor)
    if candidate.config.log == "none":
        jacobian -= float(found[:N_LEVELS].sum()) * factor
    off = found - mean
    squared = np.einsum("ki,kij,kj->k", off, precision, off)
    fits = np.log(list(KINDS.values())) - log_determinant / 2 - (_TAILS + N_FEATURES) / 2 * np.log1p(squared / _TAILS)
    likelihood = float(np.logaddexp.reduce(fits)) + jacobian + _exact_score(mel, candidate)
    return likelihood, float(squared.min()), list(KINDS)[int(fits.argmax())] in SPEECH


def _exact_score(mel: Values, candidate: Candidate) -> float:
    """Return what values beyond the range of a convention cost, and what its mark is worth; see `_has_mark`."""
    floor, high = candidate.limits
    if floor == -math.inf:
        return 15.0 if _has_mark(mel, candidate) else 0.0
    factor, _ = candidate.affine
    above = (float(mel.max()) - high) / factor
    points = -min(40.0, 20 * (above - _OVERSHOOT)) if above > _OVERSHOOT else 0.0
    lowest = float(mel.min())
    below = (floor - lowest) / factor
    if below > 0.2:
        points -= min(40.0, 10 * below)
    elif _has_mark(mel, candidate):
        points += 15.0
    return points


def _has_mark(mel: Values, candidate: Candidate) -> bool:
    """Return whether several values are exactly the lowest that a convention has, or every bin is standardised."""
    if candidate.to_fit == "standardised by bin":
        return bool(np.abs(mel.mean(1)).max() < 0.1 and np.abs(mel.std(1) - 1).max() < 0.1)
    floor, factor, lowest = candidate.limits[0], candidate.affine[0], float(mel.min())
    if floor == -math.inf or abs(floor - lowest) > 2e-3 * factor + 1e-4 * abs(floor):
        return False
    return int((mel <= lowest + 1e-4 * factor).sum()) > 5


def match(mel: Values, base: MelConfig) -> list[Match]:
    """Rank the conventions that a mel may follow, the likeliest first.

    Args:
        mel: Values; which axis has the bins is told by its length, or by the values if either fits.
        base: The convention that is wanted.

    Returns:
        None where the mel is too short, silent or of a shape that no convention has.
    """
    counts = {config.n_mels for config in (base, *MEL_CONVENTIONS.values())}
    matches = []
    for transposed, values in ((False, mel), (True, mel.T)):
        if len(values) in counts and values.shape[1] > max(LAGS):
            matches += list(_matches(np.ascontiguousarray(values, np.float32), base, transposed=transposed))
    return sorted(matches, key=lambda found: -found.score)


def _matches(mel: Values, base: MelConfig, *, transposed: bool) -> Iterator[Match]:
    plain = features(mel)
    logarithms = features(logarithm(mel)) if may_be_linear(mel) else None
    for candidate in candidates(len(mel), base):
        by_bin = isinstance(candidate.config.mean, tuple) or isinstance(candidate.config.std, tuple)
        known = logarithms if candidate.config.log == "none" else plain
        if known is not None:
            own = by_bin or not heard_bins(candidate.config).all()
            likelihood, distance, is_speech = score(mel, candidate, None if own else known)
            yield Match(candidate, likelihood, transposed, distance, is_speech)


def match_all(mels: Sequence[Values], base: MelConfig) -> list[Match]:
    """Rank the conventions that several mels follow in common; see `match`."""
    totals: dict[tuple[str, bool], list[Match]] = {}
    for mel in mels:
        for found in match(mel, base):
            totals.setdefault((found.candidate.name, found.transposed), []).append(found)
    common = [
        each[0]._replace(score=sum(found.score for found in each)) for each in totals.values() if len(each) == len(mels)
    ]
    if not common:
        raise MelError(
            f"mels of shape {', '.join({str(mel.shape) for mel in mels})} have no number of bins in common that a "
            "known convention has. Give the mels of one toolkit."
        )
    return sorted(common, key=lambda found: -found.score)


def evidence(mel: Values, found: Match) -> str:
    """Say in words how a mel agrees with a convention."""
    mel, candidate = mel.T if found.transposed else mel, found.candidate
    factor, offset = candidate.affine
    said = [f"values from {mel.min():.4g} to {mel.max():.4g}"]
    at_floor = float((mel <= mel.min() + 1e-4 * factor).mean())
    low = candidate.limits[0]
    values = np.ascontiguousarray(candidate.plain_values(mel))
    if low > -math.inf:
        where = "its floor" if abs(low - values.min()) < 0.01 * factor else f"their lowest, and its floor is {low:.4g}"
        said.append(f"{at_floor:.1%} of them at {where}" if at_floor > 0.001 else f"its floor {low:.4g} does not show")
    measured, usual = features(values), _reference(candidate).mean[0]
    steps = [math.exp(each) for each in (measured[N_LEVELS + 1] - math.log(factor), usual[N_LEVELS + 1])]
    said.append(f"from frame to frame {DECIBELS * steps[0]:.1f} dB (speech {DECIBELS * steps[1]:.1f})")
    bands = slice(len(PERCENTILES), N_LEVELS)
    levels = (measured[bands].mean() - offset) / factor - usual[bands].mean()
    said.append(f"mean level {DECIBELS * levels:+.0f} dB against usual speech")
    return ", ".join(said)


def likeliest(matches: Sequence[Match]) -> list[Match]:
    """Return the best match and those that the values do not tell from it."""
    best = matches[0]
    return [found for found in matches if best.score - found.score < _inseparable(found, best)]


def _inseparable(found: Match, best: Match) -> float:
    if not found.same_values(best):
        return INSEPARABLE
    return OTHER_STATISTICS if found.candidate.to_fit == "standardised" else OTHER_BINS


def refuse_unlikely(mel: ArrayLike, config: MelConfig) -> None:
    """Refuse a mel that is by a clear margin likelier to follow another convention.

    Args:
        mel: Values `(n_mels, frames)`, finite. What is shorter than `SHORTEST_SECONDS`, or nearly silent, is not
            judged.
        config: The convention that it should follow.

    Raises:
        MelError: With the convention that it looks like.
    """
    values = as_tensor(mel, "mel", MelError).detach().float().cpu().numpy()
    if values.ndim != 2 or not values.size or not np.abs(values).max() < _HUGE:
        return  # for `check_mel`, which says what is wrong with it
    wrong_shape = len(values) != config.n_mels
    shortest = SHORTEST_SECONDS * config.sample_rate / config.hop_length
    audible = np.flatnonzero(audible_frames(values.T if wrong_shape else values))
    if len(audible) < shortest:
        return
    if not wrong_shape:
        values = values[:, max(0, audible[0] - _MARGIN_FRAMES) : audible[-1] + _MARGIN_FRAMES]
    matches = match(values, config)
    own = [found for found in matches if not found.transposed and same(found.candidate.config, config)]
    if not matches:
        return
    if not own:
        raise _refusal(matches, values, config)
    (low, high), factor = own[0].candidate.limits, own[0].candidate.affine[0]
    if low - factor <= values.min() and values.max() <= high - _NEARLY_SILENT * factor:
        return
    rivals = [found for found in matches if _is_clearly_likelier(values, found, own[0])]
    if rivals:
        raise _refusal(rivals, values, config)


def _is_clearly_likelier(mel: Values, found: Match, own: Match) -> bool:
    if found.score < own.score + MARGIN or found.is_usable_as(own):
        return False
    if mel.min() >= 0 and own.candidate.limits[0] < 0 and own.candidate.config.log != "none":
        return True  # whatever the sound, not all logarithms are positive
    if not found.transposed and _has_mark(mel, found.candidate) and not _has_mark(mel, own.candidate):
        return True
    return found.is_speech and found.distance < PLAUSIBLE


def _refusal(matches: Sequence[Match], mel: Values, config: MelConfig) -> MelError:
    def other_frames(found: Match) -> bool:
        return (found.candidate.config.sample_rate, found.candidate.config.hop_length) != frames

    frames = (config.sample_rate, config.hop_length)
    best = sorted(likeliest(matches), key=other_frames)  # who feeds a model likely keeps its rate
    names = list(dict.fromkeys(found.candidate.name for found in best))
    named = [found for found in best if found.candidate.name in MEL_CONVENTIONS and matches[0].score - found.score < 3]
    options: dict[str, str | bool] = {"mel_convention": named[0].candidate.name} if named else {}
    remedy = "use {mel_convention}" if named else "`audiodiff mel-match` writes its convention"
    transposed = ", transposed" if matches[0].transposed else ""
    if transposed:
        remedy = "transpose it" if config.name in names else f"transpose it; {remedy}"
    elif len(mel) == config.n_mels:
        remedy += "; {force} vocodes it as it is"
        options["force"] = True
    return MelError(
        f"the mel of shape {mel.shape}, values from {mel.min():.3g} to {mel.max():.3g}, looks like "
        f"{' or '.join(names[:3])}{transposed}, not like {config.name}: ",
        f"{remedy}.",
        **options,
    )
