"""A guided network gives of a signal in pieces what it, called with its conditions and without, gives of the whole."""

from functools import partial

import pytest
import torch

from audiodiff import Generator
from audiodiff.config import DiffusionConfig, ModelConfig, NetworkConfig, SynthesisConfig
from audiodiff.diffusion.guidance import Guidance
from audiodiff.diffusion.process import noise_from
from audiodiff.diffusion.variance import prediction_from
from audiodiff.engine.choose import PlainEngine
from audiodiff.engine.streaming import Signal, Stages
from audiodiff.engine.windows import Length
from audiodiff.networks import build_network
from audiodiff.networks.conditioning import GlobalConditions

CPU = torch.device("cpu")
LOG_SNR = torch.tensor(-1.0, dtype=torch.float64)
FRAMES, HOP = 40, 32
KINDS = {
    "stft": {"kind": "stft", "channels": 8, "layers": 3, "n_fft": 128, "hop_length": HOP},
    "plain": {"channels": 8, "layers": 5, "patch": HOP},
    "tiled": {"channels": 8, "layers": 5, "patch": HOP},
    "unet": {"kind": "unet", "channels": 8, "patch": HOP, "layers": 2},
}


def make(name, target="epsilon", variance="fixed"):
    network, diffusion = NetworkConfig(**KINDS[name]), DiffusionConfig(variance=variance, target=target)
    config = ModelConfig(sample_rate=8000, labels=("a", "b"), network=network, diffusion=diffusion)
    torch.manual_seed(0)
    network = build_network(config).eval()
    for projection in filter(None, (network.output, network.variance)):
        for parameter in projection.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    generator = Generator(network, config, "fp32")
    if name != "tiled":
        generator.engine = PlainEngine(network, config, torch.float32, CPU)
    return generator


def predict_pieces(generator, x, labels, guidance, cuts):
    """Return the guided prediction of x in pieces, its noise and variance."""
    lengths = [HOP * length for length in cuts]
    stages, pieces = Stages(), Signal(([piece] for piece in x.split(lengths, dim=-1)), Length(x.shape[-1]))
    bind = partial(generator._signal_predictor, stages, pieces.map(lambda piece: None))
    settings = SynthesisConfig(guidance=guidance.scale, guidance_interval=guidance.interval)
    prediction = generator.guided(bind, generator.network.embed(GlobalConditions(labels)), settings)(pieces, LOG_SNR)
    if prediction.variance is None:
        return list(stages.read(prediction.noise)), None
    both = list(stages.read(prediction.noise.combine(lambda *pair: pair, prediction.variance)))
    return [torch.cat(parts, dim=-1) for parts in zip(*both, strict=True)]


@pytest.mark.parametrize("cuts", [[FRAMES], [7, 30, 3], [1] * FRAMES], ids=["whole", "three", "frames"])
@pytest.mark.parametrize("guidance", [Guidance(3.0), Guidance(0.0)], ids=str)
@pytest.mark.parametrize(
    ("name", "target"),
    [("stft", "epsilon"), *((name, t) for name in KINDS if name != "stft" for t in ("epsilon", "v", "x0"))],
)
@torch.inference_mode()
def test_pieces_are_guided_like_the_whole(name, target, guidance, cuts):
    generator = make(name, target)
    network, batch = generator.network, generator.engine.largest_batch or 2
    x = torch.randn(batch, 1, HOP * FRAMES, generator=torch.Generator().manual_seed(1))
    labels, log_snr = torch.tensor([0, 1][:batch]), LOG_SNR.float().expand(batch)
    embeddings = network.embed(GlobalConditions(labels)), network.embed()
    outputs = [network(x, log_snr, None, embedded) for embedded in embeddings]
    conditional, null = (noise_from(output, x, log_snr, target) for output in outputs)
    expected = guidance.combine(conditional, null, x, log_snr)
    pieces, _ = predict_pieces(generator, x, labels, guidance, cuts)
    assert all(piece.shape[-1] % HOP == 0 for piece in pieces)
    found = torch.cat(pieces, dim=-1)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    assert float((found - conditional).norm() / expected.norm()) > 3e-3


@pytest.mark.parametrize("name", ["stft", "plain", "unet"])
@torch.inference_mode()
def test_a_learned_variance_under_guidance_is_that_with_conditions(name):
    generator = make(name, variance="learned")
    network, diffusion = generator.network, generator.config.diffusion
    x = torch.randn(2, 1, HOP * FRAMES, generator=torch.Generator().manual_seed(1))
    labels, log_snr = torch.tensor([0, 1]), LOG_SNR.float().expand(2)
    conditional, null = (
        prediction_from(network(x, log_snr, None, embedded), x, log_snr, diffusion)
        for embedded in (network.embed(GlobalConditions(labels)), network.embed())
    )
    noise, variance = predict_pieces(generator, x, labels, Guidance(3.0), [7, 30, 3])
    torch.testing.assert_close(variance, conditional.variance, rtol=1e-4, atol=1e-4)
    expected = Guidance(3.0).combine(conditional.noise, null.noise, x, log_snr)
    torch.testing.assert_close(noise, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["stft", "tiled"])
def test_a_rescaled_clip_is_made_whole_whatever_the_length_of_pieces(name):
    """It is rescaled to the deviation of the whole clip."""
    generator = make(name)
    generator.config = generator.config.model_copy(update={"condition_dropout": 0.1})
    options = {"label": "a", "seconds": FRAMES * HOP / 8000, "guidance": 3.0, "steps": 3}
    whole, plain = generator.generate(**options, guidance_rescale=0.7), generator.generate(**options)
    generator.engine.piece_frames = 7
    assert torch.allclose(generator.generate(**options, guidance_rescale=0.7), whole, atol=1e-6)
    assert torch.allclose(generator.generate(**options), plain, atol=1e-4)
    assert not torch.allclose(whole, plain, atol=1e-2)
