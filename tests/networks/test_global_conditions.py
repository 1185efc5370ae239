"""Label, speaker and vector join the noise level, each of them and none of them with a vector of its own."""

import pytest
import torch
from torch.testing import assert_close

from audiodiff.config import EmbeddingConfig, ModelConfig, NetworkConfig
from audiodiff.networks import NETWORKS, build_network
from audiodiff.networks.conditioning import GlobalConditions, VectorEmbedding

ALL = GlobalConditions(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]]))
OTHER = GlobalConditions(torch.tensor([1, 1]), torch.tensor([0, 1]), torch.tensor([[1.5, -2.0, 0.5], [3.0, 0.5, 1.0]]))
X, LEVEL = torch.randn(2, 1, 128, generator=torch.Generator().manual_seed(0)), torch.tensor([-2.0, 1.0])


@pytest.fixture(params=NETWORKS)
def network(request):
    """Give a network with all conditions but a mel, whose output is awake."""
    torch.manual_seed(0)
    config = ModelConfig(
        sample_rate=8000,
        labels=("a", "b", "c"),
        speakers=("x", "y"),
        vector_width=3,
        network=NetworkConfig(
            kind=request.param, channels=8, layers=2, n_fft=32, hop_length=16, embedding=EmbeddingConfig(width=12)
        ),
    )
    built = build_network(config)
    torch.nn.init.normal_(built.output.weight)
    return built


@pytest.mark.parametrize("name", GlobalConditions._fields)
def test_every_condition_changes_the_prediction_of_every_clip(network, name):
    predictions = [
        network(X, LEVEL, None, network.embed(conditions))
        for conditions in (
            ALL,
            ALL._replace(**{name: getattr(OTHER, name)}),
            ALL._replace(**{name: None}),
        )
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert ((predictions[i] - predictions[j]).abs().amax((1, 2)) > 1e-3).all()


def test_conditions_add_up(network):
    parts = [network.label(ALL.label), network.speaker(ALL.speaker), network.vector(ALL.vector)]
    assert_close(network.embed(ALL), sum(parts))
    assert_close(network.embed_level(LEVEL, network.embed(ALL)), network.level(LEVEL) + sum(parts))


def test_nothing_is_what_training_drops(network):
    dropped = GlobalConditions(torch.full((2,), 3), torch.full((2,), 2), torch.full((2, 3), torch.nan))
    assert_close(network.embed(dropped), network.embed().expand(2, -1))
    assert_close(network.embed(ALL._replace(speaker=dropped.speaker)), network.embed(ALL._replace(speaker=None)))
    assert torch.equal(network(X, LEVEL), network(X, LEVEL, None, network.embed()))


def test_a_network_refuses_what_it_was_not_built_for():
    network = build_network(ModelConfig(sample_rate=8000, labels=("a", "b", "c"), network=NetworkConfig(patch=4)))
    for name in ("speaker", "vector"):
        with pytest.raises(TypeError, match=f"without {name}s"):
            network.embed(GlobalConditions(**{name: getattr(ALL, name)}))


def test_old_networks_have_the_weights_they_had():
    torch.manual_seed(0)
    names = set(build_network(ModelConfig(sample_rate=8000, labels=("a",))).state_dict())
    assert "label.table.weight" in names
    assert not any(name.startswith(("speaker", "vector")) for name in names)


def test_vectors_of_any_scale_embed_alike_once_their_statistics_are_known():
    torch.manual_seed(0)
    embed, vectors = VectorEmbedding(5, 400), torch.randn(300, 5)
    expected = embed(vectors)
    embed.mean.fill_(7.0)
    embed.deviation.fill_(1e-3)
    assert_close(embed(7 + 1e-3 * vectors), expected, rtol=1e-3, atol=2e-3)
    assert 0.5 < float((expected.std() / embed.none.std()).detach()) < 2  # neither drowns the other


def test_a_missing_vector_is_that_of_none_and_spoils_no_gradient():
    torch.manual_seed(0)
    embed = VectorEmbedding(3, 8)
    vectors = torch.tensor([[1.0, 2.0, 3.0], [torch.nan] * 3])
    embedded = embed(vectors)
    assert torch.equal(embedded[1], embed.none)
    embedded.square().sum().backward()
    assert embed.project.weight.grad.isfinite().all()
    assert float(embed.none.grad.abs().sum()) > 0
