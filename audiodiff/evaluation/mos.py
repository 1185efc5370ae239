"""Predicted mean opinion scores and speaker similarity, by the extra `eval-mos`; its packages hold their weights."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from functools import cache
from typing import Any

import numpy as np
import torch

from audiodiff.audio._torchaudio import import_torchaudio
from audiodiff.errors import AudioError
from audiodiff.evaluation.pair import Pair, Samples
from audiodiff.evaluation.signal import SPEECH_RATE


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
