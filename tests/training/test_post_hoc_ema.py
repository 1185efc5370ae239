"""Averages are of the profile they claim; any width is put together from two; a run that is killed keeps them all."""

import copy
import errno
import logging
import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from audiodiff.config import TrainingConfig
from audiodiff.config.run import PostHocEMAConfig
from audiodiff.errors import TrainingError
from audiodiff.training import post_hoc_ema
from audiodiff.training.checkpoints import RunFolder
from audiodiff.training.post_hoc_ema import (
    PowerAverages,
    Profiles,
    combination,
    list_snapshots,
    power_of,
    read_snapshot,
    reconstruct,
    save_snapshot,
    snapshot_path,
)
from audiodiff.training.trainer import train

TRUE = torch.tensor(True)


@pytest.mark.parametrize("width", [0.005, 0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_power_of_a_width_gives_a_profile_of_that_deviation(width):
    power = power_of(width)
    time = (np.arange(1_000_000) + 0.5) / 1_000_000
    profile = (power + 1) * time**power
    mean = (profile * time).mean()
    assert profile.mean() == pytest.approx(1, rel=1e-4)
    assert math.sqrt((profile * (time - mean) ** 2).mean()) == pytest.approx(width, rel=1e-4)


def test_what_is_tracked_weighs_each_update_by_the_integral_of_the_profile_over_it():
    network, power, weights = nn.Linear(3, 2), power_of(0.1), []
    averages = PowerAverages(network, [0.1, 0.05])
    for n in range(1, 21):
        nn.init.normal_(network.weight)
        weights.append(network.weight.detach().double().clone())
        averages.update(network, torch.tensor(float(n), dtype=torch.float64), TRUE)
        averages.update(network, torch.tensor(float(n), dtype=torch.float64), ~TRUE)  # was skipped
    share = [(n / 20) ** (power + 1) - ((n - 1) / 20) ** (power + 1) for n in range(1, 21)]
    assert sum(share) == pytest.approx(1)
    expected = sum(part * weight for part, weight in zip(share, weights, strict=True))
    torch.testing.assert_close(averages.averages[0]["weight"], expected.float(), rtol=1e-5, atol=1e-6)


def test_products_of_profiles_are_their_integrals():
    profiles, others = Profiles.of([0.05, 0.2, 0.1], [80, 100, 100]), Profiles.of([0.1, 0.28], [100, 30])
    time = (np.arange(200_000) + 0.5) / 2000

    def values(of):
        powers, ends = (part[:, None] for part in of)
        return (powers + 1) * time**powers / ends ** (powers + 1) * (time <= ends)

    numeric = values(profiles) @ values(others).T / 2000
    np.testing.assert_allclose(profiles.products(others), numeric, rtol=2e-3)
    distant = Profiles.of([0.005], [10.0**9])
    assert np.isfinite(distant.products(Profiles.of([0.28], [1.0]))).all()  # no overflow in a long run


@pytest.mark.parametrize(
    ("width", "n_snapshots", "tolerance"),
    [(0.05, 4, 1e-7), (0.07, 8, 1e-3), (0.03, 40, 1e-3), (0.15, 40, 1e-4), (0.2, 40, 1e-3), (0.015, 100, 1e-3)],
)
def test_a_combination_is_near_what_was_tracked(width, n_snapshots, tolerance):
    """A toy run: weights that settle, drift and jitter, 1000 updates; relative error in L2."""
    generator, steps = np.random.default_rng(0), np.arange(1, 1001)[:, None]
    start, drift, jitter = (generator.normal(size=(size, 200)) for size in (2, 1000, 1000))
    weights = start[0] + np.exp(-steps / 200) * start[1] + 0.01 * drift.cumsum(0) + 0.05 * jitter

    def tracked(width, end):
        share = np.diff((np.arange(end + 1) / end) ** (power_of(width) + 1))
        return share @ weights[:end]

    ends = [1000 * (i + 1) // n_snapshots for i in range(n_snapshots)]
    stored = Profiles.of([each for _ in ends for each in (0.05, 0.1)], [end for end in ends for _ in (0, 1)])
    averages = np.array([tracked(each, end) for end in ends for each in (0.05, 0.1)], dtype=np.float32)
    coefficients, error = combination(stored, Profiles.of([width], [1000]))
    expected = tracked(width, 1000)
    found = np.linalg.norm(coefficients @ averages - expected) / np.linalg.norm(expected)
    assert coefficients.sum() == pytest.approx(1)
    assert found < tolerance
    assert error < 0.1


def test_an_error_says_that_snapshots_are_too_far_apart():
    stored = Profiles.of([0.05, 0.1] * 2, [500, 500, 1000, 1000])
    assert combination(stored, Profiles.of([0.01], [1000]))[1] > 0.5
    assert combination(stored, Profiles.of([0.1], [1000]))[1] < 1e-6


# --- in training ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tiny_run_config):
    update = {"steps": 40, "post_hoc_ema": PostHocEMAConfig(snapshot_every=4), "sample_every": 100}
    training = tiny_run_config.training.model_copy(update=update)
    return tiny_run_config.model_copy(update={"training": training})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, config):
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(config, run)
    return run


def snapshots(run):
    return [read_snapshot(path)[0] for path in list_snapshots(RunFolder(run).snapshots)]


def stored(run):
    """Return all bytes of the snapshots, and the averages of the last checkpoint."""
    files = {path.name: path.read_bytes() for path in (run / "snapshots").iterdir()}
    return files, RunFolder(run).newest().state["power_averages"]["averages"]


def assert_same(run, other):
    (files, averages), (other_files, other_averages) = stored(run), stored(other)
    assert files == other_files
    for ours, theirs in zip(averages, other_averages, strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_width_is_put_together_as_it_would_have_been_tracked(tmp_path, config, undisturbed):
    other = config.training.model_copy(update={"post_hoc_ema": PostHocEMAConfig(widths=(0.07, 0.15))})
    train(config.model_copy(update={"training": other}), tmp_path)
    for width, tracked in zip((0.07, 0.15), stored(tmp_path)[1], strict=True):
        found, _ = reconstruct(snapshots(undisturbed), width)
        ours, theirs = (torch.cat([each[name].flatten() for name in tracked]) for each in (found, tracked))
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


def test_it_changes_neither_weights_nor_the_average_of_training(tmp_path, config, undisturbed):
    plain = config.training.model_copy(update={"post_hoc_ema": None})
    train(config.model_copy(update={"training": plain}), tmp_path)
    assert not (tmp_path / "snapshots").exists()
    ours, theirs = (RunFolder(run).newest() for run in (undisturbed, tmp_path))
    assert "power_averages" not in theirs.state
    for a, b in ((ours.state["network"], theirs.state["network"]), (ours.ema.state_dict(), theirs.ema.state_dict())):
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("signal_at", [3, 18])
def test_a_run_that_was_stopped_ends_with_the_same_averages_and_snapshots(tmp_path, config, undisturbed, signal_at):
    def stop(event):
        if (event.kind, event.step) == ("step", signal_at):
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(config, tmp_path, callback=stop).step == signal_at
    assert [snapshot.n_updates for snapshot in snapshots(tmp_path)] == list(range(4, signal_at + 1, 4))
    (tmp_path / "snapshots").mkdir(exist_ok=True)
    (tmp_path / "snapshots" / ".0.part").touch()  # as a kill leaves it
    snapshot_path(tmp_path / "snapshots", 37).write_bytes(b"of a later step, with other settings")
    train(config, tmp_path)
    assert_same(tmp_path, undisturbed)


def test_a_run_that_goes_on_from_another_takes_its_snapshots_along(tmp_path, config, undisturbed):
    source = tmp_path / "source"
    train(config.model_copy(update={"training": config.training.model_copy(update={"steps": 10})}), source)
    assert [snapshot.n_updates for snapshot in snapshots(source)] == [4, 8, 10]  # the last one ends a run
    train(config, tmp_path / "run", resume=source, allow_changes=True)
    assert [snapshot.n_updates for snapshot in snapshots(tmp_path / "run")] == [4, 8, 10, *range(12, 41, 4)]
    assert [snapshot.n_updates for snapshot in snapshots(source)] == [4, 8, 10]


def test_a_full_disk_costs_a_snapshot_and_no_run(tmp_path, config, monkeypatch, caplog):
    original = post_hoc_ema.flush_to_disk

    def full(path):
        if "snapshots" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def empty_the_disk(event):
        if (event.kind, event.step) == ("step", 9):
            monkeypatch.setattr(post_hoc_ema, "flush_to_disk", original)

    monkeypatch.setattr(post_hoc_ema, "flush_to_disk", full)
    with caplog.at_level(logging.WARNING):
        assert train(config, tmp_path, callback=empty_the_disk).step == 40
    assert "step 4: " in caplog.text
    assert "No space left on device. Make room" in caplog.text
    assert [snapshot.n_updates for snapshot in snapshots(tmp_path)] == list(range(12, 41, 4))
    assert not list((tmp_path / "snapshots").glob(".*"))


@pytest.mark.parametrize("begun", [None, PostHocEMAConfig(widths=(0.05, 0.2))])
def test_averages_that_did_not_begin_with_the_run_are_refused(tmp_path, config, begun):
    training = config.training.model_copy(update={"post_hoc_ema": begun, "steps": 4})
    train(config.model_copy(update={"training": training}), tmp_path)
    with pytest.raises(TrainingError, match="averages of (none|0.05, 0.2): they begin with the run. Keep its setting"):
        train(config, tmp_path, allow_changes=True)


def test_widths_that_are_alike_are_refused():
    with pytest.raises(ValueError, match="widths must differ"):
        TrainingConfig(post_hoc_ema={"widths": (0.1, 0.1)})
    assert TrainingConfig(post_hoc_ema={}).post_hoc_ema == PostHocEMAConfig()


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_a_damaged_snapshot_is_named(tmp_path, content):
    averages = PowerAverages(nn.Linear(3, 2), [0.05, 0.1])
    path = snapshot_path(tmp_path, 5)
    save_snapshot(path, averages, 5)
    snapshot, found = read_snapshot(path)
    assert (snapshot.n_updates, snapshot.widths) == (5, (0.05, 0.1))
    assert torch.equal(found[1]["bias"], averages.averages[1]["bias"])
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    with pytest.raises(TrainingError, match="step-00000005.safetensors is damaged or no snapshot: .*Remove it to"):
        read_snapshot(path)


def test_what_was_averaged_before_the_first_update_is_forgotten():
    network = nn.Linear(3, 2)
    nn.init.constant_(network.weight, 7.0)  # whole numbers, whose differences have no rounding
    averages = PowerAverages(copy.deepcopy(network), [0.05, 0.28])
    averages.update(network, torch.zeros((), dtype=torch.float64), ~TRUE)  # the first step was skipped
    with torch.no_grad():
        network.weight.copy_(torch.arange(6.0).view(2, 3))
    averages.update(network, torch.ones((), dtype=torch.float64), TRUE)
    for average in averages.averages:
        assert torch.equal(average["weight"], network.weight)
