"""A converted network computes what the published one computes, step by step and from noise to sound."""

from functools import partial

import numpy as np
import pytest
import torch

from audiodiff.checkpoint import load_model, save_model
from audiodiff.diffusion.noise import position_noise
from audiodiff.diffusion.schedules import from_betas
from audiodiff.interop import CheckpointMetadata, convert_checkpoint, convert_state_dict, published_base_config
from audiodiff.networks import build_network
from audiodiff.pipelines import Generator, Vocoder

FRAMES = 5
METADATA = CheckpointMetadata(sample_rate=22050, dilation_cycle=3, betas=tuple(np.linspace(1e-4, 0.05, 50)))
every_kind = pytest.mark.parametrize("kind", ["lmnt", "philsyn"])


def level_of(step, betas):
    """Return the log-SNR of a fractional step of a process: the inverse of how steps are aligned."""
    amplitude = np.interp(step, np.arange(len(betas)), np.sqrt(np.cumprod(1 - betas)))
    return torch.tensor([np.log(amplitude**2 / (1 - amplitude**2))], dtype=torch.float32)


def signal(frames=FRAMES, batch=1, hop=256, seed=7):
    return torch.randn(batch, 1, frames * hop, generator=torch.Generator().manual_seed(seed))


def mels(frames=FRAMES, batch=1, n_mels=5):
    return torch.rand(batch, n_mels, frames, generator=torch.Generator().manual_seed(8))


@every_kind
@pytest.mark.parametrize("step", [0, 1, 17, 49, 0.25, 3.5, 41.9])
def test_a_vocoder_predicts_what_the_published_one_predicts(kind, step, published):
    theirs = published.build(kind)
    ours, config = convert_state_dict(theirs.state_dict(), metadata=METADATA)
    x, mel = signal(), mels()
    expected = theirs(x, step, mel)
    predicted = ours(x, level_of(step, published.base_betas), ours.encode(mel))
    assert published.relative_error(predicted, expected) < 1e-5
    assert expected.std() > 0.005
    assert config.mel.n_mels == 5


@every_kind
@pytest.mark.parametrize("step", [0, 49, 17.3])
def test_a_generator_predicts_what_the_published_one_predicts(kind, step, published):
    theirs = published.build(kind, n_mels=0)
    ours, config = convert_state_dict(theirs.state_dict(), metadata=METADATA)
    expected = theirs(signal(), step)
    predicted = ours(signal(), level_of(step, published.base_betas))
    assert published.relative_error(predicted, expected) < 1e-5
    assert config.mel is None


@every_kind
@pytest.mark.parametrize(
    "options",
    [
        {"channels": 6, "layers": 1, "cycle": 1},
        {"channels": 4, "layers": 7, "cycle": 10, "n_mels": 9},
        {"factors": (10, 20)},
        {"factors": (2, 4), "n_mels": 3},
    ],
    ids=str,
)
def test_any_size_is_converted(kind, options, published):
    theirs = published.build(kind, **options)
    metadata = CheckpointMetadata(16000, options.get("cycle", 3), METADATA.betas)
    ours, config = convert_state_dict(theirs.state_dict(), metadata=metadata)
    hop, n_mels = int(np.prod(options.get("factors", (16, 16)))), options.get("n_mels", 5)
    assert (config.sample_rate, config.mel.hop_length, config.mel.n_mels) == (16000, hop, n_mels)
    x, mel = signal(hop=hop), mels(n_mels=n_mels)
    predicted = ours(x, level_of(20.5, published.base_betas), ours.encode(mel))
    assert published.relative_error(predicted, theirs(x, 20.5, mel)) < 1e-5


def noise_of(seeds, n_samples):
    return partial(position_noise, seeds, n_samples=n_samples, device=torch.device("cpu"))


@every_kind
def test_six_steps_from_the_same_noise_make_the_same_sound(kind, published, tmp_path):
    theirs = published.build(kind)
    converted = convert_state_dict(theirs.state_dict(), metadata=METADATA)
    save_model(tmp_path / "model", converted.network.state_dict(), converted.config)
    vocoder = Vocoder.from_pretrained(tmp_path / "model", "cpu", "fp32")
    mel = mels(batch=2)
    if kind == "philsyn":
        mel = 5 * mel - 8  # natural logarithms
    made = vocoder(mel, seed=[3, 4])
    assert made.shape == (2, FRAMES * 256)
    expected = published.reverse_process(
        lambda x, step: theirs(x, step, mel),
        noise_of([3, 4], FRAMES * 256),
        published.fast_betas,
        published.align(published.fast_betas, published.base_betas),
    )
    assert published.relative_error(made, expected[:, 0]) < 1e-5


@every_kind
def test_the_whole_process_from_the_same_noise_makes_the_same_clip(kind, published):
    theirs = published.build(kind, n_mels=0, channels=4, layers=2)
    converted = convert_state_dict(theirs.state_dict(), metadata=METADATA)
    made = Generator(*converted, "fp32").generate(None, 1, 300 / 22050, seed=5)
    steps = list(range(50))  # whole ones
    expected = published.reverse_process(theirs, noise_of([5], 300), published.base_betas, steps)
    assert published.relative_error(made, expected) < 1e-5


