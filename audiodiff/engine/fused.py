"""The networks with one kernel per residual layer, for NVIDIA GPUs from compute capability 8.0 on."""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.diffusion.noise import has_triton
from audiodiff.engine.cuda import FusedStack, pack_stack, pad_last, pad_parts, padded_width
from audiodiff.networks import Network
from audiodiff.networks.conditioning import GlobalConditions, UpsampledConditioner
from audiodiff.networks.diffwave import DiffWave, DilatedNetwork
from audiodiff.networks.stft_diffwave import STFTDiffWave

WIDEST = 128
"""Channels up to which a tile of a layer fits into registers; wider networks take the plain path."""

_LOGGER = logging.getLogger(__name__)


def why_not_fused(network: nn.Module, device: torch.device | str) -> str | None:
    """Say what keeps a network from running with fused layers on a device; None if nothing does.

    Args:
        network: Any network.
        device: Where it would run.
    """
    if not isinstance(network, DiffWave | STFTDiffWave):
        return f"{type(network).__name__} has no fused form"
    if not network.stack.is_gated:
        return "its layers are not gated"
    if network.stack.has_limited_look_ahead:
        return "its look-ahead is shorter than its look-back"
    if isinstance(network, STFTDiffWave) and network.branches:
        return "its branches have no fused form"
    if network.variance is not None:
        return "a learned variance has no fused form"
    channels = network.input.out_features
    if channels > WIDEST:
        return f"{channels} channels are more than {WIDEST}"
    if not torch.cuda.is_available() or torch.device(device).type != "cuda":
        return "there is no CUDA device"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"compute capability {major}.{minor} is below 8.0"
    if not has_triton():
        return "Triton is not installed"
    return None


@functools.cache
def _log_once(message: str) -> None:
    _LOGGER.info("%s", message)


def accelerated(network: Network, dtype: torch.dtype = torch.bfloat16) -> Network:
    """Return the network with fused layers where that can run, else the network itself; says once why it cannot.

    Args:
        network: On the device where it is to run.
        dtype: Of the matrix operands and of what lies between layers: bfloat16, float16 or float32.

    Returns:
        A network of the same call, for inference only.
    """
    reason = why_not_fused(network, next(network.parameters()).device)
    if reason is None and isinstance(network, DiffWave | STFTDiffWave):
        return fused(network, dtype)
    _log_once(f"no fused layers: {reason}")
    return network


def fused(network: DiffWave | STFTDiffWave, dtype: torch.dtype = torch.bfloat16, *, tf32: bool = False) -> FusedNetwork:
    """Pack a network's weights and return it with fused layers, whatever the machine.

    Args:
        network: On the device where it is to run. Later changes of its weights are not seen.
        dtype: As in `accelerated`.
        tf32: Whether float32 products in the layers may round their operands to 10 bits.
    """
    layers = FusedTransform(network, dtype, tf32=tf32)
    return FusedDiffWave(network, layers) if isinstance(network, DiffWave) else FusedSTFTDiffWave(network, layers)


