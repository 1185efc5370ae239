"""`audiodiff search` finds levels that vocode then takes, and an embedding that train then takes."""

import json
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from audiodiff.checkpoint import copy_model, load_config
from audiodiff.cli.main import main
from audiodiff.config import load_run_config


def search(*arguments):
    return CliRunner().invoke(main, ["search", *map(str, arguments)])


@pytest.fixture
def corner(tmp_path, tiny_vocoder_folder, save_voice, monkeypatch):
    """A folder to work in, with a model `m` and two recordings in `valid`."""
    monkeypatch.chdir(tmp_path)
    copy_model(tiny_vocoder_folder, "m", load_config(tiny_vocoder_folder))
    for seed in (1, 2):
        save_voice(Path("valid") / f"{seed}.wav", 0.3, 8000, seed)
    return tmp_path


OPTIONS = ("--data", "valid", "--study", "s.jsonl", "--trials", 6, "--metric", "m_stft")


def trials(path="s.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()[1:]]


def test_levels_are_found_stored_and_taken(corner):
    result = search("schedule", "m", *OPTIONS, "--steps", "1-3", "--plot", "p.png")
    assert result.exit_code == 0, result.output
    one, two, three, picture, folder = result.stdout.splitlines()
    assert (picture, folder) == ("p.png", "m")
    assert Path("p.png").stat().st_size > 1000
    searched = load_config("m").synthesis.searched
    assert [found.steps for found in searched] == [1, 2, 3]
    for line, found in zip((one, two, three), searched, strict=True):
        assert f"{found.steps} steps  m_stft {found.score:.3f}" in line
        assert line.endswith(f"--log-snrs {','.join(f'{level:g}' for level in found.log_snrs)}")
        scores = [trial["score"] for trial in trials() if trial["steps"] == found.steps]
        assert found.score == min(scores)
        assert found.uniform_score == scores[0]
    assert searched[0].data == "2 recordings, 1 s, of valid"
    levels = ",".join(map(str, searched[2].log_snrs))
    for name, options in (("a", ["--schedule", "searched", "--steps", "3"]), ("b", ["--log-snrs", levels]), ("c", [])):
        made = CliRunner().invoke(main, ["vocode", "valid/1.wav", "--model", "m", "-o", f"{name}.wav", *options])
        assert made.exit_code == 0, made.output
    assert Path("a.wav").read_bytes() == Path("b.wav").read_bytes() != Path("c.wav").read_bytes()


def test_the_same_command_goes_on_from_its_study(corner, monkeypatch):
    search("schedule", "m", *OPTIONS)
    before = Path("s.jsonl").read_text()
    assert search("schedule", "m", *OPTIONS).exit_code == 0
    assert Path("s.jsonl").read_text() == before
    search("schedule", "m", *OPTIONS[:-4], "--trials", 9, *OPTIONS[-2:])
    assert Path("s.jsonl").read_text().startswith(before)
    assert len(trials()) >= 9


@pytest.mark.parametrize(
    "option",
    [
        ("--method", "random"),
        ("--seed", 1),
        ("--start", "griffin-lim"),
        ("--sampler", "ddpm"),
        ("--seconds", 0.2),
        ("--metric", "log_mel"),
        ("--steps", 3),
    ],
    ids=lambda option: option[0],
)
def test_every_option_of_a_search_of_levels_counts(corner, option):
    search("schedule", "m", *OPTIONS, "--output", "plain")
    result = search("schedule", "m", *OPTIONS, "--study", "other.jsonl", "--output", "changed", *option)
    assert result.exit_code == 0, result.output
    assert trials() != trials("other.jsonl")


def test_a_model_that_others_use_stays_as_it_is(corner):
    result = search("schedule", "speech-22k", *OPTIONS)
    assert result.exit_code == 1
    assert "speech-22k is a shared model, which is not changed. Give --output DIR" in result.stderr
    assert not Path("s.jsonl").exists()


def test_a_copy_gets_the_levels_where_one_is_asked_for(corner):
    assert search("schedule", "m", *OPTIONS, "--output", "copy").exit_code == 0
    assert load_config("copy").synthesis.searched
    assert not load_config("m").synthesis.searched


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--metric", "peak"), "'peak' cannot rank recordings"),
        (("--metric", "default"), "'default' cannot rank recordings"),
        (("--metric", "mos"), "no metric 'mos'"),
        (("--steps", "0-3"), "'0-3': '0' is not a whole number from 1 to 10,000 (steps), as in 4, 1,2,4 or 1-12"),
        (("--steps", "four"), "'four' is not a whole number from 1 to 10,000 (steps)"),
    ],
)
def test_what_cannot_be_searched_is_refused(corner, options, message):
    result = search("schedule", "m", *OPTIONS, *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr


# --- the embedding ----------------------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path, tiny_run_config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_run_config.model_dump(mode="json")))
    return path


SHORT = ("--trial-steps", 1, "--study", "s.log", "--output", "out/best.yaml")


def test_the_best_embedding_is_written_as_a_run_that_trains(conf, tiny_run_config):
    result = search("rbf", conf, *SHORT, "--trials", 3, "--over", "spread", "--set", "training.validation_levels=2")
    assert result.exit_code == 0, result.output
    losses, verdict, embedding, output = result.stdout.splitlines()
    assert "one seed cannot tell" in verdict or "no trial was better" in verdict
    assert "with the embedding of the configuration; 3 trials, 0 crashed" in losses
    best = load_run_config("out/best.yaml")
    assert embedding == f"spread {best.model.network.embedding.spread}"
    assert output == "out/best.yaml"
    assert best.training.steps == tiny_run_config.training.steps
    assert best.training.validation_levels == 2
    assert f"validation loss {losses.split()[2].rstrip(',;')} after 1 steps" in Path("out/best.yaml").read_text()


def test_gradient_writes_where_centres_and_spreads_went(conf):
    result = search("rbf", conf, *SHORT, "--method", "gradient", "--seeds", "0,1")
    assert result.exit_code == 0, result.output
    assert "1 trials, 0 crashed" in result.stdout
    assert re.match(r"validation loss \d\.\d{5} ± \d\.\d{5}; ", result.stdout)
    best = load_run_config("out/best.yaml").model.network.embedding
    assert (best.initialisation, best.learnable) == ("explicit", True)
    for name in ("centre_positions", "centre_spreads"):
        (line,) = [line for line in result.stdout.splitlines() if line.startswith(f"{name}  ")]
        assert [float(word) for word in line.split()[1:]] == pytest.approx(getattr(best, name), rel=6e-3)


@pytest.mark.parametrize(
    ("spread_losses", "verdict"),
    [
        ([0.2, 0.9, 0.1], "not distinguishable from the embedding of the configuration: difference"),
        ([0.21, 0.31, 0.41], "better than the embedding of the configuration: difference -0.29000"),
        ([0.6, 0.7, 0.8], "no trial was better than the embedding of the configuration"),
    ],
)
def test_the_best_is_told_from_the_configuration_only_beyond_seed_noise(conf, monkeypatch, spread_losses, verdict):
    from audiodiff.search import rbf
    from audiodiff.search.short_run import Basis

    def run(config, *_):
        own = [0.5, 0.6, 0.7]
        losses = own if config.model.network.embedding.spread == 1 else spread_losses
        return losses[config.training.seed], Basis([], [])

    monkeypatch.setattr(rbf, "short_run", run)
    result = search("rbf", conf, *SHORT, "--trials", 2, "--over", "spread", "--seeds", "0,1,2")
    assert result.exit_code == 0, result.output
    losses, said, _, _ = result.stdout.splitlines()
    assert said.startswith(verdict)
    assert "0.60000 ± 0.10000 with the embedding of the configuration" in losses
    load_run_config("out/best.yaml")


def test_a_seed_twice_is_refused(conf):
    result = search("rbf", conf, *SHORT, "--seeds", "1,1")
    assert result.exit_code == 1
    assert "a seed is there twice: 1, 1" in result.stderr


def test_a_field_that_is_not_searched_is_refused(conf):
    result = search("rbf", conf, *SHORT, "--over", "width")
    assert result.exit_code == 2
    assert "--over width is not a field that can be searched; choose from centres, spread" in result.stderr
