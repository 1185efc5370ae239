"""Explicit RBF centres and spreads in a configuration: counted, and refused where they do not go together."""

import pytest

from audiodiff.config import EmbeddingConfig, ModelConfig


def test_explicit_centres_say_how_many_there_are():
    for given in ({"centre_positions": [0, 1.5, 1.5]}, {"centre_spreads": [1, 2, 3]}):
        embedding = EmbeddingConfig(**given)
        assert embedding.centres == 3
        assert embedding.initialisation == ("explicit" if "centre_positions" in given else "uniform")
        assert EmbeddingConfig.model_validate(embedding.model_dump(mode="json")) == embedding


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"centre_positions": [0, 1], "centres": 3}, "centres is 3, but centre_positions holds 2 values"),
        ({"centre_spreads": [1] * 31, "centres": 32}, "centres is 32, but centre_spreads holds 31 values"),
        ({"centre_positions": [0, 1], "centre_spreads": [1]}, "centres is 2, but centre_spreads holds 1 values"),
        ({"centre_positions": [1, 0, 2]}, r"must rise, but 0 \(number 2\) follows 1; sort them"),
        ({"centre_positions": [0]}, "1 is not a whole number from 2"),
        ({"centre_positions": [0, float("nan")]}, "nan is not a number from -50 to 50"),
        ({"centre_positions": [0, float("inf")]}, "inf is not a number from -50 to 50"),
        ({"centre_positions": [0, "x"]}, "'x' is not a number"),
        ({"centre_spreads": [1, 0]}, "0 is not a number from 0.01 to 1,000"),
        ({"centre_spreads": [1, -1]}, "-1 is not a number from 0.01"),
        ({"centre_spreads": [1, float("nan")]}, "nan is not a number from 0.01"),
        ({"centre_spreads": [1, 1], "spread": 2}, "centre_spreads replace spread; leave spread 2 out"),
        ({"initialisation": "explicit"}, "initialisation 'explicit' needs centre_positions"),
        (
            {"initialisation": "k-means", "centre_positions": [0, 1]},
            "initialisation 'k-means' ignores centre_positions; use 'explicit'",
        ),
        ({"kind": "fourier", "centre_positions": [0, 1]}, "kind 'fourier' has no RBF centres"),
        ({"kind": "sinusoidal", "centre_spreads": [1, 1]}, "kind 'sinusoidal' has no RBF centres"),
        ({"centre_positions": {"a": 1}}, "centre_positions"),
    ],
)
def test_explicit_centres_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingConfig(**given)


@pytest.mark.parametrize(("position", "fits"), [(27.9, True), (-25.9, True), (28.1, False), (-26.1, False)])
def test_centres_may_lie_outside_the_trained_range_but_not_in_another_unit(position, fits):
    positions = sorted([0.0, position])
    values = {"sample_rate": 8000, "network": {"embedding": {"centre_positions": positions}}}
    values["diffusion"] = {"log_snr_min": -8, "log_snr_max": 10}
    if fits:
        assert ModelConfig(**values).network.embedding.centre_positions == tuple(positions)
        return
    with pytest.raises(ValueError, match=f"{position:g} is far outside the trained log-SNR, -8 to 10"):
        ModelConfig(**values)
