"""A guided stream gives of a signal in pieces what the network, asked twice, gives of the whole."""

import pytest
import torch

from audiodiff.config import DiffusionConfig, ModelConfig, NetworkConfig
from audiodiff.diffusion.guidance import Guidance
from audiodiff.diffusion.process import noise_from
from audiodiff.engine.choose import PlainEngine, TiledEngine
from audiodiff.engine.guided import guided_stream
from audiodiff.networks.build import build_network
from audiodiff.networks.conditioning import GlobalConditions

CPU = torch.device("cpu")
LEVEL = torch.tensor(-1.0, dtype=torch.float64)
BLOCKS = 40
KINDS = {
    "stft": {"kind": "stft", "channels": 8, "layers": 3, "n_fft": 128, "hop_length": 32},
    "plain": {"channels": 8, "layers": 5, "patch": 32},
    "tiled": {"channels": 8, "layers": 5, "patch": 32},
    "unet": {"kind": "unet", "channels": 8, "patch": 32, "layers": 2},
}


def make(name, variance="fixed"):
    network, diffusion = NetworkConfig(**KINDS[name]), DiffusionConfig(variance=variance)
    config = ModelConfig(sample_rate=8000, labels=("a", "b"), network=network, diffusion=diffusion)
    torch.manual_seed(0)
    network = build_network(config).eval()
    for projection in filter(None, (network.output, network.variance)):
        for parameter in projection.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    if name == "tiled":
        return network, TiledEngine(network, config, torch.float32)
    return network, PlainEngine(network, config, torch.float32, CPU)


def pushed(stream, x, cuts):
    start, made = 0, []
    for length in cuts:
        stop = start + 32 * length
        made.append(stream.push(x[..., start:stop], None, last=stop == x.shape[-1]))
        start = stop
    return made


@pytest.mark.parametrize("cuts", [[BLOCKS], [7, 30, 3], [1] * BLOCKS], ids=["whole", "three", "blocks"])
@pytest.mark.parametrize("guidance", [Guidance(3.0), Guidance(0.0), Guidance(3.0, 0.7)], ids=str)
@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
@pytest.mark.parametrize("name", KINDS)
@torch.inference_mode()
def test_pieces_are_guided_like_the_whole(name, target, guidance, cuts):
    network, engine = make(name)
    batch = engine.largest_batch or 2
    x = torch.randn(batch, 1, 32 * BLOCKS, generator=torch.Generator().manual_seed(1))
    given = network.embed(GlobalConditions(torch.tensor([0, 1][:batch])))
    levels = LEVEL.float().expand(batch)
    outputs = [network(x, levels, None, embedded) for embedded in (given, network.embed())]
    expected = guidance.combine(*(noise_from(output, x, levels, target) for output in outputs), x, levels)
    made = pushed(guided_stream(engine, LEVEL, given, network.embed(), guidance, target), x, cuts)
    assert [piece.shape[-1] for pieces in made for piece in pieces] == [32 * length for length in cuts]
    if guidance.rescale:
        assert not any(made[:-1])  # it looks at the whole clip
    found = torch.cat([piece for pieces in made for piece in pieces], dim=-1)
    found = noise_from(found, x, levels, target)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float((found - noise_from(outputs[0], x, levels, target)).norm() / expected.norm()) > 3e-3


@pytest.mark.parametrize("guidance", [Guidance(3.0), Guidance(3.0, 0.7)], ids=str)
@pytest.mark.parametrize("name", ["stft", "plain", "unet"])
@torch.inference_mode()
def test_a_learned_variance_under_guidance_is_that_with_conditions(name, guidance):
    network, engine = make(name, "learned")
    x = torch.randn(2, 1, 32 * BLOCKS, generator=torch.Generator().manual_seed(1))
    given, levels = network.embed(GlobalConditions(torch.tensor([0, 1]))), LEVEL.float().expand(2)
    conditional, without = (network(x, levels, None, embedded) for embedded in (given, network.embed()))
    made = pushed(guided_stream(engine, LEVEL, given, network.embed(), guidance, "epsilon"), x, [7, 30, 3])
    found = torch.cat([piece for pieces in made for piece in pieces], dim=-1)
    torch.testing.assert_close(found[:, 1:], conditional[:, 1:], rtol=1e-4, atol=1e-4)
    expected = guidance.combine(conditional[:, :1], without[:, :1], x, levels)
    torch.testing.assert_close(found[:, :1], expected, rtol=1e-4, atol=1e-4)
