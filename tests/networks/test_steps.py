"""Noise levels become the discrete steps, and the features, that other projects' networks were trained with."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from audiodiff.config import DiffusionConfig, EmbeddingConfig, parse_config
from audiodiff.errors import ConfigError
from audiodiff.networks.embeddings import DiscreteSteps, LmntStepFeatures, NoiseLevelEmbedding, PhilsynStepFeatures

BASE = tuple(np.linspace(1e-4, 0.05, 50).tolist())  # Kong et al. 2021: DiffWave BASE
FAST = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)


def log_snr_of(betas):
    abar = np.cumprod(1 - np.array(betas))
    return torch.from_numpy(np.log(abar / (1 - abar)))


def features(kind, betas=BASE, centres=128):
    return {"lmnt": LmntStepFeatures, "philsyn": PhilsynStepFeatures}[kind](
        EmbeddingConfig(kind=kind, betas=betas, centres=centres), DiffusionConfig()
    )


def test_the_levels_of_a_process_are_its_steps():
    assert_close(DiscreteSteps(BASE).log_snr, log_snr_of(BASE), rtol=1e-10, atol=1e-10)
    assert_close(DiscreteSteps(BASE)(log_snr_of(BASE)), torch.arange(50.0).double(), rtol=0, atol=1e-9)


def test_a_level_between_two_steps_lies_linearly_between_their_amplitudes():
    # Kong et al. 2021, fast sampling: t + (sqrt(abar_t) - sqrt(gamma)) / (sqrt(abar_t) - sqrt(abar_t+1))
    train, wanted = np.cumprod(1 - np.array(BASE)), np.cumprod(1 - np.array(FAST))
    expected = []
    for level in wanted:
        t = max(t for t in range(49) if train[t] >= level - 1e-12)
        expected.append(t + (train[t] ** 0.5 - level**0.5) / (train[t] ** 0.5 - train[t + 1] ** 0.5))
    assert expected[0] == pytest.approx(0, abs=1e-9)
    assert 40 < expected[-1] < 49
    steps = DiscreteSteps(BASE)
    assert_close(steps(log_snr_of(FAST)), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-7)
    in_float32 = steps(log_snr_of(FAST).float())
    assert_close(in_float32, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=3e-6)


def test_steps_rise_with_noise_and_end_at_the_ends_of_the_process():
    steps = DiscreteSteps(BASE)(torch.linspace(20, -20, 500))
    assert (steps.diff() >= 0).all()
    assert (steps[0], steps[-1]) == (0, 49)
    assert ((steps > 0) & (steps < 49)).sum() > 50
    assert DiscreteSteps(BASE)(torch.tensor([math.inf, -math.inf])).tolist() == [0, 49]


@pytest.mark.parametrize(("kind", "highest"), [("lmnt", 1e4), ("philsyn", 1.0)])
def test_the_two_tables_have_their_own_frequencies(kind, highest):
    lowest = 1e-4 * highest
    frequencies = np.geomspace(1, 1e4, 64) if kind == "lmnt" else np.geomspace(1, 1e-4, 64)
    assert (frequencies.max(), frequencies.min()) == pytest.approx((highest, lowest))
    found = features(kind)(log_snr_of(BASE))
    angle = np.arange(50)[:, None] * frequencies
    expected = torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)).float()
    tolerance = torch.tensor(np.tile(4e-7 * 50 * np.maximum(frequencies, 1), 2)).float()  # angles are in float32
    assert found.dtype == torch.float32
    assert ((found - expected).abs() <= tolerance).all()
    assert (found[:, :20] - expected[:, :20]).abs().max() < 1e-3


def test_the_two_tables_are_no_relatives():
    assert (features("lmnt")(log_snr_of(BASE)) - features("philsyn")(log_snr_of(BASE))).abs().mean() > 0.3


def test_between_steps_one_table_is_interpolated_as_values_and_the_other_as_angles():
    """The high frequencies of lmnt mean nothing between two steps, so its rows are mixed instead."""
    steps = DiscreteSteps(BASE)
    amplitude = torch.sigmoid(steps.log_snr).sqrt()
    squared = (0.75 * amplitude[10] + 0.25 * amplitude[11]) ** 2
    level = torch.logit(squared).unsqueeze(0)
    assert steps(level).item() == pytest.approx(10.25, abs=1e-9)
    table = features("lmnt").table
    assert_close(features("lmnt")(level)[0], 0.75 * table[10] + 0.25 * table[11], rtol=0, atol=1e-6)
    frequencies = torch.logspace(0, -4, 64, dtype=torch.float64)
    assert_close(features("philsyn")(level)[0, :64].double(), torch.sin(10.25 * frequencies), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["lmnt", "philsyn"])
def test_the_embedding_is_the_features_and_two_layers_and_saves_no_table(kind):
    config = EmbeddingConfig(kind=kind, betas=BASE, centres=16, width=24)
    embedding = NoiseLevelEmbedding(config, DiffusionConfig())
    assert sorted(embedding.state_dict()) == ["mlp.0.bias", "mlp.0.weight", "mlp.2.bias", "mlp.2.weight"]
    embedded = embedding(log_snr_of(BASE).float())
    assert embedded.shape == (50, 24)
    assert (torch.cdist(embedded, embedded) + torch.eye(50)).min() > 1e-5


@pytest.mark.parametrize("kind", ["lmnt", "philsyn"])
def test_the_betas_decide_the_step(kind):
    level = torch.tensor([0.0])
    slower = tuple(np.linspace(1e-4, 0.02, 200).tolist())
    assert (features(kind)(level) - features(kind, slower)(level)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "lmnt"}, "needs at least 2 betas"),
        ({"kind": "philsyn", "betas": [0.1]}, "needs at least 2 betas"),
        ({"kind": "lmnt", "betas": [0.1, 1.0]}, "above 0 and below 1"),
        ({"kind": "lmnt", "betas": [0.1, 0.2], "centres": 3}, "at least 4 centres"),
        ({"kind": "rbf", "betas": [0.1, 0.2]}, "of no use to kind 'rbf'"),
    ],
)
def test_an_impossible_configuration_is_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        parse_config(EmbeddingConfig, values, "a test")
