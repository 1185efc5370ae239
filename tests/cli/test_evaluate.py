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
    result = evaluate("pairs", "good", "real", "-m", "m_stft,peak")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "3 recordings of real: means and 95 % intervals"
    assert lines[1].split() == ["good"]
    assert lines[2].startswith("M-STFT ↓  ")
    assert " ± " in lines[2]
    assert len(lines) == 4


def test_the_usual_metrics_are_the_default_and_the_extra(evaluate):
    pytest.importorskip("pyworld")
    result = evaluate("pairs", "good", "real", "--json", "x.json")
    assert result.exit_code == 0, result.output
    assert {"m_stft", "lag_ms", "pesq_wb", "pesq_nb", "stoi", "estoi", "mcd", "vuv_f1"} <= set(document()["metrics"])
    assert "MCD13: order 13, alpha 0.65, without c0, alignment none" in result.stdout


def test_systems_are_compared(evaluate):
    result = evaluate("pairs", "good", "real", "-c", "worse=bad", "-m", "m_stft", "--name", "better")
    assert "paired differences from better (sign-flip test)" in result.stdout
    assert "M-STFT, worse - better" in result.stdout
    clash = evaluate("pairs", "good", "real", "-c", "good")
    assert clash.exit_code == 2
    assert "two systems are called good" in clash.stderr


def test_what_cannot_be_compared_is_listed_and_the_exit_code_is_1(evaluate):
    soundfile.write("good/0.wav", np.zeros(9600), RATE)
    Path("good/1.wav").unlink()
    result = evaluate("pairs", "good", "real", "-m", "m_stft", "--json", "x.json", "--csv", "x.csv")
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
    plain, aligned = (evaluate("pairs", "late", "real", "-m", "m_stft,lag_ms", *more) for more in ((), ("--align",)))
    assert plain.stdout != aligned.stdout
    assert "note: late, 0: moved by" in aligned.stderr
    assert evaluate("pairs", "late", "real", "-m", "m_stft", "--max-lag", 2).exit_code == 1
    assert evaluate("pairs", "long", "real", "-m", "m_stft").exit_code == 1
    assert evaluate("pairs", "long", "real", "-m", "m_stft", "--max-length-difference", 0.3).exit_code == 0
    outputs = {evaluate("pairs", "bad", "real", "-m", "mcd", "--mcd-alignment", how).stdout for how in ("none", "dtw")}
    assert len(outputs) == 2


def test_timings_add_the_real_time_factor(evaluate):
    lines = [f"real/{i}.wav -> good/{i}.wav  0.60 s, synthesised in 0.30 s, real-time factor 0.500" for i in range(3)]
    Path("log").write_text("\n".join(lines))
    result = evaluate("pairs", "good", "real", "-m", "m_stft", "--timings", "log")
    assert "real-time factor ↓  0.500 ± 0.000" in result.stdout


def test_a_missing_extra_is_one_line(evaluate, monkeypatch):
    monkeypatch.setattr("audiodiff.evaluation.scoring.find_spec", lambda package: None)
    result = evaluate("pairs", "good", "real")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "left out: `pip install 'audiodiff[eval]'`" in result.stderr
    assert evaluate("pairs", "good", "real", "-m", "pesq_wb").exit_code == 1


def test_stored_results_are_printed_again(evaluate):
    first = evaluate("pairs", "good", "real", "-c", "bad", "-m", "m_stft", "--json", "deep/x.json")
    assert evaluate("show", "deep/x.json").stdout == first.stdout
    latex = evaluate("show", "deep/x.json", "--latex").stdout
    assert latex.count("\n% ") >= 3
    assert "\n% command: audiodiff" in latex
    assert len([line for line in latex.splitlines() if line.startswith(("good &", "bad &"))]) == 2
    again = evaluate("pairs", "good", "real", "-c", "bad", "-m", "m_stft", "--latex").stdout
    assert again.partition("\\begin")[2] == latex.partition("\\begin")[2]


def test_a_markdown_table_is_rewritten_from_stored_results(evaluate):
    evaluate("pairs", "good", "real", "-m", "m_stft", "--json", "x.json")
    Path("page.md").write_text("# T\n<!-- scores: x.json | m_stft -->\n<!-- /scores -->\n")
    result = evaluate("tables", "page.md")
    assert (result.exit_code, result.stdout) == (0, "page.md: 1 table written\n")
    mean = document()["systems"][0]["summary"]["m_stft"]["mean"]
    assert f"| good | {mean:.3f} |" in Path("page.md").read_text(encoding="utf-8")


