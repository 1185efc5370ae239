"""Runs are grouped by what differs but the seed, and differences are judged against what the seeds make."""

import json

import pytest
import yaml
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.errors import ConfigError, DataError
from audiodiff.evaluation.runs import compare_runs, comparison_rows


@pytest.fixture
def save_run(tmp_path):
    def save(name, losses, *, seed=0, rate=1e-3, **model):
        folder = tmp_path / name / f"seed={seed}"
        folder.mkdir(parents=True)
        values = {"model": model, "data": {"train": name}, "training": {"seed": seed, "learning_rate": rate}}
        (folder / "config.yaml").write_text(yaml.safe_dump(values))
        points = [[10 * (i + 1), loss, None] for i, loss in enumerate(losses)]
        (folder / "curve.json").write_text(json.dumps({"settings": {}, "points": points}))
        return folder

    return save


def test_a_difference_that_all_seeds_share_is_called(save_run, tmp_path):
    for seed, noise in enumerate((0.0, 0.05, -0.05)):
        save_run("a", [0.9, 0.5 + noise], seed=seed)
        save_run("b", [0.9, 0.45 + noise + 0.001 * seed], seed=seed, rate=1e-4)
    comparison = compare_runs([tmp_path / "a", tmp_path / "b"])
    first, second = comparison.groups
    assert (first.name, second.name) == ("training.learning_rate=0.001", "training.learning_rate=0.0001")
    assert first.scores == pytest.approx((0.5, 0.55, 0.45))
    assert second.difference.mean == pytest.approx(-0.049)
    rows = comparison_rows(comparison)
    assert rows[1][:3] == ["training.learning_rate=0.001", "3", "0.5000 ± 0.0500"]
    assert rows[2][4] == "better"


def test_a_difference_within_what_seeds_make_is_not_called(save_run, tmp_path):
    for seed, (a, b) in enumerate([(0.5, 0.52), (0.55, 0.48), (0.45, 0.46)]):
        save_run("a", [a], seed=seed)
        save_run("b", [b], seed=seed, rate=1e-4)
    assert comparison_rows(compare_runs([tmp_path]))[2][4] == "within seed noise"


def test_one_seed_gives_no_verdict(save_run, tmp_path):
    save_run("a", [0.5])
    save_run("b", [0.4], rate=1e-4)
    save_run("c", [0.3], rate=1e-5, seed=7)
    rows = comparison_rows(compare_runs([tmp_path]))
    assert [row[4] for row in rows[1:]] == ["", "needs seeds in common", "needs seeds in common"]


def test_losses_of_different_things_are_not_compared(save_run, tmp_path):
    save_run("a", [0.5], diffusion={"target": "epsilon"})
    save_run("b", [0.4], diffusion={"target": "v"})
    with pytest.raises(ConfigError, match="differ in model.diffusion.target do not compare"):
        compare_runs([tmp_path])


def test_what_is_no_run_is_named(tmp_path, save_run):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no training run"):
        compare_runs([tmp_path / "empty"])
    folder = save_run("a", [])
    with pytest.raises(DataError, match="it was not validated yet"):
        compare_runs([folder])
    with pytest.raises(ConfigError, match="no metric 'pesq'"):
        compare_runs([folder], "pesq")


def test_the_command_prints_markdown_or_latex_and_draws(save_run, tmp_path):
    for seed in (0, 1):
        save_run("a", [0.9, 0.5 + 0.1 * seed], seed=seed)
        save_run("b", [0.9, 0.4 + 0.1 * seed], seed=seed, rate=1e-4)
    runner = CliRunner()
    result = runner.invoke(
        main, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--plot", str(tmp_path / "p.png")]
    )
    assert result.exit_code == 0, result.output
    assert result.output.startswith("| | seeds | validation loss, mean ± sd |")
    assert (tmp_path / "p.png").stat().st_size > 5000
    result = runner.invoke(main, ["compare", str(tmp_path), "--latex"])
    assert result.output.startswith("\\begin{tabular}{lrrrr}")
    assert r"training.learning\_rate=0.0001 & 2 & 0.4500 $\pm$ 0.0707" in result.output
