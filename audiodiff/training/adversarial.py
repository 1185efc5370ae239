"""Adversarial fine-tuning: discriminators on spectrograms of several resolutions, least squares, feature matching.

The losses are those of HiFi-GAN (Kong et al. 2020), the discriminators complex-valued spectrograms under 2-D
convolutions, strided in frequency and dilated in time, as in EnCodec (Défossez et al. 2023). Magnitudes are compressed,
so that quiet regions count.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from audiodiff.config import TrainingConfig

RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))
"""Window and hop of each discriminator, in samples."""
COMPRESSION = 0.4
"""Power of the magnitudes that a discriminator sees."""

_SLOPE = 0.1
_TINY = 1e-10


class Judgement(NamedTuple):
    """What a discriminator says of a batch.

    Attributes:
        score: Per region of the spectrogram, 1 for real.
        features: Of the layers before it.
    """

    score: Tensor
    features: list[Tensor]


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over one spectrogram.

    Args:
        n_fft: Window, in samples.
        hop_length: Hop, in samples.
        channels: Of every layer.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, channels: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        window = torch.hann_window(n_fft)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        widths = [2, channels, channels, channels, channels]
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(
                nn.Conv2d(n_in, n_out, (9, 3), (2 if i else 1, 1), padding=(4, dilation), dilation=(1, dilation))
            )
            for i, (n_in, n_out, dilation) in enumerate(zip(widths[:-1], widths[1:], (1, 1, 2, 4), strict=True))
        )
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, audio: Tensor, bandwidth: Tensor | None, sample_rate: int, *, bf16: bool) -> Judgement:
        """Judge audio `(batch, time)`, of each clip what lies below its bandwidth in Hz `(batch,)`."""
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(audio, self.n_fft, self.hop_length, window=self.window, return_complex=True)
            power = (spectrum.real.square() + spectrum.imag.square()).clamp_min(_TINY)
            scale = power ** ((COMPRESSION - 1) / 2)
            if bandwidth is not None:
                frequency = torch.arange(self.n_fft // 2 + 1, device=audio.device) * (sample_rate / self.n_fft)
                scale = scale * (frequency <= bandwidth.unsqueeze(1)).to(scale.dtype).unsqueeze(2)
            h = torch.stack([spectrum.real * scale, spectrum.imag * scale], dim=1)
        features = []
        with torch.autocast(audio.device.type, dtype=torch.bfloat16, enabled=bf16):
            h = h.contiguous(memory_format=torch.channels_last)
            for layer in self.layers:
                h = functional.leaky_relu(layer(h), _SLOPE)
                features.append(h)
            score = self.last(h)
        return Judgement(score.float(), features)


class Discriminator(nn.Module):
    """One discriminator per resolution.

    Args:
        channels: Of every layer.
    """

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrogramDiscriminator(*resolution, channels) for resolution in RESOLUTIONS)

    def forward(self, audio: Tensor, bandwidth: Tensor | None, sample_rate: int, *, bf16: bool) -> list[Judgement]:
        """Judge audio; see `SpectrogramDiscriminator.forward`."""
        return [part(audio, bandwidth, sample_rate, bf16=bf16) for part in self.parts]


def discriminator_loss(real: list[Judgement], generated: list[Judgement]) -> Tensor:
    """Return the least-squares loss of the discriminators (Mao et al. 2017)."""
    losses = [(1 - r.score).square().mean() + g.score.square().mean() for r, g in zip(real, generated, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(generated: list[Judgement]) -> Tensor:
    """Return the least-squares loss of what generated the audio."""
    return torch.stack([(1 - judgement.score).square().mean() for judgement in generated]).mean()


def feature_matching_loss(real: list[Judgement], generated: list[Judgement]) -> Tensor:
    """Return the mean distance of features, relative to their size in real audio (Kumar et al. 2019, "MelGAN")."""
    distances = [
        (r.float() - g.float()).abs().mean() / r.float().abs().mean().clamp_min(_TINY)
        for judged, other in zip(real, generated, strict=True)
        for r, g in zip(judged.features, other.features, strict=True)
    ]
    return torch.stack(distances).mean()


class AdversarialTraining:
    """The discriminators of a run, their optimiser, and what they add to the gradient of generated audio.

    Args:
        training: Weights and learning rate.
        sample_rate: In Hz.
        device: Where to compute.
        bf16: Whether convolutions run under bfloat16 autocast.
    """

    def __init__(self, training: TrainingConfig, sample_rate: int, device: torch.device, *, bf16: bool) -> None:
        self._training, self._sample_rate, self._bf16 = training, sample_rate, bf16
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(training.seed)
            self.discriminator = Discriminator().to(device)
        self.optimiser = torch.optim.AdamW(
            self.discriminator.parameters(), lr=training.discriminator_learning_rate, betas=(0.8, 0.99), fused=True
        )

    def judge(self, audio: Tensor, bandwidth: Tensor | None) -> list[Judgement]:
        """Judge audio `(batch, time)`."""
        judged: list[Judgement] = self.discriminator(audio, bandwidth, self._sample_rate, bf16=self._bf16)
        return judged

    def gradient(self, generated: Tensor, reference: Tensor, distance: Tensor, bandwidth: Tensor | None) -> Tensor:
        """Return what pulls generated audio: gradients of distance, judgement and features, brought to one scale.

        The weights of the configuration are ratios of norms to the gradient of the distance (Défossez et al. 2023,
        section 3.4), so they mean the same whatever the losses' own scales.

        Args:
            generated: Audio `(batch, time)`, a leaf that requires a gradient.
            reference: The recordings, of the same shape.
            distance: A scalar loss computed from `generated`.
            bandwidth: Hz `(batch,)`, or None.
        """
        training = self._training
        (pull,) = torch.autograd.grad(distance, generated)
        size = pull.norm()
        self.discriminator.requires_grad_(False)
        judged = self.judge(generated, bandwidth)
        with torch.no_grad():
            real = self.judge(reference, bandwidth)
        losses = (
            (training.adversarial_weight, adversarial_loss(judged)),
            (training.feature_matching_weight, feature_matching_loss(real, judged)),
        )
        for weight, loss in losses:
            (part,) = torch.autograd.grad(loss, generated, retain_graph=True)
            pull = pull + weight * size * part / part.norm().clamp_min(_TINY)
        self.discriminator.requires_grad_(True)
        return pull

    def step(self, generated: Tensor, reference: Tensor, bandwidth: Tensor | None) -> Tensor:
        """Train on a batch `(batch, time)` and return the loss; a gradient that is not finite changes nothing."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = discriminator_loss(self.judge(reference, bandwidth), self.judge(generated.detach(), bandwidth))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.discriminator.parameters(), 10.0)
        self.optimiser.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        self.optimiser.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on."""
        return {"network": self.discriminator.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.discriminator.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
