"""A run that has minutes ends in time, its learning rate follows the time, and a resumed one has what is left."""

import signal

import pytest
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.config import TrainingConfig
from audiodiff.training.checkpoints import load_checkpoint
from audiodiff.training.optimiser import learning_rate
from audiodiff.training.stopping import TimeBudget
from audiodiff.training.trainer import train


class FakeClock:
    """Time that passes by what happens: so many seconds with each event of a kind."""

    def __init__(self, **seconds):
        self.now, self.seconds, self.events = 1000.0, seconds, []

    def __call__(self):
        return self.now

    def note(self, event):
        self.events.append(event)
        self.now += self.seconds.get(event.kind, 0.0)


def timed(config, minutes, **settings):
    often = {"validate_every": 1000, "sample_every": 1000, "checkpoint_every": 1000, "warmup_steps": 2}
    settings = often | {"minutes": minutes, "steps": 1000, "final_learning_rate": 1e-6} | settings
    return config.model_copy(update={"training": config.training.model_copy(update=settings)})


def seconds_at(run):
    return load_checkpoint(max((run / "checkpoints").glob("step-????????"))).state["progress"]["seconds"]


def test_a_run_ends_in_time_with_a_checkpoint_and_a_validation(tmp_path, tiny_run_config):
    clock = FakeClock(step=1.0, saved=0.2, validated=0.2)
    result = train(timed(tiny_run_config, 0.25), tmp_path, callback=clock.note, clock=clock)
    assert result.step == 15  # steps end after 14.4 of 15 seconds
    assert [event.kind for event in clock.events[-2:]] == ["saved", "validated"]
    assert clock.now - 1000 < 15.5
    rates = [event.values["learning_rate"] for event in clock.events if event.kind == "step"]
    assert rates[1] == pytest.approx(max(rates))
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.03 * max(rates)
    assert seconds_at(tmp_path) == pytest.approx(15.0)


def test_steps_are_the_upper_bound(tmp_path, tiny_run_config):
    clock = FakeClock(step=1.0)
    assert train(timed(tiny_run_config, 10, steps=4), tmp_path, callback=clock.note, clock=clock).step == 4


def test_a_resumed_run_has_what_is_left(tmp_path, tiny_run_config):
    config, clock = timed(tiny_run_config, 0.25), FakeClock(step=1.0)

    def stop(event):
        clock.note(event)
        if event.step == 6 and event.kind == "step":
            signal.raise_signal(signal.SIGTERM)

    assert train(config, tmp_path, callback=stop, clock=clock).step == 6
    clock.now += 3600  # nobody trains
    first = len(clock.events)
    assert train(config, tmp_path, callback=clock.note, clock=clock).step == 15
    rates = [event.values["learning_rate"] for event in clock.events[first:] if event.kind == "step"]
    assert rates[0] < 0.75 * config.training.learning_rate
    assert train(config, tmp_path, callback=clock.note, clock=clock).step == 15  # all of it is used


def test_what_comes_last_is_given_the_time_it_took_before(tmp_path, tiny_run_config):
    clock = FakeClock(step=1.0, saved=0.4, validated=0.8)
    config = timed(tiny_run_config, 0.5, validate_every=5, checkpoint_every=5)
    train(config, tmp_path, callback=clock.note, clock=clock)
    assert 26 < clock.now - 1000 <= 30


def test_without_minutes_no_time_is_kept():
    clock = FakeClock()
    budget = TimeBudget(None, clock=clock)
    clock.now += 1e6
    assert (budget.seconds, budget.fraction, budget.left, budget.is_over, budget.allows("samples")) == (
        *(0.0, 0.0, None, False),
        True,
    )


def test_what_takes_longer_than_is_left_is_left_out():
    clock = FakeClock()
    budget = TimeBudget(1, clock=clock)
    with budget.measured("samples"):
        clock.now += 20
    assert budget.allows("samples")
    clock.now += 20
    assert not budget.allows("samples")


def test_the_learning_rate_is_where_the_later_of_time_and_step_is():
    config = TrainingConfig(steps=110, warmup_steps=10, learning_rate=1.0, final_learning_rate=0.2)
    assert learning_rate(10, config, 0.5) == learning_rate(60, config) == pytest.approx(0.6)
    assert learning_rate(60, config, 0.1) == learning_rate(60, config)
    assert learning_rate(20, config, 1.0) == pytest.approx(0.2)
    assert learning_rate(4, config, 0.9) == learning_rate(4, config)


def test_checkpoints_also_come_by_the_clock(tmp_path, tiny_run_config):
    events = []
    train(timed(tiny_run_config, None, steps=3, checkpoint_minutes=1e-6), tmp_path, callback=events.append)
    assert [event.step for event in events if event.kind == "saved"] == [1, 2, 3]


def test_the_command_line_sets_minutes(tmp_path):
    result = CliRunner().invoke(main, ["train", "--minutes", "0", __file__])
    assert result.exit_code == 2
    assert "--minutes" in result.output
