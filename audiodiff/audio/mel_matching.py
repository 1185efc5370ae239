"""Which convention a mel follows, by its values alone: what real recordings read as in each, against what came."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audiodiff.audio.mel_candidates import Candidate, Values, bank_name, candidates, logarithm, may_be_linear, same
from audiodiff.audio.transforms import ArrayLike, as_tensor
from audiodiff.config import MEL_CONVENTIONS, MelConfig
from audiodiff.errors import MelError

Vector = NDArray[np.float64]

STATISTICS = Path(__file__).parents[1] / "assets" / "mel_statistics.npz"
"""Made by `python tests/mel_cases --build` from several corpora of speech, music, drums and noise."""
PERCENTILES = (0.5, 2, 10, 25, 50, 75, 90, 98, 99.7)
N_BANDS = 6
LAGS = (1, 2, 4, 8)
"""Frames over which the mean change of a value is measured; short ones depend on the logarithm alone."""
N_LEVELS = len(PERCENTILES) + N_BANDS
"""How many features are values of the mel; the others are logarithms of differences of values."""
N_FEATURES = N_LEVELS + 2 * len(LAGS) + 3
FLOORS = {"1e-10": -23.026, "1e-5": -11.513, "1e-4": -9.21, "1e-2.5": -5.756}
"""Floors of the magnitude for which there are statistics, as natural logarithms."""
MARGIN = 10.0
"""Difference of log-likelihoods from which a mel is refused: 20,000 to 1."""
CERTAIN = 30.0
"""Likewise where the mel looks like no convention."""
PLAUSIBLE = 80.0
"""Distance up to which a mel looks like a convention at all; see `Match`."""
INSEPARABLE = 4.0
"""Conventions within this difference of the best are named with it."""
OTHER_BINS = 15.0
"""Likewise of those that differ in filters, rate and hop alone, which depend more on the speaker than on these."""
SHORTEST_SECONDS = 0.4
"""Less audible mel than this is not judged."""
_NEPER = 20 / math.log(10)
"""In dB."""
_TAILS = 12
"""Degrees of freedom of Student's t distribution: how surprising what lies far off is."""
_MARGIN_FRAMES = 40
"""Of silence at the ends that are looked at."""
_LONGEST = 2048
"""Frames that are looked at; of longer mels, eight excerpts."""


class Match(NamedTuple):
    """How well a candidate explains a mel.

    Attributes:
        candidate: The convention.
        score: Log-likelihood; only differences mean something.
        transposed: Whether it is the transposed mel that follows it.
        distance: Squared Mahalanobis distance to the nearer of speech and other sounds; real ones have some 5 to 60.
    """

    candidate: Candidate
    score: float
    transposed: bool = False
    distance: float = 0.0

    def same_values(self, other: Match) -> bool:
        """Return whether another candidate makes the same values of a magnitude, but for the bins and the floor."""
        (factor, offset), (its_factor, its_offset) = self.candidate.affine, other.candidate.affine
        kinds = [(one.transposed, one.candidate.entry, one.candidate.config.log == "none") for one in (self, other)]
        return (
            kinds[0] == kinds[1]
            and abs(math.log(factor / its_factor)) < 0.05
            and abs(offset - its_offset) < 0.3 * factor
        )


class _Reference(NamedTuple):
    """Features of speech and of other sounds: means `(2, N_FEATURES)`, inverse covariances, their log-determinants."""

    mean: Vector
    precision: Vector
    log_determinant: Vector


