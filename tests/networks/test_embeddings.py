"""Embeddings of the noise level follow their formulas, and radial basis functions vary smoothly with it."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig, EmbeddingConfig
from audiodiff.config.network import SPREAD_FLOOR
from audiodiff.networks.embeddings import (
    FEATURES,
    FourierFeatures,
    NoiseLevelDomain,
    NoiseLevelEmbedding,
    RadialBasis,
    SinusoidalFeatures,
    k_means,
)

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


@pytest.mark.parametrize("initialisation", ["uniform", "quantiles", "k-means", "random"])
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
    levels = torch.tensor([LOGISTIC.log_snr_quantile(share) for share in shares.tolist()])
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


def test_initialisations_differ():
    every = [rbf(LOGISTIC, initialisation=i).centres for i in ("uniform", "quantiles", "k-means", "random")]
    assert min((one - other).abs().max() for one, other in combinations(every, 2)) > 0.1


def test_k_means_leaves_every_centre_at_the_mean_of_what_is_nearest_to_it():
    draws = torch.randn(3000, generator=torch.Generator().manual_seed(0)).exp()
    centres = k_means(draws, 7)
    nearest = (draws[:, None] - centres).abs().argmin(1)
    means = torch.stack([draws[nearest == k].mean() for k in range(7)])
    assert_close(centres, means, rtol=1e-4, atol=1e-5)


def test_k_means_finds_the_known_centres_of_known_distributions():
    even = torch.arange(9000, dtype=torch.float64) / 9000
    assert_close(k_means(even, 9), (torch.arange(9) + 0.5).double() / 9, rtol=0, atol=2e-4)
    # Lloyd-Max quantiser of a normal distribution at four levels: 0.4528 and 1.510 (Max 1960, Table 1)
    normal = torch.special.ndtri((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    assert_close(k_means(normal, 4).abs().sort().values[::2], torch.tensor([0.4528, 1.510]).double(), atol=1e-3, rtol=0)


def test_k_means_centres_are_denser_than_even_ones_and_sparser_than_quantiles_where_training_is():
    gaps = [rbf(LOGISTIC, centres=16, initialisation=i).centres.diff() for i in ("uniform", "k-means", "quantiles")]
    assert gaps[0].min() > 1.15 * gaps[1].min() > 1.15**2 * gaps[2].min()
    assert torch.equal(gaps[1], rbf(LOGISTIC, centres=16, initialisation="k-means").centres.diff())  # seeded


@pytest.mark.parametrize("domain", ["log-snr", "sqrt-abar", "step"])
@pytest.mark.parametrize("diffusion", [RANGE, LOGISTIC], ids=["uniform", "logistic"])
def test_a_domain_fills_the_trained_range_and_rises(domain, diffusion):
    argument = NoiseLevelDomain(domain, diffusion)(torch.linspace(-8, 10, 200))
    assert_close(argument[[0, -1]], torch.tensor([-8.0, 10.0]), rtol=0, atol=1e-5)
    assert (argument.diff() > 0).all()


def test_the_amplitude_of_the_signal_is_linear_in_the_domain_sqrt_abar():
    argument, amplitude = NoiseLevelDomain("sqrt-abar", RANGE)(LEVELS), torch.sigmoid(LEVELS).sqrt()
    slope = argument.diff() / amplitude.diff()
    assert_close(slope, slope.mean().expand_as(slope), rtol=1e-2, atol=0)


def test_the_rank_of_a_level_is_its_share_of_the_training_levels():
    shares = torch.rand(500, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([LOGISTIC.log_snr_quantile(share) for share in shares.tolist()])
    assert_close((NoiseLevelDomain("step", LOGISTIC)(levels) + 8) / 18, shares, rtol=0, atol=1e-5)
    assert_close(NoiseLevelDomain("step", RANGE)(LEVELS), LEVELS)  # of a uniform distribution it is the level itself
    beyond = NoiseLevelDomain("step", LOGISTIC)(torch.tensor([-math.inf, -50.0, 50.0, math.inf]))
    assert beyond.tolist() == [-8, -8, 10, 10]


@pytest.mark.parametrize("domain", ["sqrt-abar", "step"])
@pytest.mark.parametrize("kind", ["rbf", "fourier"])
def test_the_domain_moves_the_features_and_no_weight_belongs_to_it(kind, domain):
    def features(domain):
        torch.manual_seed(0)
        return FEATURES[kind](EmbeddingConfig(kind=kind, domain=domain), LOGISTIC)

    assert (features(domain)(LEVELS) - features("log-snr")(LEVELS)).abs().max() > 0.1
    assert features(domain).state_dict().keys() == features("log-snr").state_dict().keys()


def test_a_domain_is_refused_where_the_embedding_has_its_own():
    with pytest.raises(ValueError, match="leave domain 'step' out"):
        EmbeddingConfig(kind="sinusoidal", domain="step")


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
    for part, trained in (("centres", [True, False]), ("spreads", [False, True])):
        basis = rbf(learnable=part)
        assert [basis.centres.requires_grad, basis.raw_spread.requires_grad] == trained


def test_a_configuration_from_before_parts_could_be_fixed_still_means_the_same():
    assert [
        EmbeddingConfig.model_validate_json(f'{{"learnable": {word}}}').learnable for word in ("true", "false")
    ] == [
        True,
        False,
    ]


def test_gradients_of_centres_and_spreads_are_right():
    basis, level = rbf(centres=4).double(), torch.tensor([-3.0, 0.5, 6.0])

    def features(centres, raw_spread):
        return torch.func.functional_call(basis, {"centres": centres, "raw_spread": raw_spread}, level)

    assert torch.autograd.gradcheck(features, (basis.centres, basis.raw_spread))


def test_neighbouring_levels_look_alike_to_radial_basis_functions_and_not_to_sinusoids():
    # the reason of the design: with frequencies up to 10^4, neighbouring steps are nearly orthogonal
    radial, sinusoids = rbf()(LEVELS), SinusoidalFeatures(EmbeddingConfig(centres=128), RANGE)(LEVELS)
    assert cosine_similarity(radial[1:], radial[:-1]).min() > 0.9
    assert cosine_similarity(sinusoids[1:], sinusoids[:-1]).median() < 0.5


def test_a_level_between_two_training_steps_is_interpolated_by_radial_basis_functions_only():
    sinusoids = SinusoidalFeatures(EmbeddingConfig(centres=128), RANGE)
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
    features = SinusoidalFeatures(EmbeddingConfig(centres=128), RANGE)(torch.tensor([10.0, 9.64, -8.0]))
    step = np.array([0.0, 1.0, 50.0])[:, None]  # least noise first
    angle = 10 ** (np.arange(64) * 4 / 63) * step
    expected = torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()
    assert_close(features[0], expected[0], rtol=0, atol=1e-6)
    # at high frequencies float32 cannot tell the angle, which is what is wrong with them
    assert_close(features[:, :32], expected[:, :32], rtol=0, atol=2e-3)
    assert (features.abs() <= 1).all()


def test_fourier_features_are_sines_and_cosines_of_normal_frequencies():
    torch.manual_seed(0)
    features = FourierFeatures(EmbeddingConfig(kind="fourier", centres=2000, fourier_scale=3.0), RANGE)
    assert float(features.frequencies.std()) == pytest.approx(3.0, rel=0.1)
    angle = 2 * math.pi * ((LEVELS + 8) / 18)[:, None] * features.frequencies
    assert_close(features(LEVELS), torch.cat([angle.sin(), angle.cos()], dim=1), rtol=0, atol=1e-5)
    # what they are for: their kernel is a Gaussian of the distance (Rahimi and Recht 2007; Tancik et al. 2020, Eq. 4)
    kernel = features(LEVELS) @ features(LEVELS)[:1].T / 1000
    distance = (LEVELS + 8) / 18
    expected = torch.exp(-0.5 * (2 * math.pi * 3.0 * distance).square())[:, None]
    assert_close(kernel, expected, rtol=0, atol=0.1)


def test_frequencies_follow_the_seed_and_are_saved_with_the_weights():
    def fourier(seed):
        torch.manual_seed(seed)
        return FourierFeatures(EmbeddingConfig(kind="fourier"), RANGE)

    assert torch.equal(fourier(0).frequencies, fourier(0).frequencies)
    first, other = fourier(0), fourier(1)
    assert not torch.equal(first(LEVELS), other(LEVELS))
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(LEVELS), other(LEVELS))
    assert not list(first.parameters())


@pytest.mark.parametrize("kind", ["rbf", "fourier", "sinusoidal"])
def test_the_embedding_has_the_configured_kind_and_width_and_tells_levels_apart(kind):
    torch.manual_seed(0)
    embedding = NoiseLevelEmbedding(EmbeddingConfig(kind=kind, width=24, centres=12), RANGE)
    assert type(embedding.features) is FEATURES[kind]
    embedded = embedding(LEVELS)
    assert embedded.shape == (50, 24)
    assert (torch.cdist(embedded, embedded) + torch.eye(50)).min() > 1e-4


@pytest.mark.parametrize("kind", ["rbf", "fourier", "sinusoidal"])
@pytest.mark.parametrize("centres", [2, 7, 12])
def test_the_number_of_features_follows_the_configuration(kind, centres):
    embedding = NoiseLevelEmbedding(EmbeddingConfig(kind=kind, centres=centres), RANGE)
    assert embedding.features(LEVELS).shape[1] == (centres if kind == "rbf" else centres // 2 * 2)


def test_the_range_of_training_moves_the_features():
    wide = DiffusionConfig(log_snr_min=-20.0, log_snr_max=20.0)
    for kind in ("rbf", "fourier", "sinusoidal"):
        here, there = (FEATURES[kind](EmbeddingConfig(), diffusion)(LEVELS) for diffusion in (RANGE, wide))
        assert (here - there).abs().max() > 0.1


def test_explicit_centres_and_spreads_are_where_they_are_put_and_draw_nothing():
    positions, spreads = [-7.5, -1.0, -1.0, 4.0, 11.0], [SPREAD_FLOOR, 0.5, 1.0, 30.0, 1000.0]
    state = torch.random.get_rng_state()
    basis = RadialBasis(EmbeddingConfig(centre_positions=positions, centre_spreads=spreads), LOGISTIC)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert basis.centres.tolist() == positions
    assert_close(basis.spread.detach(), torch.tensor(spreads), rtol=2e-6, atol=2e-6)
    assert basis.n_features == 5
    assert basis(torch.tensor([4.0]))[0, 3] == 1


def test_explicit_uniform_centres_are_the_uniform_ones():
    uniform = rbf(centres=7)
    positions = uniform.centres.tolist()
    assert torch.equal(rbf(centre_positions=positions)(LEVELS), uniform(LEVELS))
    assert torch.equal(rbf(centre_positions=positions, centre_spreads=[3.0] * 7)(LEVELS), uniform(LEVELS))
    assert torch.equal(rbf(centres=7, centre_spreads=[3.0] * 7)(LEVELS), uniform(LEVELS))


def test_explicit_centres_are_trained_as_others_are():
    assert rbf(centre_positions=[0.0, 1.0]).centres.requires_grad
    assert not rbf(centre_positions=[0.0, 1.0], learnable="spreads").centres.requires_grad


@pytest.mark.parametrize("spread", [0.001, 1.0, 1000.0])
@pytest.mark.parametrize("centres", [2, 8192])
def test_no_spread_that_a_configuration_takes_is_too_wide_or_narrow_to_hold(centres, spread):
    expected = max(spread * 18 / (centres - 1), SPREAD_FLOOR)
    assert_close(rbf(centres=centres, spread=spread).spread[0].item(), expected, rtol=1e-5, atol=2e-6)
