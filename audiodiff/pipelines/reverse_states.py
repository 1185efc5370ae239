"""The reverse process of a vocoder while it runs: what there is to hear before every network call, and at the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import Unpack

from audiodiff.audio.mel import align_to_hops
from audiodiff.diffusion.process import Prediction
from audiodiff.pipelines.channels import common_phases, with_common_phases
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder


def reverse_states(
    vocoder: Vocoder,
    audio: Tensor,
    seed: int,
    on_state: Callable[[float, Tensor], object],
    **changes: Unpack[SynthesisChanges],
) -> Tensor:
    """Vocode a recording in one piece, and show the signal before every network call.

    Args:
        vocoder: The model.
        audio: The recording `(channels, time)`, at the model's rate.
        seed: Of the noise, for every channel.
        on_state: Called with the log-SNR, and the audio `(channels, time)` with what noise is still in it. What it
            raises ends the reverse process.
        **changes: As in `Vocoder.__call__`.

    Returns:
        What `vocoder(vocoder.mel(audio), seed=seed, **changes)` is, up to rounding and the precision of its engine;
        several channels get phases in common, see `audiodiff.pipelines.channels`.

    Raises:
        AudioError: If the recording is shorter than a frame.
        ConfigError: If a setting is impossible.
    """
    settings = vocoder.settings(changes)
    if len(audio) > 1:
        vocoder = with_common_phases(vocoder, common_phases(vocoder, audio.to(vocoder.device)))
    frames = align_to_hops(vocoder.mel(audio), vocoder.mel_config)
    with torch.inference_mode():
        predictor = vocoder.plain_predictor(vocoder.network.encode(frames), None)

        def predict(x: Tensor, log_snr: Tensor) -> Prediction:
            on_state(float(log_snr), vocoder.colour(x, frames)[:, 0])
            return predictor(x, log_snr)

        return vocoder.synthesise(frames, [seed] * len(audio), settings=settings, predictor=predict)[:, 0]
