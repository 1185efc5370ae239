"""A search of the embedding: short runs that differ in it alone, kept through a kill, the best written down."""

import itertools
import json
import sys
from hashlib import blake2b

import pytest

from audiodiff.config import EmbeddingConfig, change, parse_config
from audiodiff.config.network import SPREAD_FLOOR
from audiodiff.errors import ConfigError, TrainingError
from audiodiff.networks.embeddings import RadialBasis
from audiodiff.search import rbf
from audiodiff.search.rbf import (
    EMBEDDING,
    SEARCH_PARAMETERS,
    SearchConfig,
    plan,
    search_rbf,
    with_embedding,
)
from audiodiff.search.short_run import Basis, short_run
from audiodiff.search.study import Study

NAMES = [parameter.name for parameter in SEARCH_PARAMETERS]


@pytest.fixture
def search(tiny_run_config):
    """A search over two fields; each trial 3 steps."""

    def make(method="random", trials=4, **more):
        return SearchConfig(tiny_run_config, method, trials, **{"steps": 3, "over": ("centres", "spread"), **more})

    return make


@pytest.fixture
def losses(monkeypatch):
    """Replace training: the loss is least for 16 centres and a spread of 1, plus the seed; note the embeddings."""
    asked = []

    def run(config, steps, on_step):
        for _ in range(steps):
            on_step()
        embedding = config.model.network.embedding
        asked.append((embedding.centres, embedding.spread))
        loss = abs(embedding.centres - 16) / 16 + abs(embedding.spread - 1) + config.training.seed
        return loss, Basis([*range(1, embedding.centres), -1.5], [2.0] * embedding.centres)

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
    assert (found.own_losses, found.trials, found.crashed) == ({0: 0.5}, 12, 0)
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
    assert found.embedding["centre_positions"] == [-1.5, 1, 2, 3, 4, 5, 6, 7]  # sorted
    assert found.embedding["centre_spreads"] == [2.0] * 8
    assert search_rbf(search("gradient"), tmp_path / "g.jsonl") == found
    assert len(losses) == 1  # the second time it was known


def test_every_trial_is_trained_with_every_seed_and_ranked_by_the_mean(search, tmp_path, monkeypatch):
    table = {(8, 0): 0.5, (8, 1): 0.7, (16, 0): 0.3, (16, 1): 1.1, (32, 0): 0.55, (32, 1): 0.56, (64, 0): 2.0}
    asked = []

    def run(config, steps, on_step):
        centres, seed = config.model.network.embedding.centres, config.training.seed
        asked.append((centres, seed))
        if (centres, seed) not in table:
            raise RuntimeError("out of memory")
        return table[centres, seed], Basis([], [])

    monkeypatch.setattr(rbf, "short_run", run)
    alone = search_rbf(search("grid", over=("centres",)), tmp_path / "s.log")
    assert (alone.embedding, alone.losses, alone.difference.low) == ({"centres": 16}, {0: 0.3}, None)
    several = search("grid", over=("centres",), training_seeds=(0, 1))
    found = search_rbf(several, tmp_path / "s.log")
    assert len(asked) == 8  # those of seed 0 were known
    assert (found.embedding, found.losses, found.crashed) == ({"centres": 32}, {0: 0.55, 1: 0.56}, 1)
    assert found.loss == pytest.approx(0.555)
    assert found.own_losses == {0: 0.5, 1: 0.7}
    assert found.difference.mean == pytest.approx(-0.045)
    assert found.difference.low < 0 < found.difference.high
    assert search_rbf(several, tmp_path / "s.log") == found
    assert search_rbf(search("grid", over=("centres",)), tmp_path / "s.log") == alone
    assert len(asked) == 8


def test_a_search_killed_between_two_seeds_keeps_the_first(search, losses, tmp_path, monkeypatch):
    run, seeds = rbf.short_run, []

    def dying(config, steps, on_step):
        if len(seeds) == 4:
            raise KeyboardInterrupt
        seeds.append(config.training.seed)
        return run(config, steps, on_step)

    monkeypatch.setattr(rbf, "short_run", dying)
    several = search(trials=3, training_seeds=(2, 0, 1))
    with pytest.raises(KeyboardInterrupt):
        search_rbf(several, tmp_path / "s.log")
    assert seeds == [2, 0, 1, 2]
    monkeypatch.setattr(rbf, "short_run", run)
    found = search_rbf(several, tmp_path / "s.log")
    assert len(losses) == 9
    assert found == search_rbf(several, tmp_path / "whole.log")