def test_the_python_package_diffwave_agrees(published):
    model = pytest.importorskip("diffwave.model")
    params = pytest.importorskip("diffwave.params")
    chosen = params.AttrDict(params.params) | {"residual_channels": 8, "residual_layers": 4, "dilation_cycle_length": 3}
    torch.manual_seed(0)
    theirs = model.DiffWave(params.AttrDict(chosen)).eval()
    torch.nn.init.normal_(theirs.output_projection.weight)
    ours, config = convert_state_dict(theirs.state_dict(), params=dict(chosen))
    x, mel = signal(batch=2), mels(batch=2, n_mels=80)
    with torch.no_grad():
        for step in (0, 1, 30, 49):
            expected = theirs(x[:, 0], mel, torch.tensor([step, step]))
            predicted = ours(x, level_of(step, published.base_betas).expand(2), ours.encode(mel))
            assert published.relative_error(predicted, expected) < 1e-5
        for step in (0.5, 7.25, 48.9):
            expected = theirs(x[:1, 0], mel[:1], torch.tensor([step]))
            predicted = ours(x[:1], level_of(step, published.base_betas), ours.encode(mel[:1]))
            assert published.relative_error(predicted, expected) < 1e-5
        aligned = published.align(published.fast_betas, published.base_betas)
        expected = published.reverse_process(
            lambda x, step: theirs(x[:, 0], mel[:1], torch.tensor([step])),
            noise_of([0], FRAMES * 256),
            published.fast_betas,
            aligned,
        )
        made = Vocoder(ours, config, "fp32")(mel[0])
    assert published.relative_error(made, expected[0, 0]) < 1e-5


def test_the_two_projects_are_told_apart_and_their_embeddings_kept_apart(published):
    kinds = {
        kind: convert_state_dict(published.build(kind).state_dict(), metadata=METADATA).config
        for kind in ("lmnt", "philsyn")
    }
    assert {kind: config.network.embedding.kind for kind, config in kinds.items()} == {
        "lmnt": "lmnt",
        "philsyn": "philsyn",
    }
    assert kinds["lmnt"].network.upsampling == "transposed"
    assert kinds["philsyn"].network.upsampling == "transposed-per-layer"


# --- files ------------------------------------------------------------------------------------------------------------


@every_kind
def test_a_file_becomes_a_model_folder_of_the_same_weights(kind, published, tmp_path):
    theirs = published.build(kind)
    content = {"model_state_dict": theirs.state_dict(), "optimizer_state_dict": {"state": {}}}
    if kind == "lmnt":
        content = {"model": theirs.state_dict(), "params": theirs.params, "step": 1000, "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "weights.pt")
    network, config = convert_checkpoint(tmp_path / "weights.pt", kind, None if kind == "lmnt" else METADATA)
    save_model(tmp_path / "model", network.state_dict(), config)
    loaded, same = load_model(tmp_path / "model")
    assert same == config
    x, mel = signal(), mels()
    predicted = loaded(x, level_of(12, published.base_betas), loaded.encode(mel))
    assert published.relative_error(predicted, theirs(x, 12, mel)) < 1e-5
    assert config.provenance["file"] == "weights.pt"
    assert len(config.provenance["sha256"]) == 64
    assert config.provenance["project"] == {"lmnt": "lmnt-com/diffwave", "philsyn": "philsyn/DiffWave-Vocoder"}[kind]
    assert config.provenance.get("training_steps") == ("1000" if kind == "lmnt" else None)
    assert "licence" in config.provenance


@pytest.mark.parametrize("new_format", [True, False])
def test_bare_weights_in_either_format_of_torch_are_read(new_format, published, tmp_path):
    theirs = published.build("lmnt")
    path = tmp_path / "old.pt"
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=new_format)
    network, _ = convert_checkpoint(path, metadata=CheckpointMetadata(dilation_cycle=3))
    predicted = network(signal(), level_of(12, published.base_betas), network.encode(mels()))
    assert published.relative_error(predicted, theirs(signal(), 12, mels())) < 1e-5


def test_newer_weight_normalisation_is_folded_too(published):
    theirs = published.build("philsyn")
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in theirs.state_dict().items()
    }
    ours, _ = convert_state_dict(renamed, metadata=METADATA)
    same, _ = convert_state_dict(theirs.state_dict(), metadata=METADATA)
    torch.testing.assert_close(ours.state_dict(), same.state_dict(), rtol=0, atol=0)


def test_the_published_base_is_described_without_a_file(published):
    config = published_base_config()
    network = build_network(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(2.62e6, rel=0.01)
    theirs = published.build("lmnt", channels=64, layers=30, cycle=10, n_mels=80)
    network.load_state_dict(convert_state_dict(theirs.state_dict()).network.state_dict())
    assert convert_state_dict(theirs.state_dict()).config.network == config.network
    assert convert_state_dict(theirs.state_dict(), params=theirs.params).config == config
    torch.testing.assert_close(from_betas(config.network.embedding.betas)[0].item(), config.diffusion.log_snr_min)


@pytest.mark.slow
@every_kind
def test_the_published_size_agrees(kind, published):
    """DiffWave BASE: 64 channels, 30 layers, a cycle of 10."""
    theirs = published.build(kind, channels=64, layers=30, cycle=10, n_mels=80)
    ours, config = convert_state_dict(theirs.state_dict())
    x, mel = signal(frames=8), mels(frames=8, n_mels=80) - (4 if kind == "philsyn" else 0)
    condition = ours.encode(mel)
    for step in (0, 24, 49, 40.3):
        predicted = ours(x, level_of(step, published.base_betas), condition)
        assert published.relative_error(predicted, theirs(x, step, mel)) < 1e-5
    expected = published.reverse_process(
        lambda x, step: theirs(x, step, mel),
        noise_of([0], 8 * 256),
        published.fast_betas,
        published.align(published.fast_betas, published.base_betas),
    )
    assert published.relative_error(Vocoder(ours, config, "fp32")(mel), expected[:, 0]) < 1e-5
