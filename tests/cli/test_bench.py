"""`audiodiff bench` measures, prints tables, writes JSON and renders it."""

import json
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from audiodiff.audio.resample import import_torchaudio
from audiodiff.benchmark import suite
from audiodiff.benchmark.history import read_report
from audiodiff.cli.main import main


def bench(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def measured(tiny_vocoder_folder, tmp_path_factory):
    """Run it once on a tiny model."""
    path = tmp_path_factory.mktemp("bench") / "report.json"
    arguments = ("--quick", "--lengths", "0.2", "--repeats", 1, "--threads", 1, "--device", "cpu", "--dtype", "fp32")
    return bench(tiny_vocoder_folder, *arguments, "--json", path), path


def test_tables_on_stdout_and_progress_on_stderr(measured):
    result, _ = measured
    assert result.exit_code == 0, result.stderr
    assert all(
        title in result.stdout for title in ("Machine", "Matrix products", "Synthesis: ", "Streaming, ", "Training: ")
    )
    first, second, *_ = lines = result.stderr.splitlines()
    assert first.startswith("1 of 4: matrix product, square, fp32: GFLOP/s ")
    assert ", fp32, 2 steps, batch 1 x 0.2 s: seconds " in second
    assert "real-time factor " in second
    assert [line[:7] for line in lines if "done with batch" not in line] == [f"{n} of 4:" for n in range(1, 5)]


def test_json_holds_everything(measured, tiny_vocoder_folder):
    report = json.loads(measured[1].read_text())
    assert report["machine"]["threads"] == 1
    assert {"audiodiff", "torch", "python"} <= set(report["machine"]["versions"])
    (row,) = report["synthesis"]
    assert (row["model"], row["dtype"], row["seconds"]["repeats"]) == (str(tiny_vocoder_folder), "fp32", 1)
    (stream,) = report["streaming"]
    assert (stream["threads"], stream["chunk_seconds"], stream["latency_seconds"] > 0.1) == (1, 0.1, True)
    assert report["training"][0]["n_samples"] == 16384


def test_the_table_of_a_file_is_markdown(measured):
    result = bench("--table", measured[1])
    assert result.exit_code == 0
    assert "| model | dtype | steps |" in result.stdout
    assert "| model | dtype | threads | steps | chunk, ms | latency, ms |" in result.stdout
    assert result.stderr == ""


def test_table_measures_nothing(measured):
    result = bench("some-model", "--table", measured[1])
    assert (result.exit_code, "Leave the models out" in result.stderr) == (2, True)


@pytest.fixture
def plans(monkeypatch, measured):
    """List the plans that would be measured, and answer with a report."""
    made, report = [], read_report(measured[1])
    monkeypatch.setattr(suite, "run_benchmark", lambda plan, *_: (made.append(plan), report)[1])
    return made


def test_json_to_stdout_is_only_json(plans):
    result = bench("--json", "-")
    assert json.loads(result.stdout)["audiodiff_benchmark"] == 1


def test_by_default_the_bundled_model_is_measured(plans):
    bench("--device", "cpu")
    (plan,) = plans
    assert plan.models == ("speech-22k",)
    assert (plan.lengths, plan.batches, plan.steps) == ((5.0, 30.0, 600.0), (1, 16), (None,))
    assert (plan.streams, plan.stream_chunks) == (("speech-22k",), (0.02, 0.1, 0.5))
    assert plan.dtypes[0] == "fp32"
    assert plan.training is not None
    assert not plan.against


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [
        (["--quick"], "lengths", (1.0,)),
        (["--quick"], "square", 1024),
        (["--quick", "--lengths", "600,3600"], "lengths", (600.0, 3600.0)),
        (["--batches", "4"], "batches", (4,)),
        (["--steps", "6,50"], "steps", (6, 50)),
        (["--dtype", "bf16"], "dtypes", ("bf16",)),
        (["--all"], "every_combination", True),
        (["--no-training"], "training", None),
        (["--no-streaming"], "streams", ()),
        (["--quick"], "streams", ("speech-22k",)),
        (["--quick"], "stream_chunks", (0.1,)),
        (["--stream-chunks", "40,2000"], "stream_chunks", (0.04, 2.0)),
        (["speech-22k-tiny"], "streams", ("speech-22k-tiny",)),
        (["diffwave-base"], "models", ("diffwave-base",)),
    ],
)
def test_options_change_the_plan(arguments, attribute, value, plans):
    result = bench("--device", "cpu", *arguments)
    assert result.exit_code == 0, result.output
    assert getattr(plans[0], attribute) == value


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [(["--threads", "3"], "threads", 3), (["--device", "cpu"], "device", "cpu")],
)
def test_options_change_the_environment(arguments, attribute, value, plans):
    bench(*arguments)
    assert getattr(plans[0].environment, attribute) == value


