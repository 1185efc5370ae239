"""The published networks, written out from Kong et al. 2021 over `(batch, channels, time)`, with their files' names.

They share nothing with `audiodiff.networks`: other layers, another layout, discrete steps.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import weight_norm

BASE_BETAS = np.linspace(1e-4, 0.05, 50)
FAST_BETAS = np.array([1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5])


def upsampled(stages, mel):
    plane = mel[:, None]
    for stage in stages:
        plane = functional.leaky_relu(stage(plane), 0.4)
    return plane[:, 0]


def upsampling_stage(factor):
    return nn.ConvTranspose2d(1, 1, (3, 2 * factor), stride=(1, factor), padding=(1, factor // 2))


class Lmnt(nn.Module):
    """The layout of lmnt-com/diffwave; `step` is a whole or fractional index into its table."""

    def __init__(self, *, channels=8, layers=4, cycle=3, n_mels=5, factors=(16, 16), betas=BASE_BETAS):
        super().__init__()
        self.cycle, self.factors = cycle, factors
        # In float32 as there: at frequencies up to 10^4 the rounding of an angle decides its sine.
        angle = torch.arange(len(betas))[:, None] * 10.0 ** (torch.arange(64) * 4.0 / 63.0)
        self.table = torch.cat([angle.sin(), angle.cos()], dim=1)
        self.input_projection = nn.Conv1d(1, channels, 1)
        self.diffusion_embedding = nn.ModuleDict(
            {"projection1": nn.Linear(128, 512), "projection2": nn.Linear(512, 512)}
        )
        self.spectrogram_upsampler = None
        if n_mels:
            stages = {f"conv{i}": upsampling_stage(factor) for i, factor in enumerate(factors, 1)}
            self.spectrogram_upsampler = nn.ModuleDict(stages)
        self.residual_layers = nn.ModuleList()
        for i in range(layers):
            parts = {
                "dilated_conv": nn.Conv1d(channels, 2 * channels, 3, padding="same", dilation=2 ** (i % cycle)),
                "diffusion_projection": nn.Linear(512, channels),
                "output_projection": nn.Conv1d(channels, 2 * channels, 1),
            }
            if n_mels:
                parts["conditioner_projection"] = nn.Conv1d(n_mels, 2 * channels, 1)
            self.residual_layers.append(nn.ModuleDict(parts))
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, 1, 1)

    def embed(self, step):
        low = math.floor(step)
        high = min(low + 1, len(self.table) - 1)
        row = self.table[low] + (step - low) * (self.table[high] - self.table[low])
        for name in ("projection1", "projection2"):
            row = functional.silu(self.diffusion_embedding[name](row))
        return row

    def forward(self, x, step, mel=None):
        embedded = self.embed(step)
        mel = None if mel is None else upsampled(self.spectrogram_upsampler.values(), mel)
        h, total = functional.relu(self.input_projection(x)), 0
        for layer in self.residual_layers:
            y = layer["dilated_conv"](h + layer["diffusion_projection"](embedded)[:, None])
            if mel is not None:
                y = y + layer["conditioner_projection"](mel)
            gate, signal = y.chunk(2, dim=1)
            residual, skip = layer["output_projection"](torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, dim=1)
            h, total = (h + residual) / math.sqrt(2), total + skip
        total = total / math.sqrt(len(self.residual_layers))
        return self.output_projection(functional.relu(self.skip_projection(total)))

    @property
    def params(self):
        """Give what the project saves beside the weights."""
        return {
            "sample_rate": 22050,
            "n_fft": 1024,
            "hop_samples": math.prod(self.factors),
            "n_mels": self.residual_layers[0]["conditioner_projection"].in_channels
            if self.spectrogram_upsampler
            else 80,
            "residual_layers": len(self.residual_layers),
            "residual_channels": self.skip_projection.in_channels,
            "dilation_cycle_length": self.cycle,
            "noise_schedule": BASE_BETAS.tolist(),
            "inference_noise_schedule": FAST_BETAS.tolist(),
            "batch_size": 16,
        }


def normed(layer):
    """Apply a weight normalisation whose gain is not the norm it started from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer names exist; the files have these
        layer = weight_norm(layer)
    nn.init.uniform_(layer.weight_g, 0.5, 1.5)
    return layer


