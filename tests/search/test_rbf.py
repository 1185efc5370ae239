"""A search of the embedding: short runs that differ in it alone, kept through a kill, the best written down."""

import itertools
import sys

import pytest

from audiodiff.config import EmbeddingConfig, change, parse_config
from audiodiff.errors import ConfigError, TrainingError
from audiodiff.search import rbf
from audiodiff.search.rbf import (
    EMBEDDING,
    SEARCH_PARAMETERS,
    Basis,
    SearchConfig,
    plan,
    search_rbf,
    short_run,
    with_embedding,
)

NAMES = [parameter.name for parameter in SEARCH_PARAMETERS]


@pytest.fixture
def search(tiny_run_config):
    """A search over two fields; each trial 3 steps."""

    def make(method="random", trials=4, **more):
        return SearchConfig(tiny_run_config, method, trials, **{"steps": 3, "over": ("centres", "spread"), **more})

    return make


@pytest.fixture
def losses(monkeypatch):
    """Replace training: the loss is least for 16 centres and a spread of 1; note the embeddings."""
    asked = []

    def run(config, steps, on_step):
        for _ in range(steps):
            on_step()
        embedding = config.model.network.embedding
        asked.append((embedding.centres, embedding.spread))
        return abs(embedding.centres - 16) / 16 + abs(embedding.spread - 1), Basis([0.0, 1.0], [2.0, 2.0], 1.5)

    monkeypatch.setattr(rbf, "short_run", run)
    return asked


def test_every_searched_field_is_one_of_the_embedding_and_has_values_that_it_takes():
    for parameter in SEARCH_PARAMETERS:
        assert parameter.name in EmbeddingConfig.model_fields
        for value in parameter.grid:
            assert getattr(EmbeddingConfig(**{parameter.name: value}), parameter.name) == value
    assert {"centres", "spread", "initialisation", "domain", "learnable"} == set(NAMES)


@pytest.mark.parametrize("method", ["grid", "random"])
def test_a_plan_begins_with_the_configuration_and_goes_on_the_same_if_it_is_longer(search, method):
    short, long = (plan(search(method, trials)) for trials in (5, 9))
    assert short == long[:5]
    assert len({tuple(values.items()) for values in long}) == 9
    assert long[0] == {"centres": 8, "spread": 1.0}
    assert plan(search(method, 9, seed=1)) != long
    for values in long:
        assert set(values) == {"centres", "spread"}
        assert 8 <= values["centres"] <= 64
        assert 0.5 <= values["spread"] <= 2


def test_a_grid_holds_every_combination_once(search):
    every = [tuple(values.values()) for values in plan(search("grid", 1000))]
    assert sorted(every) == sorted(itertools.product((8, 16, 32, 64), (0.5, 1.0, 2.0)))


@pytest.mark.parametrize("method", ["grid", "random"])
def test_the_best_is_found(search, losses, tmp_path, method):
    steps = []
    found = search_rbf(search(method, 12), tmp_path / "s.log", lambda: steps.append(1))
    assert found.loss == min(abs(centres - 16) / 16 + abs(spread - 1) for centres, spread in losses)
    assert (found.own_loss, found.trials, found.crashed) == (0.5, 12, 0)
    assert (
        with_embedding(search().config, found.embedding).model.network.embedding.centres == found.embedding["centres"]
    )
    assert len(steps) == 12 * 3


def test_a_killed_search_goes_on_and_more_trials_go_further(search, losses, tmp_path, monkeypatch):
    whole = search_rbf(search(trials=6), tmp_path / "whole.log")
    straight = list(losses)
    losses.clear()
    run = rbf.short_run

    def dying(config, steps, on_step):
        if len(losses) == 2:
            raise KeyboardInterrupt
        return run(config, steps, on_step)

    monkeypatch.setattr(rbf, "short_run", dying)
    with pytest.raises(KeyboardInterrupt):
        search_rbf(search(trials=6), tmp_path / "parts.log")
    monkeypatch.setattr(rbf, "short_run", run)
    assert search_rbf(search(trials=6), tmp_path / "parts.log") == whole
    assert losses == straight
    assert search_rbf(search(trials=6), tmp_path / "parts.log") == whole
    search_rbf(search(trials=8), tmp_path / "parts.log")
    assert len(losses) == 8


def test_a_crash_is_noted_and_does_not_end_the_search(search, losses, tmp_path, monkeypatch):
    run = rbf.short_run

    def crashing(config, steps, on_step):
        if config.model.network.embedding.centres > 16:
            raise RuntimeError("out of memory")
        return run(config, steps, on_step)

    monkeypatch.setattr(rbf, "short_run", crashing)
    found = search_rbf(search("grid", 12), tmp_path / "s.log")
    assert (found.crashed, found.trials, found.embedding["centres"]) == (6, 12, 16)
    assert search_rbf(search("grid", 12), tmp_path / "s.log") == found  # what crashed is not tried again
    monkeypatch.setattr(rbf, "short_run", lambda *arguments: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(TrainingError, match="all 3 trials crashed, the last one with ValueError: no"):
        search_rbf(search("grid", 3), tmp_path / "other.log")


def test_the_study_of_another_search_is_refused(search, losses, tmp_path):
    search_rbf(search(trials=2), tmp_path / "s.log")
    for other in ({"steps": 4}, {"over": ("spread",)}):
        with pytest.raises(ConfigError, match="belongs to another search"):
            search_rbf(search(trials=2, **other), tmp_path / "s.log")


def test_without_optuna_the_extra_is_named_and_gradient_works(search, losses, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'audiodiff\[search\]'"):
        search_rbf(search(), tmp_path / "s.log")
    found = search_rbf(search("gradient"), tmp_path / "g.jsonl")
    assert found.embedding == {"learnable": True, "spread": 1.5}
    assert (found.centres, found.spreads) == ([0.0, 1.0], [2.0, 2.0])
    assert search_rbf(search("gradient"), tmp_path / "g.jsonl") == found
    assert len(losses) == 1  # the second time it was known


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{EMBEDDING}.kind": "sinusoidal"}, "kind is 'sinusoidal'; search rbf needs 'rbf'"),
        ({"training.initial_model": "speech-22k"}, "trials begin with fresh weights"),
    ],
)
def test_a_run_that_has_nothing_to_search_is_refused(search, tmp_path, changes, message):
    config = search().config
    other = parse_config(type(config), change(config.model_dump(mode="json"), changes), "a test")
    with pytest.raises(ConfigError, match=message):
        search_rbf(SearchConfig(other, "random", 2, 3), tmp_path / "s.log")


def test_a_short_run_is_decided_by_configuration_and_seed(tiny_run_config):
    steps = []
    loss, basis = short_run(tiny_run_config, 3, lambda: steps.append(1))
    assert short_run(tiny_run_config, 3) == (loss, basis)
    assert len(steps) == 3
    assert len(basis.centres) == 8
    assert basis.growth != 1
    other, _ = short_run(with_embedding(tiny_run_config, {"spread": 4.0}), 3)
    assert other != loss
