"""Training learns, survives interruptions to the last bit, keeps the right models, and stops when it must."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from audiodiff.checkpoint import load_config, load_model
from audiodiff.config import ModelConfig, NetworkConfig, TransformConfig, load_run_config
from audiodiff.data.manifest import scan_folder, write_manifest
from audiodiff.errors import DataError, TrainingError
from audiodiff.training.checkpoints import load_checkpoint
from audiodiff.training.state import TrainState
from audiodiff.training.trainer import train
from audiodiff.training.validation import ValidationResult, Validator

ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Ends a run as a power cut would: nothing is saved."""


def configured(config, *, data=None, model=None, **settings):
    """Change settings of a run; those of data and model come as mappings."""
    parts = {"training": settings, "data": data or {}, "model": model or {}}
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=update) for name, update in parts.items()}
    )


def all_numbers(run):
    """Return weights, averages and optimiser state of a run's newest checkpoint, as one vector."""
    checkpoint = load_checkpoint(sorted((run / "checkpoints").glob("step-????????"))[-1])
    tensors = [*checkpoint.ema.state_dict().values(), *checkpoint.state["network"].values()]
    tensors += [value for state in checkpoint.state["optimiser"].values() for value in state.values()]
    return torch.cat([tensor.flatten().double() for tensor in tensors])


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tiny_run_config):
    """The tiny run, from start to end, and its events."""
    run, events = tmp_path_factory.mktemp("runs") / "uninterrupted", []
    outcome = train(tiny_run_config, run, callback=events.append)
    return run, events, outcome


@pytest.mark.parametrize("model", ["best", "last"])
def test_a_damaged_model_is_written_anew(uninterrupted, tiny_run_config, tmp_path, caplog, model):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted[0], run)
    good = load_model(run / model)[0].state_dict()
    (run / model / "model.safetensors").write_bytes(b"damaged")
    steps = tiny_run_config.training.steps + (4 if model == "best" else 0)
    train(configured(tiny_run_config, steps=steps), run, allow_changes=True)
    mended = load_model(run / model)[0].state_dict()
    assert (f"{run / 'best'} is damaged" in caplog.text) == (model == "best")
    if model == "last":
        assert all(torch.equal(mended[name], good[name]) for name in good)


@pytest.fixture
def interrupt(tiny_run_config):
    """Train until a step, then fall over."""

    def until(step, run, config=tiny_run_config):
        def fall_over(event):
            if (event.kind, event.step) == ("step", step):
                raise Killed

        with pytest.raises(Killed):
            train(config, run, callback=fall_over)

    return until


def test_what_a_run_leaves_behind(uninterrupted, tiny_run_config):
    run, _, outcome = uninterrupted
    assert sorted(path.name for path in run.iterdir()) == [
        *("best", "checkpoints", "config.yaml", "curve.json", "last", "lock", "tensorboard"),
    ]
    assert names(run) == ["step-00000004", "step-00000008"]
    assert load_run_config(run / "config.yaml") == tiny_run_config
    assert (outcome.step, outcome.skipped, outcome.stopped_by) == (8, 0, None)
    said = load_config(run / "last").provenance["training"]
    assert said == {
        "steps": 8,
        "batch_size": 4,
        "crop_samples": 2048,
        "seed": 0,
        "recordings": 7,
        "hours_of_recordings": said["hours_of_recordings"],
        "initial_model": None,
    }
    best = load_config(run / "best").provenance["training"]
    assert (best["steps"], best["validation_loss"]) == (outcome.best_step, outcome.best_loss)


def test_what_a_run_tells(uninterrupted):
    _, events, outcome = uninterrupted
    assert [(event.kind, event.step) for event in events] == [
        *(("step", step) for step in range(1, 5)),
        ("validated", 4),
        ("saved", 4),
        *(("step", step) for step in range(5, 9)),
        ("validated", 8),
        ("sampled", 8),
        ("saved", 8),
    ]
    validated = [event.values for event in events if event.kind == "validated"]
    assert set(validated[0]) == {"loss", "loss_on_training_crops", "loss_at_-8.0", "loss_at_+1.0", "loss_at_+10.0"}
    assert outcome.best_loss == min(values["loss"] for values in validated)
    assert all(len(event.clips) == 1 for event in events if event.kind == "sampled")


