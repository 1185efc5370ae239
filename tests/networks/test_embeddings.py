"""Embeddings of the noise level follow their formulas, and radial basis functions vary smoothly with it."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig, EmbeddingConfig
from audiodiff.networks.embeddings import SPREAD_FLOOR, NoiseLevelEmbedding, RadialBasis, Sinusoids

LOGISTIC = DiffusionConfig(distribution="logistic")
RANGE = DiffusionConfig(log_snr_min=-8.0, log_snr_max=10.0)
LEVELS = torch.linspace(-8, 10, 50)  # as many as DiffWave has steps


def rbf(diffusion=RANGE, **config):
    torch.manual_seed(0)
    return RadialBasis(EmbeddingConfig(**config), diffusion)


def test_features_are_gaussians_around_their_centres():
    basis = rbf(centres=5)
    with torch.no_grad():
        basis.centres.copy_(torch.tensor([-3.0, -1.0, 0.0, 2.0, 9.0]))
        basis.raw_spread.copy_(torch.tensor([-2.0, 0.0, 1.0, 2.0, 5.0]))
    level = LEVELS.double().numpy()[:, None]
    spread = np.log1p(np.exp([-2.0, 0.0, 1.0, 2.0, 5.0])) + SPREAD_FLOOR
    expected = np.exp(-((level - [-3.0, -1.0, 0.0, 2.0, 9.0]) ** 2) / (2 * spread**2))
    assert_close(basis(LEVELS), torch.from_numpy(expected).float())


@pytest.mark.parametrize("initialisation", ["uniform", "quantiles", "random"])
def test_features_are_positive_at_most_one_and_one_at_their_centre(initialisation):
    basis = rbf(LOGISTIC, centres=16, initialisation=initialisation).double()  # far tails are below float32
    features = basis(torch.linspace(-8, 10, 400))
    assert ((features > 0) & (features <= 1)).all()
    at_centres = basis(basis.centres.detach()).diagonal()
    assert_close(at_centres, torch.ones_like(at_centres))


@pytest.mark.parametrize("level", [-1e4, 1e4, math.inf, -math.inf])
def test_levels_far_outside_the_range_give_finite_features(level):
    assert torch.equal(rbf()(torch.tensor([level])), torch.zeros(1, 32))


def test_uniform_centres_are_evenly_spaced_over_the_range():
    assert_close(rbf(centres=7).centres.detach(), torch.tensor([-8.0, -5.0, -2.0, 1.0, 4.0, 7.0, 10.0]))


def test_quantile_centres_divide_the_training_levels_into_equal_shares():
    basis = rbf(LOGISTIC, centres=9, initialisation="quantiles")
    shares = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    levels = torch.tensor([LOGISTIC.log_snr_at(share) for share in shares.tolist()])
    below = (levels[:, None] < basis.centres).double().mean(0)
    assert_close(below, torch.linspace(0, 1, 9, dtype=torch.float64), rtol=0, atol=1e-4)
    assert basis.centres.diff().argmin() in (3, 4)  # densest in the middle, where most of the training is


def test_quantiles_of_a_uniform_distribution_are_the_uniform_centres():
    assert_close(rbf(initialisation="quantiles").centres, rbf(initialisation="uniform").centres)


def test_random_centres_fill_the_range_and_depend_on_the_seed():
    centres = rbf(centres=1000, initialisation="random").centres
    assert -8 <= centres.min() < -7.5
    assert 9.5 < centres.max() <= 10
    assert (centres.diff() >= 0).all()
    assert torch.equal(centres, rbf(centres=1000, initialisation="random").centres)
    again = RadialBasis(EmbeddingConfig(centres=1000, initialisation="random"), RANGE)  # goes on in the generator
    assert not torch.equal(centres, again.centres)


def test_the_three_initialisations_differ():
    first, second, third = (rbf(LOGISTIC, initialisation=i).centres for i in ("uniform", "quantiles", "random"))
    assert min((first - second).abs().max(), (second - third).abs().max(), (first - third).abs().max()) > 0.1


@pytest.mark.parametrize(("centres", "spread"), [(7, 1.0), (7, 0.5), (19, 2.0)])
def test_spread_is_in_units_of_the_distance_between_centres(centres, spread):
    expected = torch.full((centres,), spread * 18 / (centres - 1))
    assert_close(rbf(centres=centres, spread=spread).spread.detach(), expected)


def test_training_cannot_bring_a_spread_to_zero():
    basis = rbf()
    basis.raw_spread.data.fill_(-1e6)
    assert_close(basis.spread.detach(), torch.full((32,), SPREAD_FLOOR))
    assert basis(basis.centres.detach() + 1e-3).isfinite().all()


def test_centres_and_spreads_are_trained_only_if_learnable():
    basis = rbf(learnable=True)
    basis(LEVELS)[:, 3].sum().backward()
    assert basis.centres.grad.count_nonzero() == basis.raw_spread.grad.count_nonzero() == 1
    assert not any(parameter.requires_grad for parameter in rbf(learnable=False).parameters())


def test_gradients_of_centres_and_spreads_are_right():
    basis, level = rbf(centres=4).double(), torch.tensor([-3.0, 0.5, 6.0])

    def features(centres, raw_spread):
        return torch.func.functional_call(basis, {"centres": centres, "raw_spread": raw_spread}, level)

    assert torch.autograd.gradcheck(features, (basis.centres, basis.raw_spread))


def test_neighbouring_levels_look_alike_to_radial_basis_functions_and_not_to_sinusoids():
    # the reason of the design: with frequencies up to 10^4, neighbouring steps are nearly orthogonal
    radial, sinusoids = rbf()(LEVELS), Sinusoids(EmbeddingConfig(centres=128), RANGE)(LEVELS)
    assert cosine_similarity(radial[1:], radial[:-1]).min() > 0.9
    assert cosine_similarity(sinusoids[1:], sinusoids[:-1]).median() < 0.5


def test_a_level_between_two_training_steps_is_interpolated_by_radial_basis_functions_only():
    sinusoids = Sinusoids(EmbeddingConfig(centres=128), RANGE)
    middle = (LEVELS[1:] + LEVELS[:-1]) / 2

    def similarity(features):
        between = (features(LEVELS[1:]) + features(LEVELS[:-1])) / 2
        return cosine_similarity(features(middle), between)

    assert similarity(rbf()).min() > 0.99
    assert similarity(sinusoids).median() < 0.7


def test_similarity_of_radial_basis_features_falls_steadily_with_distance():
    features = rbf()(LEVELS)
    similarity = cosine_similarity(features[10:11], features[10:])
    assert (similarity[:20].diff() < 0).all()
    assert similarity[-1] < 1e-3


def test_sinusoids_are_those_of_kong_et_al_over_fifty_steps():
    # section 3.1: sin(10^(j * 4 / 63) t), the same with cos, for j = 0 to 63
    features = Sinusoids(EmbeddingConfig(centres=128), RANGE)(torch.tensor([10.0, 9.64, -8.0]))
    step = np.array([0.0, 1.0, 50.0])[:, None]  # least noise first
    angle = 10 ** (np.arange(64) * 4 / 63) * step
    expected = torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()
    assert_close(features[0], expected[0], rtol=0, atol=1e-6)
    # at high frequencies float32 cannot tell the angle, which is what is wrong with them
    assert_close(features[:, :32], expected[:, :32], rtol=0, atol=2e-3)
    assert (features.abs() <= 1).all()


@pytest.mark.parametrize("kind", ["rbf", "sinusoidal"])
def test_the_embedding_has_the_configured_kind_and_width_and_tells_levels_apart(kind):
    torch.manual_seed(0)
    embedding = NoiseLevelEmbedding(EmbeddingConfig(kind=kind, width=24, centres=12), RANGE)
    assert isinstance(embedding.features, RadialBasis if kind == "rbf" else Sinusoids)
    embedded = embedding(LEVELS)
    assert embedded.shape == (50, 24)
    assert (torch.cdist(embedded, embedded) + torch.eye(50)).min() > 1e-4


@pytest.mark.parametrize("kind", ["rbf", "sinusoidal"])
@pytest.mark.parametrize("centres", [2, 7, 12])
def test_the_number_of_features_follows_the_configuration(kind, centres):
    embedding = NoiseLevelEmbedding(EmbeddingConfig(kind=kind, centres=centres), RANGE)
    assert embedding.features(LEVELS).shape[1] == (centres if kind == "rbf" else centres // 2 * 2)


def test_the_range_of_training_moves_the_features():
    wide = DiffusionConfig(log_snr_min=-20.0, log_snr_max=20.0)
    for features in (RadialBasis, Sinusoids):
        here, there = (features(EmbeddingConfig(), diffusion)(LEVELS) for diffusion in (RANGE, wide))
        assert (here - there).abs().max() > 0.1