class FusedTransform:
    """What `DilatedNetwork` does between the projections of its subclasses, with fused layers.

    Args:
        network: A network of either kind.
        dtype: Of matrix operands and of what lies between layers; the noise level stays in float32.
        tf32: As in `fused`.
    """

    def __init__(self, network: DilatedNetwork, dtype: torch.dtype, *, tf32: bool = False) -> None:
        self.network, self.dtype = network, dtype
        self.stack = FusedStack(pack_stack(network.stack, dtype), tf32=tf32)
        packed, plain = self.stack.packed, network.input.out_features
        scale = len(packed.dilations) ** -0.5
        with torch.no_grad():
            skipped = functional.linear(packed.skip_bias[:plain], network.skip.weight, None) * scale
            self._input = self._padded(network.input.weight, network.input.bias)
            inner = pad_last(network.skip.weight * scale, packed.channels)
            self._skip = self._padded(inner, network.skip.bias + skipped)
            self._output = pad_last(network.output.weight, packed.channels).to(dtype), network.output.bias.to(dtype)

    def _padded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        channels = padded_width(len(bias))
        return pad_parts(weight, 1, channels, 0).to(self.dtype), pad_last(bias, channels).to(self.dtype)

    def arrange(self, condition: Tensor) -> Tensor:
        """Lay out what the network's own `encode` returned as the kernels read it.

        Args:
            condition: Of frames `(batch, frames, L * 2 * channels)`, or of positions `(batch, positions, n_mels)`, or
                of positions for each layer `(batch, positions, L * n_mels)`.

        Returns:
            `(batch, frames, L * 2 * C)`, or `(batch, positions, (1 or L) * (wide + narrow))`, zeros where it is padded.
        """
        packed, conditioner = self.stack.packed, self.network.stack.conditioner
        parts, width = 2 * len(packed.dilations), packed.channels
        if isinstance(conditioner, UpsampledConditioner):
            parts, width = len(conditioner.upsamplers), packed.wide + packed.narrow
        return pad_parts(condition.to(self.dtype), parts, width, 2).contiguous()

    @torch.no_grad()
    def __call__(self, features: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        """Map features `(batch, positions, n_inputs)` to `(batch, positions, n_outputs)`, in the layers' dtype."""
        with torch.autocast(features.device.type, enabled=False):  # precision is chosen here, part by part
            h = torch.relu_(self._project(features.to(self.dtype)))
            h = torch.relu_(functional.linear(self.stack(h, embedding, condition), *self._skip))
            return functional.linear(h, *self._output)

    def _project(self, features: Tensor) -> Tensor:
        weight, bias = self._input
        if weight.shape[1] == 1:  # a matrix product of depth 1 would be slow
            return torch.addcmul(bias, features, weight[:, 0])
        return functional.linear(features, weight, bias)


class _Fused(nn.Module):
    """What both networks with fused layers do in the same way."""

    plain: DiffWave | STFTDiffWave
    layers: FusedTransform

    @property
    def receptive_field(self) -> int:
        """Samples on either side that an output depends on."""
        return self.plain.receptive_field

    @property
    def look_ahead(self) -> int:
        """Samples beyond the end of a hop that its outputs depend on."""
        return self.plain.look_ahead

    @property
    def context_frames(self) -> int:
        """Mel frames on either side that the encoded condition of a frame depends on."""
        return self.plain.context_frames

    @torch.no_grad()
    def encode(self, mel: Tensor) -> Tensor:
        """Prepare a mel `(batch, n_mels, n_frames)` for the kernels, once for all steps."""
        return self.layers.arrange(self.plain.encode(mel))

    @torch.no_grad()
    def embed(self, global_condition: GlobalConditions | None = None) -> Tensor | None:
        """Embed global conditions; see `ConditionedNetwork.embed`."""
        return self.plain.embed(global_condition)

    @torch.no_grad()
    def embed_level(self, log_snr: Tensor, global_condition: Tensor | None) -> Tensor:
        """Embed noise levels; see `ConditionedNetwork.embed_level`."""
        with torch.autocast(log_snr.device.type, enabled=False):
            return self.plain.embed_level(log_snr, global_condition)

    def _transform(self, features: Tensor, embedding: Tensor, condition: Tensor | None) -> Tensor:
        return self.layers(features, embedding, condition)


class FusedDiffWave(_Fused, DiffWave):
    """`DiffWave` with fused layers, for inference; see `fused`.

    Args:
        network: Where it comes from.
        layers: Its weights, packed.
    """

    def __init__(self, network: DiffWave, layers: FusedTransform) -> None:
        nn.Module.__init__(self)
        self.patch, self.layers, self.plain, self.stack = network.patch, layers, network, network.stack


class FusedSTFTDiffWave(_Fused, STFTDiffWave):
    """`STFTDiffWave` with fused layers, for inference; arguments as in `FusedDiffWave`."""

    def __init__(self, network: STFTDiffWave, layers: FusedTransform) -> None:
        nn.Module.__init__(self)
        self.stft, self.layers, self.plain, self.stack = network.stft, layers, network, network.stack
        self.branches, self.mel_encoder = network.branches, network.mel_encoder


FusedNetwork = FusedDiffWave | FusedSTFTDiffWave
