"""Metrics of speech.

By the extra `eval`: PESQ, STOI, mel-cepstral distortion, pitch. By the extra `eval-mos`, whose packages hold their
weights: predicted mean opinion scores and speaker similarity.
"""

from __future__ import annotations

import io
import math
import warnings
from contextlib import redirect_stdout
from functools import cache
from typing import Any, Literal

import numpy as np
import torch

from audiodiff.audio.resample import import_torchaudio
from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair, Samples, World
from audiodiff.evaluation.signal import SPEECH_RATE

NARROW_RATE = 8000
"""Hz that narrow-band PESQ is measured at."""

MCD_ORDER = 13
MCD_ALPHA = 0.65
MCD_FLOOR = 1e-8
"""Settings of mel-cepstral distortion: others change it by 30 %."""

McdAlignment = Literal["none", "dtw"]

_PESQ_MAX_SECONDS = 15
"""Longer audio is split: the package has room for 50 utterances (of 0.4 s at least) and crashes beyond."""


def pesq_wb(pair: Pair) -> float:
    """Return PESQ, wide band (ITU-T P.862.2), at 16 kHz; over 15 s the mean of equal chunks.

    Made for telephone lines: deaf above 8 kHz, and kind to the metallic sound of Griffin-Lim.
    """
    return pair.mean_over_channels(SPEECH_RATE, lambda generated, reference: _pesq(generated, reference, "wb"))


def pesq_nb(pair: Pair) -> float:
    """Return PESQ, narrow band (ITU-T P.862 with the mapping of P.862.1), at 8 kHz; over 15 s as `pesq_wb`.

    Deaf above 4 kHz.
    """
    return pair.mean_over_channels(NARROW_RATE, lambda generated, reference: _pesq(generated, reference, "nb"))


def _pesq(generated: Samples, reference: Samples, band: Literal["wb", "nb"]) -> float:
    from pesq import NoUtterancesError, pesq

    rate = SPEECH_RATE if band == "wb" else NARROW_RATE
    n_chunks = math.ceil(len(reference) / (_PESQ_MAX_SECONDS * rate))
    chunks = zip(np.array_split(reference, n_chunks), np.array_split(generated, n_chunks), strict=True)
    values = []
    for original, degraded in chunks:
        try:
            values.append(float(pesq(rate, original, degraded, band)))
        except NoUtterancesError:  # a pause
            continue
    if not values:
        raise AudioError("there is no speech in the reference.")
    return float(np.mean(values))


def stoi(pair: Pair) -> float:
    """Return STOI (Taal et al. 2011, package pystoi) at 16 kHz.

    It measures intelligibility, not quality: vocoders all lie between 0.97 and 1. Deaf above 5 kHz.
    """
    return pair.mean_over_channels(SPEECH_RATE, lambda generated, reference: _stoi(generated, reference, False))


def estoi(pair: Pair) -> float:
    """Return ESTOI (Jensen and Taal 2016, package pystoi) at 16 kHz.

    It measures intelligibility, not quality. Deaf above 5 kHz.
    """
    return pair.mean_over_channels(SPEECH_RATE, lambda generated, reference: _stoi(generated, reference, True))


def _stoi(generated: Samples, reference: Samples, extended: bool) -> float:
    from pystoi import stoi as measure

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # it warns and returns 1e-5 where there is too little speech
        return float(measure(reference, generated, SPEECH_RATE, extended=extended))


def mcd(pair: Pair, alignment: McdAlignment = "none") -> float:
    """Return the mel-cepstral distortion in dB, of order 13 without the zeroth (Kubichek 1993), a frame each 5 ms.

    Mel cepstra are those of CheapTrick's envelope, warped with alpha 0.65; see `mel_cepstrum`.

    Its settings change it by 30 %: compare values of one program only. It weighs silence like speech.

    Args:
        pair: The recordings.
        alignment: "none" compares frame by frame, "dtw" along the cheapest path (which can only be lower).

    Returns:
        10 / ln 10 * sqrt(2 sum of squared differences), averaged over frames (or along the path), and channels.
    """
    return float(np.mean([_distortion(*worlds, alignment) for worlds in pair.world]))


def _distortion(generated: World, reference: World, alignment: McdAlignment) -> float:
    first, second = (mel_cepstrum(world.envelope)[:, 1:] for world in (generated, reference))
    if alignment == "dtw":
        from librosa.sequence import dtw  # here, because it takes a second

        _, path = dtw(first.T, second.T)
        first, second = first[path[:, 0]], second[path[:, 1]]
    return float(10 / math.log(10) * math.sqrt(2) * np.linalg.norm(first - second, axis=1).mean())


def mel_cepstrum(envelope: Samples, order: int = MCD_ORDER, alpha: float = MCD_ALPHA) -> Samples:
    """Compute the mel cepstrum of power spectra by frequency transformation (Oppenheim and Johnson 1972).

    Equals `mcep` of SPTK without iterations (maxiter 0), with 1e-8 added to the power.

    Args:
        envelope: Power `(frames, n_fft // 2 + 1)`.
        order: Highest coefficient.
        alpha: All-pass constant of the warped frequency axis.

    Returns:
        Coefficients 0 to order of the log magnitude `(frames, order + 1)`.
    """
    cepstrum = np.fft.irfft(np.log(envelope + MCD_FLOOR))
    half = cepstrum.shape[1] // 2
    cepstrum = cepstrum[:, : half + 1]
    cepstrum[:, [0, half]] /= 2
    result: Samples = cepstrum @ _warping(half, order, alpha).T
    return result


