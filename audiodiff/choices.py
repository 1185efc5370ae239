"""Names that users choose by, in one place that imports nothing, so that help is instant."""

from typing import Literal

Sampler = Literal["ddim", "heun", "ddpm", "dpmpp_2m", "dpmpp_2m_sde"]
"""Keys of `audiodiff.diffusion.samplers.SAMPLERS`."""

Schedule = Literal[
    "uniform",
    "cosine",
    "sigmoid",
    "linear_beta",
    "fibonacci",
    "wavegrad",
    "diffwave",
    "diffwave_large",
    "diffwave_50",
    "diffwave_200",
]
"""Keys of `audiodiff.diffusion.schedules.SCHEDULES`."""

Start = Literal["noise", "phase-gradient", "griffin-lim"]
"""What a vocoder diffuses to the first noise level: nothing, or an estimate from the mel with phases of this method."""

Dtype = Literal["auto", "fp32", "bf16"]
"""Precision of a network's matrix products."""
