"""`audiodiff evaluate` prints, stores and rewrites; what cannot be compared is listed and makes the exit code 1."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff.cli.main import main
from audiodiff.evaluation.listening_test import COLUMNS

RATE = 16000


@pytest.fixture
def evaluate(tmp_path, monkeypatch, voice):
    """Run `audiodiff evaluate …` in a folder with originals `real`, and systems `good` and `bad`."""
    monkeypatch.chdir(tmp_path)
    for name in ("real", "good", "bad"):
        Path(name).mkdir()
    for i in range(3):
        original = voice(0.6, RATE, i)
        noise = np.random.default_rng(i).standard_normal(len(original)).astype(np.float32)
        for name, gain in (("real", 0), ("good", 0.001), ("bad", 0.02)):
            soundfile.write(f"{name}/{i}.wav", original + gain * noise, RATE)
    return lambda *arguments: CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def document(path="x.json"):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_table_of_means_and_intervals(evaluate):
    result = evaluate("good", "real", "-m", "m_stft,peak")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "3 recordings of real: means and 95 % intervals"
    assert lines[1].split() == ["good"]
    assert lines[2].startswith("M-STFT ↓  ")
    assert " ± " in lines[2]
    assert len(lines) == 4


def test_the_usual_metrics_are_the_default_and_the_extra(evaluate):
    pytest.importorskip("pyworld")
    result = evaluate("good", "real", "--json", "x.json")
    assert result.exit_code == 0, result.output
    assert {"m_stft", "lag_ms", "pesq_wb", "pesq_nb", "stoi", "estoi", "mcd", "vuv_f1"} <= set(document()["metrics"])
    assert "MCD13: order 13, alpha 0.65, c0 left out, alignment none" in result.stdout


def test_systems_are_compared(evaluate):
    result = evaluate("good", "real", "-c", "worse=bad", "-m", "m_stft", "--name", "better")
    assert "against better, recording by recording (sign-flip test)" in result.stdout
    assert "M-STFT, worse - better" in result.stdout
    clash = evaluate("good", "real", "-c", "good")
    assert clash.exit_code == 2
    assert "two systems are called good" in clash.stderr


def test_what_cannot_be_compared_is_listed_and_the_exit_code_is_1(evaluate):
    soundfile.write("good/0.wav", np.zeros(9600), RATE)
    Path("good/1.wav").unlink()
    result = evaluate("good", "real", "-m", "m_stft", "--json", "x.json", "--csv", "x.csv")
    assert result.exit_code == 1
    assert "(1 of 3)" in result.stdout
    assert "2 problems, in no mean:" in result.stderr
    assert "good, 0: good/0.wav is silent" in result.stderr
    assert "good, 1: real/1.wav has no partner" in result.stderr
    assert document()["systems"][0]["summary"]["m_stft"]["n_failed"] == 2
    assert "is silent" in Path("x.csv").read_text(encoding="utf-8")


def test_every_option_of_comparing_counts(evaluate):
    shutil.copytree("good", "late")
    shutil.copytree("good", "long")
    for i in range(3):
        audio = soundfile.read(f"good/{i}.wav")[0]
        soundfile.write(f"late/{i}.wav", np.roll(audio, 160), RATE)
        soundfile.write(f"long/{i}.wav", np.concatenate([audio, 0.1 * audio[:3200]]), RATE)
    plain, aligned = (evaluate("late", "real", "-m", "m_stft,lag_ms", *more) for more in ((), ("--align",)))
    assert plain.stdout != aligned.stdout
    assert "note: late, 0: moved by" in aligned.stderr
    assert evaluate("late", "real", "-m", "m_stft", "--max-lag", 2).exit_code == 1
    assert evaluate("long", "real", "-m", "m_stft").exit_code == 1
    assert evaluate("long", "real", "-m", "m_stft", "--max-length-difference", 0.3).exit_code == 0
    outputs = {evaluate("bad", "real", "-m", "mcd", "--mcd-alignment", how).stdout for how in ("none", "dtw")}
    assert len(outputs) == 2


def test_timings_add_the_real_time_factor(evaluate):
    lines = [f"real/{i}.wav -> good/{i}.wav  0.60 s, synthesised in 0.30 s, real-time factor 0.500" for i in range(3)]
    Path("log").write_text("\n".join(lines))
    result = evaluate("good", "real", "-m", "m_stft", "--timings", "log")
    assert "real-time factor ↓  0.500 ± 0.000" in result.stdout


def test_a_missing_extra_is_one_line(evaluate, monkeypatch):
    monkeypatch.setattr("audiodiff.evaluation.registry.find_spec", lambda package: None)
    result = evaluate("good", "real")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "left out: `pip install 'audiodiff[eval]'`" in result.stderr
    assert evaluate("good", "real", "-m", "pesq_wb").exit_code == 1


def test_stored_results_are_printed_again(evaluate):
    first = evaluate("good", "real", "-c", "bad", "-m", "m_stft", "--json", "deep/x.json")
    assert evaluate("deep/x.json").stdout == first.stdout


def test_a_markdown_table_is_rewritten_from_stored_results(evaluate):
    evaluate("good", "real", "-m", "m_stft", "--json", "x.json")
    Path("page.md").write_text("# T\n<!-- scores: x.json | m_stft -->\n<!-- /scores -->\n")
    result = evaluate("--table", "page.md")
    assert (result.exit_code, result.stdout) == (0, "page.md: 1 table written\n")
    mean = document()["systems"][0]["summary"]["m_stft"]["mean"]
    assert f"| good | {mean:.3f} |" in Path("page.md").read_text(encoding="utf-8")


def test_a_report_is_written(evaluate):
    pytest.importorskip("pyloudnorm")
    for n_items in (1, 2):
        result = evaluate("good", "real", "-m", "m_stft", "--report", f"page{n_items}", "--report-items", n_items)
        assert result.exit_code == 0, result.output
        assert Path(f"page{n_items}/index.html").read_text(encoding="utf-8").count("<audio ") == 2 * n_items


def test_ratings_become_means(evaluate):
    rows = [",".join(COLUMNS), "mos,Ann,1,good,,,4,4,1.0", "mos,Bob,1,good,,,5,5,1.0"]
    Path("a.csv").write_text("\n".join(rows))
    result = evaluate("--ratings", "a.csv")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:2] == ["good", "4.50"]
    assert evaluate("--ratings").exit_code == 2


def test_the_list_says_what_each_metric_misleads_about(evaluate):
    text = evaluate("--list").stdout
    assert "pesq_wb  PESQ-WB (set eval" in text
    assert "ranks Griffin-Lim above" in text
    assert "0.002 s per second of audio" in text


def test_sets_of_clips_without_pairs(evaluate, voice):
    for kind in ("hiss", "voice"):
        Path("words", kind).mkdir(parents=True)
        for seed in range(12):
            noise = 0.1 * np.random.default_rng(seed).standard_normal(2000)
            soundfile.write(f"words/{kind}/{seed}.wav", voice(0.25, 8000, seed) if kind == "voice" else noise, 8000)
    trained = evaluate("--train-classifier", "c.safetensors", "words", "--updates", "20")
    assert "c.safetensors: 2 labels, accuracy " in trained.stdout
    assert "every tenth held out" in trained.stdout
    again = evaluate("--train-classifier", "d.safetensors", "words", "--updates", "1", "--held-out", "words")
    assert "clips of words are among those to train on" in again.stderr
    plain = evaluate("words", "words", "--classifier", "c.safetensors", "--json", "x.json")
    assert plain.exit_code == 0, plain.output
    assert "by a classifier that hears" in plain.stdout
    assert document()["systems"][0]["set_scores"]["nearest_training_clip"] == pytest.approx(0, abs=1e-3)
    refused = evaluate("words", "words", "--classifier", "c.safetensors", "--frechet")
    assert "on 24 clips is mostly noise" in refused.stderr
    assert refused.exit_code == 1
    assert (
        "frechet distance" in evaluate("words", "words", "--classifier", "c.safetensors", "--frechet", "--force").stdout
    )


def test_music_is_compared(evaluate):
    assert "onset distance" in evaluate("good", "real", "--music").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("good",), "expected GENERATED and REFERENCE, got 1 paths"),
        (("good", "real", "--force"), "--force has no effect with recordings with originals"),
        (("good", "real", "--music", "--align"), "--align has no effect with sets of clips"),
        (("good", "real", "--frechet"), "--frechet needs features"),
        (("good", "real", "--music", "--force"), "--embedder and --force are for --frechet"),
        (("--list", "--align"), "--align has no effect with --list"),
        (("--ratings", "x.csv", "--json", "y.json"), "--json has no effect with --ratings"),
        (("--train-classifier", "x"), "takes folders or manifests of labelled clips, got none"),
        (("good", "real", "--updates", "5"), "--updates has no effect with anything but --train-classifier"),
        (("x.json", "--name", "a"), "--name has no effect with stored results"),
    ],
)
def test_options_that_do_not_go_together_are_refused(evaluate, arguments, message):
    result = evaluate(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
