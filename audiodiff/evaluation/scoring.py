"""The metrics of a pair of recordings, and the scores of a generated recording against its original.

A score that is undefined for a recording comes with the reason, never as a number. The docstring of each metric's
function says how it is computed and where it misleads.
"""

from __future__ import annotations

import inspect
import logging
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Literal, NamedTuple

from torch import Tensor

from audiodiff.errors import AudioError, ConfigError, DataError
from audiodiff.evaluation import bands, cargan, plugin, recognition, signal, speech
from audiodiff.evaluation.pair import Pair

_LOG = logging.getLogger(__name__)

VOCODER_SCORES = ("pesq_wb", "estoi", "distillmos", "m_stft", "log_mel", "rms_ratio_db", "peak")
"""The default of `score`: those that tell vocoders apart, and two that reveal a wrong level."""


class Scores(NamedTuple):
    """Scores of one pair, the reasons for those that are undefined, and what the others weigh in a mean (else 1)."""

    values: dict[str, float]
    failures: dict[str, str]
    weights: dict[str, float]


def resolve_metrics(sets_or_names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Resolve names of metrics and sets, such as `["default", "mcd"]`, and import functions named MODULE:FUNCTION.

    Returns:
        The names of metrics in the order of `METRICS`, then functions; and one line per extra that is not installed,
        whose metrics are then left out.

    Raises:
        ConfigError: If a name is unknown, a metric requested for by its own name is not installed, or a function cannot
            be imported.
    """
    functions = [name for name in dict.fromkeys(sets_or_names) if plugin.names_function(name)]
    for name in functions:
        plugin.load_function(name)
    requested = [name for name in sets_or_names if name not in functions]
    sets = dict.fromkeys(metric.belongs_to for metric in METRICS.values())
    unknown = [name for name in requested if name not in METRICS and name not in sets]
    if unknown:
        raise ConfigError(
            f"no metric {unknown[0]!r}; choose from the sets {', '.join(sets)}, or {', '.join(METRICS)}, or name a "
            "function of your own as MODULE:FUNCTION."
        )
    for name in requested:
        if name in METRICS and not METRICS[name].installed:
            raise ConfigError(f"{METRICS[name].title} needs `pip install 'audiodiff[{METRICS[name].belongs_to}]'`.")
    selected = [name for name, metric in METRICS.items() if name in requested or metric.belongs_to in requested]
    chosen = [name for name in selected if METRICS[name].installed]
    missing = [name for name in selected if name not in chosen]
    notes = []
    for extra in dict.fromkeys(METRICS[name].belongs_to for name in missing):
        titles = ", ".join(TITLES[name] for name in missing if METRICS[name].belongs_to == extra)
        notes.append(f"{titles} left out: `pip install 'audiodiff[{extra}]'` brings what is missing.")
    return chosen + functions, notes


def find_metric(name: str) -> Metric:
    """Return a metric by its name: of `METRICS`, or a function of your own, which need not be there.

    Raises:
        DataError: If it is neither.
    """
    if name in METRICS:
        return METRICS[name]
    if not plugin.names_function(name):
        raise DataError(f"no metric {name!r}; choose from {', '.join(METRICS)}, or MODULE:FUNCTION of your own.")
    return Metric(name, partial(plugin.measure, name), "neither", None, "", 0.0, "your own", needs_sound=False)


def score_pair(pair: Pair, names: Iterable[str], **options: Callable[[Pair], float]) -> Scores:
    """Score a pair.

    Args:
        pair: The recordings.
        names: Of `METRICS`, or functions of your own.
        **options: By the name of a metric, a function to use in place of its own, such as MCD with another alignment.

    Returns:
        The scores, and the reasons for those that are undefined on this pair.
    """
    values, failures, weights = {}, {}, {}
    for name in names:
        metric = find_metric(name)
        try:
            if metric.needs_sound and pair.silent:
                raise AudioError("there is nothing but silence.")
            value = options.get(name, metric.measure)(pair)
            weight = metric.weight(pair) if metric.weight else None
        # In this order: too short; PESQ finds no speech; packages stumble over odd input; pystoi finds too little.
        except (AudioError, RuntimeError, ValueError, RuntimeWarning) as error:
            failures[name] = " ".join(re.sub(r"^b'(.*)'$", r"\1", str(error)).split())
            continue
        if math.isfinite(value):
            values[name] = value
            if weight is not None:
                weights[name] = weight
        else:
            failures[name] = f"it is {value}."
    return Scores(values, failures, weights)


def score(
    generated: Tensor, reference: Tensor, sample_rate: int, names: Iterable[str] = VOCODER_SCORES
) -> dict[str, float]:
    """Score a recording against its original; several channels are scored one by one and averaged.

    Args:
        generated: Samples in [-1, 1] `(channels, time)`.
        reference: The original, of the same shape.
        sample_rate: In Hz.
        names: Of `METRICS`; those whose package is not installed are left out.

    Returns:
        The scores by name. An undefined one is NaN, and its reason is logged.

    Raises:
        AudioError: If the shapes differ or are not `(channels, time)`.
    """
    names = [name for name in names if METRICS[name].installed]
    scores = score_pair(Pair(generated, reference, sample_rate), names)
    reasons: dict[str, list[str]] = {}
    for name, reason in scores.failures.items():
        reasons.setdefault(reason, []).append(TITLES[name])
    for reason, titles in reasons.items():
        _LOG.warning("no %s: %s", ", ".join(titles), reason)
    return {name: scores.values.get(name, math.nan) for name in names}


MetricSet = Literal["default", "bands", "timing", "eval", "eval-pitch", "eval-asr", "eval-mos", "your own"]


@dataclass(frozen=True)
class Metric:
    """A metric of one pair of recordings.

    Attributes:
        title: Its usual name.
        measure: The function.
        better: Which direction is better; "neither" where a value is to be near `best`.
        best: The value of a recording against itself; None for metrics that look at the generated one alone.
        range: Its values in words, with the unit.
        cost: Seconds of one CPU core (AMD EPYC) per second of audio (mono, 22,050 Hz), measured; what several share is
            counted where it is first needed.
        belongs_to: The set it is measured with; those that begin with "eval" are extras of their names, "timing" needs
            to be told how long synthesis took, the others need nothing.
        packages: What must be installed.
        needs_sound: Whether it is undefined where one of the recordings is digital silence.
        decimals: How many are printed.
        weight: What a recording weighs in a mean, such as its number of words; None weighs all alike.
        power: Of the values that are averaged: 2 for a root mean square.
    """

    title: str
    measure: Callable[[Pair], float]
    better: Literal["higher", "lower", "neither"]
    best: float | None
    range: str
    cost: float
    belongs_to: MetricSet = "default"
    packages: tuple[str, ...] = ()
    needs_sound: bool = True
    decimals: int = 3
    weight: Callable[[Pair], float] | None = None
    power: int = 1

    @property
    def installed(self) -> bool:
        """Whether the packages it needs are there."""
        return all(find_spec(package) for package in self.packages)

    @property
    def description(self) -> str:
        """The docstring of the function, without arguments and errors."""
        return re.split(r"\n\n(?:Args|Returns|Raises):", inspect.getdoc(self.measure) or "")[0]


_ASR = ("pocketsphinx", "jiwer")
_DNSMOS = ("speechmos", "onnxruntime", "requests")
_RESEMBLYZER = ("resemblyzer", "webrtcvad")


def _error_rate(
    title: str, rate: Callable[[Pair], float], length: Callable[[Pair], float], best: float | None
) -> Metric:
    limits = "0 %, and more than 100 % where words are added"
    return Metric(
        title, rate, "lower", best, limits, 0.7, "eval-asr", _ASR, needs_sound=False, decimals=1, weight=length
    )


METRICS: dict[str, Metric] = {
    "m_stft": Metric("M-STFT", signal.m_stft, "lower", 0, "0 to about 10", 0.009, needs_sound=False),
    "log_mel": Metric("log-mel", signal.log_mel, "lower", 0, "0 to about 10 nepers", 0.002, needs_sound=False),
    "rms_ratio_db": Metric(
        "RMS ratio (dB)", signal.rms_ratio_db, "neither", 0, "dB", 0.0001, needs_sound=False, decimals=2
    ),
    "peak": Metric("peak", signal.peak, "neither", None, "0 to 1", 0.0001, needs_sound=False),
    "lag_ms": Metric("lag (ms)", signal.lag_ms, "neither", 0, "-500 to 500 ms", 0.0005, decimals=1),
    "level_below_2k": Metric(
        "level below 2 kHz (dB)", bands.level_below_2k, "neither", 0, "dB", 0.003, "bands", decimals=2
    ),
    "level_2_4k": Metric("level 2-4 kHz (dB)", bands.level_2_4k, "neither", 0, "dB", 0.003, "bands", decimals=2),
    "level_4_8k": Metric("level 4-8 kHz (dB)", bands.level_4_8k, "neither", 0, "dB", 0.003, "bands", decimals=2),
    "level_above_8k": Metric(
        "level above 8 kHz (dB)", bands.level_above_8k, "neither", 0, "dB", 0.003, "bands", decimals=2
    ),
    "lsd_above_8k": Metric(
        "LSD above 8 kHz (dB)", bands.lsd_above_8k, "lower", 0, "0 to some 40 dB", 0.003, "bands", decimals=2
    ),
    "frame_rate_buzz": Metric(
        "frame-rate buzz (dB)", bands.frame_rate_buzz, "neither", 0, "dB", 0.05, "bands", decimals=2
    ),
    "hnr_2_4k": Metric("HNR 2-4 kHz (dB)", bands.hnr_2_4k, "neither", 0, "dB", 0.045, "bands", decimals=2),
    "hnr_4_8k": Metric("HNR 4-8 kHz (dB)", bands.hnr_4_8k, "neither", 0, "dB", 0.045, "bands", decimals=2),
    "real_time_factor": Metric(
        "real-time factor",
        signal.real_time_factor,
        "lower",
        None,
        "above 0; under 1 is faster than real time",
        0.0,
        "timing",
        needs_sound=False,
    ),
    "pesq_wb": Metric("PESQ-WB", speech.pesq_wb, "higher", 4.644, "1.02 to 4.64", 0.014, "eval", ("pesq",)),
    "pesq_nb": Metric("PESQ-NB", speech.pesq_nb, "higher", 4.549, "1.02 to 4.55", 0.008, "eval", ("pesq",)),
    "stoi": Metric("STOI", speech.stoi, "higher", 1, "0 to 1", 0.005, "eval", ("pystoi",)),
    "estoi": Metric("ESTOI", speech.estoi, "higher", 1, "0 to 1", 0.009, "eval", ("pystoi",)),
    "mcd": Metric("MCD13 (dB)", speech.mcd, "lower", 0, "0 to about 20 dB", 0.05, "eval", ("pyworld",)),
    "f0_rmse_cents": Metric(
        "F0 error (cents)",
        speech.f0_rmse_cents,
        "lower",
        0,
        "0 to a few thousand cents",
        0.0001,
        "eval",
        ("pyworld",),
        decimals=1,
    ),
    "vuv_f1": Metric("V/UV F1", speech.vuv_f1, "higher", 1, "0 to 1", 0.0001, "eval", ("pyworld",)),
    "periodicity_rmse": Metric("periodicity", signal.periodicity_rmse, "lower", 0, "0 to 1", 0.008, "eval"),
    "vuv_f1_cargan": Metric(
        "V/UV F1 (CARGAN)",
        cargan.vuv_f1_cargan,
        "higher",
        1,
        "0 to 1",
        7.0,
        "eval-pitch",
        ("torchcrepe",),
        weight=cargan.n_voiced,
    ),
    "periodicity_cargan": Metric(
        "periodicity (CARGAN)",
        cargan.periodicity_cargan,
        "lower",
        0,
        "0 to 1",
        0.0001,
        "eval-pitch",
        ("torchcrepe",),
        weight=cargan.n_frames,
        power=2,
    ),
    "wer": _error_rate("WER (%)", recognition.wer, recognition.n_words, None),
    "cer": _error_rate("CER (%)", recognition.cer, recognition.n_characters, None),
    "dwer": _error_rate("dWER (%)", recognition.dwer, recognition.n_words_heard, 0),
    "dcer": _error_rate("dCER (%)", recognition.dcer, recognition.n_characters_heard, 0),
    "distillmos": Metric("DistillMOS", speech.distillmos, "higher", None, "1 to 5", 0.1, "eval-mos", ("distillmos",)),
    "dnsmos_overall": Metric("DNSMOS", speech.dnsmos_overall, "higher", None, "1 to 5", 0.35, "eval-mos", _DNSMOS),
    "dnsmos_p808": Metric("DNSMOS P.808", speech.dnsmos_p808, "higher", None, "1 to 5", 0.0001, "eval-mos", _DNSMOS),
    "speaker_similarity": Metric(
        "speaker cosine", speech.speaker_similarity, "higher", 1, "0 to 1", 0.02, "eval-mos", _RESEMBLYZER
    ),
}
"""Every metric of a pair, by the name it has in results; cheap ones first."""

ERROR_RATES = {name for name, metric in METRICS.items() if metric.belongs_to == "eval-asr"}
"""Those that a speech recogniser is needed for."""

TITLES = {name: metric.title for name, metric in METRICS.items()}
"""Usual names of the metrics."""