def test_a_study_from_before_several_seeds_is_continued(search, losses, tmp_path):
    optuna = pytest.importorskip("optuna")
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "s.log"))
    study = optuna.create_study(storage=optuna.storages.JournalStorage(backend), study_name="random, seed 0")
    study.set_user_attr("fingerprint", search(trials=2).old_fingerprint)
    study.enqueue_trial({"centres": 8, "spread": 1.0}, user_attrs={"number": 0})
    trial = study.ask()
    trial.suggest_int("centres", 2, 4096, log=True)
    trial.suggest_float("spread", 1e-3, 1e3, log=True)
    study.tell(trial, 0.25)
    assert search_rbf(search(trials=2), tmp_path / "s.log").own_losses == {0: 0.25}
    assert len(losses) == 1
    assert search_rbf(search(trials=2, training_seeds=(0, 1)), tmp_path / "s.log").own_losses == {0: 0.25, 1: 1.5}


def test_a_gradient_study_from_before_several_seeds_is_continued(search, losses, tmp_path):
    old = {"loss": -1.0, "spread": 1.1, "centres": [0.5] * 8, "spreads": [1.25] * 8}
    Study(tmp_path / "g.jsonl", search("gradient").old_fingerprint | {"method": "gradient"}).add(old)
    found = search_rbf(search("gradient", training_seeds=(0, 1)), tmp_path / "g.jsonl")
    assert found.losses == {0: -1.0, 1: 1.5}
    assert len(losses) == 1
    assert found.embedding["centre_spreads"] == [1.25] * 8  # those of the seed with the lowest loss


def test_what_a_study_belongs_to_does_not_change_with_fields_that_are_new(search):
    plain = search().config.model_dump(mode="json")
    for name in ("centre_positions", "centre_spreads"):
        del plain["model"]["network"]["embedding"][name]  # as in versions that had neither
    del plain["training"]["post_hoc_ema"]
    checksum = blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert search().old_fingerprint["config"] == checksum
    given = SearchConfig(with_embedding(search().config, {"centre_spreads": [1.0] * 8}), "random", 4, 3)
    for name in ("fingerprint", "old_fingerprint"):
        assert getattr(given, name)["config"] != getattr(search(), name)["config"]


def test_what_gradient_search_learned_is_what_the_next_run_begins_with(search, tmp_path):
    found = search_rbf(search("gradient", steps=2), tmp_path / "g.jsonl")
    config = with_embedding(search().config, found.embedding)
    _, learned = short_run(with_embedding(search().config, {"learnable": True}), 2)
    basis = RadialBasis(config.model.network.embedding, config.model.diffusion)
    assert basis.centres.tolist() == learned.centres
    assert basis.spread.tolist() == pytest.approx(learned.spreads, rel=1e-6)
    again = search_rbf(SearchConfig(config, "gradient", 1, 2), tmp_path / "again.jsonl")  # and goes on from there
    assert again.embedding["centre_positions"] != found.embedding["centre_positions"]


@pytest.mark.parametrize("spread", [SPREAD_FLOOR, 0.009999999776482582])
def test_a_spread_that_training_brought_to_its_floor_is_read_again(search, spread, tmp_path, monkeypatch):
    monkeypatch.setattr(rbf, "short_run", lambda *_: (0.5, Basis([0.0, 0.0], [spread, 3.0])))
    found = search_rbf(search("gradient"), tmp_path / "g.jsonl")
    config = with_embedding(search().config, {**found.embedding, "centres": 2})
    assert config.model.network.embedding.centre_spreads == (SPREAD_FLOOR, 3.0)


def test_explicit_centres_are_not_searched_over(search, losses, tmp_path):
    config = with_embedding(search().config, {"centre_positions": [*range(8)], "initialisation": "explicit"})
    with pytest.raises(ConfigError, match=r"which decide centres, initialisation\. Search other fields, as in --over"):
        search_rbf(SearchConfig(config, "random", 2, 3), tmp_path / "s.log")
    assert not (tmp_path / "s.log").exists()
    found = search_rbf(SearchConfig(config, "grid", 3, 3, over=("spread", "domain")), tmp_path / "s.log")
    assert found.embedding["spread"] == 1


def test_a_seed_twice_is_refused(search, tmp_path):
    with pytest.raises(ConfigError, match="a seed is there twice: 0, 1, 0"):
        search_rbf(search(training_seeds=(0, 1, 0)), tmp_path / "s.log")


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