def test_models_of_a_run_can_be_used(uninterrupted):
    run, _, _ = uninterrupted
    for folder in (run / "best", run / "last", run / "checkpoints" / "step-00000004"):
        network, config = load_model(folder)
        assert len(config.whitening.gain) == 64
        assert not network.training


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 6])
def test_a_resumed_run_is_bit_identical(uninterrupted, interrupt, tmp_path, tiny_run_config, step, workers):
    interrupt(step, tmp_path / "run")
    outcome = train(configured(tiny_run_config, data={"workers": workers, "resident": "off"}), tmp_path / "run")
    assert torch.equal(all_numbers(uninterrupted[0]), all_numbers(tmp_path / "run"))
    assert outcome == uninterrupted[2]


def test_a_run_resumed_twice_from_saved_signals_is_bit_identical(uninterrupted, tmp_path, tiny_run_config):
    def signal_at(step):
        return lambda event: (
            os.kill(os.getpid(), signal.SIGTERM) if (event.kind, event.step) == ("step", step) else None
        )

    for step in (1, 3):
        outcome = train(tiny_run_config, tmp_path / "run", callback=signal_at(step))
        assert (outcome.step, outcome.stopped_by) == (step, signal.SIGTERM)
        assert names(tmp_path / "run")[-1] == f"step-{step:08d}"
    train(tiny_run_config, tmp_path / "run")
    assert torch.equal(all_numbers(uninterrupted[0]), all_numbers(tmp_path / "run"))


def test_a_finished_run_has_nothing_to_do(uninterrupted, tiny_run_config, caplog):
    run, _, outcome = uninterrupted
    before, events = all_numbers(run), []
    with caplog.at_level(logging.INFO):
        assert train(tiny_run_config, run, callback=events.append) == outcome
    assert events == []
    assert "nothing to do" in caplog.text
    assert torch.equal(all_numbers(run), before)


def test_a_damaged_newest_checkpoint_falls_back(uninterrupted, interrupt, tmp_path, tiny_run_config, caplog):
    run = tmp_path / "run"
    train(tiny_run_config, run)
    (run / "checkpoints" / "step-00000008" / "training.pt").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        train(tiny_run_config, run)
    assert "step-00000008 is damaged" in caplog.text
    assert names(run) == ["step-00000004", "step-00000008", "step-00000008.damaged"]
    assert torch.equal(all_numbers(uninterrupted[0]), all_numbers(run))


def test_another_model_is_not_resumed(uninterrupted, tiny_run_config):
    network = tiny_run_config.model.network.model_copy(update={"channels": 16})
    with pytest.raises(TrainingError, match="model.network.channels is 32 there and 16 here"):
        train(configured(tiny_run_config, model={"network": network}), uninterrupted[0])
    assert load_run_config(uninterrupted[0] / "config.yaml") == tiny_run_config


def test_the_newest_three_and_the_best_are_kept(tmp_path, tiny_run_config, monkeypatch):
    losses = iter([0.5, 0.5, 0.1, 0.1, 0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.6, 0.6])  # on validation and training crops
    monkeypatch.setattr(Validator, "__call__", lambda self, network: ValidationResult(next(losses), {}))
    config = configured(tiny_run_config, steps=6, checkpoint_every=1, validate_every=1)
    averages = []
    train(
        config,
        tmp_path,
        callback=lambda event: event.kind == "saved" and averages.append(load_model(tmp_path / "last")[0]),
    )
    assert names(tmp_path) == ["step-00000004", "step-00000005", "step-00000006"]
    assert load_config(tmp_path / "best").provenance["training"]["steps"] == 2
    best, second = load_model(tmp_path / "best")[0].state_dict(), averages[1].state_dict()
    assert all(torch.equal(value, second[name]) for name, value in best.items())


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory, tiny_run_config):
    """All numbers of the tiny run after two steps."""
    run = tmp_path_factory.mktemp("runs") / "short"
    train(configured(tiny_run_config, steps=2), run)
    return all_numbers(run)


