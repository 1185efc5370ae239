"""What is said of a clip reaches the network, and guidance steers by it."""

import pytest
import torch

from audiodiff import Generator, Vocoder
from audiodiff.checkpoint import load_model
from audiodiff.config import EmbeddingConfig, ModelConfig, NetworkConfig, SynthesisConfig, WhiteningConfig, parse_config
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.process import denoised_from_noise
from audiodiff.errors import ConfigError
from audiodiff.networks.conditioning import GlobalConditions

CONDITIONED = {"label": "yes", "speaker": "ann", "vector": torch.tensor([1.0, -2.0])}
OTHER = {"label": "no", "speaker": "bob", "vector": torch.tensor([1.0, 2.0])}
CONDITIONS = {"labels": ("yes", "no"), "speakers": ("ann", "bob"), "vector_width": 2, "condition_dropout": 0.1}


def config(kind="diffwave", **changes):
    network = NetworkConfig(
        kind=kind,
        channels=8,
        layers=2,
        patch=8,
        n_fft=64,
        hop_length=16,
        embedding=EmbeddingConfig(width=16, centres=8),
    )
    synthesis = SynthesisConfig(steps=3, start_log_snr=-5.0, end_log_snr=5.0)
    values = {"clip_seconds": 0.1, "network": network, "synthesis": synthesis} | CONDITIONS | changes
    return ModelConfig(sample_rate=8000, whitening=WhiteningConfig(), **values)


@pytest.fixture(params=["diffwave", "stft"])
def generator(request, tmp_path, save_random_model):
    return Generator.from_pretrained(save_random_model(tmp_path / "model", config(request.param)), "cpu", "fp32")


@pytest.fixture
def untrained(tmp_path, save_random_model):
    """Give a generator that was trained without condition dropout."""
    return Generator.from_pretrained(save_random_model(tmp_path / "old", config(condition_dropout=0.0)), "cpu", "fp32")


@pytest.fixture
def vocoder(tmp_path, save_random_model, tiny_model_config):
    conditional = parse_config(ModelConfig, tiny_model_config.model_dump() | CONDITIONS, "test")
    return Vocoder.from_pretrained(save_random_model(tmp_path / "vocoder", conditional), "cpu", "fp32")


def difference(x, y):
    return float((x - y).abs().max() / y.abs().max())


@pytest.mark.parametrize("name", CONDITIONED)
def test_every_condition_changes_a_clip_and_so_does_its_absence(generator, name):
    conditioned, other, without = (
        generator.generate(**CONDITIONED | change) for change in ({}, {name: OTHER[name]}, {name: None})
    )
    assert difference(other, conditioned) > 1e-3
    assert difference(without, conditioned) > 1e-3
    assert difference(without, other) > 1e-3


def test_guidance_one_is_the_condition_and_zero_is_none(generator):
    conditioned, none = generator.generate(**CONDITIONED), generator.generate()
    assert torch.equal(generator.generate(**CONDITIONED, guidance=1.0), conditioned)
    assert difference(generator.generate(**CONDITIONED, guidance=0.0), none) < 1e-4
    assert difference(none, conditioned) > 1e-3


@pytest.mark.parametrize(
    "change",
    [{"guidance": 2.0}, {"guidance_rescale": 0.7}, {"guidance_rescale": 1.0}, {"guidance_interval": (-1.0, 9.0)}],
    ids=str,
)
def test_every_option_of_guidance_changes_a_clip(generator, change):
    guided = {"guidance": 3.0} | CONDITIONED
    assert not torch.equal(generator.generate(**guided | change), generator.generate(**guided))


def test_an_interval_around_all_levels_is_none_and_one_around_none_is_no_guidance(generator):
    guided, plain = (generator.generate(**CONDITIONED, guidance=scale) for scale in (3.0, 1.0))
    assert torch.equal(generator.generate(**CONDITIONED, guidance=3.0, guidance_interval=(-20.0, 20.0)), guided)
    assert torch.equal(generator.generate(**CONDITIONED, guidance=3.0, guidance_interval=(10.0, 20.0)), plain)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_guided_clip_depends_on_its_own_seed_alone(generator, rescale):
    settings = {"guidance": 3.0, "guidance_rescale": rescale, "sampler": "ddpm"}
    four = generator.generate(**CONDITIONED, count=4, seed=3, **settings)
    for i in range(4):
        assert difference(generator.generate(**CONDITIONED, seed=3 + i, **settings), four[i : i + 1]) < 1e-4


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_guided_clip_in_pieces_is_the_clip_in_one(generator, rescale):
    settings = CONDITIONED | {"guidance": 3.0, "guidance_rescale": rescale, "seconds": 0.5}
    whole = generator.generate(**settings)
    generator.engine.piece_frames = 7
    assert difference(generator.generate(**settings), whole) < 1e-4


