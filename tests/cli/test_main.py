"""The edge of the command line: verbs are loaded late, errors become one line and an exit code."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from audiodiff import __version__
from audiodiff.audio.io import replacing
from audiodiff.cli.main import VERBS, main
from audiodiff.cli.verbs import idle_threads
from audiodiff.errors import AudioError

VERBS_WITH_A_FILE = [verb for verb, (place, _) in VERBS.items() if find_spec(place.partition(":")[0])]


@pytest.fixture
def run(monkeypatch):
    """Run `audiodiff try …`, whose verb does what a function says."""

    def run_verb(action, *arguments, before=()):
        module = ModuleType("verb_of_a_test")
        module.command = click.Command("try", callback=action, params=[click.Option(["--steps"], type=int)])
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(VERBS, "try", ("verb_of_a_test:command", "Try."))
        return CliRunner().invoke(main, [*before, "try", *arguments])

    return run_verb


@pytest.mark.parametrize(
    ("arguments", "old", "new"),
    [
        ("vocode in.wav -o out --levels -2,4 --wrong", "--levels", "--log-snrs"),
        ("vocode in.wav -o out --levels=-2,4 --wrong", "--levels", "--log-snrs"),
        ("vocode in.wav -o out --picture --wrong", "--picture", "--plot"),
        ("repair in.wav -o out --try --wrong", "--try", "--degrade"),
        ("repair in.wav -o out --steering 0.2 --wrong", "--steering", "--dps"),
        ("repair in.wav -o out --free --wrong", "--free", "--no-replace"),
        ("prepare in out --valid-share 0.1 --wrong", "--valid-share", "--valid-fraction"),
        ("prepare in out --test-share 0.1 --wrong", "--test-share", "--test-fraction"),
        ("search -v schedule m --picture p.png --wrong", "--picture", "--plot"),
        ("plot levels run --wrong", "levels", "loss-by-noise-level"),
    ],
)
def test_old_names_are_read_with_a_warning_and_are_not_in_the_help(arguments, old, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in", "run"):
        Path(name).mkdir()
    soundfile.write("in.wav", np.zeros(8000), 8000)
    result = CliRunner().invoke(main, arguments.split())
    assert result.stderr.startswith(f"warning: {old} is deprecated; use {new}\n")
    assert "No such option" in result.stderr
    assert "--wrong" in result.stderr.splitlines()[-1]  # the old name is none of the problems
    words = arguments.split()
    command = words[:1] if words[1] != "-v" else ["search", "schedule"]
    assert f"{old} " not in CliRunner().invoke(main, [*command, "--help"]).stdout


def test_an_old_name_beyond_the_options_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["vocode", "-o", "out", "--", "--levels"])
    assert "deprecated" not in result.stderr


def failing(error):
    def action(steps):
        raise error

    return action


def log_everything(steps):
    logger = logging.getLogger("audiodiff.anything")
    logger.debug("details")
    logger.info("progress")
    logger.warning("odd")


def test_verb_succeeds(run):
    result = run(lambda steps: click.echo(f"steps {steps}"), "--steps", "6")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "steps 6\n", "")


def test_stated_error_is_one_line_and_1(run):
    result = run(failing(AudioError("in.wav is empty")))
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: in.wav is empty\n")


def test_unexpected_error_is_one_line_with_advice_and_1(run):
    result = run(failing(ValueError("of two\nlines")))
    assert result.exit_code == 1
    assert result.stderr.startswith("error: unexpected ValueError: of two lines")
    assert "--debug" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "error: the output cannot be written: No space left"),
        (OSError(errno.EFBIG, "File too large", "a.wav"), "error: a.wav cannot be written: File too large"),
        (MemoryError("8 GB"), "error: there is not enough memory (8 GB)."),
    ],
)
def test_full_disks_and_memories_are_stated_errors(run, error, said):
    result = run(failing(error))
    assert (result.exit_code, "unexpected" in result.stderr) == (1, False)
    assert result.stderr.startswith(said)


def test_a_warning_of_the_library_is_a_line_of_the_log(run):
    result = run(lambda steps: warnings.warn("the header was never finished", stacklevel=1))
    assert result.stderr == "warning: the header was never finished\n"


@pytest.mark.parametrize("error", [AudioError("in.wav is empty"), ValueError("a bug")])
@pytest.mark.parametrize("position", ["before", "after"])
def test_debug_lets_the_error_through(run, error, position):
    result = run(failing(error), before=["--debug"]) if position == "before" else run(failing(error), "--debug")
    assert result.exit_code == 1
    assert result.exception is error


def test_interruption_is_130(run):
    result = run(failing(KeyboardInterrupt()))
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)])
def test_a_signal_ends_any_verb_with_nothing_half_written(run, tmp_path, name, code):
    if not hasattr(signal, name):
        pytest.skip("needs POSIX signals")
    number = signal.Signals[name]
    before = signal.signal(number, signal.SIG_DFL)

    def write(steps):
        with replacing(tmp_path / "out.json") as part:
            part.write_text("{")
            signal.raise_signal(number)
            part.write_text("{}")

    try:
        result = run(write)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert (result.exit_code, result.stderr, list(tmp_path.iterdir())) == (code, "", [])


def test_a_signal_that_is_ignored_ends_nothing(run):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as under nohup
    try:
        assert run(lambda steps: signal.raise_signal(signal.SIGTERM)).exit_code == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_verb_chooses_its_exit_code(run):
    assert run(lambda steps: click.get_current_context().exit(3)).exit_code == 3


@pytest.mark.parametrize("arguments", [["--steps", "six"], ["--stepz", "6"], ["surplus"]])
def test_usage_error_is_2(run, arguments):
    result = run(lambda steps: None, *arguments)
    assert result.exit_code == 2
    assert arguments[-1] in result.stderr or arguments[0] in result.stderr


def test_unknown_verb_is_2_and_names_the_known_ones():
    result = CliRunner().invoke(main, ["vocde"])
    assert result.exit_code == 2
    assert "'vocde'" in result.stderr
    assert all(verb in result.stderr for verb in VERBS)


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        (None, "progress\nwarning: odd\n"),
        ("--verbose", "details\nprogress\nwarning: odd\n"),
        ("--quiet", "warning: odd\n"),
    ],
)
def test_logging_goes_to_stderr(run, option, shown):
    options = [option] if option else []
    before, after = run(log_everything, before=options), run(log_everything, *options)
    assert (before.stdout, before.stderr) == (after.stdout, after.stderr) == ("", shown)


def test_logging_is_left_as_it_was(run):
    logger = logging.getLogger("audiodiff")
    state = logger.level, list(logger.handlers)
    run(log_everything, "--verbose")
    assert (logger.level, logger.handlers) == state


def test_help_lists_every_verb_with_its_text():
    output = CliRunner().invoke(main, ["--help"]).output
    assert all(verb in output and text.split()[0] in output for verb, (_, text) in VERBS.items())


def test_version():
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


def heavy_modules_after(*arguments):
    code = (
        "import sys\nfrom audiodiff.cli.main import main\n"
        f"try:\n    main({list(arguments)!r})\n"
        "except SystemExit as error:\n    code = error.code\n"
        "print(code, sorted({'torch', 'librosa', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.strip()


def test_help_imports_nothing_heavy():
    assert heavy_modules_after("--help") == "0 []"


@pytest.mark.parametrize("verb", VERBS_WITH_A_FILE)
def test_help_of_a_verb_imports_nothing_heavy(verb):
    assert heavy_modules_after(verb, "--help") == "0 []"


def test_python_dash_m_is_the_same_command():
    arguments = [sys.executable, "-m", "audiodiff", "--help"]
    output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert output == CliRunner().invoke(main, ["--help"], prog_name="audiodiff").output


def test_paths_are_no_streams_and_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for arguments in (["generate", "--model", "x", "-o", "-"], ["export", "x", "-"]):
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
        assert "'-' is not a stream here. Give the name of a file or folder." in result.stderr
    (tmp_path / "home").mkdir()
    result = CliRunner().invoke(main, ["prepare", "~", "~/out"])
    assert f"{tmp_path}/home" in result.stderr
    assert "~" not in result.stderr


# --- start-up ---------------------------------------------------------------------------------------------------------

HEAVY = (
    "librosa", "numba", "scipy", "torchaudio", "matplotlib", "tensorboard", "pandas", "webdataset", "triton", "sklearn",
    "accelerate", "soxr", "sympy", "torch._dynamo", "torch._inductor", "torch.utils.tensorboard",
)  # fmt: skip
LIBRARY = """
import torch
from audiodiff import Vocoder
Vocoder.from_pretrained("speech-22k-tiny")(torch.full((80, 10), -5.0))
"""


def in_a_process(code, **environment):
    """Run Python code in a process of its own, and return what it printed last, as a value."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | environment
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def command(*words):
    return f"from audiodiff.cli.main import main\nmain({[str(word) for word in words]}, standalone_mode=False)\n"


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "in.wav"
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(4000), 22050)
    return path


