"""What happens in training is said on stderr and drawn in TensorBoard."""

import io
import logging
import math
import sys
import time
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from audiodiff.training import callbacks
from audiodiff.training.callbacks import Clip, ThroughputMeter, TrainEvent, log_lines, progress, tensorboard


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def step(number, loss=0.5):
    return TrainEvent("step", number, {"loss": loss, "gradient_norm": 1.0, "learning_rate": 1e-3})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_meter_gives_means_and_speed_and_begins_anew():
    clock = Clock()
    meter = ThroughputMeter(1000, clock)
    for number, loss in enumerate((1.0, 2.0, 6.0), 1):
        meter.add(step(number, loss))
    clock.now += 2
    assert meter.read() == {
        "loss": 3.0,
        "gradient_norm": 1.0,
        "learning_rate": pytest.approx(1e-3),
        "samples_per_second": 1500.0,
        "steps_per_second": 1.5,
    }
    assert (len(meter), meter.seconds) == (0, 0)


def test_lines_come_now_and_then_with_loss_speed_and_time_left(caplog):
    clock = Clock()
    report = log_lines(1000, ThroughputMeter(1000, clock, lambda: 8000.0))
    with caplog.at_level(logging.INFO):
        for number in range(1, 71):
            clock.now += 1
            report(step(number))
    assert [record.message for record in caplog.records] == [
        "step 31 of 1000: loss 0.5000, gradient norm 1, 1000 samples/s, MFU 12.5%, 16:09 left",
        "step 62 of 1000: loss 0.5000, gradient norm 1, 1000 samples/s, MFU 12.5%, 15:38 left",
    ]


def test_the_last_step_validation_and_skipped_steps_are_always_reported(caplog):
    report = log_lines(3, ThroughputMeter(1000))
    with caplog.at_level(logging.INFO):
        report(step(1))
        report(TrainEvent("skipped", 2, {"skipped": 7}))
        report(TrainEvent("validated", 2, {"loss": 0.25}))
        report(step(3))
    messages = [record.message for record in caplog.records]
    assert messages[0] == "step 2: loss or gradient is not finite, skipped (7 so far)"
    assert messages[1] == "step 2: validation loss 0.2500"
    assert messages[2].startswith("step 3 of 3: loss 0.5000")


def test_a_bar_is_drawn_on_a_terminal_only(monkeypatch):
    for stream, drawn in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress(10, 20, 1000) as report:
            for number in range(11, 15):
                report(step(number))
            report(TrainEvent("skipped", 15, {"skipped": 1}))
        assert ("15/20" in stream.getvalue()) == drawn


def test_the_bar_shows_loss_and_speed(monkeypatch):
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    with callbacks.progress_bar(0, 10, ThroughputMeter(1000, clock)) as report:
        clock.now += 2
        report(step(1))
    assert "loss 0.5000, 500 samples/s" in terminal.getvalue()


def test_tensorboard_gets_curves_pictures_and_sounds(tmp_path):
    clip = Clip("anna", torch.zeros(1, 800), torch.ones(1, 800), {"m_stft": 1.0})
    other = replace(clip, name="bert", scores={"m_stft": 2.0})
    with tensorboard(tmp_path, 0, 1000, 8000, full_speed=lambda: 1e9) as report:
        for number in range(1, 21):
            report(step(number, number))
        report(TrainEvent("skipped", 21, {"skipped": 1}))
        report(TrainEvent("validated", 20, {"loss": 0.25, "loss_at_-8.0": 0.125}))
        report(TrainEvent("sampled", 20, clips=[clip, other]))
        report(TrainEvent("sampled", 21, clips=[replace(clip, scores={"m_stft": math.nan})]))  # cannot be had
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("training/loss")] == [(10, 5.5), (20, 15.5)]
    assert [(point.step, point.value) for point in read.Scalars("validation/loss_at_-8.0")] == [(20, 0.125)]
    tags = read.Tags()
    assert set(tags["scalars"]) == {
        "training/loss",
        "training/gradient_norm",
        "training/mfu",
        "training/learning_rate",
        "training/samples_per_second",
        "training/steps_per_second",
        "training/skipped",
        "validation/loss",
        "validation/loss_at_-8.0",
        "scores/m_stft",
    }
    assert [(point.step, point.value) for point in read.Scalars("scores/m_stft")] == [(20, 1.5)]
    assert sorted(tags["images"]) == ["anna/picture", "bert/picture"]
    assert "anna/generated" in tags["audio"]
    assert "anna/reference" in tags["audio"]


def test_tensorboard_compares_runs_by_their_settings(tmp_path):
    settings = {"training.seed": 3, "model.network.kind": "stft", "training.minutes": None, "training.compile": False}
    with tensorboard(tmp_path, 0, 1000, 8000, settings):
        pass
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    found = read.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    told = plugin_data_pb2.HParamsPluginData.FromString(found).session_start_info.hparams
    assert {name: value.WhichOneof("kind") for name, value in told.items()} == {
        "training.seed": "number_value",
        "model.network.kind": "string_value",
        "training.compile": "number_value",  # as torch writes it
    }
    assert told["training.seed"].number_value == 3


def test_what_a_killed_process_drew_beyond_its_checkpoint_is_hidden(tmp_path):
    for first, last in ((0, 30), (10, 20)):
        time.sleep(1.1)  # TensorBoard reads its files in the order of the second they were begun in
        with tensorboard(tmp_path, first, 1000, 8000) as report:
            for number in range(first + 1, last + 1):
                report(step(number, first))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("training/loss")] == [(10, 0), (20, 10)]


def test_without_tensorboard_training_goes_on(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with caplog.at_level(logging.WARNING), tensorboard(tmp_path, 0, 1000, 8000) as report:
        report(step(1))
    assert "pip install 'audiodiff[train]'" in caplog.text
    assert not list(tmp_path.iterdir())
