"""Voicing and periodicity as CARGAN measures them (Morrison et al. 2022, Section 4), by the pitch tracker CREPE.

Papers on vocoders since then (BigVGAN, Vocos) report these. At 16 kHz: reflection of 419 samples at both ends, CREPE's
full network each 185 samples between 50 and 550 Hz, Viterbi decoding of 1,024 frames at a time, periodicity 0 under
-60 dB (A-weighted), both tracks interpolated to a frame each 256 samples of 22,050 Hz, voicing by hysteresis.

On 1.25 s of three LJ Speech recordings and their vocoded versions CARGAN's own code (package cargan 0.0.4) finds
periodicity 0.06626 and F1 0.971, this 0.06625 and 0.968. Resampling to 16 kHz differs, and its pitch has random dither.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from audiodiff.audio.resample import import_torchaudio
from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair, Samples
from audiodiff.evaluation.signal import SPEECH_RATE

_FRAME_RATE = 22050 / 256
"""Hz."""
_HOP = int(256 * SPEECH_RATE / 22050)
_PADDING = (1024 - _HOP) // 2
_F0_RANGE = (50.0, 550.0)
"""Hz."""
_VITERBI_FRAMES = 1024
_BATCH = 128
"""Frames in the network at once, which does not change the result: 1,024 take 3 GB."""
_CENTS_OF_FIRST_BIN = 1997.3794084376191
"""Above 10 Hz."""


class Voicing(NamedTuple):
    """What CREPE finds in one channel.

    Attributes:
        periodicity: 0 to 1 `(frames,)`.
        voiced: `(frames,)`.
    """

    periodicity: Samples
    voiced: NDArray[np.bool_]


class _Counts(NamedTuple):
    squares: float
    n_frames: int
    hits: int
    wrong: int


def periodicity_cargan(pair: Pair) -> float:
    """Return the root mean square difference of periodicity by CREPE, as CARGAN and BigVGAN report it.

    The mean over recordings is the root of the mean square over all frames. Silence counts like speech.

    Raises:
        AudioError: If the recordings are shorter than 0.027 s.
    """
    counts = _counts(pair)
    return math.sqrt(counts.squares / counts.n_frames)


def vuv_f1_cargan(pair: Pair) -> float:
    """Return the F1 score of voiced frames by CREPE, as CARGAN and BigVGAN report it.

    The mean over recordings is the F1 of all frames together. The tracker's own mistakes on the reference count as
    truth. The random dither that torchcrepe adds to pitch is left out.

    Raises:
        AudioError: If no frame is voiced in either, or the recordings are shorter than 0.027 s.
    """
    counts = _counts(pair)
    if not counts.hits + counts.wrong:
        raise AudioError("no frame is voiced in either.")
    return 2 * counts.hits / n_voiced(pair)


def n_frames(pair: Pair) -> float:
    """Return the number of frames that `periodicity_cargan` is the mean of."""
    return float(_counts(pair).n_frames)


def n_voiced(pair: Pair) -> float:
    """Return the voiced frames of generated and reference together, which is the denominator of F1."""
    return float(2 * _counts(pair).hits + _counts(pair).wrong)


def _counts(pair: Pair) -> _Counts:
    return pair.cached("CREPE", lambda: _compare(pair))


def _compare(pair: Pair) -> _Counts:
    frames = int(pair.seconds * _FRAME_RATE + 1e-6)
    found = []
    for channels in zip(*pair.resampled(SPEECH_RATE), strict=True):
        generated, reference = (track_voicing(samples, frames) for samples in channels)
        squares = float(np.square(generated.periodicity - reference.periodicity).sum())
        hits = int((generated.voiced & reference.voiced).sum())
        wrong = int((generated.voiced != reference.voiced).sum())
        found.append(_Counts(squares, frames, hits, wrong))
    return _Counts(*map(sum, zip(*found, strict=True)))


def track_voicing(samples: Samples, n_frames: int) -> Voicing:
    """Find the periodicity and voicing of one channel.

    Args:
        samples: At 16 kHz `(time,)`.
        n_frames: Number of frames to interpolate to.

    Raises:
        AudioError: If there are too few samples.
    """
    if len(samples) <= _PADDING:
        raise AudioError(f"{len(samples) / SPEECH_RATE:.3f} s is too short; CREPE needs 0.027 s.")
    import_torchaudio()  # which torchcrepe imports, and which may need help
    import torchcrepe

    audio = torch.from_numpy(samples).float().view(1, 1, -1)
    audio = functional.pad(audio, (_PADDING, _PADDING), mode="reflect")[0]
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # hysteresis takes the mean of no frame where none is voiced
        batches = torchcrepe.preprocess(audio, SPEECH_RATE, _HOP, _BATCH, pad=False)
        probabilities = torch.cat([torchcrepe.infer(batch) for batch in batches])
        tracks = [
            torchcrepe.postprocess(part.T.unsqueeze(0), *_F0_RANGE, decoder=_decode, return_periodicity=True)
            for part in probabilities.split(_VITERBI_FRAMES)
        ]
        pitch, periodicity = (torch.cat(track, 1) for track in zip(*tracks, strict=True))
        periodicity = torchcrepe.threshold.Silence()(periodicity, audio, SPEECH_RATE, _HOP, pad=False)
        pitch = _interpolate(pitch.log2(), n_frames).exp2()
        periodicity = _interpolate(periodicity, n_frames)
        voiced = ~torchcrepe.threshold.Hysteresis()(pitch, periodicity).isnan()
    return Voicing(periodicity[0].double().numpy(), voiced[0].numpy())


def _decode(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Decode as torchcrepe does, without its dither: bins and Hz `(1, frames)`."""
    import torchcrepe

    bins, _ = torchcrepe.decode.viterbi(logits)
    cents = torchcrepe.CENTS_PER_BIN * bins + _CENTS_OF_FIRST_BIN
    return bins, 10 * 2 ** (cents / 1200)


def _interpolate(track: Tensor, n_frames: int) -> Tensor:
    return functional.interpolate(track.unsqueeze(0), size=n_frames, mode="linear", align_corners=False)[0]
