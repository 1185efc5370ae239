"""Functions of users serve as metrics and embedders; what they do wrong is a reason, not a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiodiff.errors import AudioError, ConfigError
from audiodiff.evaluation import plugin
from audiodiff.evaluation.evaluate import evaluate
from audiodiff.evaluation.pair import Pair
from audiodiff.evaluation.scoring import resolve_metrics, score_pair

RATE = 8000
MODULE = """
import numpy as np
import torch

class Odd(Exception):
    pass

NUMBER = 3

def level(samples, sample_rate):
    print("computing")
    samples *= 2  # its own copy
    return np.abs(samples).mean() / 2 * sample_rate

def difference(generated, reference, sample_rate):
    return torch.tensor([float(np.abs(generated - reference).mean())], requires_grad=True)

def with_default(samples, sample_rate, power=2):
    return (samples**power).mean()

def nothing(samples, sample_rate): return None
def word(samples, sample_rate): return "3"
def several(samples, sample_rate): return [1.0, 2.0]
def infinite(samples, sample_rate): return float("nan")
def windows(samples, sample_rate): return np.ones((3, 2))
def vector(samples, sample_rate): return torch.ones(4)
def no_features(samples, sample_rate): return np.zeros((0, 4))
def not_finite(samples, sample_rate): return [np.inf, 1.0]
def fails(samples, sample_rate): raise Odd("out of\\n memory")
def größe(samples, sample_rate): return len(samples)
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """Write `plug_ins.py` into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*plugin.sys.path])
    Path("plug_ins.py").write_text(MODULE, encoding="utf-8")
    Path("broken.py").write_text("raise RuntimeError('no licence')", encoding="utf-8")
    yield
    plugin.load_function.cache_clear()
    plugin.sys.modules.pop("plug_ins", None)


@pytest.fixture
def pair() -> Pair:
    generated = torch.stack([torch.full((RATE,), 0.25), torch.full((RATE,), -0.75)])
    return Pair(generated, torch.zeros(2, RATE), RATE)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("level", 0.5 * RATE), ("difference", 0.5), ("with_default", (0.0625 + 0.5625) / 2), ("größe", RATE)],
)
def test_a_metric_is_the_mean_over_channels(pair, name, expected, capsys):
    assert plugin.measure(f"plug_ins:{name}", pair) == pytest.approx(expected)
    assert plugin.measure(f"plug_ins:{name}", pair) == pytest.approx(expected)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "plug_ins:nothing returned NoneType; expected a number."),
        ("word", "plug_ins:word returned str; expected a number."),
        ("several", "plug_ins:several returned 2 numbers; expected one."),
        ("infinite", "it is nan."),
        ("fails", "plug_ins:fails failed: Odd: out of memory"),
    ],
)
def test_what_a_metric_does_wrong_is_the_reason(pair, name, reason):
    metric = f"plug_ins:{name}"
    assert score_pair(pair, [metric, "peak"]).failures == {metric: reason}


def test_an_embedder_returns_one_vector_or_one_per_window():
    audio = torch.zeros(RATE)
    assert plugin.embed("plug_ins:windows", audio, RATE).shape == (3, 2)
    assert plugin.embed("plug_ins:vector", audio, RATE).tolist() == [[1, 1, 1, 1]]
    with pytest.raises(AudioError, match=r"returned an array of shape \(0, 4\)"):
        plugin.embed("plug_ins:no_features", audio, RATE)
    with pytest.raises(AudioError, match="NaN or infinite"):
        plugin.embed("plug_ins:not_finite", audio, RATE)
    with pytest.raises(AudioError, match=r"shape \(\); expected \(windows, features\)"):
        plugin.embed("plug_ins:level", audio, RATE)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plug_ins:none", "plug_ins:none cannot be imported .AttributeError"),
        ("nowhere:f", "nowhere:f cannot be imported .ModuleNotFoundError: No module named 'nowhere'"),
        ("broken:f", "broken:f cannot be imported .RuntimeError: no licence"),
        ("plug_ins:NUMBER", "plug_ins:NUMBER is of type int; expected a function"),
    ],
)
def test_a_function_that_is_not_there_is_refused_first(name, message):
    with pytest.raises(ConfigError, match=message):
        resolve_metrics(["peak", name])


def test_what_has_not_the_form_of_a_name_is_no_function():
    assert plugin.names_function("my.metrics:utmos")
    for name in ("C:\\x.pt", "a:b:c", "a b:c", "peak", "a/b.py:c", ":f", "m:", "m:f.g"):
        assert not plugin.names_function(name)
    with pytest.raises(ConfigError, match="'peak' names no function; expected MODULE:FUNCTION"):
        plugin.load_function("peak")


def test_processes_find_the_module_too(tmp_path, voice):
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
        for i in range(2):
            soundfile.write(tmp_path / name / f"{i}.wav", voice(0.3, RATE, i) * (1 + (name == "made") * 0.5), RATE)
    metric = "plug_ins:difference"
    scores = [
        evaluate({"made": tmp_path / "made"}, tmp_path / "real", [metric], jobs=jobs).systems[0].scores(metric)
        for jobs in (1, 2)
    ]
    assert scores[0] == scores[1]
    assert np.isfinite(list(scores[0].values())).all()
    assert len(scores[0]) == 2
