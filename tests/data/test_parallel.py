"""Several at a time, in order, and an error ends it; processes end with the one that started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path

import pytest

from audiodiff.data.parallel import default_workers, parallel_map, process_map, share

ROOT = Path(__file__).parents[2]
MAIN = """
import atexit, os, signal, sys, time
from pathlib import Path

def sleep(number):
    Path(f"{number}.pid").write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    code = 130
    atexit.register(lambda: os._exit(code))  # called last; then torch would take a second to leave
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in its background jobs
    if sys.argv[1] == "process_map":
        from audiodiff.data.parallel import process_map as in_processes
    else:
        from audiodiff.benchmark.timing import run_in_process

        def in_processes(function, items, _processes):
            yield run_in_process(function, items[0])
    from audiodiff.cli.signals import exit_on_signals
    Path("started").touch()
    try:
        with exit_on_signals():
            list(in_processes(sleep, range(6), 2))
    except KeyboardInterrupt:
        pass
    except SystemExit as stop:
        code = stop.code
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_results_keep_the_order(workers):
    assert list(parallel_map(lambda n: n * n, range(20), workers)) == [n * n for n in range(20)]


def test_workers_work_at_the_same_time():
    together = threading.Barrier(3, timeout=10)
    assert list(parallel_map(lambda n: together.wait() >= 0 and n, [0, 1, 2], 3)) == [0, 1, 2]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_it_and_the_rest_is_left(workers):
    done = []

    def fail_at_three(number):
        if number == 3:
            raise ValueError("three")
        time.sleep(0.002)
        done.append(number)

    with pytest.raises(ValueError, match="three"):
        list(parallel_map(fail_at_three, range(1000), workers))
    assert len(done) < 500


def test_there_is_a_default():
    assert default_workers() >= 1


# --- processes --------------------------------------------------------------------------------------------------------


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid):
    """Return the processes that a process has started, and those that they have."""
    own = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    return own + [grandchild for child in own for grandchild in children(child)]


def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def start(kind, folder):
    (folder / "main.py").write_text(MAIN)
    return subprocess.Popen(
        [sys.executable, folder / "main.py", kind],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # under nohup it would be ignored
    )


slow = pytest.mark.slow


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("kind", "number", "to_all", "when"),
    [
        ("process_map", signal.SIGKILL, False, "working"),
        ("process_map", signal.SIGINT, True, "working"),
        ("process_map", signal.SIGTERM, False, "working"),
        ("process_map", signal.SIGHUP, False, "working"),  # to all, it ends multiprocessing's own process as well
        pytest.param("run_in_process", signal.SIGHUP, False, "working", marks=slow),
        *(
            pytest.param(*case, marks=slow)
            for case in product(
                ("process_map", "run_in_process"),
                (signal.SIGTERM, signal.SIGINT),
                (False, True),
                ("working", "starting"),
            )
        ),
    ],
)
def test_processes_end_with_the_one_that_started_them(tmp_path, kind, number, to_all, when):
    process = start(kind, tmp_path)
    if when == "working":
        wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == (2 if kind == "process_map" else 1))
    else:
        wait_for((tmp_path / "started").exists)
        wait_for(lambda: children(process.pid))
        time.sleep(0.3)  # they import now
    started, began = children(process.pid), time.monotonic()
    assert started
    (os.killpg if to_all else os.kill)(process.pid, number)
    process.wait(timeout=10)
    assert time.monotonic() - began < 2
    _, said = process.communicate(timeout=60)
    in_order = number != signal.SIGKILL
    assert process.returncode == (128 + number if in_order else -number)
    assert "Traceback" not in said
    assert "leaked" not in said or not in_order
    wait_for(lambda: not any(map(is_alive, started)))  # those that import torch notice afterwards


