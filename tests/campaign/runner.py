"""Runs cases in forks of this process, which has imported everything, within limits of time and memory.

A case that depends on how Python starts runs as `python -m audiodiff` instead.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import logging
import multiprocessing.util
import os
import pkgutil
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from campaign.case import Case, Draw, Result
from campaign.oracle import LIMIT_MEGABYTES, LIMIT_SECONDS, judge
from campaign.world import World, state_of

KINDS = tuple(sorted(path.stem.removeprefix("cases_") for path in Path(__file__).parent.glob("cases_*.py")))


@dataclass
class Verdict:
    """What is reported of one case."""

    name: str
    about: str
    findings: list[str]
    seconds: float = 0.0
    code: int | None = None
    command: str = ""
    megabytes: float = 0.0


class Runner:
    """Makes, runs and judges cases, each in a fork of its own: what writes odd files may crash too.

    Args:
        folder: Where the world and the cases go.
        jobs: How many run at once.
        keep: Whether the folders of cases stay.
    """

    def __init__(self, folder: Path, jobs: int = 1, keep: bool = False) -> None:
        _import_everything()
        self.folder, self.jobs, self.keep = folder, jobs, keep
        self.world = World(folder / "world").make()
        self.state = self.world.state()
        gc.collect()
        gc.freeze()  # so that forks share what never changes

    def run(self, kind: str, seeds: Iterable[int]) -> Iterator[Verdict]:
        """Run cases of a kind; yield what came of each, in the order in which they end."""
        module = importlib.import_module(f"campaign.cases_{kind}")
        running: dict[int, _Running] = {}
        for seed in seeds:
            if len(running) >= self.jobs:
                yield self._ended(running)
            name = f"{kind}:{seed}"
            top = self.folder / name.replace(":", "-")
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                _be(name, module.make, top, self.world)
            running[pid] = _Running(name, top, time.monotonic())
        while running:
            yield self._ended(running)
        if self.world.state() != self.state:
            changed = sorted(set(self.world.state().items()) ^ set(self.state.items()))
            self.state = self.world.state()
            yield Verdict(f"{kind}:*", "", [f"wrong or empty output: what all share was changed: {changed[:4]}"])

    def _ended(self, running: dict[int, _Running]) -> Verdict:
        """Wait until a case ends or has had its time."""
        while True:
            for pid, one in running.items():
                ended, status, _ = os.wait4(pid, os.WNOHANG)
                seconds = time.monotonic() - one.started
                late = seconds > LIMIT_SECONDS and seconds > LIMIT_SECONDS + one.allowance()
                if not ended and not late:
                    continue
                del running[pid]
                left_running = _group_lives(pid) if ended else False
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError):
                        kill(pid, signal.SIGKILL)
                if not ended:
                    os.wait4(pid, 0)
                verdict = one.verdict(status if ended else None, seconds)
                if left_running:
                    verdict.findings.append("hang: processes are left behind")
                if not self.keep:
                    shutil.rmtree(one.top, ignore_errors=True)
                return verdict
            time.sleep(0.01)


@dataclass
class _Running:
    """A case that runs, and what it has written of itself."""

    name: str
    top: Path
    started: float

    def allowance(self) -> float:
        """Return the seconds of the work that was asked for."""
        return float(self._read("made").get("allowance", 0))

    def verdict(self, status: int | None, seconds: float) -> Verdict:
        """Return the verdict of the case itself, or that it never came to one; no status means that it was killed."""
        made, judged = self._read("made"), self._read("verdict")
        if judged:
            return Verdict(**judged)
        verdict = Verdict(self.name, made.get("about", ""), [], seconds, command=made.get("command", ""))
        err = (self.top / "err").read_text(errors="replace")[-300:] if (self.top / "err").is_file() else ""
        if not made:
            verdict.findings.append(f"traceback: the case itself cannot be made: status {status} {err}")
        elif status is None:
            verdict.findings.append(f"hang: still running after {seconds:.0f} s")
        else:
            verdict.findings.append(f"traceback: it died: {os.waitstatus_to_exitcode(status)} {err}")
        return verdict

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.top / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}


def _printable(word: str | bytes) -> str:
    return ascii(os.fsdecode(word))


def _import_everything() -> None:
    """Import what any case may need, so that no case pays for it."""
    import audiodiff
    import recipes

    for package in (audiodiff, recipes):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not module.name.endswith("__main__") and ".benchmark" not in module.name:
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(module.name)
    for name in ("matplotlib.figure", "matplotlib.backends.backend_agg", "webdataset", "torch.utils.tensorboard"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)


def _group_lives(pid: int) -> bool:
    for _ in range(300):  # what was told to end may take a moment
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


# --- in the new process -----------------------------------------------------------------------------------------------


def _be(name: str, make: Callable[[Draw, Path, World], Case], top: Path, world: World) -> NoReturn:
    """Make a case, become it, and judge what came of it; never return."""
    try:
        os.setsid()
        shutil.rmtree(top, ignore_errors=True)
        (top / "work" / "tmp").mkdir(parents=True)
        _redirect(top)
        case = make(Draw(*_split(name)), top / "work", world)
        command = str(case.run) if callable(case.run) else " ".join(map(_printable, case.run))[:500]
        _write(top / "made", {"allowance": case.seconds, "about": case.about, "command": command})
        before, started = state_of(top / "work"), time.monotonic()
        os.chdir(top / "work")
        code, megabytes = _in_new_process(case, top) if case.new_process else _here(case, top)
        result = _result(top, code, before, time.monotonic() - started, megabytes)
        verdict = Verdict(name, case.about, judge(case, result), result.seconds, code, command, result.megabytes)
        _write(top / "verdict", asdict(verdict))
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(0)


def _split(name: str) -> tuple[str, int]:
    kind, _, seed = name.partition(":")
    return kind, int(seed)


def _write(path: Path, values: dict[str, Any]) -> None:
    path.with_suffix(".json").write_text(json.dumps(values))


def _result(top: Path, code: int, before: dict[str, tuple[int, int]], seconds: float, megabytes: float) -> Result:
    """Collect what a case left behind."""
    folder, after = top / "work", state_of(top / "work")
    out, err = ((top / name).read_text(encoding="utf-8", errors="replace") for name in ("out", "err"))
    new_files = [folder / name for name in sorted(after.keys() - before.keys())]
    changed = [name for name, value in before.items() if after.get(name) != value]
    return Result(folder, code, out, err, seconds, megabytes, new_files, changed)


def _in_new_process(case: Case, top: Path) -> tuple[int, float]:
    """Run `python -m audiodiff`; return its exit code and megabytes."""
    pid = os.fork()
    if pid == 0:
        try:
            _prepare(case, top)
            os.execv(sys.executable, [sys.executable, "-m", "audiodiff", *case.run])
        finally:
            os._exit(70)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024


def _here(case: Case, top: Path) -> tuple[int, float]:
    """Run the command in this process, with all that Python does at its end."""
    atexit._clear()
    atexit.register(multiprocessing.util._exit_function)
    code = 70
    with _files_limited(case.file_limit, top):
        try:
            _prepare(case, top)
            code = _run(case)
            atexit._run_exitfuncs()
            threading._shutdown()
            if sys.stdout:
                sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        if sys.stderr:
            sys.stderr.flush()
    return code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def _files_limited(limit: int | None, top: Path) -> Iterator[None]:
    """Let writing files fail beyond some bytes; what is printed goes through pipes, which have no such limit."""
    if limit is None:
        yield
        return
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    readers = {}
    for descriptor in (1, 2):
        readers[descriptor], writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 2**20)
        os.dup2(writer, descriptor)
        os.close(writer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for descriptor, name in ((1, "out"), (2, "err")):
        os.set_blocking(readers[descriptor], False)
        with contextlib.suppress(BlockingIOError):
            (top / name).write_bytes(os.read(readers[descriptor], 2**20))


def _prepare(case: Case, top: Path) -> None:
    _set_environment(case, top)
    _limit_memory()
    if case.prepare:
        case.prepare()


def _run(case: Case) -> int:
    logging.getLogger("audiodiff").handlers.clear()
    if not callable(case.run):
        from audiodiff.cli.main import main

        try:
            main.main([os.fsdecode(word) for word in case.run], prog_name="audiodiff")
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        return 0
    from audiodiff.errors import AudiodiffError

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.getLogger("audiodiff").addHandler(handler)
    try:
        case.run()
    except AudiodiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (TypeError, ValueError) as error:  # allowed where our own code raises it
        if "/audiodiff/" not in traceback.extract_tb(error.__traceback__)[-1].filename:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _redirect(top: Path) -> None:
    for descriptor, path in ((0, "/dev/null"), (1, top / "out"), (2, top / "err")):
        flags = os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, descriptor)
        os.close(opened)


def _set_environment(case: Case, top: Path) -> None:
    os.environ["TMPDIR"] = str(top / "work" / "tmp")
    tempfile.tempdir = None
    for name, value in case.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LIMIT_MEGABYTES * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
