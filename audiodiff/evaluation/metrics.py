"""Scores of a generated recording against its original: the cheap ones always, PESQ and ESTOI where they are installed.

A score that cannot be had for a clip is NaN and its reason is logged; one whose package is not installed is left out.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache, partial
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiodiff.audio._torchaudio import import_torchaudio
from audiodiff.audio.resample import resample
from audiodiff.errors import AudioError
from audiodiff.evaluation.spectral import log_mel_distance, multi_resolution_stft_distance

TITLES = {
    "pesq_wb": "PESQ-WB",
    "estoi": "ESTOI",
    "distillmos": "DistillMOS",
    "m_stft": "M-STFT",
    "log_mel": "log-mel",
    "rms_ratio_db": "RMS ratio (dB)",
    "peak": "peak",
}
"""What people call the scores."""

SPEECH_RATE = 16000
"""Hz that PESQ-WB is defined at, and at which ESTOI is measured too."""

_LONGEST_PESQ = 15
"""Seconds that PESQ is given at once: its code has room for 50 utterances (of 0.4 s at least) and crashes beyond."""
_SILENCE = 1e-5
"""RMS that counts as silence (-100 dB of full scale), so that a ratio of levels stays finite."""

_LOG = logging.getLogger(__name__)
_Samples = NDArray[np.float64]


def score(generated: Tensor, reference: Tensor, sample_rate: int) -> dict[str, float]:
    """Score a recording against its original; several channels are scored one by one and averaged.

    Args:
        generated: Samples in [-1, 1] `(channels, time)`.
        reference: The original, of the same shape.
        sample_rate: In Hz.

    Returns:
        `m_stft` and `log_mel` (see `audiodiff.evaluation.spectral`; 0 is best), `rms_ratio_db` (level of the generated
        over that of the reference, in dB), `peak` (of the generated, full scale is 1) and, if the extra `eval` is
        installed, `pesq_wb` (ITU-T P.862.2, 1 to 4.64; over 15 s the mean of equal pieces) and `estoi` (Jensen and
        Taal 2016, up to 1); with the extra `eval-mos`, `distillmos` (Stahl and Gamper 2025, a predicted opinion of 1 to
        5 on the generated recording alone); these on audio resampled to 16 kHz.

    Raises:
        AudioError: If the shapes differ or are not `(channels, time)`.
    """
    if generated.ndim != 2 or generated.shape != reference.shape or not generated.numel():
        shapes = f"{tuple(generated.shape)} and {tuple(reference.shape)}"
        raise AudioError(f"recordings have shapes {shapes}; expected the same, (channels, time), not empty.")
    generated, reference = (audio.detach().cpu().float() for audio in (generated, reference))
    level, original = (float(audio.square().mean().sqrt().clamp(min=_SILENCE)) for audio in (generated, reference))
    return _speech_scores(generated, reference, sample_rate) | {
        "m_stft": _attempt("m_stft", lambda: float(multi_resolution_stft_distance(generated, reference).mean())),
        "log_mel": _attempt(
            "log_mel", lambda: float(log_mel_distance(generated, reference, sample_rate=sample_rate).mean())
        ),
        "rms_ratio_db": 20 * math.log10(level / original),
        "peak": float(generated.abs().max()),
    }


def _attempt(name: str, measure: Callable[[], float]) -> float:
    """Measure, or log why that is impossible and return NaN."""
    try:
        return measure()
    # In this order: too short; PESQ finds no speech; both packages stumble over odd input; pystoi finds too little.
    except (AudioError, RuntimeError, ValueError, RuntimeWarning) as error:
        _LOG.warning("no %s: %s", TITLES[name], " ".join(str(error).removeprefix("b'").rstrip("'").split()))
        return math.nan


def _speech_scores(generated: Tensor, reference: Tensor, sample_rate: int) -> dict[str, float]:
    """Return the scores of the extras, as many as are installed; arguments as in `score`."""
    metrics = {"pesq_wb": ("pesq", _pesq_wb), "estoi": ("pystoi", _estoi), "distillmos": ("distillmos", _distillmos)}
    installed = {name: metric for name, (package, metric) in metrics.items() if find_spec(package)}
    if not installed:
        return {}
    # Silence makes the packages fail in ways of their own, or return the score of noise that they add.
    if not all(bool(audio.any(1).all()) for audio in (generated, reference)):
        _LOG.warning("no %s: there is nothing but silence", ", ".join(TITLES[name] for name in installed))
        return dict.fromkeys(installed, math.nan)
    pair = [resample(audio.double(), sample_rate, SPEECH_RATE).numpy() for audio in (generated, reference)]
    return {name: _attempt(name, partial(_mean_of_channels, metric, *pair)) for name, metric in installed.items()}


def _mean_of_channels(metric: Callable[[_Samples, _Samples], float], generated: _Samples, reference: _Samples) -> float:
    return float(np.mean([metric(*channel) for channel in zip(generated, reference, strict=True)]))


def _pesq_wb(generated: _Samples, reference: _Samples) -> float:
    from pesq import NoUtterancesError, pesq

    n_pieces = math.ceil(len(reference) / (_LONGEST_PESQ * SPEECH_RATE))
    pieces = zip(np.array_split(reference, n_pieces), np.array_split(generated, n_pieces), strict=True)
    values = []
    for original, degraded in pieces:
        try:
            values.append(float(pesq(SPEECH_RATE, original, degraded, "wb")))
        except NoUtterancesError:  # a pause
            continue
    if not values:
        raise AudioError("there is no speech in the reference.")
    return float(np.mean(values))


def _estoi(generated: _Samples, reference: _Samples) -> float:
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns and returns 1e-5 where there is too little speech
        return float(stoi(reference, generated, SPEECH_RATE, extended=True))


def _distillmos(generated: _Samples, _reference: _Samples) -> float:
    with torch.inference_mode():
        return float(_distillmos_model()(torch.from_numpy(generated).float().unsqueeze(0)))


@cache
def _distillmos_model() -> torch.nn.Module:
    import_torchaudio()  # which distillmos imports, and which may need help
    from distillmos import ConvTransformerSQAModel

    with redirect_stdout(io.StringIO()):  # where it says which weights it loads; stdout is for results
        model: torch.nn.Module = ConvTransformerSQAModel()
    return model.eval()