def test_a_report_is_written(evaluate):
    pytest.importorskip("pyloudnorm")
    for n_items in (1, 2):
        result = evaluate(
            "pairs", "good", "real", "-m", "m_stft", "--report", f"page{n_items}", "--report-items", n_items
        )
        assert result.exit_code == 0, result.output
        assert Path(f"page{n_items}/index.html").read_text(encoding="utf-8").count("<audio ") == 2 * n_items


def test_what_a_report_lacks_is_said_before_anything_is_scored(evaluate, monkeypatch):
    monkeypatch.setattr("audiodiff.evaluation.listening_test.find_spec", lambda name: None)
    result = evaluate("pairs", "good", "real", "-m", "m_stft", "--report", "page")
    assert result.exit_code == 0
    before = result.stderr.splitlines()[:2]
    assert any("pip install 'audiodiff[plots]'" in line for line in before)
    assert any("pip install 'audiodiff[eval]'" in line for line in before)


def test_ratings_become_means(evaluate):
    rows = [",".join(COLUMNS), "mos,Ann,1,good,,,4,4,1.0", "mos,Bob,1,good,,,5,5,1.0"]
    Path("a.csv").write_text("\n".join(rows))
    result = evaluate("ratings", "a.csv")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[1].split()[:2] == ["good", "4.50"]
    assert evaluate("ratings").exit_code == 2


def test_the_list_says_what_each_metric_misleads_about(evaluate):
    text = evaluate("metrics").stdout
    assert "pesq_wb  PESQ-WB (set eval" in text
    assert "ranks Griffin-Lim above" in text
    assert "0.002 s per second of audio" in text


def test_sets_of_clips_without_pairs(evaluate, voice):
    for kind in ("hiss", "voice"):
        Path("words", kind).mkdir(parents=True)
        for seed in range(12):
            noise = 0.1 * np.random.default_rng(seed).standard_normal(2000)
            soundfile.write(f"words/{kind}/{seed}.wav", voice(0.25, 8000, seed) if kind == "voice" else noise, 8000)
    trained = evaluate("classifier", "c.safetensors", "words", "--updates", "20")
    assert "c.safetensors: 2 labels, accuracy " in trained.stdout
    assert "every tenth held out" in trained.stdout
    again = evaluate("classifier", "d.safetensors", "words", "--updates", "1", "--held-out", "words")
    assert "clips of words are among those to train on" in again.stderr
    plain = evaluate("sets", "words", "words", "--classifier", "c.safetensors", "--json", "x.json")
    assert plain.exit_code == 0, plain.output
    assert "classifier's accuracy on held-out real clips" in plain.stdout
    assert document()["systems"][0]["set_scores"]["nearest_training_clip"] == pytest.approx(0, abs=1e-3)
    refused = evaluate("sets", "words", "words", "--classifier", "c.safetensors", "--frechet")
    assert "on 24 clips is mostly noise" in refused.stderr
    assert refused.exit_code == 1
    assert (
        "frechet distance"
        in evaluate("sets", "words", "words", "--classifier", "c.safetensors", "--frechet", "--force").stdout
    )


MY_METRICS = """
import numpy as np

def level(samples, sample_rate): return np.abs(samples).mean()
def hears(samples, sample_rate): return "größer als" if len(samples) > 1000 else None
def moments(samples, sample_rate):
    if samples.std() < 0.01:
        raise LookupError("too quiet")
    return [[part.std(), np.abs(part).max()] for part in np.array_split(samples, 3)]
"""


