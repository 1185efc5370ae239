"""What a loss means: near a reference or not, overfitting or not, starting from noise or not."""

import json
import logging

import pytest

from audiodiff.config import DiffusionConfig, SynthesisConfig
from audiodiff.errors import ConfigError
from audiodiff.training.loss_curve import (
    LossCurve,
    LossMonitor,
    LossPoint,
    check_terminal_snr,
    compare_with_reference,
    describe_overfitting,
    differing_settings,
    load_curve,
    loss_settings,
)
from audiodiff.training.trainer import train
from audiodiff.training.validation import ValidationResult, Validator

REFERENCE = LossCurve({}, (LossPoint(100, 1.0), LossPoint(200, 0.5), LossPoint(300, 0.4)))


def test_a_curve_is_a_line_between_its_points():
    assert [REFERENCE.at(step) for step in (100, 150, 200, 250, 300)] == pytest.approx([1, 0.75, 0.5, 0.45, 0.4])
    assert (REFERENCE.at(99), REFERENCE.at(301), LossCurve({}).at(5)) == (None, None, None)
    assert LossCurve({}, (LossPoint(5, 0.25),)).at(5) == 0.25


@pytest.mark.parametrize(
    ("loss", "said"),
    [(0.5, "+0.0% of the reference curve's 0.5000, as"), (0.4, "-20.0% .* lower"), (0.6, r"\+20.0% .* higher: other")],
)
def test_a_loss_is_compared(loss, said):
    import re

    assert re.search(said.replace("+0.0%", r"\+0.0%"), compare_with_reference(LossPoint(200, loss), REFERENCE))
    assert compare_with_reference(LossPoint(400, loss), REFERENCE) is None


@pytest.mark.parametrize(
    ("points", "wide"),
    [
        ([(1, 0.5, 0.5), (2, 0.6, 0.4)], True),
        ([(1, 0.5, 0.5), (2, 0.6, 0.55)], False),  # both rise: no overfitting
        ([(1, 0.5, 0.5), (2, 0.503, 0.4)], False),  # hardly any rise
        ([(1, 0.5, 0.5), (2, 0.4, 0.3)], False),
        ([(1, 0.5, None), (2, 0.6, None)], False),
        ([(1, 0.5, 0.5), (2, 0.6, 0.4), (3, 0.45, 0.3)], False),
    ],
)
def test_a_widening_gap_is_named(points, wide):
    said = describe_overfitting(LossCurve({}, tuple(LossPoint(*point) for point in points)))
    assert (said is not None) is wide
    assert not wide or ("overfitting" in said and "best/ holds step 1" in said)


def test_a_curve_goes_on_where_its_run_does(tmp_path, tiny_run_config):
    path = tmp_path / "curve.json"
    first = LossMonitor(path, tiny_run_config, 0)
    for step in (4, 8, 12):
        first.add(LossPoint(step, 1 / step, 0.1))
    second = LossMonitor(path, tiny_run_config, 8)  # killed after 12, resumed from 8
    second.add(LossPoint(12, 0.25, None))
    assert load_curve(path).points == (LossPoint(4, 0.25, 0.1), LossPoint(8, 0.125, 0.1), LossPoint(12, 0.25, None))
    assert load_curve(path).settings == json.loads(json.dumps(loss_settings(tiny_run_config)))


def test_a_curve_is_of_other_settings_where_a_decisive_one_differs(tiny_run_config):
    settings = loss_settings(tiny_run_config)
    assert settings["training.batch_size"] == 4
    assert "training.seed" not in settings
    assert differing_settings(settings, tiny_run_config) == []
    assert differing_settings(settings | {"training.batch_size": 5}, tiny_run_config) == ["training.batch_size"]
    nested = {name: value for name, value in settings.items() if not name.startswith("model.network.")}
    network = tiny_run_config.model.network.model_dump(mode="json")
    assert differing_settings(nested | {"model.network": network | {"layers": 9}}, tiny_run_config) == [
        "model.network.layers"
    ]


def test_a_setting_younger_than_the_curve_counts_as_its_default(tiny_run_config):
    settings = loss_settings(tiny_run_config)
    younger = ("model.network.patch", "data.crop_seconds")
    older = {name: value for name, value in settings.items() if name not in younger}
    assert differing_settings(older, tiny_run_config) == ["data.crop_seconds"]  # which is not as by default


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"points": [[1]], "settings": {}}'])
def test_what_is_no_curve_is_refused(tmp_path, content):
    (tmp_path / "a.curve.json").write_text(content)
    with pytest.raises(ConfigError, match="is no loss curve"):
        load_curve(tmp_path / "a.curve.json")


