"""DiffWave is the network of Kong et al., on samples or on patches of them."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from audiodiff.networks.conditioning import GlobalConditions

HOP = 16


class KongDiffWave(nn.Module):
    """The published network (Kong et al. 2021, Fig. 2) from torch's own convolutions over `(batch, channels, time)`.

    Its weights are taken from one of ours; the embedding of the noise level is the one thing they share.
    """

    def __init__(self, ours):
        super().__init__()
        channels, layers = ours.input.out_features, len(ours.stack.layers)
        self.level, self.label = ours.level, ours.label
        self.input = self.pointwise(ours.input)
        self.dilated = nn.ModuleList()
        self.level_to_layer, self.outputs, self.conditioners = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.upsampler = None
        if ours.stack.conditioner.context_frames:
            self.upsampler = ours.stack.conditioner.upsamplers[0].stages
            projections = [(linear.weight, linear.bias) for linear in ours.stack.conditioner.projections]
        else:
            projections = [(kernel, None) for kernel in ours.stack.conditioner.weight.chunk(layers)]
        for layer, (kernel, bias) in zip(ours.stack.layers, projections, strict=True):
            dilated = nn.Conv1d(channels, 2 * channels, 3, padding=layer.dilation, dilation=layer.dilation)
            taps = [layer.taps.weight[:, i * channels : (i + 1) * channels] for i in range(3)]
            dilated.weight, dilated.bias = nn.Parameter(torch.stack(taps, dim=2)), layer.taps.bias
            self.dilated.append(dilated)
            self.level_to_layer.append(layer.level)
            self.outputs.append(self.pointwise(layer.output))
            conditioner = nn.Conv1d(kernel.shape[1], 2 * channels, 1)
            conditioner.weight, conditioner.bias = nn.Parameter(kernel.unsqueeze(2)), bias
            self.conditioners.append(conditioner)
        self.skip, self.output = self.pointwise(ours.skip), self.pointwise(ours.output)

    @staticmethod
    def pointwise(linear):
        convolution = nn.Conv1d(linear.in_features, linear.out_features, 1)
        convolution.weight, convolution.bias = nn.Parameter(linear.weight.unsqueeze(2)), linear.bias
        return convolution

    def upsample(self, mel, n_samples):
        if self.upsampler is None:
            return functional.interpolate(mel, size=n_samples, mode="nearest")
        plane = mel.unsqueeze(1)
        for stage in self.upsampler:
            plane = functional.leaky_relu(stage(plane), 0.4)
        return plane.squeeze(1)

    def forward(self, x, log_snr, mel, label):
        level = self.level(log_snr) + self.label.table(label)
        mel = self.upsample(mel, x.shape[-1])
        h = functional.relu(self.input(x))
        skips = 0.0
        for dilated, project, conditioner, output in zip(
            self.dilated, self.level_to_layer, self.conditioners, self.outputs, strict=True
        ):
            y = dilated(h + project(level).unsqueeze(-1)) + conditioner(mel)
            gate, signal = y.chunk(2, dim=1)
            residual, skip = output(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, dim=1)
            h = (h + residual) / 2.0**0.5
            skips = skips + skip
        h = functional.relu(self.skip(skips / len(self.dilated) ** 0.5))
        return self.output(h)


def inputs(dtype=torch.float64, blocks=6):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 1, blocks * HOP, dtype=dtype, generator=generator)
    mel = torch.randn(2, 5, blocks, dtype=dtype, generator=generator)
    return x, torch.tensor([-2.0, 3.0], dtype=dtype), mel, torch.tensor([2, 0])


@pytest.mark.parametrize("upsampling", ["repeat", "transposed"])
def test_patch_one_is_the_published_network(upsampling, make_network):
    network = make_network("diffwave", layers=5, upsampling=upsampling, upsampling_factors=(4, 4)).double()
    x, log_snr, mel, label = inputs()
    expected = KongDiffWave(network)(x, log_snr, mel, label)
    assert expected.std() > 0.05
    assert_close(
        network(x, log_snr, network.encode(mel), network.embed(GlobalConditions(label))),
        expected.float(),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("patch", [4, 16])
def test_a_patch_of_samples_is_as_many_channels_of_the_published_network(patch, make_network):
    network = make_network("diffwave", patch=patch, layers=5).double()
    x, log_snr, mel, label = inputs()
    channels = x.view(2, -1, patch).mT  # sample i of each patch is channel i
    predicted = KongDiffWave(network)(channels, log_snr, mel, label)
    expected = predicted.mT.reshape(x.shape)
    assert_close(
        network(x, log_snr, network.encode(mel), network.embed(GlobalConditions(label))),
        expected.float(),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("patch", [1, 4])
def test_the_prediction_starts_at_zero(patch, make_network):
    network = make_network("diffwave", patch=patch, awake=False)
    x, log_snr, mel, label = inputs(torch.float32)
    assert torch.equal(
        network(x, log_snr, network.encode(mel), network.embed(GlobalConditions(label))), torch.zeros_like(x)
    )


def test_a_patch_makes_the_receptive_field_as_many_times_wider(make_network):
    assert make_network("diffwave", patch=8).receptive_field == 8 * make_network("diffwave", patch=1).receptive_field