def features(mel: Values) -> Vector:
    """Return what is compared: percentiles and band means of the values, and how much they change, `(N_FEATURES,)`.

    The first `N_LEVELS` follow an affine map of the values; of the others, which are logarithms, its factor is added.

    Args:
        mel: Values `(n_mels, frames)`, at least 3 x 9.
    """
    if mel.shape[1] > _LONGEST:
        starts = np.linspace(0, mel.shape[1] - _LONGEST // 8, 8).astype(int)
        mel = np.concatenate([mel[:, first : first + _LONGEST // 8] for first in starts], axis=1)
    at = np.round(np.array(PERCENTILES) / 100 * (mel.size - 1)).astype(int)
    flat = np.partition(mel.ravel(), (0, *at, mel.size - 1))
    lowest, extent = flat[0], max(float(flat[-1] - flat[0]), 1e-6)
    live = mel > lowest + 0.01 * extent
    edges = np.linspace(0, len(mel), N_BANDS + 1).astype(int)
    means = mel.mean(1)
    bands = [means[low : max(high, low + 1)].mean() for low, high in pairwise(edges)]
    differences = [(mel[:, lag:] - mel[:, :-lag], live[:, lag:] & live[:, :-lag]) for lag in LAGS]
    differences.append((mel[2:] - 2 * mel[1:-1] + mel[:-2], live[2:] & live[:-2]))
    third = max(1, len(mel) // 3)
    changes = [
        _log_change(part, where, extent)
        for difference, used in differences
        for part, where in ((difference[:third], used[:third]), (difference[third:], used[third:]))
    ]
    spread = math.log(float(mel.std(1).mean()) + 1e-4 * extent)
    return np.array([*flat[at], *bands, *changes, spread], np.float64)


def _log_change(difference: Values, used: NDArray[np.bool_], extent: float) -> float:
    count = int(used.sum())
    mean = float((np.abs(difference) * used).sum()) / count if count > 20 else 0.05 * extent
    return math.log(mean + 1e-4 * extent)


@cache
def _references() -> dict[str, _Reference]:
    """Read the statistics, by `bank_name`/entry."""
    upper = np.triu_indices(N_FEATURES)
    noise = np.diag(np.r_[np.full(N_LEVELS, 0.15**2), np.full(N_FEATURES - N_LEVELS, 0.045**2)])
    references = {}
    with np.load(STATISTICS, allow_pickle=False) as file:
        for name, mean, packed in zip(file["names"], file["means"], file["covariances"], strict=True):
            covariance = np.zeros((2, N_FEATURES, N_FEATURES))
            covariance[:, upper[0], upper[1]] = covariance[:, upper[1], upper[0]] = packed
            covariance += noise
            references[str(name)] = _Reference(
                mean.astype(np.float64), np.linalg.inv(covariance), np.linalg.slogdet(covariance)[1]
            )
    return references


@cache
def _banks() -> dict[str, MelConfig]:
    return {bank_name(config): config for config in MEL_CONVENTIONS.values()}


def _reference(candidate: Candidate) -> _Reference:
    """Return the statistics of the filter bank that is most alike, with the nearest floor."""
    config, references = candidate.config, _references()
    name = bank_name(config)
    if f"{name}/1e-5" not in references:
        name = min(
            (bank for bank in _banks() if f"{bank}/1e-5" in references), key=lambda bank: _distance(bank, config)
        )
    if candidate.entry:
        return references[f"{name}/{candidate.entry}"]
    factor, offset = candidate.affine
    floor = max(FLOORS["1e-10"], (candidate.limits[0] - offset) / factor)
    return references[f"{name}/{min(FLOORS, key=lambda entry: abs(FLOORS[entry] - floor))}"]


def reference_bins(config: MelConfig) -> tuple[Vector, Vector]:
    """Return mean and standard deviation of the natural logarithm of speech in each bin, roughly, `(n_mels,)` each."""
    mean = _reference(Candidate("", config.model_copy(update={"log": "natural", "floor": 1e-5}))).mean[0]
    centres = (np.arange(N_BANDS) + 0.5) * config.n_mels / N_BANDS - 0.5
    means = np.interp(np.arange(config.n_mels), centres, mean[len(PERCENTILES) : N_LEVELS])
    return means, np.full(config.n_mels, math.exp(mean[-1]))


def _distance(bank: str, config: MelConfig) -> float:
    other = _banks()[bank]
    return (
        4 * abs(math.log(other.n_mels / config.n_mels))
        + abs(math.log(other.f_max / config.f_max))
        + abs(math.log(other.hop_length * config.sample_rate / config.hop_length / other.sample_rate))
        + (other.power != config.power)
        + (other.norm != config.norm)
    )


def score(mel: Values, candidate: Candidate, known: Vector | None = None) -> tuple[float, float]:
    """Return the log-likelihood of a mel under a convention, and its distance; see `Match`.

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
    fits = np.log((0.8, 0.2)) - log_determinant / 2 - (_TAILS + N_FEATURES) / 2 * np.log1p(squared / _TAILS)
    return float(np.logaddexp(*fits)) + jacobian + _floor_score(mel, candidate), float(squared.min())


def _floor_score(mel: Values, candidate: Candidate) -> float:
    """Return what values beyond the range of a convention cost, and what many at exactly its floor are worth."""
    floor, high = candidate.limits
    if floor == -math.inf:
        return 0.0
    factor, _ = candidate.affine
    above = (float(mel.max()) - high) / factor
    points = -min(40.0, 10 * above) if above > 0.1 else 0.0
    lowest = float(mel.min())
    below = (floor - lowest) / factor
    if below > 0.2:
        points -= min(40.0, 10 * below)
    elif abs(below) < 2e-3 + 1e-4 * abs(floor) / factor and int((mel <= lowest + 1e-4 * factor).sum()) > 5:
        points += 6.0
    return points


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
            likelihood, distance = score(mel, candidate, None if by_bin else known)
            yield Match(candidate, likelihood, transposed, distance)


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
    said.append(f"from frame to frame {_NEPER * steps[0]:.1f} dB (speech {_NEPER * steps[1]:.1f})")
    bands = slice(len(PERCENTILES), N_LEVELS)
    levels = (measured[bands].mean() - offset) / factor - usual[bands].mean()
    said.append(f"mean level {_NEPER * levels:+.0f} dB against usual speech")
    return ", ".join(said)


def audible_frames(mel: Values) -> NDArray[np.bool_]:
    """Return which frames of a mel `(n_mels, frames)` of whatever convention are not silence, `(frames,)`."""
    if not mel.size:
        return np.zeros(mel.shape[-1], np.bool_)
    mel = logarithm(mel) if mel.min() >= 0 else mel
    audible: NDArray[np.bool_] = np.ptp(mel, axis=0) > 0.02 * max(float(np.ptp(mel)), 1e-6)
    return audible


def likeliest(matches: Sequence[Match]) -> list[Match]:
    """Return the best match and those that the values do not tell from it."""
    best = matches[0]
    return [
        found
        for found in matches
        if best.score - found.score < (OTHER_BINS if found.same_values(best) else INSEPARABLE)
    ]


def refuse_unlikely(mel: ArrayLike, config: MelConfig) -> None:
    """Refuse a mel that is by a clear margin likelier to follow another convention.

    Args:
        mel: Values `(n_mels, frames)`, finite. What is shorter than `SHORTEST_SECONDS`, or silent, is not judged.
        config: The convention that it should follow.

    Raises:
        MelError: With the convention that it looks like.
    """
    values = as_tensor(mel, "mel", MelError).detach().float().cpu().numpy()
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
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
        raise MelError(_refusal(matches, values, config))
    ahead = [(found, found.score - own[0].score) for found in matches if not found.same_values(own[0])]
    rivals = [found for found, lead in ahead if lead >= (MARGIN if found.distance < PLAUSIBLE else CERTAIN)]
    if rivals:
        raise MelError(_refusal(rivals, values, config))


def _refusal(matches: Sequence[Match], mel: Values, config: MelConfig) -> str:
    best = likeliest(matches)
    names = list(dict.fromkeys(found.candidate.name for found in best))
    name = next((name for name in names if name in MEL_CONVENTIONS), None)
    transposed = ", transposed" if best[0].transposed else ""
    remedy = (
        f"use --mel-convention {name}" if name and not transposed else "`audiodiff mel-match` writes its convention"
    )
    return (
        f"the mel of shape {mel.shape}, values from {mel.min():.3g} to {mel.max():.3g}, looks like "
        f"{' or '.join(names[:3])}{transposed}, not like {config.name}: {remedy}; --force vocodes it as it is."
    )