@cache
def _warping(order_in: int, order_out: int, alpha: float) -> Samples:
    """Return the matrix `(order_out + 1, order_in + 1)` that warps a cepstrum; its columns follow a recursion."""
    matrix = np.zeros((order_out + 1, order_in + 1))
    matrix[0, 0] = 1
    matrix[0, 1:] = alpha ** np.arange(1, order_in + 1)
    for row in range(1, order_out + 1):
        for column in range(1, order_in + 1):
            before = matrix[row - 1, column - 1] * (1 - alpha**2 if row == 1 else 1)
            matrix[row, column] = before + alpha * (
                matrix[row, column - 1] - (matrix[row - 1, column] if row > 1 else 0)
            )
    return matrix


def f0_rmse_cents(pair: Pair) -> float:
    """Return the root mean square pitch error in cents, over frames voiced in both; DIO and StoneMask, every 5 ms.

    One octave error (1200 cents) outweighs a thousand good frames; frames that lost their voicing do not count.

    Raises:
        AudioError: If there is no such frame.
    """
    errors = []
    for generated, reference in pair.world:
        both = (generated.f0 > 0) & (reference.f0 > 0)
        errors.append(1200 * np.log2(generated.f0[both] / reference.f0[both]))
    cents = np.concatenate(errors)
    if not len(cents):
        raise AudioError("no frame is voiced in both.")
    return float(np.sqrt(np.square(cents).mean()))


def vuv_f1(pair: Pair) -> float:
    """Return the F1 score of voiced frames, DIO and StoneMask every 5 ms; those of the reference are the truth.

    The tracker's own mistakes on the reference count as truth.

    Raises:
        AudioError: If no frame is voiced in either.
    """
    hits = wrong = 0
    for generated, reference in pair.world:
        predicted, truth = generated.f0 > 0, reference.f0 > 0
        hits += int((predicted & truth).sum())
        wrong += int((predicted != truth).sum())
    if not hits + wrong:
        raise AudioError("no frame is voiced in either.")
    return 2 * hits / (2 * hits + wrong)


def distillmos(pair: Pair) -> float:
    """Return DistillMOS (Stahl and Gamper 2025), a MOS predicted from the generated alone, at 16 kHz.

    A network predicts it: it does not notice other words or another speaker.
    """
    return pair.mean_over_channels(SPEECH_RATE, lambda generated, _: _distillmos(generated))


def _distillmos(samples: Samples) -> float:
    with torch.inference_mode():
        return float(_distillmos_model()(torch.from_numpy(samples).float().unsqueeze(0)))


@cache
def _distillmos_model() -> torch.nn.Module:
    import_torchaudio()  # which distillmos imports, and which may need help
    from distillmos import ConvTransformerSQAModel

    with redirect_stdout(io.StringIO()):  # where it says which weights it loads; stdout is for results
        model: torch.nn.Module = ConvTransformerSQAModel()
    return model.eval()


def dnsmos_overall(pair: Pair) -> float:
    """Return the overall MOS of DNSMOS P.835 (Reddy, Gopal and Cutler 2022) of the generated, at 16 kHz.

    Made for noise suppression: it cannot tell DiffWave BASE from LARGE. Short clips are repeated up to 9 s.
    """
    return _dnsmos(pair, "ovrl_mos")


def dnsmos_p808(pair: Pair) -> float:
    """Return DNSMOS P.808 (Reddy, Gopal and Cutler 2021), a MOS predicted from the generated alone, at 16 kHz.

    Its limits are those of `dnsmos_overall`.
    """
    return _dnsmos(pair, "p808_mos")


def _dnsmos(pair: Pair, name: str) -> float:
    """Return one of DNSMOS's scores; all are computed together, once per pair."""
    scores = pair.cached("DNSMOS", lambda: [_run_dnsmos(channel) for channel in pair.resampled(SPEECH_RATE)[0]])
    return float(np.mean([channel[name] for channel in scores]))


def _run_dnsmos(samples: Samples) -> dict[str, float]:
    from speechmos import dnsmos

    if (peak := np.abs(samples).max()) > 1:
        raise AudioError(f"the peak at 16 kHz is {peak:.2f}, and DNSMOS takes nothing beyond 1. Lower the level.")
    scores: dict[str, float] = dnsmos.run(samples, SPEECH_RATE)
    return scores


def speaker_similarity(pair: Pair) -> float:
    """Return the cosine of Resemblyzer's voice embeddings (Wan et al. 2018) of both recordings, at 16 kHz.

    Vocoders all lie above 0.98; two unlike speakers still reach 0.5.

    Raises:
        AudioError: If no voice is found in one of them.
    """
    return pair.mean_over_channels(SPEECH_RATE, lambda *channel: float(np.dot(*map(_speaker_embedding, channel))))


def _speaker_embedding(samples: Samples) -> Samples:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of imports that the package should no longer make
        from resemblyzer import preprocess_wav

        spoken = preprocess_wav(samples.astype(np.float32))
    if not len(spoken):
        raise AudioError("no voice is found in one of the two.")
    embedding: Samples = _voice_encoder().embed_utterance(spoken)
    return embedding


@cache
def _voice_encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)