def test_repeats(plans):
    bench("--repeats", 9)
    assert plans[0].environment.timing.repeats == 9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--lengths", "5,x"], "'5,x': 'x' is not a number above 0 and at most 3,600 (seconds), as in 5,60"),
        (["--lengths", "0"], "'0' is not a number above 0 and at most 3,600 (seconds)"),
        (["--lengths", "inf"], "'inf' is not a number above 0 and at most 3,600 (seconds)"),
        (["--batches", "0"], "'0' is not a whole number from 1 to 1,000,000"),
        (
            ["--stream-chunks", "20,0"],
            "'0' is not a number above 0 and at most 60,000 (milliseconds), as in 20,100,500",
        ),
        (["--dtype", "fp16"], "'fp16' is not fp32, bf16"),
        (["--against", "hifigan"], "is not one of 'diffwave', 'vocos'"),
    ],
)
def test_impossible_values_are_usage_errors(arguments, complaint):
    result = bench(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_an_unknown_model_is_an_error_before_anything_is_measured(plans):
    result = bench("nowhere")
    assert (result.exit_code, plans) == (1, [])
    assert result.stderr.startswith("error: no model 'nowhere'")


@pytest.mark.parametrize(("package", "module"), [("diffwave", "diffwave.model"), ("vocos", "vocos.models")])
def test_without_a_baseline_it_says_what_to_install(package, module, plans, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    result = bench("--against", package)
    assert (result.exit_code, plans) == (1, [])
    assert result.stderr.count("\n") == 1
    assert f"--against {package} needs {package}" in result.stderr  # or the module, where the package is there
    assert "pip install 'audiodiff[bench]'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "models", "vocoders"), [([], (), ("speech-22k",)), (["speech-22k-tiny"], *[("speech-22k-tiny",)] * 2)]
)
def test_with_a_baseline_only_what_is_named_is_measured_too(arguments, models, vocoders, plans):
    import_torchaudio()  # which vocos imports, and which may need help
    for package in ("diffwave.model", "vocos.models"):
        pytest.importorskip(package)
    bench(*arguments, "--against", "vocos", "--against", "diffwave", "--device", "cpu")
    (plan,) = plans
    assert plan.against == ("vocos", "diffwave")
    assert (plan.models, plan.streams, plan.vocoders) == (models, models, vocoders)
    assert (plan.lengths, plan.batches) == ((5.0,), (1,))


def test_a_history_keeps_all_runs_and_is_compared_with_its_last(plans, measured, tmp_path):
    history = tmp_path / "speed.jsonl"
    first = bench("--json", history)
    second = bench("--json", history, "--compare", history)
    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert "Against " not in first.stdout
    assert "ratio" in second.stdout.partition("Against ")[2]
    assert len(history.read_text().splitlines()) == 1  # the same report: a run writes one line, however often
    assert read_report(history) == read_report(measured[1])


def test_two_files_are_compared_without_measuring(measured):
    result = bench("--table", measured[1], "--compare", measured[1])
    assert result.exit_code == 0
    assert "1.00 (1.00-1.00)" in result.stdout
    assert result.stdout.count("| too few repeats |") == 3  # the stream, synthesis and training, once each


def test_a_file_to_compare_with_is_read_first(plans, tmp_path):
    result = bench("--compare", tmp_path / "nowhere.json")
    assert (result.exit_code, plans) == (1, [])
    assert "nowhere.json" in result.stderr


SLOW_BENCH = """
import signal, sys, time
from audiodiff.benchmark import jobs, suite
from audiodiff.benchmark.history import read_report

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores for what runs in the background
report = read_report(sys.argv.pop(1))
run_in_process = suite.run_in_process

def answer(function, job):
    if isinstance(job, jobs.MachineJob):
        return jobs.MachineResult(report.machine, report.matmuls, report.copy_rate)
    if isinstance(job, jobs.SynthesisJob):
        return report.synthesis[0]
    print("now", flush=True)
    time.sleep(60)

suite.run_in_process = answer
from audiodiff.cli.main import main
main()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("target", ["file", pytest.param("-", marks=pytest.mark.slow)])
def test_an_interrupted_run_loses_nothing(number, code, target, measured, tmp_path):
    path = tmp_path / "report.json" if target == "file" else "-"
    command = [sys.executable, "-c", SLOW_BENCH, measured[1], "bench", "--lengths", "1", "--batches", "1"]
    process = subprocess.Popen(
        [*map(str, command), "--dtype", "fp32", "--json", str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)
    stdout = process.communicate(timeout=60)[0]
    assert process.returncode == code
    written = json.loads(stdout) if target == "-" else json.loads(path.read_text())
    assert [len(written[part]) for part in ("synthesis", "streaming")] == [1, 0]
    assert "Synthesis: " in stdout or target == "-"
