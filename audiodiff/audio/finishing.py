"""Generated clips made ready to use: without the lines of the patch grid or a click at an end, brought to a level."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, conv1d

from audiodiff.choices import LEVEL, Level
from audiodiff.errors import needed

_SILENCE_DB = -60.0
"""Peak below which a clip is silence, in dBFS, and below which its ends are, in dB of its peak."""
_PLAIN_GAIN_DB = 24.0
"""Any clip is amplified so far; more only as far as its noise floor stays below the next constant."""
_NOISE_FLOOR_DB = -36.0
_FRAME_SECONDS = 0.02
_PEAK_DB = -1.0
"""Highest peak of a clip that is brought to a loudness, in dBFS."""
_FADE_IN_SECONDS, _ATTACK_SECONDS, _FADE_OUT_SECONDS = 1e-3, 2.5e-4, 8e-3
_ATTACK_DB = -20.0
"""Where the first millisecond is louder than this, in dB of the peak, a clip begins with its stroke."""
_BLOCK_SECONDS = 0.4
"""Of ITU-R BS.1770-4."""
_PATTERN_PATCHES, _POWER_PATCHES = 257, 33
"""Over how many patches their common pattern, and the power that weights them, are averaged."""
_PATTERN_DB = -60.0
"""Largest pattern that is taken out, in dB of the peak."""


class FinishedClip(NamedTuple):
    """A clip `(channels, time)` that is ready to use, and what its listener should know of it, if anything."""

    audio: Tensor
    remark: str


def parse_level(level: Level | float | str | None) -> Level | None:
    """Return a level, once it is known that it can be measured.

    Args:
        level: Such as -1 (peak in dBFS) or "-16LUFS" (loudness); None is none.

    Raises:
        ConfigError: If it is no level, or loudness is asked for and the extra `eval` is not installed.
    """
    if level is None:
        return None
    parsed: Level = LEVEL.check("level", level)
    if parsed.unit == "LUFS":
        with needed("eval", "a level in LUFS"):
            import pyloudnorm  # noqa: F401
    return parsed


def finish_clip(audio: Tensor, sample_rate: int, level: Level, patch: int = 1) -> FinishedClip:
    """Take the lines of the patch grid out of a clip, fade its ends where they are not silent, bring it to a level.

    Every clip is amplified by up to 24 dB. One that needs more is amplified as far as its noise floor, the quietest
    sixth of its 20 ms frames, stays below -36 dBFS. Silence, a peak below -60 dBFS, is left as it is. A loudness is
    reached as far as the peak stays below -1 dBFS.

    Args:
        audio: Samples `(channels, time)`.
        sample_rate: In Hz.
        level: The peak, or the loudness.
        patch: Samples that were one position of the network which made the clip.

    Returns:
        The clip, and in its remark why it is not at the level.
    """
    faded = fade_ends(remove_patch_pattern(audio, patch), sample_rate)
    peak = _decibels(float(faded.abs().max()))
    if peak < _SILENCE_DB:
        return FinishedClip(audio, f"silence (peak {peak:.0f} dBFS), left as it is")
    highest = level.value if level.unit == "dBFS" else _PEAK_DB
    gain = level.value - loudness(faded, sample_rate) if level.unit == "LUFS" else math.inf
    most = max(_PLAIN_GAIN_DB, _NOISE_FLOOR_DB - _noise_floor(faded, sample_rate))
    remark = ""
    if gain > highest - peak:
        gain = highest - peak
        remark = "" if level.unit == "dBFS" else f"no louder, as its peak is at {_PEAK_DB:g} dBFS"
    if gain > most:
        gain, remark = most, f"quiet and noisy: peak {peak + most:.1f} dBFS, as more would bring up its noise"
    return FinishedClip((faded * 10 ** (gain / 20)).clamp(-1, 1), remark)


def remove_patch_pattern(audio: Tensor, patch: int) -> Tensor:
    """Take out what all patches around a place have in common: lines at multiples of the sample rate over the patch.

    The samples of a patch come from weights of their own, so what little a network leaves in silence repeats with every
    patch. Quiet patches tell it, so they count more; a pattern above -60 dB of the peak is sound, and only so much of
    it is taken out.

    Args:
        audio: Samples `(channels, time)`.
        patch: Samples of a patch.
    """
    n_patches = audio.shape[-1] // patch
    if patch == 1 or n_patches < _PATTERN_PATCHES:
        return audio
    patches = audio[..., : n_patches * patch].double().unflatten(-1, (n_patches, patch)).transpose(1, 2)
    peak = float(audio.abs().max())
    power = avg_pool1d(patches.square().mean(1, keepdim=True), _POWER_PATCHES, 1, _POWER_PATCHES // 2)
    weights = 1 / (power + 1e-10 * peak**2 + torch.finfo(torch.float64).tiny)
    window = torch.hann_window(_PATTERN_PATCHES + 2, periodic=False, dtype=torch.float64, device=audio.device)[1:-1]

    def smooth(values: Tensor) -> Tensor:
        return conv1d(values.flatten(0, 1)[:, None], window.view(1, 1, -1), padding="same").view_as(values)

    pattern = smooth(patches * weights) / smooth(weights)
    pattern -= pattern.mean(1, keepdim=True)  # which is the sound's own
    rms = pattern.square().mean(1, keepdim=True).sqrt()
    pattern *= (peak * 10 ** (_PATTERN_DB / 20) / rms).clamp_max(1)
    rest = audio[..., n_patches * patch :]
    return torch.cat([audio[..., : n_patches * patch] - pattern.transpose(1, 2).flatten(1).to(audio), rest], -1)


def fade_ends(audio: Tensor, sample_rate: int) -> Tensor:
    """Fade a clip `(channels, time)` in and out by half a cosine where it does not begin or end in silence.

    It is faded out over 8 ms, and in over 1 ms, or a quarter of that where the first millisecond holds the attack.
    """
    envelope = audio.abs().amax(0)
    silent, loud = (float(envelope.max()) * 10 ** (decibels / 20) for decibels in (_SILENCE_DB, _ATTACK_DB))
    n_in, n_attack, n_out = (
        min(round(seconds * sample_rate), len(envelope) // 2)
        for seconds in (_FADE_IN_SECONDS, _ATTACK_SECONDS, _FADE_OUT_SECONDS)
    )
    if envelope[0] <= silent:
        n_in = 0
    elif (envelope[: n_in + 1] > loud).any():
        n_in = n_attack
    if not (envelope[-n_out - 1 :] > silent).any():
        n_out = 0
    n_there = torch.tensor([len(envelope)], device=audio.device)
    return audio * fades(len(envelope), n_there, n_in, n_out).to(audio)


def fades(n_samples: int, n_there: Tensor, n_in: int, n_out: int) -> Tensor:
    """Return a weight per sample: 0 at both ends, it rises over the first `n_in` and falls over the last `n_out`.

    Both are raised cosines; where they meet, they multiply.

    Args:
        n_samples: Of a crop.
        n_there: Where the fall ends; all after it is 0 if there is one `(batch,)`.
        n_in: Samples.
        n_out: Samples.

    Returns:
        Weights `(batch, n_samples)`, float32, where `n_there` is.
    """
    index = torch.arange(n_samples, device=n_there.device)
    weight = torch.ones(len(n_there), n_samples, device=n_there.device)
    for distance, length in ((index, n_in), (n_there.unsqueeze(1) - 1 - index, n_out)):
        if length:
            weight = weight * (0.5 - 0.5 * torch.cos(torch.pi * (distance / length).clamp(0, 1)))
    return weight


def loudness(audio: Tensor, sample_rate: int) -> float:
    """Return the gated loudness of a clip `(channels, time)` by ITU-R BS.1770-4 in LUFS; minus infinity for none.

    A clip shorter than the 400 ms of a block is one block.
    """
    import pyloudnorm

    seconds = (audio.shape[-1] - 0.5) / sample_rate  # half a sample less, lest rounding make it longer than the clip
    meter = pyloudnorm.Meter(sample_rate, block_size=min(_BLOCK_SECONDS, seconds))
    with np.errstate(divide="ignore"):
        return float(meter.integrated_loudness(audio.detach().cpu().double().numpy().T))


def _noise_floor(audio: Tensor, sample_rate: int) -> float:
    """Return the level of the quietest sixth of the 20 ms frames in dBFS."""
    length = min(round(_FRAME_SECONDS * sample_rate), audio.shape[-1])
    power = audio.square().mean(0).unfold(-1, length, length).mean(-1)
    return _decibels(float(power.sort().values[: -(-len(power) // 6)].mean().sqrt()))


def _decibels(amplitude: float) -> float:
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