@pytest.mark.parametrize(
    "option",
    [
        {"data": {"polarity": False}},
        {"data": {"gain_db": (0.0, 0.0)}},
        {"data": {"crop_seconds": 0.2}},
        {"data": {"valid_fraction": 0.6}},
        {"data": {"time_reversal": True}},
        {"data": {"mel_noise_db": 2.0}},
        {"data": {"transforms": (TransformConfig(name="PolarityInversion", parameters={"p": 1.0}),)}},
        {"batch_size": 3},
        {"seed": 1},
        {"steps": 3},
    ],
    ids=str,
)
def test_each_option_changes_the_outcome(two_steps, tmp_path, tiny_run_config, option):
    train(configured(tiny_run_config, **({"steps": 2} | option)), tmp_path)
    assert not torch.equal(two_steps, all_numbers(tmp_path))


def recorded(config, run, kind):
    events = []
    train(config, run, callback=events.append)
    return [event.step for event in events if event.kind == kind]


@pytest.mark.parametrize(
    ("option", "kind", "steps"),
    [
        ({"validate_every": 2}, "validated", [2, 4, 5]),
        ({"sample_every": 2}, "sampled", [2, 4, 5]),
        ({"checkpoint_every": 2}, "saved", [2, 4, 5]),
    ],
    ids=str,
)
def test_intervals_are_kept_and_the_end_counts(tmp_path, tiny_run_config, option, kind, steps):
    assert recorded(configured(tiny_run_config, steps=5, **option), tmp_path, kind) == steps


@pytest.mark.parametrize(("keep", "n_kept"), [(1, 1), (2, 2), (9, 3)])
def test_keep_decides_how_many_stay(tmp_path, tiny_run_config, keep, n_kept):
    config = configured(tiny_run_config, steps=3, checkpoint_every=1, keep=keep, sample_every=100)
    train(config, tmp_path)
    assert len(names(tmp_path)) == n_kept


@pytest.mark.parametrize("option", [{"validation_crops": 2}, {"validation_levels": 5}], ids=str)
def test_validation_options_change_the_validation_loss_only(uninterrupted, tmp_path, tiny_run_config, option):
    outcome = train(configured(tiny_run_config, **option), tmp_path)
    assert outcome.best_loss != uninterrupted[2].best_loss
    assert torch.equal(all_numbers(tmp_path), all_numbers(uninterrupted[0]))


@pytest.mark.parametrize(
    "option",
    [
        {"polarity": False},
        {"gain_db": (-40.0, -30.0)},
        {"time_reversal": True},
        {"mel_noise_db": 6.0},
        {"transforms": (TransformConfig(name="PolarityInversion", parameters={"p": 1.0}),)},
    ],
    ids=str,
)
def test_augmentation_does_not_touch_validation(tmp_path, tiny_run_config, option, monkeypatch):
    seen = []
    monkeypatch.setattr(Validator, "__init__", lambda self, crops, *_: seen.append([crop.audio for crop in crops]))
    monkeypatch.setattr(Validator, "__call__", lambda self, network: ValidationResult(1.0, {}))
    for name, config in {"plain": tiny_run_config, "changed": configured(tiny_run_config, data=option)}.items():
        train(configured(config, steps=1), tmp_path / name)
    assert all(torch.equal(plain, changed) for plain, changed in zip(seen[0], seen[2], strict=True))
    assert all(torch.equal(plain, changed) for plain, changed in zip(seen[1], seen[3], strict=True))


@pytest.fixture
def spoil(monkeypatch):
    """Put a NaN into the batches of some steps (numbered from 1)."""

    def at(steps):
        original = TrainState.step

        def step(state, batch, **named):
            if state.progress.step + 1 in steps:
                batch.audio[0, 0, 1000] = torch.nan
            return original(state, batch, **named)

        monkeypatch.setattr(TrainState, "step", step)

    return at


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path, tiny_run_config, spoil, caplog):
    spoil({2, 3, 6})
    events = []
    with caplog.at_level(logging.WARNING):
        outcome = train(tiny_run_config, tmp_path, callback=events.append)
    assert (outcome.step, outcome.skipped) == (8, 3)
    assert [(event.step, event.values["skipped"]) for event in events if event.kind == "skipped"] == [
        (2, 1),
        (3, 2),
        (6, 3),
    ]
    assert "step 6: loss or gradient is not finite, skipped (3 so far)" in caplog.text
    assert bool(all_numbers(tmp_path).isfinite().all())


