"""A model's configuration refuses what contradicts itself, and says what would fit."""

import pytest

from audiodiff.config import MelConfig, ModelConfig, RunConfig, parse_config
from audiodiff.errors import ConfigError


def model(network, hop=256, **values):
    n_fft = 1024 + hop % 2
    mel = MelConfig(sample_rate=22050, n_fft=n_fft, hop_length=hop, win_length=1024, n_mels=8, f_min=0, f_max=8000)
    values = {"sample_rate": 22050, "mel": mel, "network": network} | values
    return parse_config(ModelConfig, values, "a test")


@pytest.mark.parametrize(
    ("network", "hop"),
    [
        ({"upsampling": "transposed"}, 256),
        ({"upsampling": "transposed", "upsampling_factors": [8, 4, 8]}, 256),
        ({"upsampling": "transposed", "patch": 4, "upsampling_factors": [8, 8]}, 256),
        ({"upsampling": "transposed-per-layer", "upsampling_factors": [20, 12]}, 240),
        ({"upsampling": "repeat"}, 275),
    ],
)
def test_upsampling_factors_that_multiply_to_the_hop_are_taken(network, hop):
    assert model(network, hop).network.upsampling == network["upsampling"]


@pytest.mark.parametrize(
    ("network", "hop", "said"),
    [
        ({"upsampling": "transposed"}, 300, r"\[16, 16\] must .* multiply to 300 .*these do: \[10, 30\], \[6, 50\]"),
        ({"upsampling": "transposed", "patch": 4}, 256, r"multiply to 64 .*patch 4\); these do: \[8, 8\], \[4, 16\]"),
        ({"upsampling": "transposed", "upsampling_factors": [256, 1]}, 256, r"must be even .* \[16, 16\]"),
        (
            {"upsampling": "transposed", "upsampling_factors": [-16, -16]},
            256,
            "-16 is not a whole number from 1",
        ),
        ({"upsampling": "transposed", "upsampling_factors": [15, 18]}, 270, r"must be even .* these do: \[270\]"),
        ({"upsampling": "transposed", "upsampling_factors": [25, 11]}, 275, "no even factors do, so use .*'repeat'"),
        ({"patch": 7}, 256, "patch 7 must divide the hop length 256; these do: 1, 2, 4, 8, 16, 32, 64"),
        ({"kind": "stft", "hop_length": 128}, 256, "hop_length 128 must equal the mel's hop_length 256"),
        ({"kind": "stft", "upsampling": "transposed"}, 256, "'stft' takes 'repeat' only"),
    ],
)
def test_a_network_that_does_not_fit_the_hop_is_refused_with_what_would_fit(network, hop, said):
    with pytest.raises(ConfigError, match=said):
        model(network, hop)


@pytest.mark.parametrize("part", ["labels", "speakers"])
@pytest.mark.parametrize(
    ("names", "message"), [(["a", "b", "a"], "'a' is there twice"), (["a", ""], "a name is empty")]
)
def test_names_of_conditions_differ(part, names, message):
    with pytest.raises(ConfigError, match=f"{part}: {message}"):
        parse_config(ModelConfig, {"sample_rate": 8000, part: names}, "x")


def test_upsampling_needs_a_mel():
    with pytest.raises(ConfigError, match="upsampling 'transposed' needs a mel"):
        model({"upsampling": "transposed"}, mel=None)


@pytest.mark.parametrize("embedding", [{"kind": "sinusoidal"}, {"learnable": False}], ids=str)
def test_a_learning_rate_for_nothing_is_refused(embedding):
    values = {"model": {"sample_rate": 8000, "network": {"embedding": embedding}}, "data": {"train": "x"}}
    parse_config(RunConfig, values, "a test")
    with pytest.raises(ConfigError, match="embedding_learning_rate is for learnable centres or spreads"):
        parse_config(RunConfig, values | {"training": {"embedding_learning_rate": 0.1}}, "a test")


def test_a_band_holds_a_bin_of_the_fft():
    with pytest.raises(ValueError, match=r"f_min 100 Hz to f_max 110 Hz is less than one bin of the FFT, 31.25 Hz"):
        MelConfig(sample_rate=8000, n_fft=256, hop_length=64, win_length=256, n_mels=8, f_min=100, f_max=110)
