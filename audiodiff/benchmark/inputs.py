"""Inputs of a benchmark: models by name, DiffWave BASE with random weights, mels and crops of noise, FLOP counts."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiodiff.checkpoint import choose_device, find_model, load_model
from audiodiff.config import ModelConfig
from audiodiff.data.crops import Example, context_frames
from audiodiff.engine.choose import Dtype
from audiodiff.interop import published_base_config
from audiodiff.networks import Network, build_network
from audiodiff.pipelines import Vocoder

BASE = "diffwave-base"
"""DiffWave BASE as published by lmnt-com/diffwave, with random weights: speed does not depend on their values."""

_NOISE_SECONDS = 10.0
"""Length of the noise that mels are made of; longer mels repeat it, for an hour's spectrum alone takes a gigabyte."""
_NOISE_LEVEL = 0.1
"""Standard deviation of the noise, about that of speech."""
_GAUGE_BLOCKS = 16
"""Blocks of the signal that random weights are scaled on."""


def load_network(name: str | None, device: str) -> tuple[Network, ModelConfig]:
    """Load a model.

    Args:
        name: What `Vocoder.from_pretrained` takes, or `BASE`.
        device: "auto", "cpu", "cuda" ...

    Returns:
        The network on its device, and its configuration.

    Raises:
        ModelError: If it cannot be found.
        ConfigError: If there is no such device.
    """
    if name != BASE:
        return load_model(find_model(name), choose_device(device))
    config = published_base_config()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = build_network(config).eval()
        torch.nn.init.normal_(network.output.weight)
        scale_output(network, config)
    return network.to(choose_device(device)), config


@torch.no_grad()
def scale_output(network: Network, config: ModelConfig) -> float:
    """Scale random weights so that noise of unit variance is predicted, as of a trained network.

    Otherwise the network would hardly take part in the result, and its precision would not show.

    Args:
        network: The network, which is changed.
        config: Its configuration, with a mel.

    Returns:
        The factor.
    """
    n_mels = config.mel.n_mels if config.mel else 0
    generator = torch.Generator().manual_seed(0)
    mel = torch.rand(1, n_mels, _GAUGE_BLOCKS, generator=generator)
    x = torch.randn(1, 1, _GAUGE_BLOCKS * config.hop_length, generator=generator)
    predicted = network(x, torch.zeros(1), network.encode(mel) if n_mels else None)
    factor = 1 / float(predicted.std())
    network.output.weight.mul_(factor)
    return factor


def load_vocoder(name: str | None, device: str, dtype: Dtype) -> Vocoder:
    """Load a vocoder; arguments and errors as in `load_network`, and ModelError if the model takes no mel."""
    return Vocoder(*load_network(name, device), dtype)


def noise_mel(vocoder: Vocoder, batch: int, seconds: float) -> Tensor:
    """Return mels of noise `(batch, n_mels, frames)` in a vocoder's convention, on its device.

    Args:
        vocoder: The vocoder.
        batch: Number of clips.
        seconds: Length of a clip; rounded up to whole frames.
    """
    generator = torch.Generator().manual_seed(0)
    hop = vocoder.mel_config.hop_length
    n_frames = math.ceil(seconds * vocoder.sample_rate / hop)
    shortest = math.ceil(vocoder.mel_config.n_fft / hop) + 1
    n_noise = max(min(n_frames, math.ceil(_NOISE_SECONDS * vocoder.sample_rate / hop)), shortest)
    noise = vocoder.mel(_NOISE_LEVEL * torch.randn(batch, n_noise * hop, generator=generator))
    return noise.repeat(1, 1, math.ceil(n_frames / noise.shape[-1]))[..., :n_frames].contiguous()


def noise_crops(config: ModelConfig, batch: int, n_samples: int) -> Example:
    """Return a training batch of noise, as the data would yield it.

    Args:
        config: The model.
        batch: Number of crops.
        n_samples: Length of a crop, without context; whole hops.
    """
    generator = torch.Generator().manual_seed(0)
    around = 2 * context_frames(config) * config.hop_length
    audio = _NOISE_LEVEL * torch.randn(batch, 1, n_samples + around, generator=generator)
    return Example(
        audio,
        label=torch.full((batch,), len(config.labels)),
        bandwidth=torch.full((batch,), math.inf),
        speaker=torch.full((batch,), len(config.speakers)),
        vector=torch.full((batch, config.vector_width), torch.nan),
    )


def whole_hops(config: ModelConfig, n_samples: int) -> int:
    """Return a number of samples, rounded up to whole hops of a model."""
    return math.ceil(n_samples / config.hop_length) * config.hop_length


class Flops(NamedTuple):
    """Floating-point operations of a batch of clips; a multiplication and an addition count as two.

    Attributes:
        step: Of one denoising step.
        condition: Of the condition, which an utterance needs once.
    """

    step: int
    condition: int

    def of_loop(self, steps: int) -> int:
        """Return those of a whole reverse process."""
        return self.condition + steps * self.step


@torch.no_grad()
def count_flops(network: Network, config: ModelConfig, *, batch: int, n_frames: int) -> Flops:
    """Count the matrix products and convolutions of a network, by `torch.utils.flop_counter` on meta tensors.

    Everything else (gates, RBFs, Fourier transforms, Griffin-Lim, whitening, noise) is left out, so utilisation is that
    of the matrix products alone.

    Args:
        network: The network, which stays as it is.
        config: Its configuration.
        batch: Number of clips.
        n_frames: Length of a clip, in conditioning frames.
    """
    meta = copy.deepcopy(network).to("meta")
    x = torch.empty(batch, 1, n_frames * config.hop_length, device="meta")
    mel = None if config.mel is None else torch.empty(batch, config.mel.n_mels, n_frames, device="meta")
    log_snr = torch.zeros(batch, device="meta")
    with sdpa_kernel(SDPBackend.MATH):  # the counter knows no other on a CPU
        with FlopCounterMode(display=False) as of_condition:
            condition = None if mel is None else meta.encode(mel)
        with FlopCounterMode(display=False) as of_step:
            meta(x, log_snr, condition)
    # The published network projects its condition at every step, although it does not change.
    projections = sum(
        sum(flops.values()) for name, flops in of_step.get_flop_counts().items() if ".conditioner.projections." in name
    )
    return Flops(of_step.get_total_flops() - projections, of_condition.get_total_flops() + projections)