def fail(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@slow
def test_what_a_dead_process_had_is_told(tmp_path):
    found = dict(process_map(fail, range(3), 1))
    assert found == {0: 0, 1: None, 2: None}


# --- files that several processes make --------------------------------------------------------------------------------


def make_shared(folder, *, n=1, overwrite=False, fails=()):
    """Make 24 files with whoever else does, and note each in a log; in a fork, which starts in no time."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        targets = [folder / "out" / f"{i % 2}" / f"{i}.txt" for i in range(24)]
        for paths in share(targets, n, overwrite=overwrite):
            for path in paths:
                with (folder / "log").open("a") as log:
                    log.write(f"{os.getpid()} {path.stem}\n")
                time.sleep(0.02)
                if path.stem not in fails:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = path.with_suffix(f".{os.getpid()}")
                    part.write_text(path.stem)
                    part.rename(path)
        code = 0
    finally:
        os._exit(code)


def exit_codes(pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def made_by(folder):
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [int(pid) for pid, _ in lines], [name for _, name in lines]


def left(folder):
    return sorted(path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file())


EXPECTED = sorted(f"{i % 2}/{i}.txt" for i in range(24))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 5])
def test_files_are_made_once_by_all_together(tmp_path, processes, n):
    assert exit_codes([make_shared(tmp_path, n=n) for _ in range(processes)]) == [0] * processes
    pids, names = made_by(tmp_path)
    assert len(set(pids)) >= min(processes, 2)
    assert len(names) == len(set(names)) == 24
    assert left(tmp_path) == EXPECTED


@pytest.mark.parametrize("processes", [2, 4])
def test_what_a_killed_process_had_in_hand_is_made_by_others(tmp_path, processes):
    pids = [make_shared(tmp_path) for _ in range(processes)]
    wait_for(lambda: (tmp_path / "log").exists() and str(pids[0]) in (tmp_path / "log").read_text())
    os.kill(pids[0], signal.SIGKILL)
    assert exit_codes(pids) == [-signal.SIGKILL] + [0] * (processes - 1)
    assert [name for name in left(tmp_path) if name.endswith(".txt")] == EXPECTED
    _, names = made_by(tmp_path)
    assert len(names) - len(set(names)) <= 1
    assert not list(tmp_path.rglob(".audiodiff-claims"))


def test_what_fails_is_tried_by_each_and_hinders_none(tmp_path):
    assert exit_codes([make_shared(tmp_path, fails=("3", "4")) for _ in range(2)]) == [0, 0]
    assert left(tmp_path) == [name for name in EXPECTED if name not in ("1/3.txt", "0/4.txt")]


def test_existing_files_are_kept_or_made_again(tmp_path):
    exit_codes([make_shared(tmp_path)])
    exit_codes([make_shared(tmp_path)])
    assert len(made_by(tmp_path)[1]) == 24
    exit_codes([make_shared(tmp_path, overwrite=True)])
    assert len(made_by(tmp_path)[1]) == 48


def test_what_another_process_makes_meanwhile_is_not_made_again(tmp_path):
    first, second, third = paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text("of yesterday")
        os.utime(path, (1, 1))
    skipped = []
    asked = share(paths, on_skip=skipped.append)
    assert next(asked) == [first]
    time.sleep(0.02)
    second.write_text("by another")
    assert (list(asked), skipped) == ([[third]], [1])


def test_what_is_in_hand_stays_locked_and_the_rest_does_not(tmp_path):
    """Of five files the first is long in hand: another process gets it only when this one is through with it."""
    paths = [tmp_path / name for name in "abcde"]
    in_hand = [paths[0]]
    asked = share(paths, in_hand=lambda: tuple(in_hand))
    assert [next(asked) for _ in range(3)] == [[path] for path in paths[:3]]
    for path in paths[3:]:
        path.write_text("made")
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        others = share(paths, overwrite=False)
        os.write(writer, next(others)[0].name.encode())
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.read(reader, 9) == b"b"  # not a, in hand; not c, the last one given out; not d and e, which are there
    in_hand.clear()
    assert list(asked) == []  # d and e were made by another process
    assert not (tmp_path / ".audiodiff-claims").exists()


def test_the_end_waits_for_what_is_in_hand(tmp_path):
    in_hand = [tmp_path / "a"]
    asked = share([tmp_path / "a"], in_hand=lambda: tuple(in_hand))
    assert next(asked) == [tmp_path / "a"]
    threading.Timer(0.3, in_hand.clear).start()
    began = time.monotonic()
    assert list(asked) == []
    assert time.monotonic() - began >= 0.25


def test_where_nothing_can_be_written_the_files_are_given_out_all_the_same(tmp_path):
    (tmp_path / "file").write_text("")
    assert list(share([tmp_path / "file" / "a.wav"])) == [[tmp_path / "file" / "a.wav"]]


def test_folders_in_which_nothing_was_made_go_again(tmp_path):
    assert list(share([tmp_path / "a" / "b" / "c.wav"])) == [[tmp_path / "a" / "b" / "c.wav"]]
    assert not list(tmp_path.iterdir())
