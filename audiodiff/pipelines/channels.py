"""The channels of one recording, vocoded so that they stay together: common phases, and what differs between channels.

A mel knows nothing of phases. Channels vocoded one by one get phases of their own, and with them what lies between the
loudspeakers is lost. Here one decision on phases is made for all. How far apart the channels are is read, band by band
and frame by frame, from one more mel: that of the sum of two channels, as parametric stereo does (Breebaart et al.
2005). It tells the cosine of the phase difference, from in phase to opposite, but not which channel is ahead.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from typing_extensions import Unpack

from audiodiff.audio.mel import align_to_hops, compress
from audiodiff.diffusion.samplers import StepCallback
from audiodiff.pipelines.mel_initialisation import CommonPhases, MelInitialisation
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder

_TINY = 1e-12
_LEAST_COHERENCE = 0.25
"""Below it a channel is another recording. Unrelated ones of 5 s reach 0.18 by chance, voices of half a second 0.3."""
_LEAST_LEVEL = 1e-3
"""Of a channel, relative to the loudest; below it (-60 dB) the mel of their sum is rounding."""


def common_phases(vocoder: Vocoder, audio: Tensor) -> CommonPhases:
    """Find what the phases of the channels of a recording have in common, from mels alone.

    All channels are compared with the loudest one. One that has nothing to do with it keeps phases of its own.

    Args:
        vocoder: The model.
        audio: The recording `(channels, time)` at the model's rate.
    """
    spectrogram, config = vocoder.spectrogram, vocoder.mel_config
    loudest = int(audio.square().sum(1).argmax())
    mels, sums = (align_to_hops(vocoder.mel(channels), config) for channels in (audio, audio + audio[loudest]))
    own = spectrogram.to_magnitude(mels)
    product = own * own[loudest]
    cross = (spectrogram.to_magnitude(sums).square() - own.square() - own[loudest].square()) / 2
    cosine = (cross / product.clamp_min(_TINY)).clamp(-1, 1)
    cosine[loudest] = 1
    total = product.sum((1, 2))
    coherence = (cosine * product).sum(2).abs().sum(1) / total.clamp_min(_TINY)
    level = own.square().sum((1, 2)).sqrt()
    related = ((coherence >= _LEAST_COHERENCE) & (level >= _LEAST_LEVEL * level[loudest])).view(-1, 1, 1)
    related &= related.sum() > 1
    mean = (own.square() * related).sum(0).div(related.sum().clamp_min(1)).sqrt()
    common = compress((mean * spectrogram.gain) ** config.power, config)
    return CommonPhases(torch.where(related, common, mels), torch.where(related, cosine, 1).arccos())


def with_common_phases(vocoder: Vocoder, phases: CommonPhases) -> Vocoder:
    """Return the same vocoder, for the channels of one recording."""
    bound = copy.copy(vocoder)
    bound.initialisation = MelInitialisation(vocoder.spectrogram, vocoder.whitening, phases)
    return bound


def vocode_channels(
    vocoder: Vocoder,
    mels: Tensor,
    phases: CommonPhases,
    *,
    seed: int = 0,
    chunk_seconds: float | None = None,
    on_step: StepCallback | None = None,
    **changes: Unpack[SynthesisChanges],
) -> Tensor:
    """Vocode the channels of one recording together.

    Where the reverse process does not start from integrated phases (`synthesis.start`), there is no such decision, and
    they get nothing in common but their noise.

    Args:
        vocoder: The model.
        mels: Of the channels `(channels, n_mels, frames)`.
        phases: Of the same recording, see `common_phases`.
        seed: Of the noise, which is that of all channels.
        chunk_seconds: As in a call of the vocoder, like the rest.
        on_step: Likewise.
        **changes: Likewise.

    Returns:
        Waveforms `(channels, time)`.
    """
    together, made = vocoder.engine.largest_batch or len(mels), []
    for first in range(0, len(mels), together):
        rows = slice(first, first + together)
        bound = with_common_phases(vocoder, CommonPhases(*(part[rows] for part in phases)))
        made.append(bound(mels[rows], seed=seed, chunk_seconds=chunk_seconds, on_step=on_step, **changes))
    return torch.cat(made)
