"""Conditions reach the networks normalised, and no class is a class of its own."""

import torch
from torch.testing import assert_close

from audiodiff.networks.conditioning import LabelEmbedding, MelNormalisation


def test_a_mel_is_brought_to_zero_mean_and_unit_variance_per_bin_by_stored_statistics():
    mel = torch.randn(4, 5, 300, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 6.0).view(5, 1) - 7
    normalise = MelNormalisation(5)
    assert torch.equal(normalise(mel), mel.mT)  # until statistics are measured
    normalise.mean.copy_(mel.mean((0, 2)))
    normalise.deviation.copy_(mel.std((0, 2)))
    features = normalise(mel)
    assert features.shape == (4, 300, 5)
    assert_close(features.mean((0, 1)), torch.zeros(5), rtol=0, atol=1e-5)
    assert_close(features.std((0, 1)), torch.ones(5), rtol=1e-5, atol=0)


def test_statistics_are_saved_with_the_weights_and_not_trained():
    normalise = MelNormalisation(5)
    assert set(normalise.state_dict()) == {"mean", "deviation"}
    assert list(normalise.parameters()) == []


def test_every_class_and_no_class_have_vectors_of_their_own():
    torch.manual_seed(0)
    embedding = LabelEmbedding(3, 8)
    vectors = torch.cat([embedding(torch.arange(3), 3), embedding(None, 1)])
    assert vectors.shape == (4, 8)
    assert (torch.cdist(vectors, vectors) + torch.eye(4)).min() > 0.1


def test_none_means_no_class_for_every_clip():
    embedding = LabelEmbedding(3, 8)
    assert torch.equal(embedding(None, 4), embedding(torch.full((4,), 3), 4))


def test_the_vector_of_no_class_can_be_trained():
    embedding = LabelEmbedding(3, 8)
    embedding(None, 2).sum().backward()
    assert embedding.table.weight.grad.abs().sum(1).nonzero().tolist() == [[3]]
