"""Trackers get settings and curves; what cannot be started is refused at once, and what breaks later is left out."""

import logging
from typing import ClassVar

import pytest

from audiodiff.errors import ConfigError, MissingPackageError
from audiodiff.training.callbacks import TrainEvent
from audiodiff.training.trackers import trackers
from audiodiff.training.trainer import train

accelerate = pytest.importorskip("accelerate.tracking")
PartialState = pytest.importorskip("accelerate").PartialState


class Recording(accelerate.GeneralTracker):
    """What accelerate's own trackers are, but what is logged stays here."""

    name = "dvclive"
    requires_logging_directory = True
    made: ClassVar[list] = []

    def __init__(self, project, logging_dir):
        super().__init__()
        self.begun_with, self.logged, self.finished = (project, logging_dir), [], False
        self.made.append(self)

    def start(self):
        pass

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **kwargs):
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(Recording, "made", [])
    monkeypatch.setitem(accelerate.LOGGER_TYPE_TO_CLASS, "dvclive", Recording)
    yield Recording.made
    PartialState._reset_state()


def test_a_run_logs_its_settings_and_curves(tmp_path, tiny_run_config, made):
    training = tiny_run_config.training.model_copy(
        update={"trackers": ("dvclive",), "steps": 12, "validate_every": 6, "warmup_steps": 0}
    )
    train(tiny_run_config.model_copy(update={"training": training}), tmp_path / "run")
    [tracker] = made
    assert tracker.begun_with == ("audiodiff", str(tmp_path / "run"))
    assert tracker.finished
    assert tracker.settings["training.learning_rate"] == training.learning_rate
    assert tracker.settings["training.few_step_counts"] == "[]"
    assert "training.minutes" not in tracker.settings  # it is unset
    by_name = {name: step for step, values in tracker.logged for name in values}
    assert by_name["training/loss"] == 10
    assert by_name["validation/loss"] == 12


@pytest.mark.parametrize("name", ["tensorboard", "weights"])
def test_a_name_that_accelerate_does_not_know_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name}' is none of .*wandb"), trackers([name], tmp_path, {}, 1):
        pass


def test_a_missing_package_is_named(tmp_path, made, monkeypatch):
    def start(self):
        import no_such_tracker  # noqa: F401

    monkeypatch.setattr(Recording, "start", start)
    with (
        pytest.raises(MissingPackageError, match="pip install no_such_tracker"),
        trackers(["dvclive"], tmp_path, {}, 1),
    ):
        pass


def test_one_that_cannot_be_started_is_refused(tmp_path, made, monkeypatch):
    def start(self):
        raise RuntimeError("no key")

    monkeypatch.setattr(Recording, "start", start)
    with pytest.raises(ConfigError, match=r"cannot be started: no key\."), trackers(["dvclive"], tmp_path, {}, 1):
        pass


def test_one_that_breaks_is_left_out(tmp_path, made, monkeypatch, caplog):
    def log(self, values, step=None):
        self.logged.append(step)
        raise OSError("no network")

    monkeypatch.setattr(Recording, "log", log)
    with caplog.at_level(logging.WARNING), trackers(["dvclive"], tmp_path, {}, 1) as report:
        for step in (1, 2):
            report(TrainEvent("validated", step, {"loss": 1.0}))
    assert made[0].logged == [1]
    assert caplog.text.count("nothing more is logged to the tracker dvclive: no network") == 1