class Philsyn(nn.Module):
    """The layout of philsyn/DiffWave-Vocoder and -unconditional; the step's embedding stays in the residual stream."""

    def __init__(self, *, channels=8, layers=4, cycle=3, n_mels=5, factors=(16, 16)):
        super().__init__()

        def conv(*arguments, **options):
            return nn.ModuleDict({"conv": normed(nn.Conv1d(*arguments, **options))})

        self.init_conv = nn.ModuleList([conv(1, channels, 1)])
        blocks = nn.ModuleList()
        for i in range(layers):
            parts = {
                "fc_t": nn.Linear(512, channels),
                "dilated_conv_layer": conv(channels, 2 * channels, 3, padding="same", dilation=2 ** (i % cycle)),
                "res_conv": normed(nn.Conv1d(channels, channels, 1)),
                "skip_conv": normed(nn.Conv1d(channels, channels, 1)),
            }
            if n_mels:
                parts["upsample_conv2d"] = nn.ModuleList(normed(upsampling_stage(factor)) for factor in factors)
                parts["mel_conv"] = conv(n_mels, 2 * channels, 1)
            blocks.append(nn.ModuleDict(parts))
        self.residual_layer = nn.ModuleDict(
            {"fc_t1": nn.Linear(128, 512), "fc_t2": nn.Linear(512, 512), "residual_blocks": blocks}
        )
        plain = nn.ModuleDict({"conv": nn.Conv1d(channels, 1, 1)})
        self.final_conv = nn.ModuleList([conv(channels, channels, 1), nn.ReLU(), plain])

    def embed(self, step):
        angle = step * 10.0 ** (-4 * torch.arange(64, dtype=torch.float64) / 63)
        row = torch.cat([angle.sin(), angle.cos()]).float()
        for name in ("fc_t1", "fc_t2"):
            row = functional.silu(self.residual_layer[name](row))
        return row

    def forward(self, x, step, mel=None):
        embedded = self.embed(step)
        h, total = functional.relu(self.init_conv[0]["conv"](x)), 0
        blocks = self.residual_layer["residual_blocks"]
        for block in blocks:
            h = h + block["fc_t"](embedded)[:, None]
            y = block["dilated_conv_layer"]["conv"](h)
            if mel is not None:
                y = y + block["mel_conv"]["conv"](upsampled(block["upsample_conv2d"], mel))
            signal, gate = y.chunk(2, dim=1)
            y = torch.tanh(signal) * torch.sigmoid(gate)
            h, total = (h + block["res_conv"](y)) * math.sqrt(0.5), total + block["skip_conv"](y)
        total = functional.relu(self.final_conv[0]["conv"](total * math.sqrt(1 / len(blocks))))
        return self.final_conv[2]["conv"](total)


def reverse_process(predict_noise, noise, betas, steps):
    """Run Algorithm 2 of Ho et al. 2020 from `noise(0)`, with fresh noise from `noise(1)` on; nothing is clamped.

    The network is asked at `steps[n]`; the variance of a step is beta_n (1 - abar_(n-1)) / (1 - abar_n), section 3.2.
    """
    x, abar = noise(0), np.cumprod(1 - betas)
    for number, n in enumerate(reversed(range(len(betas))), 1):
        predicted = predict_noise(x, steps[n])
        x = (x - float(betas[n] / math.sqrt(1 - abar[n])) * predicted) / math.sqrt(1 - betas[n])
        if n > 0:
            variance = betas[n] * (1 - abar[n - 1]) / (1 - abar[n])
            x = x + math.sqrt(variance) * noise(number)
    return x


def align(betas, train_betas):
    """Return the fractional training step of every level (Kong et al. 2021, fast sampling)."""
    train, wanted = np.sqrt(np.cumprod(1 - train_betas)), np.sqrt(np.cumprod(1 - betas))
    return [float(np.interp(-level, -train, np.arange(len(train)))) for level in wanted]


class Published:
    """What tests take from here."""

    Lmnt, Philsyn = Lmnt, Philsyn
    base_betas, fast_betas = BASE_BETAS, FAST_BETAS
    reverse_process, align = staticmethod(reverse_process), staticmethod(align)

    @staticmethod
    def build(kind, seed=0, **options):
        """Build one of the two with random weights of a size that lets every part count."""
        torch.manual_seed(seed)
        network = {"lmnt": Lmnt, "philsyn": Philsyn}[kind](**options)
        for name, parameter in network.named_parameters():
            if "upsampl" in name and parameter.dim() == 4 and not name.endswith("_g"):
                nn.init.normal_(parameter, std=0.5)
        return network.requires_grad_(False).eval()

    @staticmethod
    def relative_error(ours, theirs):
        return float((ours - theirs).detach().double().norm() / theirs.double().norm())


@pytest.fixture(scope="session")
def published():
    """Give the published networks and how they are sampled."""
    return Published