def test_a_model_may_ask_for_guidance_itself(generator):
    explicit, own = generator.generate(**CONDITIONED, guidance=2.5), generator.config.synthesis
    generator.config = generator.config.model_copy(update={"synthesis": own.model_copy(update={"guidance": 2.5})})
    assert torch.equal(generator.generate(**CONDITIONED), explicit)
    generator.generate()  # without anything to steer towards it is left out


@pytest.mark.parametrize("name", CONDITIONED)
def test_without_dropout_in_training_nothing_can_be_left_out(untrained, name):
    with pytest.raises(ConfigError, match=f"needs a {name}.*training.condition_dropout can do without"):
        untrained.generate(**CONDITIONED | {name: None})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"speaker": "eve"}, "unknown speaker 'eve'; the speakers of this model are ann, bob"),
        ({"vector": torch.zeros(3)}, r"the vector has shape \(3,\); this model takes 2 finite numbers"),
        ({"vector": torch.tensor([0.0, torch.nan])}, "2 finite numbers"),
        ({"label": None, "speaker": None, "vector": None, "guidance": 2.0}, "guidance steers towards"),
        ({"guidance": -1.0}, "guidance"),
        ({"guidance_rescale": 1.5}, "guidance_rescale"),
        ({"guidance_interval": (2.0, 1.0)}, r"guidance_interval must be \(low, high\)"),
    ],
)
def test_what_cannot_be_done_is_refused(generator, arguments, message):
    with pytest.raises(ConfigError, match=message):
        generator.generate(**CONDITIONED | arguments)


def test_guidance_needs_a_trained_null_and_conditions(untrained, tiny_vocoder_folder):
    with pytest.raises(ConfigError, match=r"trained without training.condition_dropout.*Use guidance 1"):
        untrained.generate(**CONDITIONED, guidance=2.0)
    vocoder = Vocoder.from_pretrained(tiny_vocoder_folder, "cpu")
    with pytest.raises(ConfigError, match="no label, speaker or vector to be guided by"):
        vocoder(torch.full((20, 9), -5.0), guidance=2.0)


@pytest.mark.parametrize("name", CONDITIONED)
def test_a_vocoder_is_told_beside_its_mel(vocoder, name):
    mel = torch.randn(2, 20, 9, generator=torch.Generator().manual_seed(0)) - 4
    conditioned, other = (vocoder.with_conditions(**{name: choice[name]})(mel) for choice in (CONDITIONED, OTHER))
    assert difference(conditioned, other) > 1e-4
    assert difference(conditioned, vocoder(mel)) > 1e-4
    guided = vocoder.with_conditions(**{name: CONDITIONED[name]})(mel, guidance=3.0)
    assert difference(guided, conditioned) > 1e-4


def test_a_told_vocoder_streams_and_synthesises_what_it_makes_of_the_whole(vocoder):
    mel = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).clamp_max(2.0)
    vocoder = vocoder.with_conditions(**CONDITIONED).with_dtype("fp32")
    whole = vocoder(mel)
    assert difference(torch.cat(list(vocoder.stream(mel.split(4, dim=1), chunk_seconds=0.03))), whole) < 1e-4
    assert difference(vocoder.synthesise(mel[None], [0])[0, 0].detach(), whole) < 1e-4


def test_a_vocoder_that_must_be_told_says_so(vocoder):
    vocoder.config = vocoder.config.model_copy(update={"condition_dropout": 0.0})
    with pytest.raises(ConfigError, match="needs a label"):
        vocoder(torch.full((20, 9), -5.0))


def test_a_told_generator_is_the_network_with_these_conditions(generator, tmp_path):
    """One step from pure noise, by hand."""
    network, _ = load_model(tmp_path / "model")
    given = GlobalConditions(torch.tensor([0]), torch.tensor([0]), CONDITIONED["vector"][None])
    made = generator.generate(**CONDITIONED, steps=1)
    x = position_noise([0], 0, n_samples=800)
    with torch.no_grad():
        noise = network(x, torch.full((1,), -5.0), None, network.embed(given))
    torch.testing.assert_close(made, denoised_from_noise(noise, x, torch.full((1,), -5.0)), rtol=1e-3, atol=1e-3)