@pytest.mark.parametrize("way", ["vocode", "generate", "library"])
def test_nothing_heavy_is_imported_on_the_way_to_sound(way, clip, tmp_path, tiny_generator_folder):
    ways = {
        "vocode": command("vocode", clip, "-o", tmp_path / "out.wav", "--model", "speech-22k-tiny"),
        "generate": command("generate", "-o", tmp_path / "out", "--model", tiny_generator_folder, "--count", 1),
        "library": LIBRARY,
    }
    code = ways[way] + f"import json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    assert in_a_process(code) == []


@pytest.mark.parametrize("verb", VERBS_WITH_A_FILE)
def test_help_imports_no_torch(verb):
    code = f"""
import json, sys
from audiodiff.cli.main import main
main([{verb!r}, "--help"], standalone_mode=False)
print(json.dumps([name for name in ("torch", "numpy", "pydantic", "yaml") if name in sys.modules]))
"""
    assert in_a_process(code) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_are_as_many_as_asked_for_and_wait_asleep(threads, clip, tmp_path):
    code = command("vocode", clip, "-o", tmp_path / "out.wav", "--model", "speech-22k-tiny", "--threads", threads)
    code += "import json, os, torch; print(json.dumps([torch.get_num_threads(), os.environ['OMP_WAIT_POLICY']]))"
    assert in_a_process(code, OMP_NUM_THREADS="2") == [threads, "PASSIVE"]
    assert in_a_process(code.replace("'--threads', ", "'--seed', "), OMP_NUM_THREADS="2", OMP_WAIT_POLICY="ACTIVE") == [
        2,
        "ACTIVE",
    ]