def test_functions_of_users_are_metrics_recognisers_and_embedders(evaluate):
    pytest.importorskip("jiwer")
    Path("my_metrics.py").write_text(MY_METRICS, encoding="utf-8")
    lines = [
        {"audio": f"real/{i}.wav", "seconds": 0.6, "sample_rate": RATE, "text": text}
        for i, text in enumerate(["Größer, als!", "kleiner als", "..."])
    ]
    Path("real.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = ("good", "real.jsonl", "-m", "my_metrics:level,wer", "--recogniser", "my_metrics:hears", "-j", "1")
    result = evaluate("pairs", *command, "--json", "x.json")
    assert result.exit_code == 1
    assert "good, 2: no wer: the text '...' has no words." in result.stderr
    rows = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert float(rows["my_metrics:level"].split()[1]) > 0
    assert "25.0" in rows["WER (%) ↓"]  # one word in four
    assert "(2 of 3)" in rows["WER (%) ↓"]
    assert "speech recogniser: my_metrics:hears" in result.stdout
    assert "% recogniser: my_metrics:hears" in evaluate("show", "x.json", "--latex").stdout
    found = evaluate("sets", "good", "real", "--frechet", "--force", "--embedder", "my_metrics:moments")
    assert found.exit_code == 0, found.output
    assert "frechet distance (my_metrics:moments)" in found.stdout
    soundfile.write("good/0.wav", np.zeros(9600), RATE)
    partly = evaluate("sets", "good", "real", "--frechet", "--force", "--embedder", "my_metrics:moments")
    assert partly.exit_code == 1
    assert "good, 0: my_metrics:moments failed: LookupError: too quiet" in partly.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pairs", "good", "real", "-m", "nowhere:level"), "nowhere:level cannot be imported"),
        (("pairs", "good", "real", "-m", "peak", "--recogniser", "a:b"), "a recogniser serves cer, dcer, dwer, wer."),
        (
            ("pairs", "good", "real", "-m", "wer", "--recogniser", "whisper"),
            "'whisper' names no function; expected MOD",
        ),
        (("sets", "good", "real", "--frechet", "--embedder", "no:where"), "no:where cannot be imported"),
        (("sets", "good", "real", "--frechet", "--embedder", "none.pt"), "'none.pt' does not exist"),
    ],
)
def test_a_function_that_is_not_there_is_said_before_anything_is_computed(evaluate, arguments, message):
    pytest.importorskip("jiwer")
    pytest.importorskip("pocketsphinx")
    result = evaluate(*arguments)
    assert result.exit_code in (1, 2)
    assert result.stdout == ""
    assert message in result.stderr


def test_music_is_compared(evaluate):
    assert "onset distance" in evaluate("sets", "good", "real", "--music").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pairs", "good"), "Missing argument 'REFERENCE'"),
        (("pairs", "good", "real", "--force"), "No such option"),
        (("sets", "good", "real", "--music", "--align"), "No such option"),
        (("sets", "good", "real"), "nothing to measure"),
        (("sets", "good", "real", "--frechet"), "--frechet needs features"),
        (("sets", "good", "real", "--music", "--force"), "--embedder and --force are for --frechet"),
        (("metrics", "--align"), "No such option"),
        (("classifier", "x"), "Missing argument 'CLIPS...'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(evaluate, arguments, message):
    result = evaluate(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("earlier", "now"),
    [
        (("good", "real", "-m", "peak"), ("pairs", "good", "real", "-m", "peak")),
        (("-m", "peak", "good", "real"), ("pairs", "-m", "peak", "good", "real")),
        (("good", "real", "--music"), ("sets", "good", "real", "--music")),
        (("x.json",), ("show", "x.json")),
        (("--list",), ("metrics",)),
        (("--ratings", "x.csv"), ("ratings", "x.csv")),
        (("--table", "x.md"), ("tables", "x.md")),
        (("--table=x.md",), ("tables", "x.md")),
        (("real", "--train-classifier", "c", "--updates", "1"), ("classifier", "c", "real", "--updates", "1")),
    ],
    ids=" ".join,
)
def test_an_earlier_spelling_still_works_with_a_warning(evaluate, earlier, now):
    evaluate("pairs", "good", "real", "-m", "peak", "--json", "x.json")
    Path("x.csv").write_text("\n".join([",".join(COLUMNS), "mos,Ann,1,good,,,4,4,1.0"]))
    Path("x.md").write_text("<!-- scores: x.json | peak -->\n<!-- /scores -->\n")
    expected, result = evaluate(*now), evaluate(*earlier)
    assert f"is now `audiodiff evaluate {now[0]}" in result.stderr
    assert (result.exit_code, result.stdout) == (expected.exit_code, expected.stdout)
    assert result.stderr.splitlines()[1:] == expected.stderr.splitlines()