def test_one_that_persists_stops_the_run(tmp_path, tiny_run_config, spoil):
    spoil(range(6, 100))
    with pytest.raises(TrainingError, match="3 steps in a row, up to step 8. Lower training.learning_rate"):
        train(configured(tiny_run_config, steps=50, max_bad_steps=3), tmp_path)
    assert names(tmp_path) == ["step-00000004"]


def test_the_loss_falls(tmp_path, tiny_run_config):
    embedding = tiny_run_config.model.network.embedding
    network = NetworkConfig(channels=16, layers=3, patch=8, embedding=embedding)
    config = configured(
        tiny_run_config,
        model={"network": network},
        steps=120,
        batch_size=8,
        learning_rate=5e-3,
        validate_every=60,
        sample_every=1000,
        checkpoint_every=1000,
    )
    losses = {"step": [], "validated": []}
    train(config, tmp_path, callback=lambda event: losses.get(event.kind, []).append(event.values.get("loss")))
    assert losses["step"][0] == pytest.approx(1.0, abs=0.02)  # a network that says 0 errs by the variance of noise
    assert sum(losses["step"][-20:]) < 0.85 * 20
    assert losses["validated"][1] < losses["validated"][0] < 0.95


def test_a_patch_network_with_labels_and_no_mel_trains(tmp_path, tiny_run_config, speech_folder):
    labelled = [
        recording.model_copy(update={"label": recording.audio.parent.name})
        for recording in scan_folder(speech_folder).recordings
    ]
    write_manifest(tmp_path / "all.jsonl", labelled)
    model = ModelConfig(sample_rate=8000, labels=("a", "b"), network=NetworkConfig(channels=16, layers=3, patch=8))
    config = configured(tiny_run_config, data={"train": str(tmp_path / "all.jsonl")}).model_copy(
        update={"model": model}
    )
    outcome = train(config, tmp_path / "run")
    assert outcome.step == 8
    network, _ = load_model(tmp_path / "run" / "last")
    assert bool(network.output.weight.any())


def test_resampling_can_be_refused(tmp_path, tiny_run_config, save_voice):
    for i in range(4):
        save_voice(tmp_path / "corpus" / f"{i}.wav", 1.0, 16000, seed=i)
    data = {"train": str(tmp_path / "corpus")}
    train(configured(tiny_run_config, data=data, steps=1), tmp_path / "run")
    with pytest.raises(DataError, match="is 16000 Hz; this model needs 8000 Hz"):
        train(configured(tiny_run_config, data=data | {"resample": False}, steps=1), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_killed_process_is_resumed_bit_identically(tmp_path, tiny_run_config):
    config = configured(tiny_run_config, steps=60, checkpoint_every=5, sample_every=1000, validate_every=20)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(config, straight)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom audiodiff.config import RunConfig\n"
        "from audiodiff.training.trainer import train\n"
        "config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())\n"
        "train(config, sys.argv[2], callback=lambda event: time.sleep(0.05))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "config.json", killed], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoints" / "step-00000010").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert int(names(killed)[-1].removeprefix("step-")) < 60
    train(config, killed)
    assert torch.equal(all_numbers(straight), all_numbers(killed))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_on_a_gpu_as_on_the_cpu(uninterrupted, tmp_path, tiny_run_config, precision):
    outcome = train(configured(tiny_run_config, device="cuda", precision=precision), tmp_path)
    assert (outcome.step, outcome.skipped) == (8, 0)
    assert outcome.best_loss == pytest.approx(uninterrupted[2].best_loss, rel=0.05)


def test_a_learned_variance_trains_and_the_bits_are_told(tmp_path, tiny_run_config, caplog):
    caplog.set_level(logging.INFO, logger="audiodiff")
    diffusion, events = tiny_run_config.model.diffusion.model_copy(update={"variance": "learned"}), []
    config = configured(tiny_run_config, model={"diffusion": diffusion}, steps=3, validation_bits=True)
    train(config, tmp_path, callback=events.append)
    (values,) = [event.values for event in events if event.kind == "validated"]
    assert 0 < values["bits_per_sample"] < 20
    assert f"{values['bits_per_sample']:.3f} bits per sample" in caplog.text
    network, config = load_model(tmp_path / "best")
    assert config.diffusion.variance == "learned"
    assert bool(network.variance.weight.any())