def test_a_run_is_compared_with_another_of_the_same_settings(tmp_path, tiny_run_config, caplog):
    train(tiny_run_config, tmp_path / "first")
    curve = load_curve(tmp_path / "first" / "curve.json")
    with caplog.at_level(logging.INFO):
        train(tiny_run_config, tmp_path / "second", reference=curve)
    assert f"+0.0% of the reference curve's {curve.points[0].valid:.4f}, as expected" in caplog.text
    caplog.clear()
    training = tiny_run_config.training.model_copy(update={"batch_size": 3})
    with caplog.at_level(logging.INFO):
        train(tiny_run_config.model_copy(update={"training": training}), tmp_path / "third", reference=curve)
    assert "no comparison with the reference curve, which belongs to another training.batch_size" in caplog.text
    assert "of the reference curve's" not in caplog.text


def losses(monkeypatch, valid, train_crops):
    values = iter([value for pair in zip(valid, train_crops, strict=True) for value in pair])
    monkeypatch.setattr(Validator, "__call__", lambda self, network: ValidationResult(next(values), {}))


def impatient(config, **settings):
    changes = {"steps": 8, "validate_every": 1, "checkpoint_every": 100, "sample_every": 100} | settings
    return config.model_copy(update={"training": config.training.model_copy(update=changes)})


def test_learning_by_heart_is_said_in_training(tmp_path, tiny_run_config, monkeypatch, caplog):
    losses(monkeypatch, [0.5, 0.6], [0.5, 0.4])
    with caplog.at_level(logging.WARNING):
        train(impatient(tiny_run_config, steps=2), tmp_path)
    assert "step 2: validation loss has risen from 0.5000 at step 1 to 0.6000" in caplog.text


def test_patience_ends_a_run_that_no_longer_improves_and_it_stays_ended(tmp_path, tiny_run_config, monkeypatch):
    valid = [0.5, 0.4, 0.45, 0.41, 0.42, 0.3, 0.2, 0.1]
    losses(monkeypatch, valid, valid)
    outcome = train(impatient(tiny_run_config, patience=3), tmp_path / "ends")
    assert (outcome.step, outcome.best_step, outcome.ran_out_of_patience) == (5, 2, True)
    again = train(impatient(tiny_run_config, patience=3), tmp_path / "ends")
    assert (again.step, again.ran_out_of_patience) == (5, True)
    losses(monkeypatch, valid, valid)
    outcome = train(impatient(tiny_run_config), tmp_path / "goes on")
    assert (outcome.step, outcome.ran_out_of_patience) == (8, False)


@pytest.mark.parametrize(
    ("lowest", "synthesis", "levels"),
    [
        (-8.0, SynthesisConfig(), [logging.INFO]),
        (-2.0, SynthesisConfig(start_log_snr=-2.0), [logging.WARNING]),
        (-8.0, SynthesisConfig(start_log_snr=0.0), [logging.INFO, logging.WARNING]),
        (-2.0, SynthesisConfig(start="griffin-lim", start_log_snr=4.5), [logging.INFO]),
    ],
)
def test_the_terminal_snr_is_named(tiny_model_config, lowest, synthesis, levels):
    update = {"diffusion": DiffusionConfig(log_snr_min=lowest), "synthesis": synthesis}
    said = list(check_terminal_snr(tiny_model_config.model_copy(update=update)))
    assert [level for level, _ in said] == levels
    assert f"terminal SNR {lowest * 4.342945:.1f} dB" in said[0][1]


REMEDIES = {
    "Lower model.synthesis.start_log_snr": lambda own: {"start_log_snr": -8.0},
    "Lower the first of model.synthesis.log_snrs": lambda own: {"log_snrs": (-8.0, *own.log_snrs[1:])},
    "Choose another model.synthesis.schedule, such as uniform": lambda own: {"schedule": "uniform"},
}


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"start_log_snr": 0.0}, "Lower model.synthesis.start_log_snr"),
        ({"schedule": "cosine", "start_log_snr": 0.0}, "Lower model.synthesis.start_log_snr"),
        ({"schedule": "diffwave", "steps": 6}, "Choose another model.synthesis.schedule, such as uniform"),
        ({"schedule": "fibonacci", "steps": 5}, "Choose another model.synthesis.schedule, such as uniform"),
        ({"log_snrs": (0.0, 4.0)}, "Lower the first of model.synthesis.log_snrs"),
    ],
)
def test_the_advice_about_the_first_level_can_be_followed(tiny_model_config, settings, remedy):
    def warned(own):
        model = tiny_model_config.model_copy(update={"diffusion": DiffusionConfig(), "synthesis": own})
        return [said for level, said in check_terminal_snr(model) if level == logging.WARNING]

    own = SynthesisConfig(**settings)
    (said,) = warned(own)
    assert f"{remedy}, or set model.synthesis.zero_terminal=true." in said
    assert not warned(SynthesisConfig(**settings | REMEDIES[remedy](own)))
    assert not warned(SynthesisConfig(**settings, zero_terminal=True))
