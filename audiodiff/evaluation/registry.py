"""What there is to measure on a pair of recordings, as a table: what each metric is, and what it misleads about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from audiodiff.evaluation import bands, mos, signal, speech
from audiodiff.evaluation.pair import Pair

MetricSet = Literal["default", "bands", "timing", "eval", "eval-mos"]


@dataclass(frozen=True)
class Metric:
    """A metric of one pair of recordings.

    Attributes:
        title: What people call it.
        measure: The function.
        better: Which direction is better; "neither" where a value is to be near `best`.
        best: The value of a recording against itself; None for metrics that look at the generated one alone.
        range: The values it can take, in words, with the unit.
        source: Where it is defined.
        caution: What it misleads about.
        cost: Seconds of one CPU core (AMD EPYC) per second of audio (mono, 22,050 Hz), measured; what several share is
            counted where it is first needed.
        belongs_to: The set it is measured with; "default" needs no extra, "timing" needs to be told how long synthesis
            took, the others are the names of their extras.
        packages: What must be installed.
        needs_sound: Whether it is undefined where one of the recordings is digital silence.
        decimals: How many are printed.
    """

    title: str
    measure: Callable[[Pair], float]
    better: Literal["higher", "lower", "neither"]
    best: float | None
    range: str
    source: str
    caution: str
    cost: float
    belongs_to: MetricSet = "default"
    packages: tuple[str, ...] = ()
    needs_sound: bool = False
    decimals: int = 3

    @property
    def installed(self) -> bool:
        """Whether the packages it needs are there."""
        return all(find_spec(package) for package in self.packages)


METRICS: dict[str, Metric] = {
    "m_stft": Metric(
        "M-STFT",
        signal.m_stft,
        "lower",
        0,
        "0 to about 10",
        "Yamamoto et al. 2020, Eq. 4-6; resolutions and values of auraloss",
        "Flatters models trained on it. Its log part weighs near silence like speech, so an empty band costs much.",
        0.009,
    ),
    "log_mel": Metric(
        "log-mel",
        signal.log_mel,
        "lower",
        0,
        "0 to about 10 nepers",
        "mean absolute difference of the hifigan-22k mel, up to 8 kHz",
        "Compares within one model family only: it ranks Griffin-Lim above GAN vocoders and diffusion.",
        0.002,
    ),
    "rms_ratio_db": Metric(
        "RMS ratio (dB)",
        signal.rms_ratio_db,
        "neither",
        0,
        "dB",
        "RMS of the generated over that of the reference",
        "Says nothing of quality; tells a wrong gain.",
        0.0001,
        decimals=2,
    ),
    "peak": Metric(
        "peak",
        signal.peak,
        "neither",
        None,
        "0 to 1; beyond 1 in files of floating point",
        "largest absolute sample of the generated",
        "Says nothing of quality; a 1.000 is probably clipped.",
        0.0001,
    ),
    "lag_ms": Metric(
        "lag (ms)",
        signal.lag_ms,
        "neither",
        0,
        "-500 to 500 ms",
        "cross-correlation of the envelopes in dB, in steps of 1 ms",
        "Says nothing of quality; a lag lowers M-STFT, MCD, PESQ and STOI, which compare by time.",
        0.0005,
        needs_sound=True,
        decimals=1,
    ),
    "level_below_2k": Metric(
        "level below 2 kHz (dB)",
        bands.level_below_2k,
        "neither",
        0,
        "dB",
        "power of the band, generated over reference",
        "An average over the clip: right energy at the wrong time counts as right.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "level_2_4k": Metric(
        "level 2-4 kHz (dB)",
        bands.level_2_4k,
        "neither",
        0,
        "dB",
        "power of the band, generated over reference",
        "An average over the clip: right energy at the wrong time counts as right.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "level_4_8k": Metric(
        "level 4-8 kHz (dB)",
        bands.level_4_8k,
        "neither",
        0,
        "dB",
        "power of the band, generated over reference",
        "An average over the clip: right energy at the wrong time counts as right.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "level_above_8k": Metric(
        "level above 8 kHz (dB)",
        bands.level_above_8k,
        "neither",
        0,
        "dB",
        "power of the band, generated over reference",
        "An average over the clip: right energy at the wrong time counts as right.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "lsd_above_8k": Metric(
        "LSD above 8 kHz (dB)",
        bands.lsd_above_8k,
        "lower",
        0,
        "0 to some 40 dB",
        "Gray and Markel 1976, frames of 46 ms, bins above 8 kHz",
        "Independent noise of the right spectrum has 7.9 dB, so a good synthesis has about that, not 0.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "frame_rate_buzz": Metric(
        "frame-rate buzz (dB)",
        bands.frame_rate_buzz,
        "neither",
        0,
        "dB",
        "envelope above 8 kHz at multiples of 86.13 Hz over its neighbourhood, generated minus reference",
        "One clip is uncertain by a decibel or two. Supposes hop 256 at 22,050 Hz.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "hnr_2_4k": Metric(
        "HNR 2-4 kHz (dB)",
        bands.hnr_2_4k,
        "neither",
        0,
        "dB",
        "Boersma 1993 on the band, voiced frames, generated minus reference",
        "Below 0 is noise between the harmonics, above 0 a voice too clean. Pitch that differs counts as noise.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "hnr_4_8k": Metric(
        "HNR 4-8 kHz (dB)",
        bands.hnr_4_8k,
        "neither",
        0,
        "dB",
        "Boersma 1993 on the band, voiced frames, generated minus reference",
        "Below 0 is noise between the harmonics, above 0 a voice too clean. Pitch that differs counts as noise.",
        0.0,
        "bands",
        needs_sound=True,
        decimals=2,
    ),
    "real_time_factor": Metric(
        "real-time factor",
        signal.real_time_factor,
        "lower",
        None,
        "above 0; under 1 is faster than real time",
        "seconds of synthesis per second of audio, as `audiodiff vocode` printed them",
        "Belongs to one machine, its load and the length of the clips.",
        0.0,
        "timing",
    ),
    "pesq_wb": Metric(
        "PESQ-WB",
        speech.pesq_wb,
        "higher",
        4.644,
        "1.02 to 4.64",
        "ITU-T P.862.2, 16 kHz, package pesq",
        "Made for telephone lines: deaf above 8 kHz, and kind to Griffin-Lim's metallic sound.",
        0.014,
        "eval",
        ("pesq",),
        needs_sound=True,
    ),
    "pesq_nb": Metric(
        "PESQ-NB",
        speech.pesq_nb,
        "higher",
        4.549,
        "1.02 to 4.55",
        "ITU-T P.862 and P.862.1, 8 kHz, package pesq",
        "Deaf above 4 kHz.",
        0.008,
        "eval",
        ("pesq",),
        needs_sound=True,
    ),
    "stoi": Metric(
        "STOI",
        speech.stoi,
        "higher",
        1,
        "0 to 1",
        "Taal et al. 2011, package pystoi",
        "Intelligibility, not quality: vocoders all lie between 0.97 and 1. Deaf above 5 kHz.",
        0.005,
        "eval",
        ("pystoi",),
        needs_sound=True,
    ),
    "estoi": Metric(
        "ESTOI",
        speech.estoi,
        "higher",
        1,
        "0 to 1",
        "Jensen and Taal 2016, package pystoi",
        "Intelligibility, not quality. Deaf above 5 kHz.",
        0.009,
        "eval",
        ("pystoi",),
        needs_sound=True,
    ),
    "mcd": Metric(
        "MCD13 (dB)",
        speech.mcd,
        "lower",
        0,
        "0 to about 20 dB",
        "Kubichek 1993; order 13, alpha 0.65, CheapTrick by pyworld, 5 ms",
        "Its settings change it by 30 %: compare values of one program only. Weighs silence like speech.",
        0.05,
        "eval",
        ("pyworld",),
        needs_sound=True,
    ),
    "f0_rmse_cents": Metric(
        "F0 error (cents)",
        speech.f0_rmse_cents,
        "lower",
        0,
        "0 to a few thousand cents",
        "RMS over frames voiced in both; DIO and StoneMask by pyworld, 5 ms",
        "One octave error (1200 cents) outweighs a thousand good frames; frames where voicing was lost do not count.",
        0.0001,
        "eval",
        ("pyworld",),
        needs_sound=True,
        decimals=1,
    ),
    "vuv_f1": Metric(
        "V/UV F1",
        speech.vuv_f1,
        "higher",
        1,
        "0 to 1",
        "frames called voiced by DIO and StoneMask of pyworld, 5 ms",
        "The tracker's own mistakes on the reference count as truth.",
        0.0001,
        "eval",
        ("pyworld",),
        needs_sound=True,
    ),
    "periodicity_rmse": Metric(
        "periodicity",
        signal.periodicity_rmse,
        "lower",
        0,
        "0 to 1",
        "RMS difference of normalised autocorrelation peaks (Boersma 1993), after the idea of Morrison et al. 2022",
        "Does not compare with CARGAN's, which a network measures. Frames 40 dB below the loudest do not count.",
        0.008,
        "eval",
        needs_sound=True,
    ),
    "distillmos": Metric(
        "DistillMOS",
        mos.distillmos,
        "higher",
        None,
        "1 to 5",
        "Stahl and Gamper 2025, package distillmos; hears the generated alone",
        "A network's guess of an opinion: does not notice other words or another speaker.",
        0.1,
        "eval-mos",
        ("distillmos",),
        needs_sound=True,
    ),
    "dnsmos_overall": Metric(
        "DNSMOS",
        mos.dnsmos_overall,
        "higher",
        None,
        "1 to 5",
        "P.835 overall, Reddy, Gopal and Cutler 2022, package speechmos; hears the generated alone",
        "Made for noise suppression: cannot tell DiffWave BASE from LARGE. Short clips are repeated up to 9 s.",
        0.35,
        "eval-mos",
        ("speechmos", "onnxruntime", "requests"),
        needs_sound=True,
    ),
    "dnsmos_p808": Metric(
        "DNSMOS P.808",
        mos.dnsmos_p808,
        "higher",
        None,
        "1 to 5",
        "Reddy, Gopal and Cutler 2021, package speechmos; hears the generated alone",
        "As DNSMOS.",
        0.0001,
        "eval-mos",
        ("speechmos", "onnxruntime", "requests"),
        needs_sound=True,
    ),
    "speaker_similarity": Metric(
        "speaker cosine",
        mos.speaker_similarity,
        "higher",
        1,
        "0 to 1",
        "cosine of Resemblyzer's embeddings (Wan et al. 2018)",
        "Vocoders all lie above 0.98; two unlike speakers still reach 0.5.",
        0.02,
        "eval-mos",
        ("resemblyzer", "webrtcvad"),
        needs_sound=True,
    ),
}
"""Every metric of a pair, by the name it has in results; cheap ones first."""

TITLES = {name: metric.title for name, metric in METRICS.items()}
"""What people call the scores."""
