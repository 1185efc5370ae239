"""A real-time factor that is kept: steps and precision picked by a short trial."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from audiodiff.engine.choose import Dtype
from audiodiff.errors import ConfigError
from audiodiff.pipelines.settings import SynthesisChanges
from audiodiff.pipelines.vocoder import Vocoder

TRIAL_SECONDS = 2.0
"""Length of the audio that is made to find out how long a step takes."""


def measure_step(vocoder: Vocoder, changes: SynthesisChanges, clock: Callable[[], float]) -> tuple[float, float]:
    """Time a vocoder on a short mel.

    Args:
        vocoder: The vocoder.
        changes: Its settings, but for the number of steps.
        clock: Seconds.

    Returns:
        Seconds per second of audio that are spent whatever the steps, and those of each step.
    """
    mel = vocoder.mel(0.1 * torch.randn(1, round(TRIAL_SECONDS * vocoder.sample_rate), device=vocoder.device))
    seconds = mel.shape[-1] * vocoder.mel_config.hop_length / vocoder.sample_rate

    def timed(steps: int) -> float:
        started = clock()
        counted = changes.copy()
        counted["steps"] = steps
        vocoder(mel, **counted).cpu()  # which waits for the device
        return (clock() - started) / seconds

    timed(1)  # the first run prepares what later ones find ready
    one, three = min(timed(1), timed(1)), min(timed(3), timed(3))
    step = max(three - one, 0.0) / 2
    return max(one - step, 0.0), step


def within_rtf(
    vocoder: Vocoder,
    limit: float,
    dtype: Dtype,
    changes: SynthesisChanges,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Vocoder, int, str]:
    """Pick steps and precision that keep a real-time factor: as many steps as wanted, as precise as possible.

    Args:
        vocoder: The vocoder.
        limit: The real-time factor: seconds of computing per second of audio.
        dtype: "auto" leaves the precision open; else it is kept.
        changes: Settings; their steps, or the model's own, are the most that are taken.
        clock: Seconds.

    Returns:
        The vocoder in the precision picked, the number of steps, and a line that says what was picked and why.

    Raises:
        ConfigError: If not even one step fits, or log-SNRs that were chosen one by one leave no choice of steps.
    """
    settings = vocoder.settings(changes)
    if changes.get("log_snrs") or settings.schedule == "searched":
        raise ConfigError(
            "to keep a real-time factor, the number of steps must be free; log-SNRs, or the schedule 'searched', are "
            "for one number. Leave them out, or the real-time factor."
        )
    wanted = settings.steps
    candidates: list[Dtype] = ["fp32", "bf16"] if dtype == "auto" and vocoder.dtype == torch.bfloat16 else []
    choices = [(name, vocoder.with_dtype(name)) for name in candidates] or [(dtype, vocoder)]
    best: tuple[int, float, Vocoder] | None = None
    fastest = float("inf")
    for _, candidate in choices:
        fixed, step = measure_step(candidate, changes, clock)
        fastest = min(fastest, fixed + step)
        steps = next((n for n in range(wanted, 0, -1) if fixed + n * step <= limit), 0)
        if steps and (best is None or steps > best[0]):
            best = (steps, fixed + steps * step, candidate)
    if best is None:
        raise ConfigError(
            f"a real-time factor of {limit:g} is out of reach here: a single step takes {fastest:.3f}. "
            "Allow more, or use a smaller model."
        )
    steps, factor, picked = best
    name = "bf16" if picked.dtype == torch.bfloat16 else "fp32"
    said = f"for a real-time factor of {limit:g}: {steps} of {wanted} steps in {name}, expected {factor:.3f}"
    return picked, steps, said
