"""Renamed keys and values of the configuration are still read, with a warning that names the new ones."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from audiodiff.checkpoint import bundled_models, load_config
from audiodiff.config import Config, DataConfig, ModelConfig, TrainingConfig, load_run_config, parse_config
from audiodiff.errors import ConfigError


class Inner(Config):
    RENAMED_KEYS: ClassVar = {"average_decay": "ema_decay"}
    RENAMED_VALUES: ClassVar = {"kind": {"frames": "stft"}}
    REMOVED_KEYS: ClassVar = {"learned": "use kind"}

    ema_decay: float = 0.5
    kind: Literal["stft", "unet"] = "unet"


class Outer(Config):
    inner: Inner = Inner()


def read(**values):
    return parse_config(Outer, {"inner": values}, "a test").inner


def test_an_old_key_is_read_with_a_warning_that_names_the_new_one(caplog):
    assert read(average_decay=0.9).ema_decay == 0.9
    assert caplog.messages == ["a test: inner.average_decay is deprecated; use ema_decay"]


def test_an_old_value_is_read_with_a_warning_that_names_the_new_one(caplog):
    assert read(kind="frames").kind == "stft"
    assert caplog.messages == ["a test: inner.kind: frames is deprecated; use stft"]


def test_new_keys_and_values_bring_no_warning(caplog):
    assert read(ema_decay=0.9, kind="stft") == Inner(ema_decay=0.9, kind="stft")
    assert not caplog.text


def test_both_names_of_a_key_are_refused():
    with pytest.raises(ConfigError, match="inner: average_decay is the old name of ema_decay; leave it out"):
        read(average_decay=0.9, ema_decay=0.9)


@pytest.mark.parametrize("nothing", [None, [], ()], ids=repr)
def test_a_removed_key_is_ignored_where_it_holds_nothing(nothing):
    assert read(learned=nothing) == Inner()


def test_a_removed_key_that_held_something_is_refused():
    with pytest.raises(ConfigError, match="inner.learned: removed; use kind"):
        read(learned=[1.0, 2.0])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"ema_decai": 0.5}}, r"inner.ema_decai: unknown key; did you mean ema_decay\?$"),
        ({"iner": {}}, r"iner: unknown key; did you mean inner\?$"),
        ({"inner": {"colour": 1}}, "inner.colour: unknown key$"),
        ({"inner": {"ema_decay": "x"}}, "inner.ema_decay: .*not 'x'$"),
    ],
)
def test_an_unknown_key_brings_the_nearest_one_and_a_bad_value_does_not(values, message):
    with pytest.raises(ConfigError, match=r"^invalid configuration \(a test\):\n  " + message):
        parse_config(Outer, values, "a test")


def test_the_values_that_were_given_stay_as_they_are():
    values = {"average_decay": 0.9, "kind": "frames"}
    Inner.model_validate(values)
    assert values == {"average_decay": 0.9, "kind": "frames"}


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(ROOT.glob("egs/*/*/conf/*.yaml")), ids=lambda path: str(path.relative_to(ROOT)))
def test_configurations_of_egs_have_no_old_names(path, caplog):
    load_run_config(path)
    assert not caplog.text


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_have_no_old_names(name, caplog):
    load_config(bundled_models()[name])
    assert not caplog.text


def test_renamed_counts_and_schedules_are_read(caplog):
    values = {
        "sample_rate": 8000,
        "diffusion": {"levels": 50},
        "synthesis": {
            "levels": [1.0, 2.0],
            "searched": [{"levels": [1.0], "start": "noise", "sampler": "ddim", "metric": "m_stft", "score": 1.0}],
        },
    }
    model = parse_config(ModelConfig, values, "config.json")
    assert (model.diffusion.n_levels, model.synthesis.log_snrs, model.synthesis.steps) == (50, (1.0, 2.0), 2)
    assert model.synthesis.searched[0].log_snrs == (1.0,)
    assert caplog.messages == [
        "config.json: diffusion.levels is deprecated; use n_levels",
        "config.json: synthesis.levels is deprecated; use log_snrs",
        "config.json: synthesis.searched.levels is deprecated; use log_snrs",
    ]
    assert ModelConfig.model_validate(values) == model


def test_a_removed_distribution_names_what_replaces_it():
    with pytest.raises(ConfigError, match="diffusion.learned: removed; use distribution: logistic, or uniform"):
        parse_config(ModelConfig, {"sample_rate": 8000, "diffusion": {"learned": True}}, "c.yaml")


def test_renamed_keys_and_values_of_a_run_are_read(caplog):
    data = DataConfig.model_validate({"train": "x", "valid_share": 0.3, "max_bad_share": 0.2})
    assert (data.valid_fraction, data.max_bad_fraction) == (0.3, 0.2)
    assert TrainingConfig.model_validate({"trained": "ends"}).trained == "all_but_trunk"
    assert all(name in caplog.text for name in ("valid_fraction", "max_bad_fraction", "all_but_trunk"))


@pytest.mark.parametrize("part", ["\ud800", ["a", "\udfff"], {"a": ["\ud800"]}, {"\ud800": 1}])
def test_text_that_no_file_can_hold_is_refused(part):
    with pytest.raises(ConfigError, match="holds half a character"):
        parse_config(ModelConfig, {"sample_rate": 8000, "provenance": {"a": part}}, "the file")
