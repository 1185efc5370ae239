"""The network of the PyPI package `diffwave` (lmnt-com/diffwave), run as its own project runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.audio.mel import align_to_hops
from audiodiff.benchmark.inputs import scale_output
from audiodiff.config import ModelConfig
from audiodiff.errors import needed
from audiodiff.interop import convert_state_dict, published_base_config
from audiodiff.networks import Network
from audiodiff.networks.embeddings import DiscreteSteps

BASELINE = "diffwave"
_LEARNING_RATE = 2e-4
_MAX_GRADIENT_NORM = 1e9


class NetworkPair(NamedTuple):
    """The baseline and our network with the same weights.

    Attributes:
        baseline: `diffwave.model.DiffWave`.
        ours: The converted network.
        config: Of the converted network.
    """

    baseline: nn.Module
    ours: Network
    config: ModelConfig


def check_baseline() -> None:
    """Refuse to go on without the package.

    Raises:
        ConfigError: If it is not installed; the message says how to install it.
    """
    _baseline_class()


def _baseline_class() -> Callable[[object], nn.Module]:
    with needed("bench", f"--against {BASELINE}"):
        # The rest of the package wants files, GPUs or other packages; the network is in here.
        from diffwave.model import DiffWave
    kind: Callable[[object], nn.Module] = DiffWave
    return kind


def build_pair(device: torch.device) -> NetworkPair:
    """Build the baseline's network in its published size with random weights, and ours with the same ones.

    Args:
        device: Where both go.

    Returns:
        Both, in evaluation mode, and the configuration of ours.

    Raises:
        ConfigError: If the package is not installed.
    """
    kind, published = _baseline_class(), published_base_config()
    params = SimpleNamespace(
        residual_channels=published.network.channels,
        residual_layers=published.network.layers,
        dilation_cycle_length=published.network.dilation_cycle,
        noise_schedule=list(published.network.embedding.betas),
        n_mels=published.mel.n_mels if published.mel else 0,
        sample_rate=published.sample_rate,
        hop_samples=published.hop_length,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        baseline = kind(params).eval()
        output = baseline.get_submodule("output_projection").get_parameter("weight")
        nn.init.normal_(output)  # it starts at zero, and a network that gives zero is not compared
    converted = convert_state_dict(baseline.state_dict(), params=vars(params))
    factor = scale_output(converted.network, converted.config)
    with torch.no_grad():
        output.mul_(factor)
    return NetworkPair(baseline.to(device), converted.network.to(device), converted.config)


def baseline_steps(pair: NetworkPair, log_snrs: Tensor) -> Tensor:
    """Return the baseline's fractional steps of log-SNRs, float32 on the network's device."""
    device = next(pair.baseline.parameters()).device
    steps: Tensor = DiscreteSteps(pair.config.network.embedding.betas)(log_snrs)
    return steps.float().to(device)


@torch.inference_mode()
def relative_difference(pair: NetworkPair) -> float:
    """Return the norm of the difference of the two networks' predictions of the same signal, relative to their norm."""
    device, generator, frames = next(pair.baseline.parameters()).device, torch.Generator().manual_seed(1), 16
    n_mels = pair.config.mel.n_mels if pair.config.mel else 0
    mel = torch.rand(1, n_mels, frames, generator=generator).to(device)
    x = torch.randn(1, 1, frames * pair.config.hop_length, generator=generator).to(device)
    log_snr = torch.zeros(1)
    baseline = pair.baseline(x[:, 0], mel, baseline_steps(pair, log_snr)).double()
    ours = pair.ours(x, log_snr.to(device), pair.ours.encode(mel)).double()
    return float((ours - baseline).norm() / baseline.norm())


@torch.inference_mode()
def baseline_synthesis(
    pair: NetworkPair, mel: Tensor, log_snrs: Tensor, draw: Callable[[int], Tensor], steps: int
) -> Tensor:
    """Run the first steps of DDPM sampling (Ho et al. 2020, Algorithm 2) with the baseline's network.

    Args:
        pair: The networks.
        mel: `(batch, n_mels, frames)`.
        log_snrs: The schedule `(steps + 1,)`, from noise to clean.
        draw: Noise of the shape `(batch, 1, time)`: number 0 to start from, then one for each step but the last.
        steps: How many steps to take.

    Returns:
        The signal after them `(batch, 1, time)`.
    """
    mel = align_to_hops(mel, pair.config.mel) if pair.config.mel else mel
    abar = torch.sigmoid(log_snrs.double()).tolist()
    times = baseline_steps(pair, log_snrs[:-1])
    x = draw(0)
    for n in range(steps):
        alpha = abar[n] / abar[n + 1]
        predicted = pair.baseline(x[:, 0], mel, times[n : n + 1])
        x = (x - (1 - alpha) / (1 - abar[n]) ** 0.5 * predicted) / alpha**0.5
        if n + 1 < len(abar) - 1:
            x = x + ((1 - alpha) * (1 - abar[n + 1]) / (1 - abar[n])) ** 0.5 * draw(n + 1)
    return x


def baseline_training_step(pair: NetworkPair) -> Callable[[Tensor, Tensor], float]:
    """Return the baseline's training step, as its learner does it: Adam, L1 loss, float32, cuDNN's search.

    The mels are ready when it starts, because the baseline computes them before training.

    Args:
        pair: The networks; the baseline's is trained.

    Returns:
        A function of audio `(batch, time)` and mels `(batch, n_mels, frames)` in main memory, which returns the loss.
    """
    network = pair.baseline.train()
    parameters = list(network.parameters())
    device = parameters[0].device
    optimiser = torch.optim.Adam(parameters, lr=_LEARNING_RATE)
    betas = torch.tensor(pair.config.network.embedding.betas, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0).float().to(device)
    torch.backends.cudnn.benchmark = True

    def step(audio: Tensor, mel: Tensor) -> float:
        audio, mel = audio.to(device), mel.to(device)
        optimiser.zero_grad(set_to_none=True)
        t = torch.randint(0, len(abar), [len(audio)], device=device)
        abar_t = abar[t].unsqueeze(1)
        noise = torch.randn_like(audio)
        predicted = network(abar_t.sqrt() * audio + (1 - abar_t).sqrt() * noise, mel, t)
        loss = functional.l1_loss(noise, predicted.squeeze(1))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
        optimiser.step()
        return float(loss.detach())  # which waits for the device, as the baseline does to check the loss

    return step


def baseline_crops(config: ModelConfig, batch: int, n_samples: int) -> Sequence[Tensor]:
    """Return a training batch of noise as the baseline's data would yield it: audio and mels, in main memory."""
    generator = torch.Generator().manual_seed(0)
    n_mels = config.mel.n_mels if config.mel else 0
    audio = 0.1 * torch.randn(batch, n_samples, generator=generator)
    return audio, torch.rand(batch, n_mels, n_samples // config.hop_length, generator=generator)