def leaves(name, group):
    """Yield the commands of a verb, its own or those within it."""
    if not isinstance(group, click.Group):
        yield name, group
        return
    for part, inner in group.commands.items():
        yield from leaves(f"{name} {part}", inner)


def test_every_verb_that_computes_takes_threads():
    loaded = [main.get_command(click.Context(main), verb) for verb in VERBS_WITH_A_FILE]
    every = dict(leaf for name, found in zip(VERBS_WITH_A_FILE, loaded, strict=True) for leaf in leaves(name, found))
    have = {name for name, found in every.items() if any("--threads" in option.opts for option in found.params)}
    computing = {"vocode", "generate", "serve", "ui", "train", "search schedule", "search rbf", "search ema", "bench"}
    computing |= {"evaluate pairs", "evaluate sets", "evaluate classifier"}
    computing |= {"mel-match", "plot steps", "convert", "export", "new"}
    assert have == computing | {name for name in every if name.startswith("repair")}


@pytest.mark.parametrize(
    ("most", "running", "cores", "threads"), [(2, 0, 2, 2), (2, 1, 2, 1), (2, 9, 2, 1), (4, 30, 64, 4), (8, 3, 8, 5)]
)
def test_synthesis_takes_idle_cores(most, running, cores, threads):
    assert idle_threads(most, running, cores) == threads


@pytest.mark.parametrize(("busy", "words", "threads"), [(9, [], 1), (0, [], 2), (9, ["--threads", "2"], 2)])
def test_a_busy_machine_gets_one_thread_unless_told_otherwise(busy, words, threads, clip, tmp_path):
    code = "import torch; torch.set_num_threads(2)\nfrom audiodiff.cli import verbs\n"
    code += f"verbs.running_elsewhere = lambda: {busy}; verbs.os.cpu_count = lambda: 2\n"
    code += command("vocode", clip, "-o", tmp_path / "out.wav", "--model", "speech-22k-tiny", *words)
    code += "import json; print(json.dumps(torch.get_num_threads()))"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout.splitlines()[-1]) == threads
